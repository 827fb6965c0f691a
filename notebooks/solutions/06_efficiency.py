"""Solution of the exercise in 06: what a point costs.

Tokens are what a reader of the answer waits for, and what an account is billed for; the metric is what they buy.
"""


def tokens_per_point(tokens, metric, base_tokens, base_metric):
    """(extra tokens) / (extra metric, in hundredths)."""
    return (tokens - base_tokens) / (100 * (metric - base_metric))
