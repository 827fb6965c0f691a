"""How sure a mean is, and whether two systems differ: test collections have 76 to 194 queries, so ask.

Bootstrap intervals over queries (Efron, percentile; scipy draws), the paired randomisation test (Fisher; Smucker et
al., CIKM 2007), the paired t-test, and Holm's correction for several comparisons. All take one value a query, in the
same order of queries on both sides. The randomisation test is our own: scipy's takes ten times as long.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rrlib.errors import InputError
from rrlib.types import Interval

_CELLS = 4_000_000  # numbers drawn at once: 32 MB


def _vector(values: ArrayLike, what: str) -> NDArray[np.float64]:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or vector.size == 0:
        raise InputError(f"{what}: a non-empty list of numbers is expected", remedy="give one value a query")
    if not np.isfinite(vector).all():
        raise InputError(f"{what}: some values are not finite")
    return vector


def bootstrap_interval(values: ArrayLike, seed: int, n: int = 10_000, level: float = 0.95) -> Interval:
    """Mean of `values` (shape Q, any unit) with its percentile bootstrap interval over queries.

    n: resamples. level: coverage in (0, 1). The same seed and number of queries give the same resamples, so the
    intervals of two systems are comparable. One value gives an interval of width 0.
    """
    values_Q = _vector(values, "bootstrap")
    means = bootstrap_means(values_Q, seed, n)
    _level(level)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    mean = float(values_Q.mean())
    if values_Q.min() == values_Q.max():
        return Interval(mean, mean, mean)
    return Interval(mean, min(float(low), mean), max(float(high), mean))  # of few resamples all may lie on one side


def _level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"an interval of level {level}", remedy="n is at least 1 and level between 0 and 1")


def bootstrap_means(values: ArrayLike, seed: int, n: int = 10_000) -> NDArray[np.float64]:
    """Means of n resamples of `values` (shape Q): shape (n,)."""
    values_Q = _vector(values, "bootstrap")
    if n < 1:
        raise InputError(f"bootstrap with n={n}", remedy="n is at least 1 and level between 0 and 1")
    if values_Q.size == 1:  # scipy refuses it
        return np.full(n, values_Q[0])
    from scipy import stats

    rng, at_once = np.random.default_rng(seed), max(1, _CELLS // values_Q.size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of its standard error, which one resample does not have
        drawn = stats.bootstrap((values_Q,), np.mean, n_resamples=n, batch=at_once, method="percentile", rng=rng)
    means: NDArray[np.float64] = drawn.bootstrap_distribution  # (n,)
    return means


def suite_interval(sets: Sequence[ArrayLike], seed: int, n: int = 10_000, level: float = 0.95) -> Interval:
    """The plain mean of set means (BRIGHT's headline) with a bootstrap interval that resamples within each set.

    sets: values of each set's queries. The sets are fixed: the interval says nothing about other sets.
    """
    if not sets:
        raise InputError("there is no set to average over")
    _level(level)
    vectors = [_vector(values, "bootstrap") for values in sets]
    means = np.mean([bootstrap_means(values_Q, seed + i, n) for i, values_Q in enumerate(vectors)], axis=0)  # (n,)
    mean = float(np.mean([values_Q.mean() for values_Q in vectors]))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, min(float(low), mean), max(float(high), mean))


def paired_test(a: ArrayLike, b: ArrayLike, seed: int, n: int = 10_000) -> float:
    """Two-sided p of the paired randomisation test: is the mean of a - b (shape Q each) different from 0?

    Under the null hypothesis each difference is as likely with the other sign. All sign flips are counted where they
    are no more than `n`; else `n` random ones and the observed one, so p is never 0. Queries without a difference
    change nothing; with no difference at all p is 1.
    """
    difference = _vector(a, "first system") - _vector_like(b, a)
    difference = difference[difference != 0]
    if difference.size == 0:
        return 1.0
    observed = abs(difference.sum())
    slack = 1e-9 * np.abs(difference).sum()  # sums of the same numbers in another order are equal
    if difference.size <= math.log2(max(n, 2)):
        codes = np.arange(2**difference.size)[:, None] >> np.arange(difference.size)
        sums = (difference * (1 - 2 * (codes & 1))).sum(axis=1)
        return float((np.abs(sums) >= observed - slack).mean())
    rng = np.random.default_rng(seed)
    hits, step = 0, max(1, _CELLS // difference.size)
    for start in range(0, n, step):
        signs = rng.integers(0, 2, size=(min(step, n - start), difference.size), dtype=np.int8)
        sums = difference.sum() - 2 * (signs @ difference)
        hits += int((np.abs(sums) >= observed - slack).sum())
    return (hits + 1) / (n + 1)


def _vector_like(b: ArrayLike, a: ArrayLike) -> NDArray[np.float64]:
    second, first = _vector(b, "second system"), _vector(a, "first system")
    if first.size != second.size:
        raise InputError(
            f"{first.size} values against {second.size}", remedy="pair both systems over the same queries, in one order"
        )
    return second


def paired_t(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p of the paired t-test (scipy). 1 where no query differs, as there is nothing to tell apart."""
    from scipy import stats

    first, second = _vector(a, "first system"), _vector_like(b, a)
    if np.array_equal(first, second):
        return 1.0
    if first.size < 2:
        raise InputError("a t-test needs at least two queries", remedy="use paired_test, or more queries")
    return float(stats.ttest_rel(first, second).pvalue)


def paired_t_power(difference: float, deviation: float, n: int, level: float = 0.05) -> float:
    """Chance that a paired t-test of n pairs finds a true mean difference (noncentral t, scipy).

    difference: to be found, deviation: of the pairs' differences, in one unit, > 0. n: pairs, >= 2. level: two-sided,
    in (0, 1). Raises InputError for others.
    """
    from scipy import stats

    if n < 2 or not deviation > 0 or not 0 < level < 1:
        raise InputError(f"power of {n} pairs, deviation {deviation}, level {level}", remedy="give two pairs or more")
    least, shift = stats.t.ppf(1 - level / 2, n - 1), difference / deviation * math.sqrt(n)
    wrong_sign = np.nan_to_num(stats.nct.cdf(-least, n - 1, shift))  # scipy has nan where it is 0
    return float(stats.nct.sf(least, n - 1, shift) + wrong_sign)


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of `values` (shape N, any unit) with the interval of Student's t: for few values, such as one a seed, which
    are taken for normal. Raises InputError for fewer than two."""
    from scipy import stats

    values_N = _vector(values, "t interval")
    _level(level)
    if values_N.size < 2:
        raise InputError("a t interval of one value", remedy="give two values or more")
    mean = float(values_N.mean())
    half = float(stats.sem(values_N) * stats.t.ppf((1 + level) / 2, values_N.size - 1))
    return Interval(mean, mean - half, mean + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p values (in the order given), for several comparisons at once."""
    count = len(p_values)
    if any(not 0 <= p <= 1 for p in p_values):
        raise InputError("a p value is outside [0, 1]")
    adjusted = [0.0] * count
    running = 0.0
    for step, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (count - step) * p_values[index]))
        adjusted[index] = running
    return adjusted
