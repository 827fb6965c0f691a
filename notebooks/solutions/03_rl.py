"""Solutions of the exercises in 03.

ndcg_a + w * recall_a = ndcg_b + w * recall_b, solved for w: what NDCG gives away, over what Recall gains. The clip
takes the smaller of two gains, so it never pays for going too far, and never spares what has gone the wrong way. An
advantage is a reward seen from its group: far from the mean counts, measured by how far the others are.
"""


def weight_that_flips(ndcg_a, recall_a, ndcg_b, recall_b):
    """The weight of Recall at which rankings a and b earn the same."""
    return (ndcg_a - ndcg_b) / (recall_b - recall_a)


def token_loss(ratio, advantage, clip):
    """Minus what a token gains, at most what a step within the clip gains."""
    clipped = min(max(ratio, 1 - clip), 1 + clip)
    return -min(ratio * advantage, clipped * advantage)


def group_advantages(rewards):
    """How much better each answer is than its group, in standard deviations: a list."""
    mean = sum(rewards) / len(rewards)
    deviation = (sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1)) ** 0.5
    return [(reward - mean) / (deviation + 0.0001) for reward in rewards]
