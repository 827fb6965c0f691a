"""NDCG, recall, RBO and Kendall's tau of one ranking of one window, batched over rollouts with numpy.

Collection metrics (means over queries, trec_eval's tie order) are ir-measures' business: rrlib.evaluation.metrics.
Here a ranking is already a permutation, there are no ties, and a training step scores hundreds of them.
Shapes: `orders_GP` G rankings of P passages, 0-based positions, best first; `relevance_P` the pointwise labels;
`gold_P` the gold list as such positions. Every function also takes a single ranking (1-d) and returns a float then.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from rrlib.errors import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Orders = Sequence[int] | Sequence[Sequence[int]] | Ints


@lru_cache(maxsize=64)
def _discounts(k: int) -> Floats:
    return 1.0 / np.log2(np.arange(2, k + 2))


def _check(orders: Orders) -> tuple[Ints, bool]:
    """(G, P) integer array of permutations, and whether the caller gave a single ranking."""
    array = np.asarray(orders, dtype=np.int64)
    single = array.ndim == 1
    array = array[None, :] if single else array
    if array.ndim != 2:
        raise InputError(f"rankings of shape {array.shape}", remedy="give (passages,) or (rankings, passages)")
    size = array.shape[1]
    if size and not (np.sort(array, axis=1) == np.arange(size)).all():
        raise InputError("a ranking is not a permutation of its passages", remedy="use 0-based positions, each once")
    return array, single


def _cutoff(k: int) -> int:
    if k < 1:
        raise InputError(f"cut-off k={k}", remedy="k is 1 or more")
    return k


def _out(values: Floats, single: bool) -> Floats | float:
    return float(values[0]) if single else values


def ndcg(orders_GP: Orders, relevance_P: Sequence[int] | Ints, k: int = 10) -> Floats | float:
    """NDCG@k with linear gains and log2 discounts, as trec_eval has it. In [0, 1]; 0 when nothing is relevant.

    Like all three: raises InputError for rankings that are no permutations, and for k < 1.
    """
    orders, single = _check(orders_GP)
    return _out(_ndcg(orders, np.asarray(relevance_P, dtype=np.float64), _cutoff(k)), single)


def _at(values: npt.NDArray[Any], orders: Ints) -> npt.NDArray[Any]:
    """The values of the passages in ranking order: (G, k). values: (P,) for all rankings, or (G, P), one row each."""
    return values[orders] if values.ndim == 1 else np.take_along_axis(values, orders, axis=1)


def _share(part: Floats, total: Floats) -> Floats:
    """part / total, 0 where the total is 0. part: (G,); total: a number, or (G,)."""
    return np.divide(part, total, out=np.zeros(part.shape), where=np.broadcast_to(total > 0, part.shape))


def _ndcg(orders: Ints, relevance: Floats, k: int) -> Floats:
    gains = np.maximum(relevance, 0.0)  # (P,), or (G, P) with labels for each ranking
    k = min(k, orders.shape[1])
    if k == 0:
        return np.zeros(len(orders))
    ideal = np.asarray(np.sort(gains, axis=-1)[..., ::-1][..., :k] @ _discounts(k))  # () or (G,)
    return _share(_at(gains, orders[:, :k]) @ _discounts(k), ideal)


def recall(orders_GP: Orders, relevance_P: Sequence[int] | Ints, k: int = 10) -> Floats | float:
    """Share of the relevant passages among the first k, that is, of those that survive into the next window when
    k = size - stride (section 4.2). In [0, 1]; 0 when nothing is relevant."""
    orders, single = _check(orders_GP)
    return _out(_recall(orders, np.asarray(relevance_P), _cutoff(k)), single)


def _recall(orders: Ints, relevance: npt.NDArray[Any], k: int) -> Floats:
    relevant = (relevance > 0).astype(np.float64)  # (P,) or (G, P)
    return _share(_at(relevant, orders[:, :k]).sum(axis=1), np.asarray(relevant.sum(axis=-1)))


def rbo(orders_GP: Orders, gold_P: Sequence[int] | Ints, p: float = 1.0) -> Floats | float:
    """Rank-biased overlap with the gold list (section 4.2).

    p < 1: the paper's truncated sum (1-p) * sum_d p^(d-1) * |A_1:d & B_1:d| / d (identical lists of 20 at p = 0.9:
    0.878). p = 1, the default: the mean over d of overlap / d, which is what the released code computes, as it calls
    the rbo package with its default (identical lists 1.0; a reversed list of 20: 0.331). The paper leaves p open.
    """
    orders, single = _check(orders_GP)
    gold, _ = _check(gold_P)
    if gold.shape[1] != orders.shape[1]:
        raise InputError(f"a gold list of {gold.shape[1]} for rankings of {orders.shape[1]}")
    return _out(_rbo(orders, gold[0], p), single)


def _rbo(orders: Ints, gold: Ints, p: float) -> Floats:
    if not 0.0 < p <= 1.0:
        raise InputError(f"RBO persistence p={p}", remedy="p lies in (0, 1]")
    count, size = orders.shape  # G, P
    if size == 0:
        return np.zeros(count)
    # A passage enters the overlap at the deeper of its two ranks; passage gold[j] has rank j in the gold list.
    gold_rank = np.argsort(gold, axis=-1)  # (P,) or (G, P): passage -> its rank in the gold list
    enters = np.maximum(_at(gold_rank, orders), np.arange(size))  # (G, P): depth - 1 from which it is in both lists
    flat = enters + size * np.arange(count)[:, None]  # (G, P): a bin for each ranking and depth, counted in one go
    overlap = np.bincount(flat.ravel(), minlength=count * size).reshape(count, size).cumsum(axis=1)  # (G, P)
    return np.minimum(overlap @ _rbo_weights(size, p), 1.0)  # the sum of 20 twentieths is 1 + 2e-16


def kendall(orders_GP: Orders, gold_P: Sequence[int] | Ints) -> Floats | float:
    """Kendall's tau with the gold list: of all pairs, the share in its order less the share in the other, in [-1, 1].
    Of one passage 1."""
    orders, single = _check(orders_GP)
    gold, _ = _check(gold_P)
    if gold.shape[1] != orders.shape[1]:
        raise InputError(f"a gold list of {gold.shape[1]} for rankings of {orders.shape[1]}")
    first, second = np.triu_indices(orders.shape[1], 1)
    if not len(first):
        return _out(np.ones(len(orders)), single)
    ranks = np.argsort(gold[0])[orders]  # (G, P): gold ranks, in the order of the ranking
    return _out(np.asarray(np.sign(ranks[:, second] - ranks[:, first]).mean(axis=1)), single)


@lru_cache(maxsize=256)
def _rbo_weights(size: int, p: float) -> Floats:
    depth = np.arange(1, size + 1)  # (P,)
    weights = np.full(size, 1.0 / size) if p == 1.0 else (1.0 - p) * p ** (depth - 1.0)
    return weights / depth
