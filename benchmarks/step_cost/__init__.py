"""Seconds of steps as they are predicted before a search, beside what is measured then."""
