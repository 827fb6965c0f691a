"""What the scheduler keeps of a query on its way, and of a request in flight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rrlib.engines import Reply, Request
from rrlib.errors import InputError
from rrlib.records import Key, WindowRecord
from rrlib.strategies import Answer, Strategy, Window
from rrlib.types import Candidates, Passage


@dataclass
class Job:
    """One query on its way: the strategy, how far it is, and the answers of the round it waits for.

    depth: rounds of its strategy, in all. keys: of the windows it has asked. kept: its windows, or their places in the
    log.
    """

    candidates: Candidates
    head: tuple[Passage, ...]
    strategy: Strategy
    depth: int
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
