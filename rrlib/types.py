"""The four nouns of the project: Query, Passage, Candidates, RankingExample.

Frozen dataclasses without behaviour beyond validation. Shape suffixes used in the library: `_Q` queries,
`_W` windows, `_P` passages, `_G` rollouts of a group, `_T` tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rrlib.errors import InputError


def _check_id_and_text(thing: Any, what: str, name: str) -> None:
    """A number as an id is written out. Raises InputError for an id that is empty or none, and for no text at all."""
    given = getattr(thing, name)
    if isinstance(given, int) and not isinstance(given, bool):
        object.__setattr__(thing, name, str(given))
    elif not given:
        raise InputError(f"a {what} has an empty id", remedy=f"give every {what} a non-empty id")
    elif not isinstance(given, str):
        raise InputError(f"the id of a {what} is {given!r:.60}", remedy="ids are texts or whole numbers")
    if not isinstance(thing.text, str):
        raise InputError(f"the text of {what} {given!r:.60} is {thing.text!r:.60}", remedy="give its text as a string")


@dataclass(frozen=True, slots=True)
class Query:
    """A query. `qid` is unique within its collection only: query ids repeat across the sets of BRIGHT."""

    qid: str
    text: str = ""

    def __post_init__(self) -> None:
        _check_id_and_text(self, "query", "qid")


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage. `text` may be empty where no text is needed (replay); loaders count empty texts."""

    docid: str
    text: str = ""
    title: str = ""

    def __post_init__(self) -> None:
        _check_id_and_text(self, "passage", "docid")


@dataclass(frozen=True, slots=True)
class Hit:
    """One line of a TREC run: a document, its rank (as written in the file) and its score."""

    docid: str
    score: float
    rank: int


Run = dict[str, list[Hit]]
"""query id -> hits in the order of the rank column (ties of rank: file order)."""

Qrels = dict[str, dict[str, int]]
"""query id -> document id -> grade (0 = judged and not relevant; negative grades are kept as written)."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """A query with its passages in first-stage order (best first), and their first-stage scores (or none)."""

    query: Query
    passages: tuple[Passage, ...]
    scores: tuple[float, ...] = ()
    collection: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.query, Query):
            raise InputError(f"candidates of {self.query!r:.60}", remedy="write Candidates(Query(id, text), passages)")
        if not isinstance(self.passages, tuple):
            object.__setattr__(self, "passages", tuple(self.passages))
        if self.scores and len(self.scores) != len(self.passages):
            raise InputError(
                f"query {self.query.qid}: {len(self.scores)} scores for {len(self.passages)} passages",
                remedy="give one score a passage, or none at all",
            )
        seen: set[str] = set()
        for passage in self.passages:
            if not isinstance(passage, Passage):
                remedy = "write Passage(id, text) for each, or rank(query, texts)"
                raise InputError(f"query {self.query.qid}: a candidate is {passage!r:.60}", remedy=remedy)
            if passage.docid in seen:
                raise InputError(
                    f"query {self.query.qid}: document {passage.docid!r} is a candidate twice",
                    remedy="keep one line for every document of a query",
                )
            seen.add(passage.docid)


@dataclass(frozen=True, slots=True)
class RankingExample:
    """One training example: a window of passages with both labels (paper section 4.1).

    relevance: pointwise label of each passage, aligned with `passages` (0 = not relevant).
    gold: the listwise label, 0-based positions into `passages`, best first; a permutation of all of them.
    reasoning: what the teacher thought before its list, without tags.
    meta: where it comes from: domain, data_kind, teacher, prompt version, seed, ...
    """

    query: Query
    passages: tuple[Passage, ...]
    relevance: tuple[int, ...]
    gold: tuple[int, ...]
    reasoning: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.passages)
        if len(self.relevance) != n:
            raise InputError(f"query {self.query.qid}: {len(self.relevance)} pointwise labels for {n} passages")
        if sorted(self.gold) != list(range(n)):
            raise InputError(
                f"query {self.query.qid}: the gold list is not a permutation of the {n} passages",
                remedy="list every passage once, as 0-based positions",
            )


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with a 95% interval, in the unit of the metric (fractions for rank metrics)."""

    mean: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if math.isfinite(self.low) and math.isfinite(self.high) and self.low > self.high:
            raise InputError(f"interval with low {self.low} above high {self.high}")
