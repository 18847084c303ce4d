"""The search inside other people's loops: `optuna` is a sampler and a pruner for a study of the user's own.

Must not know processes, files or tasks: what is trained, and where, is the user's.
"""
