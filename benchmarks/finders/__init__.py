"""Who chooses a micro-batch under a memory limit, how fast it trains, and whether it ever runs out of memory."""
