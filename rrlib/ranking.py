"""What a reranking of one query gives: passages best first, their scores, and whether the order is the model's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rrlib.formats.objects import check_top_k
from rrlib.records import WindowRecord
from rrlib.types import Candidates


@dataclass(frozen=True, slots=True)
class RankedPassage:
    """A passage at its new place. score: n - rank + 1 with every strategy, strictly decreasing, so no evaluator can
    reshuffle it; it says the rank and nothing more. How likely a passage is relevant: with `pointwise` its window's own
    score, `judged_scores(ranking.docids, ranking.windows)`; else rrlib.evaluation.confidence."""

    rank: int
    score: float
    docid: str
    text: str

    @property
    def doc_id(self) -> str:
        """The document id, by the name that the package rerankers has for it."""
        return self.docid

    @property
    def document(self) -> RankedPassage:
        """The passage itself: where the package rerankers keeps `doc_id` and `text`."""
        return self


@dataclass(frozen=True)
class Ranking:
    """The ranking of one query: passages best first, and what the model said in each window (nothing where that was not
    asked for). qid, collection: whose ranking it is."""

    results: tuple[RankedPassage, ...]
    windows: tuple[WindowRecord, ...]
    qid: str = ""
    collection: str = ""

    @classmethod
    def of(
        cls, order: Sequence[str], candidates: Candidates, windows: Sequence[WindowRecord], top_k: int | None = None
    ) -> Ranking:
        """Of the ids best first, the candidates that they name, and what the model said; the best top_k alone."""
        texts = {passage.docid: passage.text for passage in candidates.passages}
        ranked = [RankedPassage(r, len(order) - r + 1.0, docid, texts[docid]) for r, docid in enumerate(order, 1)]
        return cls(tuple(ranked[:top_k]), tuple(windows), candidates.query.qid, candidates.collection)

    @property
    def docids(self) -> list[str]:
        """The document ids, best first."""
        return [passage.docid for passage in self.results]

    def __iter__(self) -> Iterator[RankedPassage]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> RankedPassage:
        return self.results[index]

    def _repr_html_(self) -> str:
        """A table for notebooks: rank, id, and the beginning of the text."""
        from html import escape

        rows = "".join(f"<tr><td>{p.rank}<td>{escape(p.docid)}<td>{escape(p.text[:200])}" for p in self)
        return f'<table style="text-align:left"><tr><th>rank<th>id<th>passage of query {escape(self.qid)}{rows}</table>'

    @property
    def reasoning(self) -> tuple[str, ...]:
        """The reasoning of each window, in the order asked (the last is the head of the list); of each sample."""
        return tuple(record.reasoning for record in self.windows)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """The verdict of each window, in the order asked."""
        return tuple(record.verdict for record in self.windows)

    # The names below are those of the package rerankers (AnswerDotAI), for code that was written against it.
    def results_count(self) -> int:
        """How many passages there are."""
        return len(self.results)

    def top_k(self, k: int) -> list[RankedPassage]:
        """The best k passages (1 or more), best first; all where there are fewer. Raises InputError for another k."""
        check_top_k(k)
        return list(self.results[:k])

    def get_result_by_docid(self, doc_id: str | int) -> RankedPassage | None:
        """The passage with this id, a number written out as `rank` does it; None where there is none."""
        return next((passage for passage in self.results if passage.docid == str(doc_id)), None)

    def get_score_by_docid(self, doc_id: str | int) -> float | None:
        """The score of the passage with this id, None where there is none."""
        passage = self.get_result_by_docid(doc_id)
        return None if passage is None else passage.score


def judged_scores(
    order: Sequence[str], records: Sequence[WindowRecord], *, log_odds: bool = False
) -> list[float] | None:
    """What the model thought of each document by itself, in the order of the ids: the probability of its word for
    relevant, or its log-odds. None where it did not judge each by itself, once (every strategy but pointwise, and
    several samples), or where the order is not that of the scores (one that is fused with the first stage's)."""
    scored = [(record.docids[0], record.score) for record in records if record.score is not None]
    judged = dict(scored)
    if not order or not len(judged) == len(scored) == len(order):
        return None
    chances = [judged[docid] for docid in order]
    if any(later > chance for chance, later in itertools.pairwise(chances)):
        return None
    if not log_odds:
        return chances
    inner = [min(max(chance, 1e-9), 1 - 1e-9) for chance in chances]
    return [math.log(chance / (1 - chance)) for chance in inner]


def why_unranked(records: Sequence[WindowRecord]) -> str | None:
    """Why an order is not the model's, in a part (a call failed) or in all (no answer could be read): a sentence.
    None where it is, or where nothing was asked."""
    failed = [record for record in records if record.error is not None]
    if failed:
        return f"{len(failed)} of {len(records)} calls of the model failed: {failed[-1].error}"
    if records and all(record.unread for record in records):
        return f"the model ranked nothing: no answer of {len(records)} could be read ({records[-1].verdict})"
    return None
