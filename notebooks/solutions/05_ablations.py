"""Solutions of the exercises in 05: is it the seed, the test behind every p, likeness to the gold list.

A difference that is smaller than what another seed of the same recipe gives is no finding, however small its p value.
"""

from itertools import product


def believable(a, b):
    """(mean of a - mean of b) over the larger spread; a and b are the means of the seeds of two recipes."""
    return (sum(a) / len(a) - sum(b) / len(b)) / max(max(a) - min(a), max(b) - min(b))


def flip_p(differences):
    """The share of all ways to set the signs whose sum is as far from zero as the sum of the differences."""
    ways = list(product([1, -1], repeat=len(differences)))
    sums = [abs(sum(sign * value for sign, value in zip(way, differences, strict=True))) for way in ways]
    return sum(value >= abs(sum(differences)) - 1e-9 for value in sums) / len(sums)


def overlap(order, gold):
    """RBO of two lists of the same passages (numbers from 0 on), with every depth as heavy as another."""
    total = 0.0
    for depth in range(1, len(gold) + 1):
        shared = set(order[:depth]) & set(gold[:depth])
        total += len(shared) / depth
    return total / len(gold)
