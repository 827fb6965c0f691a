"""From what systems did to what is said of it: the value of every query, means with intervals and tests, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rrlib.evaluation.benchmarks import BenchmarkData
from rrlib.evaluation.latency import Prices, audit_row, cost_row
from rrlib.evaluation.metrics import per_query
from rrlib.evaluation.orders import bare_candidates
from rrlib.evaluation.paired import paired_rows
from rrlib.evaluation.reference import reported_for
from rrlib.evaluation.registry import BENCHMARKS
from rrlib.evaluation.results import TABLE_COLUMNS, ExperimentResult, Origin
from rrlib.evaluation.systems import Outcome
from rrlib.evaluation.tables import gap_closed, oracle_run
from rrlib.formats.fields import few

ByQuery = Mapping[str, Mapping[str, float]]
"""Metric -> query id -> value."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How systems are compared: with which, by which test (rrlib.evaluation.paired), with which draws."""

    baseline: str
    test: str
    seed: int
    resamples: int


@dataclass
class Measured:
    """What was measured, by (system, benchmark). costs, audits: of systems that asked a model. ends: of each benchmark,
    the values of its first stage and of the best order of the same candidates."""

    values: dict[tuple[str, str], ByQuery] = field(default_factory=dict)
    costs: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    audits: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    ends: dict[str, tuple[ByQuery, ByQuery]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def scale(self, members: Sequence[str], metric: str) -> tuple[float, float]:
        """Means (of set means) of the first stage and of the ceiling."""
        first, best = (
            float(np.mean([np.mean(list(self.ends[name][end][metric].values())) for name in members])) for end in (0, 1)
        )
        return first, best


def measure(
    systems: Sequence[str],
    data: Sequence[BenchmarkData],
    outcomes: Mapping[tuple[str, str], Outcome],
    metrics: Sequence[str],
    prices: Mapping[str, Prices] | Prices | None,
) -> Measured:
    """Values, costs and audits of all systems on all benchmarks. metrics: empty takes each benchmark's own."""
    measured = Measured()
    for benchmark in data:
        spec, qrels = benchmark.spec, benchmark.qrels
        wanted, level = list(metrics) or list(spec.metrics), spec.relevance_level
        measured.notes += benchmark.notes
        best = oracle_run(qrels, bare_candidates(benchmark), spec.depth or None)
        first, ceiling = (per_query(qrels, run, wanted, level) for run in (benchmark.need_run(), best))
        measured.ends[benchmark.name] = first, ceiling
        for system in systems:
            key, outcome = (system, benchmark.name), outcomes[system, benchmark.name]
            counted: list[str] = []
            measured.values[key] = per_query(qrels, outcome.run, wanted, level, counted)
            failed = list(dict.fromkeys(record.qid for record in outcome.records if record.error))
            if failed:
                counted.append(f"calls of {len(failed)} queries failed, kept in order: {few(failed)}")
            measured.notes += [f"{system} on {benchmark.name}: {note}" for note in counted]
            price = prices.get(system) if isinstance(prices, Mapping) else prices
            if outcome.records or outcome.seconds is not None:
                measured.costs[key] = cost_row(outcome.records, len(qrels), outcome.seconds, price)
                measured.audits[key] = audit_row(outcome.records)
    return measured


def assemble(
    measured: Measured,
    systems: Sequence[str],
    data: Sequence[BenchmarkData],
    outcomes: Mapping[tuple[str, str], Outcome],
    comparison: Comparison,
    reported: bool,
    profile: str,
) -> ExperimentResult:
    """Means, intervals, tests and costs as tables. reported: with the rows that others report of these benchmarks."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for benchmark in data:
        for row in _rows(measured, systems, benchmark.name, [benchmark.name], comparison):
            costs = measured.costs.get((row["system"], benchmark.name), {})
            rows.append({**row, "data_kind": benchmark.data_kind, **costs})
    for suite, members in _suites(data).items():
        kind = next(benchmark.data_kind for benchmark in data if benchmark.name == members[0])
        rows += [{**row, "data_kind": kind} for row in _rows(measured, systems, suite, members, comparison)]
    for row in rows:
        row |= {"source": Origin.MEASURED.value, "baseline": comparison.baseline}
        row |= {"seed": comparison.seed, "profile": profile}
    if reported:
        other = {"source": Origin.REPORTED.value}
        rows += [
            {"benchmark": r.benchmark, "system": r.system, "metric": "nDCG@10", "mean": r.value, **other}
            for r in reported_for([benchmark.name for benchmark in data])
        ]
    values = [
        {"benchmark": benchmark, "qid": qid, "system": system, "metric": metric, "value": value}
        for (system, benchmark), by_metric in measured.values.items()
        for metric, by_query in by_metric.items()
        for qid, value in by_query.items()
    ]
    return ExperimentResult(
        table=pd.DataFrame(rows).reindex(columns=list(TABLE_COLUMNS)),
        per_query=pd.DataFrame(values),
        costs=pd.DataFrame([{"benchmark": b, "system": s, **row} for (s, b), row in measured.costs.items()]),
        audit=pd.DataFrame([{"benchmark": b, "system": s, **row} for (s, b), row in measured.audits.items()]),
        notes=list(dict.fromkeys(measured.notes)),
        baseline=comparison.baseline,
        outcomes=outcomes,
        qrels={benchmark.name: benchmark.qrels for benchmark in data},
    )


def _suites(data: Sequence[BenchmarkData]) -> dict[str, list[str]]:
    """Suite -> its sets here, where there are two or more; named `bright` when all are, else `bright (3 of 12)`."""
    members_of: dict[str, list[str]] = {}
    for benchmark in data:
        if benchmark.spec.suite and benchmark.spec.suite != "trec-dl":
            members_of.setdefault(benchmark.spec.suite, []).append(benchmark.name)
    out = {}
    for suite, members in members_of.items():
        size = sum(spec.suite == suite for spec in BENCHMARKS.values())
        if len(members) > 1:
            out[suite if len(members) == size else f"{suite} ({len(members)} of {size})"] = members
    return out


def _rows(
    measured: Measured, systems: Sequence[str], name: str, members: Sequence[str], comparison: Comparison
) -> list[dict[str, Any]]:
    """The rows of one benchmark (one member) or suite (several: plain mean of set means), metric by metric."""
    rows: list[dict[str, Any]] = []
    for metric in measured.values[comparison.baseline, members[0]]:
        sets = {
            system: {
                str(number): list(measured.values[system, member][metric].values())
                for number, member in enumerate(members)
            }
            for system in systems
        }
        first, best = measured.scale(members, metric)
        for row in paired_rows(
            sets, comparison.baseline, test=comparison.test, seed=comparison.seed, resamples=comparison.resamples
        ):
            gap = gap_closed(row["mean"], first, best)
            rows.append({**row, "benchmark": name, "metric": metric, "ceiling": best, "gap_closed": gap})
    return rows
