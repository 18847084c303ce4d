"""Pairs of tunings, one of them with other load from half of its budget on: the answers, and what is said of them."""
