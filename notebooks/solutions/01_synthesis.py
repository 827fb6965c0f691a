"""Solution of the exercise in 01: where does the best passage stand?

`gold` lists positions, best first. So `gold[0]` is the place of the best passage, and its label says the rest.
"""


def begins_well(gold, relevance):
    """1.0 when the first passage of the list is relevant, else 0.0."""
    return 1.0 if relevance[gold[0]] > 0 else 0.0
