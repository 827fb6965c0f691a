"""Lists as they were retrieved: the windows of a first-stage list, for training on what a reranker will meet.

Nothing is added. A window into which missing relevant passages are put teaches that low overlap means relevant, which
holds for no retrieved list. So a window may have no relevant passage at all; most do at the tail of a list, and a
reranker meets them too.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rrlib.errors import InputError
from rrlib.strategies import Window as Question
from rrlib.strategies import drive, sliding_spans, sliding_window
from rrlib.types import Passage


@dataclass(frozen=True, slots=True)
class Windowing:
    """Which windows of a list of candidates become lists to rank.

    size, stride: of the sliding window, in passages. depth: candidates looked at, best first. per_query: at most so
    many of the sliding windows (drawn by seed from those that `empty` leaves; 0 = all). drawn: so many more windows of
    passages drawn at random from the `depth`, in retrieved order. moved: the sliding windows as they stand after right
    answers to those before them, as at inference behind a good model; else each holds passages as retrieved. shuffled:
    share of the windows, in [0, 1], that are shown in random order. empty: share of the windows without a relevant
    passage that are kept.
    """

    size: int = 10
    stride: int = 5
    depth: int = 25
    per_query: int = 0
    drawn: int = 0
    moved: bool = False
    shuffled: float = 0.0
    empty: float = 0.1

    def __post_init__(self) -> None:
        sliding_spans(0, self.size, self.stride)
        if self.depth < 2 or self.per_query < 0 or self.drawn < 0:
            raise InputError(f"{self}", remedy="depth is 2 or more, per_query and drawn are 0 or more")
        for name, share in (("shuffled", self.shuffled), ("empty", self.empty)):
            if not 0.0 <= share <= 1.0:
                raise InputError(f"{name} is {share}", remedy="give a share between 0 and 1")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Windowing:
        """From settings by name, as a profile or SOURCE.json writes them. Raises InputError for unknown names."""
        names = [field.name for field in fields(cls)]
        unknown = sorted(set(settings) - set(names))
        if unknown:
            raise InputError(f"unknown window setting {unknown[0]!r}", remedy=f"use {', '.join(names)}")
        return cls(**settings)


def windows_of(
    candidates: Sequence[Passage], relevant: Collection[str], windowing: Windowing, seed: int, qid: str
) -> list[tuple[Passage, ...]]:
    """The windows of one query's candidates (first-stage order), each a tuple of passages in the order shown.

    relevant: document ids. Everything drawn follows from seed and query id, each kind of draw from a generator of its
    own, so that more of one kind leaves the others as they were. Fewer than 2 candidates give no window.
    """

    def draws(kind: str) -> random.Random:
        return random.Random(f"{seed}/{qid}/{kind}")

    listed = list(candidates[: windowing.depth])
    rng = draws("keep")
    chosen = [w for w in _sliding(listed, relevant, windowing) if _stays(w, relevant, windowing, rng)]
    if windowing.per_query and len(chosen) > windowing.per_query:
        chosen = [chosen[i] for i in sorted(draws("slide").sample(range(len(chosen)), windowing.per_query))]
    rng = draws("draw")
    for _ in range(windowing.drawn if len(listed) > windowing.size else 0):
        window = [listed[i] for i in sorted(rng.sample(range(len(listed)), windowing.size))]
        if _stays(window, relevant, windowing, rng):
            chosen.append(window)
    rng = draws("shuffle")
    for window in chosen:
        if rng.random() < windowing.shuffled:
            rng.shuffle(window)
    return [tuple(window) for window in chosen]


def _stays(window: list[Passage], relevant: Collection[str], windowing: Windowing, rng: random.Random) -> bool:
    lucky = rng.random() < windowing.empty  # drawn for each window, so that labels do not move later draws
    return lucky or any(p.docid in relevant for p in window)


def _sliding(listed: list[Passage], relevant: Collection[str], windowing: Windowing) -> list[list[Passage]]:
    """The sliding windows from the tail to the head."""
    if not windowing.moved:
        spans = sliding_spans(len(listed), windowing.size, windowing.stride)
        return [listed[start:end] for start, end in spans]
    shown: list[list[Passage]] = []

    def answer(question: Question) -> list[int]:
        shown.append([listed[i] for i in question.items])
        places = range(len(question.items))
        return sorted(places, key=lambda place: shown[-1][place].docid not in relevant)

    drive(sliding_window(len(listed), windowing.size, windowing.stride), answer)
    return shown


def most_windows(windowing: Windowing) -> int:
    """How many windows a query gives at most."""
    sliding = len(sliding_spans(windowing.depth, windowing.size, windowing.stride))
    return min(sliding, windowing.per_query or math.inf) + windowing.drawn  # type: ignore[return-value]
