"""Results tables: one row a system and metric, with an interval, and against a baseline the paired difference.

Also the two ends of the scale on the same candidates: the oracle (what perfect reranking reaches: 18.6% of BRIGHT's
queries have no gold passage among ReasonIR's first 100, so that is far from 1) and a random order.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rrlib.errors import InputError
from rrlib.evaluation.metrics import per_query
from rrlib.evaluation.paired import paired_rows
from rrlib.formats import ranking_to_run
from rrlib.types import Candidates, Interval, Qrels, Run


@dataclass(frozen=True)
class Row:
    """One figure: the mean of a metric (fraction, not percent) with its 95% bootstrap interval over n queries.

    difference, p, p_holm: against the baseline (system minus baseline, paired by query); None for the baseline
    itself. p is that of the randomisation test; p_holm corrects it for the comparisons of this metric.
    """

    system: str
    collection: str
    metric: str
    mean: float
    low: float
    high: float
    n: int
    seed: int
    profile: str = ""
    data_kind: str = ""
    difference: Interval | None = None
    p: float | None = None
    p_holm: float | None = None

    def to_json(self, differences: bool = False) -> dict[str, Any]:
        """The row as JSON values; with `differences` also the comparison with the baseline, if there is one."""
        row = asdict(self)
        compared = {key: row.pop(key) for key in ("difference", "p", "p_holm")}
        return row | compared if differences and self.difference is not None else row


def compare(
    qrels: Qrels,
    runs: Mapping[str, Run] | Sequence[tuple[str, Run]],
    metrics: str | Sequence[str],
    baseline: str | None = None,
    seed: int = 0,
    *,
    collection: str = "",
    profile: str = "",
    data_kind: str = "",
    relevance_level: int | None = None,
    resamples: int = 10_000,
    notes: list[str] | None = None,
) -> list[Row]:
    """Evaluate runs on the same queries: rows system by system, metric by metric, in the order given.

    runs: name -> run, or pairs (names may then repeat). baseline: the system all others are compared with (the
    first, if None). resamples: of the bootstrap and of the randomisation test. Queries: all of the qrels. Raises
    `InputError` for an unknown baseline, no runs, empty runs and bad metrics.
    """
    systems = list(runs.items()) if isinstance(runs, Mapping) else list(runs)
    names = [name for name, _ in systems]
    if not systems:
        raise InputError("there are no runs to compare", remedy="give at least one run")
    if baseline is not None and baseline not in names:
        raise InputError(
            f"the baseline {baseline!r} is none of the systems", remedy=f"choose one of {', '.join(names)}"
        )
    values: list[dict[str, dict[str, float]]] = []
    for name, run in systems:
        counted: list[str] = []
        values.append(per_query(qrels, run, metrics, relevance_level, counted))
        if notes is not None:
            notes.extend(f"{name}: {note}" for note in counted)
    return compare_values(
        list(zip(names, values, strict=True)),
        0 if baseline is None else names.index(baseline),
        seed,
        resamples=resamples,
        collection=collection,
        profile=profile,
        data_kind=data_kind,
    )


def compare_values(
    systems: Sequence[tuple[str, Mapping[str, Mapping[str, float]]]],
    base: int = 0,
    seed: int = 0,
    *,
    resamples: int = 10_000,
    collection: str = "",
    profile: str = "",
    data_kind: str = "",
) -> list[Row]:
    """`compare` of values that are there already: (name, metric -> query -> value) of each system, all over the same
    queries in one order. base: the place of the baseline; the rest as there."""
    names, values = [name for name, _ in systems], [of_system for _, of_system in systems]
    compared: dict[str, list[dict[str, Any]]] = {}
    for metric in values[base]:  # systems by their place, as names may repeat
        sets = {str(place): {"": list(of_system[metric].values())} for place, of_system in enumerate(values)}
        compared[metric] = paired_rows(sets, str(base), seed=seed, resamples=resamples)
    said = {"collection": collection, "seed": seed, "profile": profile, "data_kind": data_kind}
    return [
        _row(name, metric, compared[metric][place], said)
        for place, name in enumerate(names)
        for metric in values[place]
    ]


def _row(system: str, metric: str, figures: Mapping[str, Any], said: Mapping[str, Any]) -> Row:
    """figures: a row of `paired_rows`. said: what all rows of a table share."""
    keys = ("difference", "difference_low", "difference_high")
    gap = Interval(*(figures[key] for key in keys)) if "difference" in figures else None
    shown: dict[str, Any] = {key: figures.get(key) for key in ("mean", "low", "high", "n", "p", "p_holm")}
    return Row(system=system, metric=metric, difference=gap, **shown, **said)


def render(rows: Sequence[Row]) -> str:
    """A plain text table: fractions with four decimals; difference and p where there is a baseline."""
    compared = any(row.difference is not None for row in rows)
    several = sum(row.difference is not None for row in rows if row.metric == rows[0].metric) > 1
    with_collection = any(row.collection for row in rows)
    head = ["system", *(["collection"] if with_collection else []), "metric", "mean", "95% interval", "queries"]
    head += ["difference", "95% interval", "p"] if compared else []
    head += ["p (Holm)"] if several else []
    lines = [head]
    for row in rows:
        cells = [row.system, *([row.collection] if with_collection else []), row.metric]
        cells += [f"{row.mean:.4f}", f"[{row.low:.4f}, {row.high:.4f}]", str(row.n)]
        if compared:
            gap = row.difference
            cells += ["-", "-", "-"] if gap is None else [f"{gap.mean:+.4f}", f"[{gap.low:+.4f}, {gap.high:+.4f}]"]
            cells += [] if gap is None else [f"{row.p:.4f}"]
        if several:
            cells += ["-" if row.p_holm is None else f"{row.p_holm:.4f}"]
        lines.append(cells)
    return align(lines, left=1 + with_collection + 1)


def align(lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """Align cells in columns under a rule; the first `left` columns to the left, the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([text[0], "  ".join("-" * width for width in widths), *text[1:]])


