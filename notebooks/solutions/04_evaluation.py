"""Solutions of the exercises in 04.

The way gone over the whole way: below 0 the system made the list worse, the oracle itself is at 1. Ties are what no
metric can tell apart. A window sorts its own places and nothing else, from the tail of the list to its head.
"""


def share_of_gap(system, first_stage, oracle):
    """(what was gained) / (what could be gained)."""
    return (system - first_stage) / (oracle - first_stage)


def won_tied_lost(ours, theirs):
    """How many queries are won, tied and lost: [won, tied, lost]."""
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    won, lost = sum(gap >= 1e-6 for gap in gaps), sum(gap <= -1e-6 for gap in gaps)
    return [won, len(gaps) - won - lost, lost]


def slide(labels, size, stride):
    """The final order of the candidates (places from 0 on) after one pass of the window."""
    order, end = list(range(len(labels))), len(labels)
    while True:
        start = max(end - size, 0)
        order[start:end] = sorted(order[start:end], key=lambda i: -labels[i])
        if start == 0:
            return [*order]
        end -= stride
