"""One training from a config: data on the device, the loop, its clock and its evaluations.

Must not know that anybody is tuning: no search, space, cost, store or report.
"""
