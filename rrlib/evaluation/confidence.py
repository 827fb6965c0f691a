"""How likely a passage is relevant, and how good a query's list: agreement of samples, calibrated on judged queries.

Two isotonic regressions (scipy), fitted on validation queries: from the mean place of a passage over samples to the
share of relevant ones, and from the agreement on a query's last window to its metric. They are kept in a small file
with the settings they were fitted with, and hold for no others. With them a list can be cut where relevance becomes
unlikely, and a query be left unanswered; the risk-coverage curve says what that is worth.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rrlib.disk import differences, read_json, write_json
from rrlib.errors import InputError, MissingFileError
from rrlib.evaluation.metrics import parse_metrics, per_query
from rrlib.evaluation.votes import Votes, checked, comparable, votes_of
from rrlib.formats import ranking_to_run
from rrlib.records import WindowRecord
from rrlib.types import Qrels

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A monotone function given by points, straight between them and level outside. x: increasing."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    @classmethod
    def fitted(cls, x: Sequence[float], y: Sequence[float], *, increasing: bool) -> Curve:
        """The isotonic regression of y on x, one point for each value of x."""
        from scipy.optimize import isotonic_regression

        values, where, counts = np.unique(np.round(x, 9), return_inverse=True, return_counts=True)
        means = np.bincount(where, weights=np.asarray(y, dtype=np.float64)) / counts
        levels = isotonic_regression(means, weights=counts, increasing=increasing).x
        inner = (levels[1:-1] == levels[:-2]) & (levels[1:-1] == levels[2:])  # of a level part its two ends say all
        kept = np.r_[True, ~inner, True][: len(levels)]
        return cls(tuple(values[kept].tolist()), tuple(levels[kept].tolist()))

    def __call__(self, x: npt.ArrayLike) -> Floats:
        return np.interp(np.asarray(x, dtype=np.float64), self.x, self.y)


@dataclass(frozen=True)
class Confidence:
    """What is known of one query. probabilities: document id -> that of being relevant, in the order of the list.
    expected: the metric that lists of such agreement have, in [0, 1]."""

    collection: str
    qid: str
    probabilities: Mapping[str, float]
    expected: float

    def relevant_docids(self, threshold: float = 0.5) -> list[str]:
        """The passages that are relevant with this probability or more, best first; perhaps none."""
        if not 0.0 <= threshold <= 1.0:
            raise InputError(f"a threshold of {threshold}", remedy="a probability lies between 0 and 1")
        return [docid for docid, probability in self.probabilities.items() if probability >= threshold]


@dataclass(frozen=True)
class Calibration:
    """What agreement means, for one way of reranking.

    settings: as `comparable` has them. metric: a name of ir-measures. relevance: mean place -> probability, falling.
    expected: agreement -> metric, rising. queries, passages: how many it was fitted on.
    """

    settings: Mapping[str, Any]
    metric: str
    relevance: Curve
    expected: Curve
    queries: int
    passages: int

    @classmethod
    def fit(
        cls, votes: Sequence[Votes], qrels: Qrels, settings: Mapping[str, Any], metric: str = "nDCG@10"
    ) -> Calibration:
        """Fit on judged queries; a passage without a judgement counts as not relevant.

        Raises InputError where fewer than two queries are judged, where all passages of them are relevant or none, and
        for settings that votes cannot be taken of.
        """
        checked(settings)
        judged = [vote for vote in votes if vote.qid in qrels]
        x = [place for vote in judged for place in vote.places.values()]
        y = [float(label) for vote in judged for label in labels(vote, qrels)]
        if len(judged) < 2 or not 0 < sum(y) < len(y):
            raise InputError(
                f"{len(judged)} judged queries with {int(sum(y))} relevant of {len(y)} passages say nothing",
                remedy="fit on validation queries whose qrels name relevant and other passages of their lists",
            )
        values = list(values_of(judged, qrels, metric).values())
        return cls(
            comparable(settings),
            metric,
            Curve.fitted(x, y, increasing=False),
            Curve.fitted([vote.agreement for vote in judged], values, increasing=True),
            len(judged),
            len(y),
        )

    def of_votes(self, votes: Iterable[Votes]) -> list[Confidence]:
        """What is known of each query; its votes were taken with these settings."""
        return [
            Confidence(
                vote.collection,
                vote.qid,
                dict(zip(vote.places, self.relevance(list(vote.places.values())).tolist(), strict=True)),
                float(self.expected(vote.agreement)),
            )
            for vote in votes
        ]

    def of(self, records: Iterable[WindowRecord], settings: Mapping[str, Any] | None = None) -> list[Confidence]:
        """What is known of each query of a reranking. settings: of the run, None where the records bring them.

        Raises InputError, naming what differs, for a reranking with other settings than it was fitted with.
        """
        windows = list(records)
        settings = next((r.settings for r in windows if r.settings is not None), None) if settings is None else settings
        votes = votes_of(windows, settings)
        self.check(checked(settings))
        return self.of_votes(votes)

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raises InputError, naming what differs, where this calibration was not fitted for the settings."""
        changed = differences(self.settings, _plain(comparable(settings)))
        if changed:
            listed = "; ".join(f"{d.key}={d.previous!r}, here it is {d.current!r}" for d in changed)
            raise InputError(
                f"this calibration was fitted with {listed}",
                remedy="fit another on validation queries that were reranked with these settings",
            )

    def save(self, path: str | Path) -> None:
        """Write the file; it takes its place in one step."""
        write_json(Path(path), {"kind": KIND, **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read the file. Raises MissingFileError, or InputError for what is no calibration."""
        remedy = "make one: rrlib confidence LOG --qrels QRELS --output FILE"
        if not Path(path).is_file():
            raise MissingFileError("no calibration", path=path, remedy=remedy)
        row = read_json(Path(path))
        try:
            if row.pop("kind") != KIND:
                raise KeyError("kind")
            curves = {name: Curve(tuple(row[name]["x"]), tuple(row[name]["y"])) for name in ("relevance", "expected")}
            return cls(**{**row, **curves})
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError("not a calibration", path=path, remedy=remedy) from error


KIND = "rrlib calibration"
"""What a file of a calibration says that it is."""


def _plain(settings: Mapping[str, Any]) -> Any:
    """Settings as JSON gives them back."""
    return json.loads(json.dumps(settings))


def labels(vote: Votes, qrels: Qrels) -> list[bool]:
    """Whether each passage of a list is relevant, in its order."""
    grades = qrels.get(vote.qid, {})
    return [grades.get(docid, 0) > 0 for docid in vote.places]


def one_metric(metric: str) -> str:
    """The name of a metric, as tables have it. Raises InputError for what is none, and for several."""
    names = [str(measure) for measure in parse_metrics(metric)]
    if len(names) > 1:
        raise InputError(f"{len(names)} metrics: {', '.join(names)}", remedy="name one: it is what a query is to reach")
    return names[0]


def values_of(votes: Sequence[Votes], qrels: Qrels, metric: str) -> dict[str, float]:
    """The metric of each query's list, all of which are judged."""
    name = one_metric(metric)
    run = ranking_to_run({vote.qid: list(vote.places) for vote in votes})
    return per_query({vote.qid: qrels[vote.qid] for vote in votes}, run, [name])[name]


def cross_fitted(
    votes: Sequence[Votes], qrels: Qrels, settings: Mapping[str, Any], metric: str = "nDCG@10", folds: int = 5
) -> list[Confidence]:
    """What a calibration says of queries that it was not fitted on: of each fold, one fitted on the others.

    In the order of the judged votes. Raises InputError for fewer than two folds or judged queries than folds.
    """
    judged = [vote for vote in votes if vote.qid in qrels]
    if not 2 <= folds <= len(judged) // 2:
        raise InputError(f"{folds} folds of {len(judged)} judged queries", remedy="judge more queries")
    by_place: dict[int, Confidence] = {}
    for fold in range(folds):
        rest = [vote for place, vote in enumerate(judged) if place % folds != fold]
        fitted = Calibration.fit(rest, qrels, settings, metric)
        by_place |= zip(range(fold, len(judged), folds), fitted.of_votes(judged[fold::folds]), strict=True)
    return [by_place[place] for place in range(len(judged))]


# --- what it is worth -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Reliability:
    """Passages in bins of equal size, least probable first. predicted: mean probability, observed: share of relevant
    ones; both of shape (bins,). brier: mean squared error of the probabilities. error: mean |predicted - observed| over
    passages."""

    predicted: Floats
    observed: Floats
    brier: float
    error: float


def reliability(confidences: Sequence[Confidence], votes: Sequence[Votes], qrels: Qrels, bins: int = 10) -> Reliability:
    """How far probabilities hold. confidences, votes: of the same judged queries. Raises InputError where there are
    none."""
    p = np.array([probability for confidence in confidences for probability in confidence.probabilities.values()])
    relevant = {vote.qid: dict(zip(vote.places, labels(vote, qrels), strict=True)) for vote in votes}
    y = np.array(
        [float(relevant[confidence.qid][docid]) for confidence in confidences for docid in confidence.probabilities]
    )
    if not len(p):
        raise InputError("no passage has a probability", remedy="give judged queries")
    parts = np.array_split(np.argsort(p, kind="stable"), min(bins, len(p)))
    means = np.array([(p[part].mean(), y[part].mean(), len(part)) for part in parts])  # (bins, 3)
    error = float(np.abs(means[:, 0] - means[:, 1]) @ means[:, 2] / len(p))
    return Reliability(means[:, 0], means[:, 1], float(((p - y) ** 2).mean()), error)


@dataclass(frozen=True)
class RiskCoverage:
    """Answering only the surest queries. coverage: shares of queries, from 1/Q to 1; risk: mean of 1 - metric over
    those answered; both of shape (Q,). area: mean risk over all coverages. all_answered: risk of all queries, which is
    the area of a confidence that knows nothing. ideal_area: that of one that knows all."""

    coverage: Floats
    risk: Floats
    area: float
    all_answered: float
    ideal_area: float


def risk_coverage(confidence: Sequence[float], values: Sequence[float]) -> RiskCoverage:
    """The curve of Q queries. confidence: the higher the surer; equal ones are answered in any order, of which the mean
    is taken. values: metrics in [0, 1]. Raises InputError for no query, or lengths that differ."""
    if not confidence or len(confidence) != len(values):
        raise InputError(f"{len(confidence)} confidences of {len(values)} values", remedy="give one value a query")
    loss = 1.0 - np.asarray(values, dtype=np.float64)
    _, tied = np.unique(-np.round(confidence, 9), return_inverse=True)  # 0: the surest
    expected = np.bincount(tied, weights=loss) / np.bincount(tied)  # of one query of each group of equals
    count = np.arange(1, len(loss) + 1)
    risk = np.cumsum(expected[np.sort(tied)]) / count
    ideal = np.cumsum(np.sort(loss)) / count
    return RiskCoverage(count / len(loss), risk, float(risk.mean()), float(loss.mean()), float(ideal.mean()))


def set_quality(kept: Iterable[tuple[str, Sequence[str]]], qrels: Qrels) -> tuple[Floats, Floats, Floats]:
    """(precision, recall, F1) of the passages kept for each query, each of shape (Q,).

    kept: pairs of query and documents. Precision of nothing is 1 where nothing is relevant, else 0.
    """
    rows = []
    for qid, docids in kept:
        relevant = {docid for docid, grade in qrels.get(qid, {}).items() if grade > 0}
        hits = len(relevant & set(docids))
        precision = hits / len(docids) if docids else float(not relevant)
        recall = hits / len(relevant) if relevant else 1.0
        rows.append((precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0))
    table = np.array(rows).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]
