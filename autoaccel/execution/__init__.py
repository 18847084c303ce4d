"""Where trials run: in local worker processes or in simulated time, behind one contract.

Must not know why a trial was chosen.
"""
