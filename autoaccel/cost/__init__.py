"""What a training costs in seconds and FLOPs on this hardware, before it is run.

Must not know the search; torch runs elsewhere, only its measurements come here.
"""
