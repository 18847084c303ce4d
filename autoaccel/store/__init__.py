"""What is kept: the ledger (the truth), the run directory, and the Optuna study as a view of the ledger.

Must not know policies or processes.
"""
