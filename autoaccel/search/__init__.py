"""What to try next, when to stop, and what may be claimed: values in, values out.

Must not know processes, files or screens; torch is never loaded here.
"""
