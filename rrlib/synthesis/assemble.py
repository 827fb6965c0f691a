"""Step 2, one window: positives, hard negatives, random negatives, capped and shuffled (paper sections 4.1, B.1).

Hard negatives are those that the teacher found among web results, where it was asked (complex QA); then the passages
that the first stage puts on top and the teacher did not choose. Random negatives come from the rest of the candidates.
The shuffle is seeded by query, so that the first stage's order gives nothing away and a resumed run shows the teacher
the same list.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rrlib.errors import InputError
from rrlib.synthesis.teacher.ask import derived_seed
from rrlib.types import Passage


@dataclass(frozen=True, slots=True)
class Mix:
    """How a window is filled.

    window: passages in a list, at most (paper: 20). max_positives: at most so many positives, 0 = half the window.
    hard: share of the negatives that are hard ones, in [0, 1].
    """

    window: int = 20
    max_positives: int = 0
    hard: float = 0.5

    def __post_init__(self) -> None:
        if self.window < 2:
            raise InputError(f"a window of {self.window}", remedy="a list to rank has 2 passages or more")
        if not 0.0 <= self.hard <= 1.0:
            raise InputError(f"hard negatives: a share of {self.hard}", remedy="give a share between 0 and 1")
        if not 0 <= self.max_positives < self.window:
            raise InputError(
                f"max_positives is {self.max_positives} in a window of {self.window}",
                remedy="leave room for one negative, or write 0 for half the window",
            )


@dataclass(frozen=True, slots=True)
class Window:
    """A list to rank: passages in the order shown, their labels, and the role each has in it."""

    passages: tuple[Passage, ...]
    relevance: tuple[int, ...]
    roles: tuple[str, ...]
    """`positive`, `hard`, `random`, or `retrieved` (not relevant, and as retrieved), aligned with `passages`."""
    conflicts: tuple[str, ...] = ()
    """Documents that the teacher called both positive and hard negative: they stand as positives."""


def assemble(
    candidates: Sequence[Passage],
    positives: Collection[str],
    mix: Mix,
    seed: int,
    qid: str,
    traps: Sequence[Passage] = (),
) -> Window:
    """Fill one window from candidates in first-stage order (best first).

    positives: document ids labelled relevant. traps: hard negatives that the teacher named elsewhere. Fewer candidates
    than the window give a shorter list. The negatives are round(hard * slots) hard ones, those found
    elsewhere first and then the top of the list, the others drawn from what is left.
    """
    good = [p for p in candidates if p.docid in positives][: mix.max_positives or max(mix.window // 2, 1)]
    negatives = [p for p in traps if p.docid not in positives]
    used = {p.docid for p in negatives} | set(positives)
    negatives += [p for p in candidates if p.docid not in used]
    slots = min(mix.window - len(good), len(negatives))
    hard = negatives[: min(round(mix.hard * slots), slots)]
    rest = negatives[len(hard) :]
    generator = random.Random(derived_seed(seed, f"assemble/{qid}"))
    drawn = generator.sample(rest, slots - len(hard))
    rows = [(p, 1, "positive") for p in good] + [(p, 0, "hard") for p in hard] + [(p, 0, "random") for p in drawn]
    generator.shuffle(rows)
    conflicts = tuple(p.docid for p in traps if p.docid in positives)
    return Window(tuple(r[0] for r in rows), tuple(r[1] for r in rows), tuple(r[2] for r in rows), conflicts)


def as_listed(candidates: Sequence[Passage], positives: Collection[str]) -> Window:
    """The window of candidates that are a list already: in their order, nothing left out; perhaps none relevant."""
    labels = tuple(int(p.docid in positives) for p in candidates)
    return Window(tuple(candidates), labels, tuple("positive" if label else "retrieved" for label in labels))
