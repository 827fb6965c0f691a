"""Several samples of each window, fused into one order: how often the samples agree says how sure the order is.

A sampled strategy is the strategy itself, with each of its questions asked k times (rrlib.strategies). Two fusions of
the same votes: Borda adds places, reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009) adds 1 / (60 +
place). Both are means of the place, an arithmetic one and one that is nearer to the best vote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rrlib.errors import InputError
from rrlib.prompts import PromptStyle
from rrlib.responses import Word
from rrlib.strategies import Answer, Permutation, Strategy, StrategySpec, Window

Floats = npt.NDArray[np.float64]

RRF_CONSTANT = 60.0
"""Of reciprocal rank fusion, as its authors have it."""


class Fusion(Word):
    """How the orders of several samples become one."""

    RRF = "rrf"
    """Reciprocal ranks, 1 / (60 + place), are added up."""
    BORDA = "borda"
    """Places are added up."""


def check_sampling(samples: int, fuse: str, temperature: float | None = None, *, varies: bool = True) -> None:
    """Raises InputError for fewer than one sample, an unknown fusion, and samples of a model that does not sample.

    temperature: of the decoding; None where answers are recorded. varies: see `varies`.
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise InputError(f"{samples!r} samples", remedy="give a whole number, 1 or more")
    if fuse not in set(Fusion):
        raise InputError(f"unknown fusion {fuse!r}", remedy=f"use one of {', '.join(Fusion)}")
    if samples > 1 and not varies:
        raise InputError(
            f"{samples} samples of the probability of a word are the same {samples} times",
            remedy="ask once: nothing is drawn where a passage is judged without reasoning",
        )
    if samples > 1 and temperature == 0:
        raise InputError(
            f"{samples} samples at temperature 0 are one answer {samples} times",
            remedy="give a temperature above 0 (--temperature 0.7), or one sample",
        )


def varies(style: PromptStyle) -> bool:
    """Whether two samples of an answer in a style can differ: not where the probability of a word is all of it."""
    return style.words is None or style.think


def mean_places(orders: Sequence[Permutation], fuse: str = Fusion.RRF) -> Floats:
    """The mean place (1 = first) of each of P passages over S orders of them: shape (P,), from 1 to P.

    orders: S permutations of range(P), best first. For `rrf` it is the place whose reciprocal is the mean reciprocal.
    Raises InputError where there are none, or where they are no permutations of one length.
    """
    check_sampling(1, fuse)
    if not orders or any(sorted(order) != list(range(len(orders[0]))) for order in orders):
        raise InputError("samples are permutations of one window", remedy="give one order of it or more")
    places_SP = np.argsort(np.asarray(orders, dtype=np.int64), axis=1) + 1.0  # (S, P)
    if fuse == Fusion.BORDA:
        return np.asarray(places_SP.mean(axis=0))
    return np.asarray(1.0 / (1.0 / (RRF_CONSTANT + places_SP)).mean(axis=0) - RRF_CONSTANT)


def fused(orders: Sequence[Permutation], fuse: str = Fusion.RRF) -> tuple[int, ...]:
    """The one order of several, best first: by mean place, ties in the order of the window."""
    places_P = mean_places(orders, fuse).round(9)  # sums of the same places in another order are equal
    return tuple(int(item) for item in np.argsort(places_P, kind="stable"))


def with_first_stage(order: Permutation) -> tuple[int, ...]:
    """The order (a permutation of range(n), best first) fused by `rrf` with that of the first stage, 0 to n - 1."""
    return fused([range(len(order)), order])


def sampled(strategy: Strategy, samples: int, fuse: str) -> Strategy:
    """A strategy whose windows are each asked `samples` times, at the same time, and answered with the fused order.

    A sample that failed (None) has no vote; where all failed, so has the window. Scores are averaged.
    """
    answers: list[Answer] | None = None
    while True:
        try:
            windows = next(strategy) if answers is None else strategy.send(answers)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        asked = [replace(window, sample=number) for window in windows for number in range(samples)]
        votes = iter((yield asked))
        answers = [_joined(window, votes, samples, fuse) for window in windows]


def _joined(window: Window, votes: Iterator[Answer], samples: int, fuse: str) -> Answer:
    given = [vote for vote in (next(votes) for _ in range(samples)) if vote is not None]
    if not given:
        return None
    if window.score:
        return float(np.mean([vote for vote in given if isinstance(vote, int | float)]))
    return fused([vote for vote in given if isinstance(vote, Sequence)], fuse)


@dataclass(frozen=True)
class SampledSpec(StrategySpec):
    """A strategy with its parameters, each of whose windows is asked `samples` times (1 or more).

    fuse: a Fusion, of no meaning for one sample. Raises InputError as StrategySpec and `check_sampling` do.
    """

    samples: int = 1
    fuse: str = Fusion.RRF

    def __post_init__(self) -> None:
        check_sampling(self.samples, self.fuse)
        super().__post_init__()

    def start(self, n: int) -> Strategy:
        """The strategy for a list of n candidates."""
        plain = super().start(n)
        return plain if self.samples == 1 else sampled(plain, self.samples, self.fuse)

    def settings(self) -> dict[str, Any]:
        """What a log records of it beside the strategy; nothing for one sample."""
        return {} if self.samples == 1 else {"samples": self.samples, "fuse": str(self.fuse)}


def sampling_for(recorded: Mapping[str, Any], samples: int | None, fuse: str | None) -> tuple[int, str]:
    """(samples, fusion) of a reranking: as asked for, else as recorded answers were drawn, else one sample.

    recorded: `samples` and `fuse` in the settings of a replayed log, where they are there. Raises InputError where more
    samples are asked for than were recorded.
    """
    there = recorded.get("samples", 1)
    if samples is not None and recorded and samples > there:
        raise InputError(
            f"{samples} samples of a window, and {there} recorded", remedy=f"replay it with --samples {there} or fewer"
        )
    return (there if samples is None else samples), (fuse or str(recorded.get("fuse", Fusion.RRF)))


def seed_of(seed: int | None, key: tuple[Any, ...]) -> int | None:
    """The seed of one sample, 0 to 2**31 - 1, from that of the run and the window's key (rrlib.records.Key).

    Other samples and other windows have other seeds, whatever is asked before them. None stays None.
    """
    if seed is None:
        return None
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
