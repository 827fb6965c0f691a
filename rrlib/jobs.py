"""The order of the queries, and what the scheduler keeps of one on its way and of a request in flight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rrlib.engines import Reply, Request
from rrlib.errors import InputError
from rrlib.records import Key, Tally, WindowRecord
from rrlib.strategies import Answer, Strategy, Window
from rrlib.types import Candidates, Passage

COHORT, LAST = 1.5, 2.5
"""A cohort takes at least so many times as long as the longest chain, and the last one, behind which nothing fills the
slots, so many times where that leaves half of the work to the others."""
GUARD = 8
"""One query for so many slots goes in front of all: it costs nothing, and the first is finished early."""


def cohorts(windows: int, depth: int, slots: int) -> list[float]:
    """Where the cohorts of a queue end, in windows; the last has no end. depth: rounds of the longest chain.

    They are of one size, and where there are several their number is even, so that one ends with half of the work: all
    queries of a cohort are finished near its end. Sizes were tried in benchmarks/schedule.py (docs/experiments.md).
    """
    chain = depth * slots
    number = int(windows / (COHORT * chain)) if chain else 0
    number -= number % 2 if number > 1 else 0
    ends = [windows * i / number for i in range(1, number)]
    ends = [end for end in ends if end <= windows / 2 or windows - end >= LAST * chain]
    first = -(-slots // GUARD) * depth
    return [*([float(first)] if first < (ends or [windows])[0] else []), *ends]


@dataclass
class Job:
    """One query on its way: the strategy, how far it is, and the answers of the round it waits for.

    depth, calls: rounds and windows of its strategy, in all. place: the windows of all queries in front of it. keys: of
    the windows it has asked. kept: its windows, or their places in the log. doubtful: whether it fits the model is
    looked at for each window as it is made.
    """

    candidates: Candidates
    head: tuple[Passage, ...]
    strategy: Strategy
    depth: int
    calls: int = 0
    place: int = 0
    doubtful: bool = False
    rounds: int = 0
    windows: Sequence[Window] = ()
    answers: dict[int, Answer] = field(default_factory=dict)
    keys: set[Key] = field(default_factory=set)
    kept: list[WindowRecord | int] = field(default_factory=list)

    def key(self, window: Window) -> Key:
        """The name of one of its windows in logs."""
        qid, sample = self.candidates.query.qid, window.sample or 0
        return self.candidates.collection, qid, window.pass_no, window.positions, sample

    def note(self, windows: Sequence[Window]) -> None:
        """Take the windows of a round. Raises InputError for one that has the key of another: a resume and a replay
        could not tell them apart."""
        self.windows, self.answers = windows, {}
        for window in windows:
            key = self.key(window)
            if key in self.keys:
                where = f"two windows at {window.positions} in pass {window.pass_no}"
                remedy = "give them other numbers (pass_no; docs/adding-a-strategy.md)"
                raise InputError(f"query {self.candidates.query.qid!r}: the strategy asks {where}", remedy=remedy)
            self.keys.add(key)


@dataclass(frozen=True, slots=True)
class Sent:
    """A request in flight: where its answer belongs, and if it goes on from one before, what was answered so far and
    the prompt that the answer began behind."""

    job: int
    window: int
    prompt_hash: str | None
    request: Request
    source_hash: str | None = None
    before: Reply | None = None
    begun_behind: str | None = None


class Finished(NamedTuple):
    """A query with its document ids, best first, and its windows in the order they finished, if they were asked for."""

    candidates: Candidates
    docids: list[str]
    windows: list[WindowRecord]


class Progress(NamedTuple):
    """What is counted while a run goes on: by name, and what its windows were."""

    counts: Counter[str]
    tally: Tally
