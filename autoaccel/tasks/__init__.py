"""What is trained: the Task value, how a reference becomes one, its checks, and the built-in tasks.

Must not know the tuner: no search, store or executor.
"""
