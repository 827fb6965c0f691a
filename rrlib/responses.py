"""From text to ranking: a strict reader for the training reward, a lenient one for inference, each with a verdict.

Reasoning is full of decoys (trial rankings, years, quoted tags), so only the last `<answer>...</answer>` behind the
last `</think>` counts. A model that was cut off before it answered has not answered: its window keeps the input order.
Nothing is ever dropped or doubled: every reading is a permutation of the window.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import zip_longest
from typing import Protocol

from rrlib.errors import InputError
from rrlib.prompts import get_style
from rrlib.reading import ids_in, list_ids, split_reasoning


class Word(StrEnum):
    """A closed set of words. A member is the word: it compares, prints and is written to JSON as a plain string."""

    __repr__ = str.__repr__


class Verdict(Word):
    """How inference read an answer. All but `ok` and `repaired` leave the window in its input order."""

    OK = "ok"
    """A list of every passage, each once, written as asked."""
    REPAIRED = "repaired"
    """A list that had to be mended; `Repair` says how."""
    NO_ANSWER = "no_answer"
    """The model finished, and there is no list to read."""
    TRUNCATED = "truncated"
    """The limit on tokens came before the answer was closed."""
    EMPTY = "empty"
    """Nothing was written."""
    FAILED = "failed"
    """The call itself failed, so there is no text."""


VERDICTS = tuple(Verdict)


class Repair(Word):
    """What was mended in a list; several may hold of one answer."""

    DUPLICATES = "duplicates"
    """A passage stood there twice: its first place counts."""
    MISSING = "missing"
    """Passages were left out: they follow in input order."""
    OUT_OF_RANGE = "out_of_range"
    """A number that no passage of the window has was passed over."""
    FORMAT = "format"
    """Identifiers alone, but not written `[a] > [b]`; or a list without its end tag."""
    TEXT = "text"
    """Words stood among the identifiers."""
    TIES = "ties"
    """Passages were called equal: they stand in the order written."""


class Level(Word):
    """How the training reward read a rollout (section 4.2)."""

    VALID = "valid"
    """Blocks and list are right: it earns R_m."""
    BAD_LIST = "bad_list"
    """The blocks are right and the list is no permutation: it earns 0."""
    BAD_FORMAT = "bad_format"
    """The blocks are wrong: it earns -1."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A lenient reading. order: 0-based permutation of the window, best first. repairs: kinds, when `repaired`."""

    order: tuple[int, ...]
    verdict: Verdict
    repairs: tuple[Repair, ...] = ()
    reasoning: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Strict:
    """A strict reading. order: as in `Parsed`, None unless `level` is valid. why: what is wrong, for the log."""

    order: tuple[int, ...] | None
    level: Level
    why: str = ""


_SCORE = re.compile(r"\](\s*)\(\s*[0-9.]{1,8}\s*\)")  # `[4](4) = [3](4)`: the round brackets hold a score
_CLEAN = re.compile(r"\[[1-9][0-9]*\](?: > \[[1-9][0-9]*\])*")
_LIST_ONLY = re.compile(r"[\[\]0-9>=,\s]*")
_ANSWER = re.compile(r"<\s*+(/?)\s*+answer\s*>", re.IGNORECASE)
_BROKEN = re.compile(r"\[\s*+[0-9]*+\s*+$|[>=,]\s*$")
"""The end of a list that was cut off inside."""


def _read_list(answer: str, n: int, every_digit: bool = False) -> tuple[tuple[int, ...], tuple[Repair, ...]] | None:
    """First valid occurrence of each id, in order; missing ids appended in input order. None when there is none.

    every_digit: all numbers count, wherever they stand, as the runs of `rankgpt` were read when they were recorded.
    """
    seen: dict[int, None] = {}
    repairs: set[Repair] = set()
    for number in ids_in(_SCORE.sub(r"]\1", answer)) if every_digit else list_ids(answer, n) or ():
        if not 1 <= number <= n:
            repairs.add(Repair.OUT_OF_RANGE)
        elif number in seen:
            repairs.add(Repair.DUPLICATES)
        else:
            seen[number] = None
    if not seen:
        return None
    if len(seen) < n:
        repairs.add(Repair.MISSING)
    if not _CLEAN.fullmatch(answer):
        only_ids = _LIST_ONLY.fullmatch(answer)
        repairs.add(Repair.TIES if "=" in answer else Repair.FORMAT if only_ids else Repair.TEXT)
    order = [i - 1 for i in seen] + [i for i in range(n) if i + 1 not in seen]
    return tuple(order), tuple(repair for repair in Repair if repair in repairs)


def parse_lenient(text: str, n: int, style: str = "reasonrank", finish_reason: str | None = None) -> Parsed:
    """Read a response for inference.

    Parameters
    ----------
    text: what the model wrote.
    n: number of passages in the window, >= 0.
    style: a prompt style; styles with tags need an answer block, the others are read as a plain list of digits.
    finish_reason: `length` marks an answer that was cut off.

    Returns a permutation of range(n) whatever the text is. Raises InputError for n < 0 or an unknown style.
    """
    if n < 0:
        raise InputError(f"a window of {n} passages", remedy="n is 0 or more")
    same = tuple(range(n))
    cut = finish_reason == "length"
    silent = Verdict.TRUNCATED if cut else Verdict.NO_ANSWER
    if not text.strip():
        return Parsed(same, Verdict.TRUNCATED if cut else Verdict.EMPTY)
    split = split_reasoning(text)
    if split.open:  # still thinking when it stopped
        unfinished = Verdict.NO_ANSWER if finish_reason == "stop" else Verdict.TRUNCATED
        return Parsed(same, unfinished, reasoning=split.reasoning)
    answer, ended = split.rest.strip() or None, "/"
    if get_style(style).tags:
        answer, ended = _answer_block(split.rest)
        if answer is not None and not ended:
            whole = set(range(1, n + 1)) <= set(list_ids(answer, n) or ())
            if cut or not (whole or (finish_reason == "stop" and not _BROKEN.search(answer))):
                return Parsed(same, Verdict.TRUNCATED, reasoning=split.reasoning, answer=answer)
    if answer is None:
        return Parsed(same, silent, reasoning=split.reasoning)
    ranking = _read_list(answer, n, every_digit=style == "rankgpt")
    if ranking is None:
        return Parsed(same, Verdict.NO_ANSWER if n else Verdict.OK, reasoning=split.reasoning, answer=answer)
    order, repairs = ranking
    if "/" not in ended and not repairs:
        repairs = (Repair.FORMAT,)
    return Parsed(order, Verdict.REPAIRED if repairs else Verdict.OK, repairs, split.reasoning, answer)


