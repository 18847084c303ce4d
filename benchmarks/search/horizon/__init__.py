"""Horizon tables: recorded real trainings over knobs, horizon and seed, and their replay as search problems."""