def oracle_run(qrels: Qrels, candidates: Sequence[Candidates], depth: int | None = None) -> Run:
    """The candidates in the best possible order: grade descending, equal grades in first-stage order.

    depth: only the first so many are moved (None: all); the others keep their places behind them, as rerankers leave
    them, so that the ceiling holds for metrics that look deeper too.
    """
    rankings: dict[str, list[str]] = {}
    for request in _of_one_collection(candidates):
        grades = qrels.get(request.query.qid, {})
        docids = [passage.docid for passage in request.passages]
        best = sorted(docids[:depth], key=lambda docid: -max(grades.get(docid, 0), 0))
        rankings[request.query.qid] = best + docids[len(best) :]
    return ranking_to_run(rankings)


def random_run(candidates: Sequence[Candidates], seed: int) -> Run:
    """The candidates in a random order, each query's depending on the seed and its id only."""
    rankings: dict[str, list[str]] = {}
    for request in _of_one_collection(candidates):
        docids = [passage.docid for passage in request.passages]
        random.Random(f"{seed}/{request.query.qid}").shuffle(docids)
        rankings[request.query.qid] = docids
    return ranking_to_run(rankings)


def _of_one_collection(candidates: Sequence[Candidates]) -> Sequence[Candidates]:
    if len({request.query.qid for request in candidates}) != len(candidates):
        raise InputError(
            "a query id comes twice among the candidates", remedy="evaluate collections one by one: their ids repeat"
        )
    return candidates


def gap_closed(system: float, first_stage: float, oracle: float) -> float:
    """The share of the way from the first stage to the oracle (1 = all of it; negative = worse than the first stage).

    NaN where the first stage is already as good as the oracle.
    """
    return (system - first_stage) / (oracle - first_stage) if oracle > first_stage else float("nan")
