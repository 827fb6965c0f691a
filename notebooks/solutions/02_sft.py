"""Solutions of the exercises in 02.

The loss skips -100. What is left is the response, and its share is what a row costs to learn rather than to read. The
response is two blocks of tags. A token is predicted by the place before it: hence the shift by one in the loss.
"""


def trained_share(labels):
    """Share of the labels that are not -100."""
    return sum(label != -100 for label in labels) / len(labels)


def written(reasoning, gold):
    """The response that is learned: reasoning, then order, each in its tags."""
    order = " > ".join(f"[{place + 1}]" for place in gold)
    return f"<think> {reasoning} </think> <answer> {order} </answer>"


def row_loss(logprobs, labels):
    """Mean over the learned tokens of minus the log-probability that the place before gives them."""
    losses = [-logprobs[t - 1][labels[t]] for t in range(1, len(labels)) if labels[t] != -100]
    return sum(losses) / len(losses)
