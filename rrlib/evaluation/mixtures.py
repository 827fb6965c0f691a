"""Systems made of other systems: interpolation with the first stage, and a router by query difficulty.

Both have one number to choose, and choose it on validation queries, never on test queries: later work found strong
first stages that get worse under reranking, and a weight tuned on test queries would hide just that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rrlib.errors import InputError
from rrlib.evaluation.benchmarks import BenchmarkData
from rrlib.evaluation.metrics import mean, per_query
from rrlib.evaluation.systems import Cost, Outcome, Peer
from rrlib.types import Candidates, Hit, Run

GRID = tuple(round(0.05 * i, 2) for i in range(21))


def interpolate(reranked: Run, first_stage: Run, weight: float) -> Run:
    """weight * place in the reranked list + (1 - weight) * first-stage score, each scaled to [0, 1] within its query.

    Only documents of the first stage are kept. Equal sums stand in the reranked order.
    """
    if not 0.0 <= weight <= 1.0:
        raise InputError(f"interpolation weight {weight}", remedy="it lies in [0, 1]; 1 is the reranker alone")
    out: Run = {}
    for qid, hits in first_stage.items():
        if not hits:
            continue
        new = {hit.docid: place for place, hit in enumerate(_ordered(reranked.get(qid, [])))}
        low, high = min(h.score for h in hits), max(h.score for h in hits)
        last = max(len(hits) - 1, 1)

        def mixed(
            hit: Hit, new: Mapping[str, int] = new, low: float = low, high: float = high, last: int = last
        ) -> tuple[float, int]:
            place = new.get(hit.docid, last)
            old = (hit.score - low) / (high - low) if high > low else 0.0
            return weight * (1.0 - place / last) + (1.0 - weight) * old, -place

        order = sorted(hits, key=mixed, reverse=True)
        out[qid] = [Hit(hit.docid, float(len(order) - i), i + 1) for i, hit in enumerate(order)]
    return out


def _ordered(hits: Sequence[Hit]) -> list[Hit]:
    return sorted(hits, key=lambda hit: -hit.score)


def _validation(data: BenchmarkData, given: BenchmarkData | None, what: str) -> BenchmarkData:
    held_out = given or data.validation
    if held_out is None or held_out.run is None:
        raise InputError(
            f"{data.name} has no validation queries with a first stage, on which {what} could be chosen",
            remedy="add qrels/validation.tsv and runs/validation.trec, give validation=..., or state the number itself",
        )
    shared = held_out.qrels.keys() & data.qrels.keys()
    if held_out is data or (held_out.name == data.name and shared):
        raise InputError(f"{len(shared)} validation queries are test queries of {data.name}", remedy="keep them apart")
    return held_out


@dataclass(frozen=True)
class Interpolated:
    """Another system of the experiment mixed with the first stage.

    of: its name. weight: of the reranker, in [0, 1]; None chooses it from `grid` on validation queries by `metric`
    (the smallest of the best). validation: benchmark data for that choice; None takes the benchmark's own.
    """

    of: str
    weight: float | None = None
    metric: str = "nDCG@10"
    grid: Sequence[float] = GRID
    validation: BenchmarkData | None = None

    def needs(self) -> tuple[str, ...]:
        """The system it mixes."""
        return (self.of,)

    def held_out(self, data: BenchmarkData) -> BenchmarkData | None:
        """The validation queries that it chooses the weight on; None where that is given. Raises InputError."""
        return _validation(data, self.validation, "a weight") if self.weight is None else None

    def check(self, data: BenchmarkData, candidates: Sequence[Candidates]) -> Cost:
        """It costs no call of its own; the validation queries must be there."""
        self.held_out(data)
        return Cost()

    def rank(self, data: Sequence[BenchmarkData], log: Path | None, peer: Peer) -> list[Outcome]:
        """Choose the weight and mix; seconds and records are those of the system that is mixed."""
        out = []
        for benchmark in data:
            weight, info = self.weight, {}
            if (held_out := self.held_out(benchmark)) is not None:
                reranked = peer(self.of, held_out).run
                table = {w: self._value(held_out, interpolate(reranked, held_out.need_run(), w)) for w in self.grid}
                weight = max(table, key=lambda w: (table[w], -w))
                info = {"weight_from": f"{len(held_out.qrels)} validation queries", "validation": table[weight]}
            assert weight is not None
            other = peer(self.of, benchmark)
            run = interpolate(other.run, benchmark.need_run(), weight)
            out.append(Outcome(run, other.records, other.seconds, {"weight": weight, **info}))
        return out

    def _value(self, data: BenchmarkData, run: Run) -> float:
        return mean(next(iter(per_query(data.qrels, run, self.metric, data.spec.relevance_level).values())))


def disagreement(first: Run, second: Run, k: int = 10) -> dict[str, float]:
    """Per query: the share of one run's first k documents that are not among the other's. Needs no judgement."""
    out = {}
    for qid, hits in first.items():
        a = {hit.docid for hit in _ordered(hits)[:k]}
        b = {hit.docid for hit in _ordered(second.get(qid, []))[:k]}
        out[qid] = 1.0 - len(a & b) / max(len(a), 1)
    return out


@dataclass(frozen=True)
class Routed:
    """A router by query difficulty: `easy` answers every query; the difficult ones go on to `hard`.

    A query is difficult where `easy` moves much of the first stage's first k (it disagrees with it). threshold: of that
    share; None chooses it on validation queries: the one with the best `metric` less `price` for each routed query, so
    that thinking must pay for itself. Tokens and seconds are those of `easy` plus those of `hard` on the routed
    queries. info says how many were routed, and what a random choice of as many would have given (`random_route`).
    """

    easy: str
    hard: str
    threshold: float | None = None
    k: int = 10
    metric: str = "nDCG@10"
    price: float = 0.0
    validation: BenchmarkData | None = None
    grid: Sequence[float] = field(default_factory=lambda: tuple(round(0.1 * i, 1) for i in range(12)))

    def needs(self) -> tuple[str, ...]:
        """Both systems."""
        return self.easy, self.hard

    def held_out(self, data: BenchmarkData) -> BenchmarkData | None:
        """The validation queries that it chooses the threshold on; None where that is given. Raises InputError."""
        return _validation(data, self.validation, "a threshold") if self.threshold is None else None

    def check(self, data: BenchmarkData, candidates: Sequence[Candidates]) -> Cost:
        """It costs no call of its own; the validation queries must be there."""
        self.held_out(data)
        return Cost()

    def rank(self, data: Sequence[BenchmarkData], log: Path | None, peer: Peer) -> list[Outcome]:
        """Route the queries of each benchmark."""
        return [self._routed(benchmark, peer) for benchmark in data]

    def _routed(self, data: BenchmarkData, peer: Peer) -> Outcome:
        threshold = self.threshold
        if (held_out := self.held_out(data)) is not None:
            values = self._values(held_out, peer)
            threshold = max(self.grid, key=lambda t: (self._gain(values, t), t))
        assert threshold is not None
        values = self._values(data, peer)
        easy, hard = peer(self.easy, data), peer(self.hard, data)
        routed = {qid for qid, (difficulty, _, _) in values.items() if difficulty >= threshold}
        run = {qid: (hard if qid in routed else easy).run.get(qid, []) for qid in data.qrels}
        records = [*easy.records, *(r for r in hard.records if r.qid in routed)]
        share = len(routed) / max(len(values), 1)
        expected = sum(e + share * (h - e) for _, e, h in values.values()) / max(len(values), 1)
        seconds = None
        if easy.seconds is not None and hard.seconds is not None:
            waited = sum(r.seconds for r in hard.records)
            part = sum(r.seconds for r in hard.records if r.qid in routed)
            seconds = easy.seconds + hard.seconds * (part / waited if waited else share)
        info: dict[str, Any] = {"threshold": threshold, "routed": round(share, 4), "random_route": round(expected, 4)}
        return Outcome({qid: hits for qid, hits in run.items() if hits}, records, seconds, info)

    def _values(self, data: BenchmarkData, peer: Peer) -> dict[str, tuple[float, float, float]]:
        """query -> (difficulty, value of easy, value of hard)."""
        easy, hard = peer(self.easy, data).run, peer(self.hard, data).run
        level = data.spec.relevance_level
        a, b = (next(iter(per_query(data.qrels, run, self.metric, level).values())) for run in (easy, hard))
        difficulty = disagreement(data.need_run(), easy, self.k)
        return {qid: (difficulty.get(qid, 1.0), a[qid], b[qid]) for qid in data.qrels}

    def _gain(self, values: Mapping[str, tuple[float, float, float]], threshold: float) -> float:
        total = sum(h - self.price if d >= threshold else e for d, e, h in values.values())
        return total / max(len(values), 1)
