"""Does the list follow from the chain of thought? What a chain says of its passages, held against the answer.

A chain is read as a partial order: the last trial ranking in it, or verdicts on passages, or which passages it builds
on, as our own forms write them. Free prose without any of these is not readable, and then nothing is claimed: it counts
neither for the model nor against it. That a list agrees with its chain does not say that it came from it; for that see
rrlib.evaluation.interventions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rrlib.evaluation.significance import bootstrap_interval
from rrlib.reading import trial_lists
from rrlib.responses import Word
from rrlib.types import Interval


class Said(Word):
    """How a chain says which passages are better, or why nothing can be compared."""

    LIST = "list"
    """A trial ranking `[3] > [1]`; the last counts."""
    VERDICTS = "verdicts"
    """`[1] ... yes [2] ... no`: yes, maybe, no."""
    GRADES = "grades"
    """`[3] its words: 7`, a line each: the higher, the better."""
    PROOF = "proof"
    """`[1] and [3] give A: ...`: steps that rest on passages; the others are not needed."""
    QUOTED = "quoted"
    """`[3] its words`, a line each: the passages that are used."""
    NO_ORDER = "no order"
    """All passages are called equal, or none is said to help."""
    NOT_READABLE = "not readable"
    """None of these forms."""
    NO_CHAIN = "no reasoning"
    """Nothing was thought, or nothing of it is known."""
    NO_ANSWER = "no answer"
    """No list was given that could follow."""


COMPARED = (Said.LIST, Said.VERDICTS, Said.GRADES, Said.PROOF, Said.QUOTED)
"""Those that can be held against an answer."""

LEVELS = {"yes": 2, "maybe": 1, "no": 0}
_ID = re.compile(r"\[(\d{1,9})\]")
_VERDICT = re.compile(r"(?:^|[\s:,\-])(yes|maybe|no)[\s.,;]*$", re.IGNORECASE)
_BEGINS = re.compile(r"(?:^|[\n.!?:;]|\b(?:yes|maybe|no),?)[ \t]*$", re.IGNORECASE)
_GRADE = re.compile(r"\[(\d{1,9})\] (?!.*\[\d).*: (\d)")
_PREMISE = r"(?:\[\d{1,9}\]|[A-Z])"
_STEP = re.compile(rf"{_PREMISE}(?: and {_PREMISE})* (?:gives?|helps)\b.*")
_QUOTE = re.compile(r"\[(\d{1,9})\] (?!.*\[\d).*\S")
_OPINION = re.compile(r"\b(?:ir)?relevan|\bpassages?\b|\bquer(?:y|ies)\b|\bunrelated\b", re.IGNORECASE)
_NOTHING = re.compile(r"none of these passages helps\.?", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """What a chain says. levels: passage (0-based place in the window) -> level, the higher the better; passages that
    it says nothing of are left out. Empty where nothing can be compared."""

    said: Said
    levels: Mapping[int, int]


def read_chain(chain: str, n: int) -> Reading:
    """What a chain says of the n passages of its window."""
    if not chain.strip():
        return Reading(Said.NO_CHAIN, {})
    for said, levels in (
        (Said.LIST, _last_list(chain, n)),
        (Said.VERDICTS, _verdicts(chain, n)),
        (Said.GRADES, _grades(chain, n)),
        (Said.PROOF, _used(chain, n, _STEP)),
        (Said.QUOTED, {} if _OPINION.search(chain) else _used(chain, n, _QUOTE)),
    ):
        if len(set(levels.values())) > 1:
            return Reading(said, levels)
        if len(levels) > 1:
            return Reading(Said.NO_ORDER, {})
    return Reading(Said.NO_ORDER if _NOTHING.fullmatch(chain.strip()) else Said.NOT_READABLE, {})


def _last_list(chain: str, n: int) -> dict[int, int]:
    """The last trial ranking; a remark on a few passages is none where another list names more than twice as many."""
    lists: list[dict[int, int]] = []
    for groups in trial_lists(chain):
        levels: dict[int, int] = {}
        for depth, group in enumerate(groups):
            levels |= {i - 1: -depth for i in group if 1 <= i <= n and i - 1 not in levels}
        lists.append(levels)
    longest = max(map(len, lists), default=0)
    return next((levels for levels in reversed(lists) if 2 * len(levels) >= longest and len(levels) > 1), {})


def _verdicts(chain: str, n: int) -> dict[int, int]:
    """The verdict that ends what is said behind each identifier, up to the next one or the end of its line. An
    identifier within a sentence (`passage [2] argues no`) has none."""
    first, *parts = _ID.split(chain)  # what stands before a number, the number, what follows it, ...
    levels: dict[int, int] = {}
    for before, number, text in zip([first, *parts[1::2]], parts[::2], parts[1::2], strict=False):
        verdict = _VERDICT.search(text.strip().partition("\n")[0])
        if verdict and 1 <= int(number) <= n and _BEGINS.search(before):
            levels[int(number) - 1] = LEVELS[verdict[1].lower()]
    return levels


def _grades(chain: str, n: int) -> dict[int, int]:
    """The grade that ends each line; empty where a line has none. Of a passage that is graded twice the last counts."""
    lines = [_GRADE.fullmatch(line.strip()) for line in chain.splitlines() if line.strip()]
    found = [(int(line[1]), int(line[2])) for line in lines if line]
    return {number - 1: grade for number, grade in found if 1 <= number <= n} if len(found) == len(lines) else {}


def _used(chain: str, n: int, form: re.Pattern[str]) -> dict[int, int]:
    """1 for the passages whose numbers stand in the lines of a chain, 0 for the others; empty where a line has another
    form, or no number is right."""
    lines = [line.strip() for line in chain.splitlines() if line.strip()]
    if not all(form.fullmatch(line) for line in lines):
        return {}
    heads = [line.partition(": ")[0] if form is _STEP else line for line in lines]
    used = {int(number) for head in heads for number in _ID.findall(head)}
    if not used <= set(range(1, n + 1)) or not used:
        return {}
    return {place: int(place + 1 in used) for place in range(n)}


def agreement(levels: Mapping[int, int], order: Sequence[int]) -> float:
    """How far an order follows a chain: of the pairs of passages that the chain tells apart, the share in the chain's
    order less the share in the other (Goodman and Kruskal's gamma; Kendall's tau for a full list), in [-1, 1].

    levels: of a Reading that can be compared. order: 0-based permutation, best first.
    """
    items = list(levels)
    level = np.array([levels[item] for item in items])
    place = np.argsort(np.asarray(order))[items]
    by_chain = np.sign(level[:, None] - level)  # (L, L): 1 where the chain puts the row's passage first
    by_list = np.sign(place - place[:, None])
    return float((by_chain * by_list).sum() / np.abs(by_chain).sum())


@dataclass(frozen=True)
class Compared:
    """One window: whose it is, how its chain speaks, and how far its answer agrees (None: nothing to compare)."""

    query: str
    said: Said
    agreement: float | None = None


def compare(query: str, chain: str, order: Sequence[int] | None) -> Compared:
    """Hold an answer against its chain. order: None where no list could be read."""
    if order is None:
        return Compared(query, Said.NO_ANSWER)
    reading = read_chain(chain, len(order))
    return Compared(query, reading.said, agreement(reading.levels, order) if reading.said in COMPARED else None)


@dataclass(frozen=True)
class Faithfulness:
    """Of many windows. counts: of each way to speak. agreement: mean over queries of the mean over their windows, with
    its interval; follows: the same of the windows whose answer contradicts its chain nowhere (0 to 1); None where
    nothing could be compared. queries: those with a window that could."""

    counts: Mapping[Said, int]
    queries: int
    agreement: Interval | None
    follows: Interval | None

    @property
    def compared(self) -> int:
        """The windows that could be compared."""
        return sum(self.counts.get(said, 0) for said in COMPARED)


def faithfulness(windows: Iterable[Compared], seed: int = 0) -> Faithfulness:
    """Sum up; bootstrap intervals over queries, since windows of one query go together."""
    counts: Counter[Said] = Counter()
    queries: dict[str, list[float]] = {}
    for window in windows:
        counts[window.said] += 1
        if window.agreement is not None:
            queries.setdefault(window.query, []).append(window.agreement)
    if not queries:
        return Faithfulness(counts, 0, None, None)
    means = [float(np.mean(values)) for values in queries.values()]
    following = [float(np.mean([value == 1.0 for value in values])) for values in queries.values()]
    return Faithfulness(counts, len(queries), bootstrap_interval(means, seed), bootstrap_interval(following, seed))
