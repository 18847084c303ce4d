"""Keeping a finished run right: whether its machine has changed, and units that look for it on a schedule.

Must not tune anything.
"""
