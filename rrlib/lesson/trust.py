"""What notebook 04 says of trust: how sure a system is of its lists, and whether they follow from its reasoning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.engines import make_engine
from rrlib.evaluation.benchmarks import BenchmarkData
from rrlib.evaluation.confidence import (
    Calibration,
    Confidence,
    Reliability,
    RiskCoverage,
    cross_fitted,
    reliability,
    risk_coverage,
    set_quality,
    values_of,
)
from rrlib.evaluation.faithfulness import compare, faithfulness
from rrlib.evaluation.interventions import intervene, table
from rrlib.evaluation.systems import Listwise
from rrlib.evaluation.votes import Votes, votes_of
from rrlib.prompts import get_style
from rrlib.records import WindowRecord
from rrlib.rerank import Reranker
from rrlib.types import Qrels

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Drawn:
    """The votes of sampled test queries, and of validation queries (none where the benchmark has none); what they were
    drawn with."""

    votes: list[Votes]
    qrels: Qrels
    validation: list[Votes]
    validation_qrels: Qrels
    settings: Mapping[str, Any]


@contextmanager
def _opened(system: Listwise, data: BenchmarkData, **options: Any) -> Iterator[Reranker]:
    """A reranker of that system on that benchmark; its engine is closed at the end."""
    engine = make_engine(system.engine, system.model, **dict(system.engine_options))
    own = {"style": system.style, "budget": system.budget, "decoding": system.decoding}
    settings: dict[str, Any] = {**own, **system.sizes(data), **options}
    try:
        yield Reranker(engine, **settings)
    finally:
        engine.close()


def draw(
    system: Listwise, data: BenchmarkData, folder: Path, samples: int, temperature: float, queries: int, seed: int
) -> Drawn:
    """Rerank the first `queries` test and validation queries (0 = all) with so many samples of each window. folder:
    keeps their logs, from which a second call reads. samples: 2 or more."""
    sampling = replace(system.decoding, temperature=temperature, seed=seed)
    some, votes = data.limited(queries, queries), {}
    parts = {"test": some, **({"validation": some.validation} if some.validation else {})}
    for name, part in parts.items():
        with _opened(
            replace(system, decoding=sampling), part, samples=samples, log=folder / f"{name}.jsonl"
        ) as reranker:
            votes[name] = votes_of(reranker.rerank(system.candidates(part)).records, reranker.settings())
            settings = reranker.settings()
    validation_qrels = some.validation.qrels if some.validation else {}
    return Drawn(votes["test"], some.qrels, votes.get("validation", []), validation_qrels, settings)


@dataclass(frozen=True)
class Sureness:
    """How far to believe it, on queries that nothing was fitted on. precision, recall: of the passages with an even
    chance or more, means over queries; kept: how many these are a query; relevant: how many there are a query."""

    reliability: Reliability
    curve: RiskCoverage
    precision: float
    recall: float
    kept: float
    relevant: float
    metric: str
    queries: int

    def in_words(self) -> str:
        """Two sentences with the figures, and what follows from them."""
        half = self.curve.risk[(len(self.curve.risk) + 1) // 2 - 1]
        better = half < self.curve.whole - 0.005
        tells = "tells good lists from bad ones" if better else "does not tell good lists from bad ones"
        return (
            f"{self.queries} queries. Of {self.relevant:.1f} relevant passages a query, a cut at an even chance keeps "
            f"{self.kept:.1f} (precision {self.precision:.2f}, recall {self.recall:.2f}); probabilities are off by "
            f"{self.reliability.error:.2f}.\n1 - {self.metric} is {half:.3f} for the surer half of the queries and "
            f"{self.curve.whole:.3f} for all of them: here agreement {tells}."
        )


def sureness(drawn: Drawn, metric: str) -> Sureness:
    """Calibrated on the validation queries, or where there are none on each part of the test queries by the rest."""
    votes = [vote for vote in drawn.votes if vote.qid in drawn.qrels]
    said: list[Confidence]
    if drawn.validation:
        fitted = Calibration.fit(drawn.validation, drawn.validation_qrels, drawn.settings, metric)
        said = fitted.of_votes(votes)
    else:
        said = cross_fitted(votes, drawn.qrels, drawn.settings, metric, folds=max(2, min(5, len(votes) // 2)))
    kept = [(one.qid, one.kept()) for one in said]
    precision, recall, _ = set_quality(kept, drawn.qrels)
    values = list(values_of(votes, drawn.qrels, metric).values())
    return Sureness(
        reliability(said, votes, drawn.qrels),
        risk_coverage([one.expected for one in said], values),
        float(precision.mean()),
        float(recall.mean()),
        sum(len(docids) for _, docids in kept) / len(kept),
        sum(grade > 0 for vote in votes for grade in drawn.qrels[vote.qid].values()) / len(votes),
        metric,
        len(votes),
    )


def follow_table(records: Mapping[str, Sequence[WindowRecord]], seed: int) -> pd.DataFrame:
    """One row a system: its windows, how many could be compared and how (rrlib.evaluation.faithfulness), and with
    intervals over queries how far its lists agree with its reasoning, and which share contradicts it nowhere."""
    import pandas as pd

    rows = []
    for name, windows in records.items():
        compared = (compare(f"{r.collection} {r.qid}", r.reasoning, None if r.unread else r.order) for r in windows)
        found = faithfulness(compared, seed)
        row: dict[str, Any] = {"system": name, "windows": len(windows), "compared": found.compared}
        row["reasoning"] = ", ".join(f"{said} {count}" for said, count in found.counts.items())
        for column, value in (("agreement", found.agreement), ("follows", found.follows)):
            row[column] = "" if value is None else f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]"
        rows.append(row)
    return pd.DataFrame(rows).set_index("system")


def asked_again(
    system: Listwise, data: BenchmarkData, records: Sequence[WindowRecord], queries: int, seed: int
) -> pd.DataFrame:
    """The windows of the first `queries` test queries (0 = all), asked again behind other reasoning: the table of
    rrlib.evaluation.interventions, by `chain`. Without rows where no window has both reasoning and a list."""
    import pandas as pd

    style, some = get_style(system.style), data.limited(queries)
    windows = [r for r in records if r.qid in some.qrels and r.reasoning.strip() and not r.unread]
    if not windows or not (style.think and style.tags):
        return pd.DataFrame(columns=["windows", "answered", "tau", "rbo", "same", "follows"])
    with _opened(system, some) as reranker:
        rows = intervene(reranker, system.candidates(some), windows, seed=seed)
    return table(rows, seed).set_index("chain")


def again_in_words(frame: pd.DataFrame) -> str:
    """What the table of `asked_again` says, in figures and words."""
    if frame.empty:
        return "No window has both reasoning and a list, so nothing could be asked again."
    own = frame.loc["own"]
    said = f"{int(own['windows'])} windows. Tau with the model's own list: behind its own reasoning {own['tau']:.2f}"
    if "other" not in frame.index or frame.loc["other", "answered"] == 0:
        return f"{said}; behind another query's it gives no list to compare."
    other = frame.loc["other"]
    decides = other["tau_high"] < own["tau_low"]
    verdict = "the reasoning decides" if decides else "it is not shown that the reasoning decides"
    return f"{said}, another query's {other['tau']:.2f} [{other['tau_low']:.2f}, {other['tau_high']:.2f}]: {verdict}."
