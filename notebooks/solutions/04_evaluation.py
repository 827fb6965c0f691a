"""Solution of the exercise in 04: the share of the gap closed.

The way gone over the whole way. Below 0 the system made the list worse; the oracle itself is at 1.
"""


def share_of_gap(system, first_stage, oracle):
    """(what was gained) / (what could be gained)."""
    return (system - first_stage) / (oracle - first_stage)
