"""What notebook 04 says of trust: how sure a system is of its lists, and whether they follow from its reasoning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.engines import Engine, make_engine
from rrlib.errors import InputError
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
from rrlib.strategies import sliding_spans
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


def windows_to_draw(system: Listwise, data: BenchmarkData, samples: int, queries: int) -> int:
    """How many lines `draw` leaves in its logs when it is through; 0, not known, for another strategy than windows."""
    if system.strategy != "sliding_window":
        return 0
    sizes = system.sizes(data)
    limited = data.limited(queries, queries)
    parts = [limited, limited.validation] if data.validation and limited.validation else [limited]
    lists = [item.passages for part in parts if part is not None for item in system.candidates(part)]
    return samples * sum(len(sliding_spans(len(passages), sizes["window"], sizes["stride"])) for passages in lists)


@contextmanager
def _opened(system: Listwise) -> Iterator[Engine]:
    """The system's engine, closed at the end."""
    engine = make_engine(system.engine, system.model, **dict(system.engine_options))
    try:
        yield engine
    finally:
        engine.close()


def _reranker(engine: Engine, system: Listwise, data: BenchmarkData, **options: Any) -> Reranker:
    """A reranker with all that the system has. data: a whole benchmark, since its longest window may decide sizes."""
    names = ("style", "strategy", "passes", "budget", "decoding", "with_first_stage")
    sizes = system.fitting_sizes(data, system.candidates(data)) if system.fit else system.sizes(data)
    settings: dict[str, Any] = {**{name: getattr(system, name) for name in names}, **sizes, **options}
    return Reranker(engine, **settings)


def draw(
    system: Listwise, data: BenchmarkData, folder: Path, samples: int, temperature: float, queries: int, seed: int
) -> Drawn:
    """Rerank the first `queries` test and validation queries (0 = all) with so many samples of each window. folder:
    keeps their logs, from which a second call reads. samples: 2 or more."""
    sampling = replace(system.decoding, temperature=temperature, seed=seed)
    limited, votes = data.limited(queries, queries), {}
    parts = {"test": (data, limited)}
    if data.validation and limited.validation:
        parts["validation"] = data.validation, limited.validation
    with _opened(system) as engine:
        for name, (whole, part) in parts.items():
            log = folder / f"{name}.jsonl"
            reranker = _reranker(engine, system, whole, decoding=sampling, samples=samples, log=log)
            settings = reranker.settings()
            votes[name] = votes_of(reranker.rerank(system.candidates(part)).records, settings)
    validation_qrels = limited.validation.qrels if limited.validation else {}
    return Drawn(votes["test"], limited.qrels, votes.get("validation", []), validation_qrels, settings)


