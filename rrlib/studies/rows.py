"""A finished row of the ablations, and the file of them: a line a row and seed, with the value of every query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rrlib.evaluation.metrics import per_query
from rrlib.formats import read_jsonl
from rrlib.types import Qrels, Run

METRIC = "nDCG@10"


@dataclass(frozen=True)
class Result:
    """One finished row of one seed.

    values: NDCG@10 by query, over all queries of the test qrels; graded: the same by graded labels, empty where the
    world has none or the row was stored before they were kept. valid: share of the windows with a strictly valid
    answer. tokens: mean answer length. examples: lists that it learned from. setting: key of what it depends on.
    equal_updates: of a row that learns from other lists than the full recipe, whether SFT made as many updates.
    """

    row: str
    seed: int
    values: dict[str, float]
    valid: float
    tokens: float
    examples: int
    seconds: Mapping[str, float]
    data_kind: str
    setting: str
    equal_updates: bool = False
    graded: dict[str, float] = field(default_factory=dict)


def read_results(path: str | Path) -> list[Result]:
    """Rows kept in a file, a line each; the last one counts where a row and seed stand twice."""
    if not Path(path).is_file():
        return []
    results = (Result(**row) for _, row in read_jsonl(path))
    return list({(result.row, result.seed, result.setting): result for result in results}.values())


def judged(qrels: Qrels, run: Run) -> dict[str, float]:
    """METRIC of every query of the qrels, four decimals; 0 for one that the run lacks. {} without qrels."""
    return {qid: round(value, 4) for qid, value in per_query(qrels, run, [METRIC])[METRIC].items()} if qrels else {}


def mean(values: Mapping[str, float]) -> float:
    """Over the queries. Raises ZeroDivisionError where there are none."""
    return sum(values.values()) / len(values)


def compared_alike(results: Sequence[Result]) -> list[Result]:
    """The results without those of unequal updates, in each row that has some with equal ones: they are no sample of
    one recipe."""
    equal = {result.row for result in results if result.equal_updates}
    return [result for result in results if result.equal_updates or result.row not in equal]
