"""What this machine is and how fast it is: `profile` gathers facts and stores them, `probe` measures rates.

Knows nothing of tasks, trials or budgets. Importing the package loads neither torch nor psutil.
"""
