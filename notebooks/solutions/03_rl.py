"""Solution of the exercise in 03: at which weight does Recall decide?

ndcg_a + w * recall_a = ndcg_b + w * recall_b, solved for w: what NDCG gives away, over what Recall gains.
"""


def weight_that_flips(ndcg_a, recall_a, ndcg_b, recall_b):
    """The weight of Recall at which rankings a and b earn the same."""
    return (ndcg_a - ndcg_b) / (recall_b - recall_a)