@dataclass(frozen=True)
class Sureness:
    """How far to believe it, on queries that nothing was fitted on. curve: the surest queries first, by agreement.
    correlation, p: Spearman's, of agreement and metric; nan where one of them is the same for all queries. calibrated:
    None where nothing can be, and `why`."""

    curve: RiskCoverage
    correlation: float
    p: float
    metric: str
    queries: int
    calibrated: Calibrated | None
    why: str = ""

    def in_words(self) -> str:
        """The figures in sentences, and what follows from them."""
        half = self.curve.risk[(len(self.curve.risk) + 1) // 2 - 1]
        shown = "here agreement tells good lists from bad ones"
        if not (self.p < 0.05 and self.correlation > 0):
            shown = "that agreement tells good lists from bad ones is not shown here"
        cut = f"Nothing is calibrated: {self.why}." if self.calibrated is None else self.calibrated.in_words()
        return (
            f"{self.queries} queries. {cut}\n1 - {self.metric} is {half:.3f} for the surer half of them and "
            f"{self.curve.all_answered:.3f} for all: {shown} (Spearman {self.correlation:.2f}, p {self.p:.2f})."
        )


@dataclass(frozen=True)
class Calibrated:
    """What probabilities are worth. precision, recall: of the passages with an even chance or more, means over queries;
    kept: how many these are a query; relevant: how many there are a query."""

    reliability: Reliability
    precision: float
    recall: float
    kept: float
    relevant: float

    def in_words(self) -> str:
        """The figures in a sentence."""
        return (
            f"{self.relevant:.1f} passages a query are relevant; a cut at an even chance keeps {self.kept:.1f} "
            f"passages, relevant or not (precision {self.precision:.2f}, recall {self.recall:.2f}); "
            f"probabilities are off by {self.reliability.error:.2f}."
        )


def sureness(drawn: Drawn, metric: str) -> Sureness:
    """Calibrated on the validation queries, or where there are none on each part of the test queries by the rest."""
    from scipy import stats

    votes = [vote for vote in drawn.votes if vote.qid in drawn.qrels]
    agreement = [vote.agreement for vote in votes]
    values = list(values_of(votes, drawn.qrels, metric).values())
    flat = min(len(set(agreement)), len(set(values))) < 2  # scipy warns, and gives nan
    spearman = (float("nan"), float("nan")) if flat else stats.spearmanr(agreement, values)
    calibrated, why = None, ""
    try:
        calibrated = _calibrated(_said(drawn, votes, metric), votes, drawn.qrels)
    except InputError as error:  # a handful of queries may hold nothing to fit on
        why = str(error)
    curve = risk_coverage(agreement, values)
    return Sureness(curve, float(spearman[0]), float(spearman[1]), metric, len(votes), calibrated, why)


def _said(drawn: Drawn, votes: Sequence[Votes], metric: str) -> list[Confidence]:
    if drawn.validation:
        fitted = Calibration.fit(drawn.validation, drawn.validation_qrels, drawn.settings, metric)
        return fitted.of_votes(votes)
    return cross_fitted(votes, drawn.qrels, drawn.settings, metric, folds=max(2, min(5, len(votes) // 2)))


def _calibrated(confidences: Sequence[Confidence], votes: Sequence[Votes], qrels: Qrels) -> Calibrated:
    lists = [(confidence.qid, confidence.relevant_docids()) for confidence in confidences]
    precision, recall, _ = set_quality(lists, qrels)
    size = sum(len(docids) for _, docids in lists) / len(lists)
    relevant = sum(grade > 0 for vote in votes for grade in qrels[vote.qid].values()) / len(votes)
    bins = reliability(confidences, votes, qrels)
    return Calibrated(bins, float(precision.mean()), float(recall.mean()), size, relevant)


def form_kept_words(valid: Mapping[str, float]) -> str:
    """Whether the last of several checkpoints lost form against the one before it. valid: name -> share of answers that
    are valid rankings as they were written."""
    if len(valid) < 2:
        return "There are no two checkpoints whose form could be compared."
    (before, old), (after, new) = list(valid.items())[-2:]
    shares = f"{old:.1%} {before}, {new:.1%} {after}"
    if f"{old:.1%}" == f"{new:.1%}":
        return f"Valid answers: {shares}. Of form nothing was lost here, and nothing gained."
    return f"Valid answers: {shares}. So some form was {'lost' if new < old else 'gained'} here (one training)."


def follow_table(records: Mapping[str, Sequence[WindowRecord]], seed: int) -> pd.DataFrame:
    """One row a system: its windows, how many could be compared and how (rrlib.evaluation.faithfulness), and with
    intervals over queries how far its lists agree with its reasoning, and which share contradicts it nowhere."""
    import pandas as pd

    rows = []
    for name, windows in records.items():
        compared = (compare(f"{r.collection} {r.qid}", r.reasoning, None if r.unread else r.order) for r in windows)
        summary = faithfulness(compared, seed)
        row: dict[str, Any] = {"system": name, "windows": len(windows), "compared": summary.compared}
        row["reasoning"] = ", ".join(f"{said} {count}" for said, count in summary.counts.items())
        for column, value in (("agreement", summary.agreement), ("follows", summary.follows)):
            row[column] = "" if value is None else _interval(value.mean, value.low, value.high)
        rows.append(row)
    return pd.DataFrame(rows).set_index("system")


def _interval(mean: float, low: float, high: float) -> str:
    """A mean with its interval; empty where there is none (nan)."""
    return "" if mean != mean else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def asked_again(
    system: Listwise,
    data: BenchmarkData,
    records: Sequence[WindowRecord],
    queries: int,
    seed: int,
    on_answer: Callable[[], Any] | None = None,
) -> pd.DataFrame:
    """The windows of the first `queries` test queries (0 = all), asked again behind other reasoning: the table of
    rrlib.evaluation.interventions, by `chain`. Without rows where no window has both reasoning and a list. on_answer:
    called after each answer."""
    import pandas as pd

    style, limited = get_style(system.style), data.limited(queries)
    windows = [r for r in records if r.qid in limited.qrels and r.reasoning.strip() and not r.unread]
    if not windows or not (style.think and style.tags):
        return pd.DataFrame(columns=["windows", "answered", "tau", "rbo", "same", "follows"])
    with _opened(system) as engine:
        asked = _reranker(engine, system, data), system.candidates(limited), windows
        rows = intervene(*asked, seed=seed, on_answer=on_answer)
    return table(rows, seed).set_index("chain")


def again_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The table of `asked_again` as it is shown: windows, the share answered, and tau, rbo and follows with their
    intervals in a column each; empty where nothing can be said."""
    table = frame[["windows", "answered"]].copy()
    for name in ("tau", "rbo", "follows"):
        table[name] = [_interval(row[name], row[f"{name}_low"], row[f"{name}_high"]) for _, row in frame.iterrows()]
    return table


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
