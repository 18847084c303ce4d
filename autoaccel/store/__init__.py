"""What is kept: the ledger (the truth), the run directory, the Optuna study as a view of the ledger, and the library of
past studies.

Must not know policies or processes.
"""
