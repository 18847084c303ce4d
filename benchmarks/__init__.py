"""Measurements, a folder per claim, run by `python -m benchmarks.NAME [--quick] [--json]`. Not part of the wheel."""
