"""Systems without a model: the first stage, a random order, the best there is, and runs that are there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrlib.errors import InputError
from rrlib.evaluation.benchmarks import BenchmarkData
from rrlib.evaluation.metrics import check_judged
from rrlib.evaluation.systems import Cost, Outcome, Peer, System
from rrlib.evaluation.tables import oracle_run, random_run
from rrlib.formats import make_candidates, ranking_to_run, read_run, without_excluded
from rrlib.formats.fields import few
from rrlib.types import Candidates, Run


class _NoModel:
    def needs(self) -> tuple[str, ...]:
        return ()

    def check(self, data: BenchmarkData, candidates: Sequence[Candidates]) -> Cost:
        return Cost()


@dataclass(frozen=True)
class FirstStage(_NoModel):
    """The candidates as they came, with the scores of the run and trec_eval's order of ties."""

    def rank(self, data: Sequence[BenchmarkData], log: Path | None, peer: Peer) -> list[Outcome]:
        return [Outcome(benchmark.need_run()) for benchmark in data]


@dataclass(frozen=True)
class RandomOrder(_NoModel):
    """The candidates in a random order: the floor."""

    seed: int = 0

    def rank(self, data: Sequence[BenchmarkData], log: Path | None, peer: Peer) -> list[Outcome]:
        return [Outcome(random_run(bare_candidates(benchmark), self.seed)) for benchmark in data]


@dataclass(frozen=True)
class Oracle(_NoModel):
    """The first `depth` candidates (None: of the benchmark) in the best possible order: what no reranker can beat."""

    depth: int | None = None

    def rank(self, data: Sequence[BenchmarkData], log: Path | None, peer: Peer) -> list[Outcome]:
        return [Outcome(oracle_run(d.qrels, bare_candidates(d), self.depth or d.spec.depth or None)) for d in data]


@dataclass(frozen=True)
class Given(_NoModel):
    """A run that is there already: a TREC file, or query id -> document ids, best first. For one benchmark, or by name.

    Excluded documents are removed, as from every run.
    """

    run: str | Path | Mapping[str, Sequence[str]] | Mapping[str, Run]

    def check(self, data: BenchmarkData, candidates: Sequence[Candidates]) -> Cost:
        check_judged(data.qrels, self._of(data), self.run if isinstance(self.run, str | Path) else None)
        return Cost()

    def rank(self, data: Sequence[BenchmarkData], log: Path | None, peer: Peer) -> list[Outcome]:
        return [Outcome(without_excluded(self._of(benchmark), benchmark.excluded)[0]) for benchmark in data]

    def _of(self, data: BenchmarkData) -> Run:
        if isinstance(self.run, str | Path):
            return read_run(self.run)
        if not self.run or not all(isinstance(part, Mapping) for part in self.run.values()):
            return ranking_to_run(self.run)  # type: ignore[arg-type]
        if data.name not in self.run:
            raise InputError(f"no run of {data.name}: there are those of {few(list(self.run))}", remedy="add it")
        return dict(self.run[data.name])  # type: ignore[arg-type]


def bare_candidates(data: BenchmarkData, depth: int | None = None) -> list[Candidates]:
    """The candidates by id alone, for what needs no text."""
    run = {qid: hits[:depth] for qid, hits in data.need_run().items() if qid in data.qrels}
    return make_candidates(run, None, None, texts_required=False, collection=data.name)


def as_system(given: Any) -> System:
    """A system from what a caller may write: a System, `first-stage`, `random`, `oracle`, a run file, or a ranking."""
    simple: dict[str, System] = {"first-stage": FirstStage(), "random": RandomOrder(), "oracle": Oracle()}
    if isinstance(given, str) and given in simple:
        return simple[given]
    if isinstance(given, Mapping | Path) or (isinstance(given, str) and Path(given).is_file()):
        return Given(given)
    if all(callable(getattr(given, name, None)) for name in ("needs", "check", "rank")):
        return given  # type: ignore[no-any-return]
    raise InputError(
        f"{given!r} is no system",
        remedy=f"give one of {', '.join(simple)}, a TREC run, or rrlib.evaluation.Listwise(...), Pointwise(...)",
    )
