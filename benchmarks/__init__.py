"""Measurements, one folder per claim, each run by `python -m benchmarks.NAME [--quick] [--json]`. Not part of the wheel."""
