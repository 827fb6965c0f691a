"""Systems compared query by query: the one place where values become means, intervals, differences and p values.

An experiment's table, the ablations over seeds, trials over seeds, other baselines and `rrlib evaluate` all say what
these functions found. A set is what has queries of its own: a benchmark, or a seed (a world, a teacher and trainings).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rrlib.errors import InputError
from rrlib.evaluation.significance import bootstrap_interval, holm, paired_t, paired_test, suite_interval
from rrlib.formats.fields import few
from rrlib.types import Interval

if TYPE_CHECKING:
    import pandas as pd


class SignificanceTest(StrEnum):
    """How likely a difference is by chance, paired by query."""

    RANDOMISATION = "randomisation"
    """Sign flips (rrlib.evaluation.significance.paired_test): assumes nothing of the differences."""

    T = "t"
    """The paired t test: assumes that means of differences are normal."""


TIE = 1e-9
"""Values of a query that differ by less are a tie: sums of the same numbers in another order."""


def paired_rows(
    values: Mapping[str, Mapping[str, ArrayLike]],
    baseline: str,
    *,
    test: str = SignificanceTest.RANDOMISATION.value,
    seed: int = 0,
    resamples: int = 10_000,
) -> list[dict[str, Any]]:
    """One row a system: system, mean, low, high, n (queries), by_set (set -> mean); all but the baseline also
    difference, difference_low, difference_high, p, p_floor, p_holm, wins, ties, losses (queries).

    values: system -> set -> one value a query (shape Q of the set), its queries in one order for all systems. The mean
    is the plain mean of the sets' means, and intervals resample queries within each set: the sets are fixed, so they
    say nothing of other sets. A system is compared over the sets that the baseline has too; without one, it has no
    difference. test: `randomisation` or `t`. p_holm: Holm's correction over the systems. Raises InputError where two
    systems have other numbers of queries in a set, and for a baseline that is not there.
    """
    if baseline not in values:
        raise InputError(f"the baseline {baseline!r} has no values", remedy=f"use one of {', '.join(values)}")
    base = {name: np.asarray(values_Q, dtype=float) for name, values_Q in values[baseline].items()}
    rows: list[dict[str, Any]] = []
    for system, sets in values.items():
        system_sets = {name: np.asarray(values_Q, dtype=float) for name, values_Q in sets.items()}
        spread = _interval(list(system_sets.values()), seed, resamples)
        row: dict[str, Any] = {"system": system, "mean": spread.mean, "low": spread.low, "high": spread.high}
        row["n"] = sum(values_Q.size for values_Q in system_sets.values())
        row["by_set"] = {name: float(values_Q.mean()) for name, values_Q in system_sets.items()}
        shared = [name for name in base if name in system_sets] if system != baseline else []
        if shared:
            row |= _difference([system_sets[n] for n in shared], [base[n] for n in shared], test, seed, resamples)
        rows.append(row)
    compared = [row for row in rows if "p" in row]
    for row, adjusted in zip(compared, holm([row["p"] for row in compared]), strict=True):
        row["p_holm"] = adjusted
    return rows


def sets_of(per_query: pd.DataFrame, metric: str) -> dict[str, dict[str, NDArray[np.float64]]]:
    """What `paired_rows` takes, from a table with the columns benchmark, qid, system, metric, value.

    Raises InputError where a system lacks some queries of a benchmark, or has one twice; all of them is no error.
    """
    part = per_query[per_query["metric"] == metric]
    by_system: dict[str, dict[str, NDArray[np.float64]]] = {str(s): {} for s in dict.fromkeys(part["system"])}
    for name, rows in part.groupby("benchmark", sort=False):
        if rows.duplicated(["system", "qid"]).any():
            raise InputError(f"{name}: a query stands twice", remedy="keep one value a system, benchmark and query")
        wide = rows.pivot(index="qid", columns="system", values="value")
        if lost := [str(system) for system in wide if wide[system].isna().any()]:
            raise InputError(f"{name}: queries without a value of {few(lost)}", remedy="use the same queries for all")
        for system in wide:
            by_system[str(system)][str(name)] = wide[system].to_numpy(dtype=float)
    return by_system


def in_words(row: Mapping[str, Any], digits: int = 3) -> str:
    """`+0.012 [-0.003, +0.027]`: the difference of a row with its interval; empty for a row that has none."""
    gap = row.get("difference")
    if gap is None or gap != gap:
        return ""
    return f"{gap:+.{digits}f} [{row['difference_low']:+.{digits}f}, {row['difference_high']:+.{digits}f}]"


def p_in_words(row: Mapping[str, Any], key: str = "p_holm") -> str:
    """`0.0312`, or `< 0.0005` where the test was at its floor (no draw was as extreme, so p is only bounded); empty for
    a row without a comparison. row: of `paired_rows`; without `p_floor` (older tables) nothing is known of a floor."""
    p, floor = row.get(key), row.get("p_floor")
    if p is None or p != p:
        return ""
    at_floor = floor is not None and floor == floor and row["p"] <= floor * (1 + 1e-9)
    return ("< " if at_floor else "") + f"{p:.4f}"


def means_in_words(row: Mapping[str, Any], sets: int) -> str:
    """The means of a row's sets, `0.842 0.864`; of a row that has fewer than `sets` also their names, `8: 0.864`."""
    named = len(row["by_set"]) < sets
    return " ".join((f"{name}: " if named else "") + f"{mean:.3f}" for name, mean in row["by_set"].items())


def _interval(sets: Sequence[NDArray[np.float64]], seed: int, resamples: int) -> Interval:
    return bootstrap_interval(sets[0], seed, resamples) if len(sets) == 1 else suite_interval(sets, seed, resamples)


def _difference(
    system: Sequence[NDArray[np.float64]], base: Sequence[NDArray[np.float64]], test: str, seed: int, resamples: int
) -> dict[str, Any]:
    for a, b in zip(system, base, strict=True):
        if a.size != b.size:
            raise InputError(f"{a.size} values against {b.size}", remedy="pair both systems over the same queries")
    gaps = [a - b for a, b in zip(system, base, strict=True)]
    spread, every = _interval(gaps, seed, resamples), np.concatenate(gaps)
    return {
        "difference": spread.mean,
        "difference_low": spread.low,
        "difference_high": spread.high,
        "p": _p(system, base, test, seed, resamples),
        "p_floor": 0.0 if test == SignificanceTest.T else 1.0 / (resamples + 1),
        "wins": int((every > TIE).sum()),
        "ties": int((np.abs(every) <= TIE).sum()),
        "losses": int((every < -TIE).sum()),
    }


def _p(
    system: Sequence[NDArray[np.float64]], base: Sequence[NDArray[np.float64]], test: str, seed: int, resamples: int
) -> float:
    """Over several sets each query weighs 1 / (its set's size), as it does in the mean of set means."""
    a, b = system[0], base[0]
    if len(system) > 1:
        a = np.concatenate([values_Q / values_Q.size for values_Q in system])
        b = np.concatenate([values_Q / values_Q.size for values_Q in base])
    b = np.where(np.abs(a - b) <= TIE / max(map(len, base)), a, b)  # a tie is no difference
    return paired_t(a, b) if test == SignificanceTest.T else paired_test(a, b, seed, resamples)
