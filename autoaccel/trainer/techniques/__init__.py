"""One acceleration technique a file: its card (what, when it pays, cost, source, order, conflicts) and its functions.

Techniques must not import each other; where each enters is written in `build`, `schedule` and `loop`.
"""
