"""What people see: the numbers of a finished tuning, and how a terminal shows them.

Must not run or decide anything.
"""
