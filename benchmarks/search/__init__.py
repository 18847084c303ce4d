"""The search benchmark: this project's search and the tuners users would pick instead, on equal simulated budgets."""
