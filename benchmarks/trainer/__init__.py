"""Samples per second of our trainer beside a hand-written loop and other trainers, on the same work."""