def _answer_block(text: str) -> tuple[str | None, str]:
    """(what the last answer block holds, the tag that ends it); None where there is no block, "" where no tag follows.

    A second `<answer>` behind a list ends it where nothing comes after: small models write it so.
    """
    tags = list(_ANSWER.finditer(text))
    blocks: list[tuple[str, str]] = []
    for tag, after in zip_longest(tags, tags[1:]):
        if not tag[1]:
            held = text[tag.end() : after.start() if after else len(text)]
            blocks.append((held.strip(), after.group() if after else ""))
    if not blocks:
        return None, ""
    return blocks[-2] if len(blocks) > 1 and blocks[-1] == ("", "") else blocks[-1]


def parse_strict(text: str, n: int, think: bool = True) -> Strict:
    """Read a rollout for the training reward (section 4.2; the table of rewards is in rrlib.reward).

    valid: one think block, then one answer block that holds a permutation of 1..n written `[a] > [b] > ...`, and
    nothing else but white space. bad_list: the blocks are right and the list is not. bad_format: anything else.
    With `think=False` the answer block stands alone. Tags quoted inside the think block are allowed where they are
    answer tags: only what follows `</think>` counts.
    """
    if n < 1:
        raise InputError(f"a window of {n} passages", remedy="a rollout ranks one passage or more")
    body = text.strip()
    if not body:
        return Strict(None, Level.BAD_FORMAT, "empty")
    if think:
        if not body.startswith("<think>"):
            return Strict(None, Level.BAD_FORMAT, "does not begin with <think>")
        if body.count("<think>") != 1 or body.count("</think>") != 1:
            return Strict(None, Level.BAD_FORMAT, "not exactly one think block")
        body = body.partition("</think>")[2].strip()
    elif "<think>" in body or "</think>" in body:
        return Strict(None, Level.BAD_FORMAT, "a think tag in no-think mode")
    if body.count("<answer>") != 1 or body.count("</answer>") != 1:
        return Strict(None, Level.BAD_FORMAT, "not exactly one answer block")
    if not (body.startswith("<answer>") and body.endswith("</answer>")):
        return Strict(None, Level.BAD_FORMAT, "text outside the blocks")
    listed = body[len("<answer>") : -len("</answer>")].strip()
    if not _CLEAN.fullmatch(listed):
        return Strict(None, Level.BAD_LIST, "not written [a] > [b] > ...")
    ids = ids_in(listed)
    if len(ids) != n:
        return Strict(None, Level.BAD_LIST, f"{len(ids)} identifiers for {n} passages")
    if set(ids) != set(range(1, n + 1)):
        return Strict(None, Level.BAD_LIST, "repeated or out of range")
    return Strict(tuple(i - 1 for i in ids), Level.VALID)


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One line of the audit: a verdict (or a kind of repair), how many responses, their share of all."""

    kind: str
    count: int
    share: float


class Judged(Protocol):
    """What the audit reads of a response: a window record, or a lenient reading."""

    @property
    def verdict(self) -> str: ...
    @property
    def repairs(self) -> tuple[str, ...]: ...


class Answered(Protocol):
    """What the strict count reads of a response: text (None: no answer came), and an order as long as the window."""

    @property
    def text(self) -> str | None: ...
    @property
    def order(self) -> tuple[int, ...]: ...


def audit(rows: Iterable[Judged]) -> list[AuditRow]:
    """What a log's responses were: ok, repaired (by kind), no answer, truncated, empty, failed.

    Shares are of all rows; one repaired response may show several kinds, so the kinds can add up to more than
    `repaired`.
    """
    verdicts: Counter[str] = Counter()
    repairs: Counter[str] = Counter()
    for row in rows:
        verdicts[row.verdict] += 1
        repairs.update(row.repairs)
    total = sum(verdicts.values())
    table: list[AuditRow] = []
    for verdict in (*Verdict, *sorted(set(verdicts) - set(Verdict))):
        table.append(AuditRow(verdict, verdicts[verdict], verdicts[verdict] / total if total else 0.0))
        if verdict == Verdict.REPAIRED:
            table += [AuditRow(f"repaired: {kind}", c, c / total) for kind, c in sorted(repairs.items())]
    return table


def valid_share(rows: Iterable[Answered], think: bool = True) -> float:
    """Share (0 to 1) of window records whose answer is strictly valid, as the training reward reads it.

    think: as in `parse_strict`. Stricter than the verdict `ok`, which inference gives an answer without reasoning too.
    Raises InputError where there are no records.
    """
    levels = [parse_strict(row.text or "", len(row.order), think=think).level for row in rows]
    if not levels:
        raise InputError("no window records to count", remedy="give the records of a finished reranking")
    return levels.count(Level.VALID) / len(levels)
