"""Solutions of the exercises in 06: what a point costs, the score of one passage, what one pass costs.

Tokens are what a reader of the answer waits for, and what an account is billed for; the metric is what they buy.
"""

import math


def tokens_per_point(tokens, metric, base_tokens, base_metric):
    """(extra tokens) / (extra metric, in hundredths)."""
    return (tokens - base_tokens) / (100 * (metric - base_metric))


def relevance(logprob_true, logprob_false):
    """The probability of the word true, among the two words."""
    gap = min(logprob_false - logprob_true, 700.0)
    return 1.0 / (1.0 + math.exp(gap))


def pass_cost(n, size, stride):
    """[windows, passages shown in all of them] of one pass."""
    windows, shown, end = 0, 0, n
    while end > 1:
        start = max(end - size, 0)
        windows, shown = windows + 1, shown + end - start
        if start == 0:
            break
        end -= stride
    return [windows, shown]
