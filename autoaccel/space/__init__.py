"""Search spaces: knobs with ranges and conditions, read from TOML, restricted to what a task and a machine can use.

Must not know samplers or trials.
"""
