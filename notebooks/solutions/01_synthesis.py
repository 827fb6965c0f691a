"""Solutions of the exercises in 01.

`gold` lists positions, best first. So `gold[0]` is the place of the best passage, and its label says the rest. F1
needs three counts. NDCG is one sum over the list, and the same sum over the best list there could be.
"""

import math


def begins_well(gold, relevance):
    """1.0 when the first passage of the list is relevant, else 0.0."""
    return 1.0 if relevance[gold[0]] > 0 else 0.0


def filter_f1(values, right, alpha):
    """F1 of keeping what is at least alpha, where `right` says what should be kept."""
    kept = [value >= alpha for value in values]
    both = sum(k and r for k, r in zip(kept, right, strict=True))
    return 2 * both / (sum(kept) + sum(right)) if both else 0.0


def consistency(gold, relevance, k):
    """NDCG@k of a list (places from 0 on, best first) under its labels, between 0 and 1."""
    weights = [1 / math.log2(place + 1) for place in range(1, k + 1)]
    earned = sum(weight * relevance[position] for weight, position in zip(weights, gold, strict=False))
    best = sum(weight * label for weight, label in zip(weights, sorted(relevance, reverse=True), strict=False))
    return earned / best if best else 0.0
