"""Solution of the exercise in 05: is it the seed?

A difference that is smaller than what another seed of the same recipe gives is no finding, however small its p value.
"""


def believable(a, b):
    """(mean of a - mean of b) over the larger spread; a and b are the means of the seeds of two recipes."""
    return (sum(a) / len(a) - sum(b) / len(b)) / max(max(a) - min(a), max(b) - min(b))
