"""Two questions about a text that a model wrote: where does its reasoning end, and which identifiers does it list?

Models mark their reasoning in many ways (`<think>`, `<thinking>`, `[THINK]`, harmony's channels, unicode brackets), and
write lists in many ways (a chain, a numbered list, JSON, prose around it). Nothing here knows of styles or verdicts.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Split(NamedTuple):
    """A text in two: its reasoning without tags, and the rest, which follows it."""

    reasoning: str
    rest: str
    closed: bool
    """Whether a block of reasoning has ended."""
    open: bool
    """Whether one began that has not ended, and nothing is in the rest."""


# --- reasoning --------------------------------------------------------------------------------------------------------
_NAME = (
    r"(?:\w{1,20}[_:-])?(?:think|thinking|thoughts?|reason|reasoning|reflection|analysis|scratchpad|cot)(?:_\w{1,20})?"
)
_TAG = re.compile(  # the first character is a set, so that a long text is passed over quickly
    r"[<◁⟨〈＜《&\[【［](?:"
    rf"[|｜]?(?:begin|start|(?P<end_word>end))[_▁ ](?:of[_▁ ])?(?:{_NAME}|working_out)[|｜]?>"
    rf"|(?:lt;)?\s*+[|｜]?(?P<end>[/／])?\s*+[|｜]?{_NAME}[|｜]?(?:\s+\w+=[^<>\n]{{0,80}})?\s*(?:[>▷⟩〉＞》]|&gt;)"
    r"|(?P<end_square>[/／])?think(?:ing)?[\]】］]"
    r"|\|channel>\w+|(?P<end_channel>channel\|>)|\|inner_prefix\|>|(?P<end_inner>\|inner_suffix\|>))",
    re.IGNORECASE,
)
_FINAL = re.compile(r"<\|channel\|>\s*final\b(?:[^<]|<\|constrain\|>)*<\|message\|>")  # harmony: the answer's channel
_BARE_FINAL = re.compile(r"assistant\s*final")  # the same where a server takes the markers away
_BARE_ANALYSIS = re.compile(r"\s*(?:analysis|commentary)(?=[A-Z\[(\"“0-9])")
_HARMONY = re.compile(r"<\|[^<>|]{1,20}\|>(?:(?:assistant|analysis|commentary)\b)?")


def split_reasoning(text: str) -> Split:
    """Reasoning and the rest of a text, whatever marks the reasoning. A closing tag without an opening one counts: many
    chat templates write the opening one themselves."""
    if "<|channel|>" in text or _BARE_ANALYSIS.match(text):
        return _split_harmony(text)
    opened = body = closing = end = -1  # the open tag, where its text begins; the last closing tag, and where it ends
    for tag in _TAG.finditer(text):
        if tag.lastgroup is not None:
            opened, closing, end = -1, tag.start(), tag.end()
        elif opened < 0:
            opened = tag.start()
            body = tag.end() if end < 0 else body
    if end < 0:
        return Split(text[body:].strip(), "", False, True) if opened >= 0 else Split("", text, False, False)
    reasoning = text[max(body, 0) : closing].strip()
    rest = text[end:] if opened < 0 else text[end:opened]
    return Split(reasoning, rest, True, opened >= 0 and not rest.strip())


def _split_harmony(text: str) -> Split:
    finals = list((_FINAL if "<|channel|>" in text else _BARE_FINAL).finditer(text))
    final = finals[-1] if finals else None
    head = _BARE_ANALYSIS.sub("", _HARMONY.sub(" ", text[: final.start()] if final else text), count=1).strip()
    if final is None:
        return Split(head, "", False, True)
    return Split(head, re.split(r"<\|(?:end|return|start|channel)\|>", text[final.end() :], maxsplit=1)[0], True, False)


# --- lists ------------------------------------------------------------------------------------------------------------
_DIGITS = 9  # longer numbers are no identifiers, and int() of 5,000 digits raises
_NUMBER = re.compile(r"[0-9]+")
_REMARK = re.compile(r"\]\s*\([^()\[\]]{0,80}\)")  # `[4](4) = [3](4)`, `[4] (score 4) > [3]`
_PLAIN = str.maketrans(
    {"【": "[", "】": "]", "〔": "[", "〕": "]", **dict.fromkeys("→≻≥›", ">"), **dict.fromkeys("*`\\\"'")}
)
_ARROW = re.compile(r"&gt;|-{1,3}>|=>|>=|>>+")

_WORD = r"(?:(?:passage|document|doc|id|p|d)[ _#:]*|#\s*)?"
_ITEM = rf"(?:[\[(]\s*{_WORD}[0-9]++\s*[\])]?|(?<![\w.]){_WORD}[0-9]++\]?)(?![.\w]*[0-9])"
_CHAIN = re.compile(rf"{_ITEM}(?:\s*[>=]\s*{_ITEM})+", re.IGNORECASE)
"""Identifiers with `>` or `=` between them; brackets may be lost."""
_ARITHMETIC = re.compile(r"[0-9\s>=]*")
_GROUP = rf"\[\s*{_WORD}[0-9]+(?:\s*[,;>]\s*{_WORD}[0-9]+)*\s*\]"
_BRACKETS = re.compile(_GROUP, re.IGNORECASE)
_RUN = re.compile(rf"{_GROUP}(?:[\s,;|>=]*{_GROUP})*", re.IGNORECASE)
"""Bracketed identifiers with nothing but separators between them, or several in one bracket."""
_BARE_RUN = re.compile(r"(?<![\w.])[0-9]+(?:(?:\s*[,;|]\s*|\s+)[0-9]+)+(?!\w|\.[0-9])")
_BARE = re.compile(r"(?<![\w.])(?:[pd])?[0-9]+(?!\w|\.[0-9]|\s*%)", re.IGNORECASE)
_NO_ID = re.compile(  # `the 20 passages`, `top 10`, `9/10`, `score: 8`, `2nd`
    r"\b[0-9]+\s+(?:\w+\s+)?(?:passages|documents|docs|results|candidates|items|texts|queries)\b|\btop[\s-]+[0-9]+"
    r"|\b[0-9]{1,4}(?:\.[0-9]{1,4})?\s*/\s*[0-9]+|\b[0-9]+(?:st|nd|rd|th)\b"
    r"|\b(?:scores?|relevance|rating|confidence|grade)\s*(?:of|is)?\s*[:=]?\s*[0-9]+(?:\.[0-9]+)?",
    re.IGNORECASE,
)
_MARKER = re.compile(
    r"(?:(?<=\s)|^)(?:#|rank\s*#?|no\.)?\s?([0-9]+)\s?(?:[.):]|-)\s+(?=\S)", re.IGNORECASE | re.MULTILINE
)


def list_ids(answer: str, n: int) -> list[int] | None:
    """The numbers that an answer lists for a window of n, in its order, with repeats and numbers outside of 1..n; None
    where it lists none.

    The longest chain `[a] > [b] > ...` comes first, then the other bracketed identifiers; bare numbers count where
    there is neither. JSON is read by its identifiers or not at all, since a score is no identifier; nor are a numbered
    list's own numbers and counts (`the 20 passages`).
    """
    text = _plain(answer)
    chain = _longest([ids_in(m.group()) for m in _CHAIN.finditer(text)], n)
    if _OBJECT.search(answer) and not set(range(1, n + 1)) <= set(chain):
        return _json_ids(answer, n)
    run = _longest([ids for m in _RUN.finditer(text) if len(ids := ids_in(m.group())) > 1], n)
    bracketed = [i for m in _BRACKETS.finditer(text) for i in ids_in(m.group())]
    best = run if len(set(run)) > len(set(chain)) else chain
    if best:
        return best + [i for i in bracketed if i not in best and 1 <= i <= n]
    if bracketed:
        return bracketed
    text = _without_markers(_NO_ID.sub(" : ", text))
    return (
        _longest([ids_in(m.group()) for m in _BARE_RUN.finditer(text)], n)
        or ids_in(" ".join(_BARE.findall(text)))
        or None
    )


def _plain(text: str) -> str:
    """A text with one sort of brackets and arrows, and without remarks behind identifiers."""
    return _REMARK.sub("] ", _ARROW.sub(">", unicodedata.normalize("NFKC", text).translate(_PLAIN)))


def trial_lists(text: str) -> list[list[list[int]]]:
    """Every list `[a] > [b] = [c]` of a text, in order: groups of equal identifiers, best first. Bare numbers with `>`
    between them are arithmetic."""
    chains = (match.group() for match in _CHAIN.finditer(_plain(text)))
    return [[ids_in(group) for group in chain.split(">")] for chain in chains if not _ARITHMETIC.fullmatch(chain)]


def ids_in(text: str) -> list[int]:
    """All numbers of a text, in order; 0 for one that is too long to be an identifier."""
    return [int(m) if len(m) <= _DIGITS else 0 for m in _NUMBER.findall(text)]


def _longest(lists: Sequence[list[int]], n: int) -> list[int]:
    """The list with the most identifiers of 1..n; empty where none has any. Of equally long ones the first, but the
    last where both hold the same identifiers: the later ranking corrects the earlier one."""
    best: list[int] = []
    most: set[int] = set()
    for ids in lists:
        valid = {i for i in ids if 1 <= i <= n}
        if len(valid) > len(most) or (valid and valid == most):
            best, most = ids, valid
    return best


def _without_markers(text: str) -> str:
    """A numbered list (`1. 4`, `Rank 2: passage 1`) without its own numbers; other texts as they are."""
    marks = [int(mark[:_DIGITS]) for mark in _MARKER.findall(text)]
    shorter = _MARKER.sub(" : ", text)
    numbered = len(marks) > 1 and marks == list(range(1, len(marks) + 1))
    return shorter if numbered and _NUMBER.search(shorter) else text


# --- JSON -------------------------------------------------------------------------------------------------------------
_OBJECT = re.compile(r"\{\s*[\"'0-9\[]")
_BEGIN = re.compile(r"\[\s*\{|\{")
_ID_KEY = re.compile(
    r"(?:(?:passage|document|doc|candidate)_?)?(?:id|identifier|number|no|index)|passage|document|doc|pid|candidate"
)
_RANK_KEY = re.compile(r"rank|position|place")
_SCORE_KEY = re.compile(r".*(?:score|rating|grade|confiden|probab|logit|weight|points).*|relevance|value|label")
_LIST_KEY = re.compile(r".*(?:rank|order|list|ids|identifiers|result|answer|passages|documents|sorted|permutation).*")
_LABEL = re.compile(r"\s*+(?:passage|document|doc|id|p|d)?[\s_#:-]*+\[?\s*+([0-9]{1,9})\s*\]?\s*", re.IGNORECASE)


def _json_ids(answer: str, n: int) -> list[int] | None:
    """Identifiers of an answer in JSON, or in Python's writing of the same; None where it is not clear which."""
    values = list(_values(answer))
    if len(values) > 1 and all(isinstance(value, dict) for value in values):
        values = [values]  # an object a line
    for value in reversed(values):
        if ids := _ids_of(value, n):
            return None if 0 in ids else ids  # counted from 0, or no identifiers
    return None


def _values(text: str) -> Iterator[Any]:
    """Every object, or list of objects, of a text."""
    at = 0
    while begin := _BEGIN.search(text, at):
        try:
            value, at = json.JSONDecoder().raw_decode(text, begin.start())
        except (ValueError, RecursionError):
            end = text.rfind("]" if begin.group()[0] == "[" else "}") + 1
            try:
                value, at = ast.literal_eval(text[begin.start() : end]), end
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                return
        yield value


def _ids_of(value: Any, n: int) -> list[int] | None:
    """The identifiers of a JSON value, best first."""
    if isinstance(value, str):
        return list_ids(value, n)
    if isinstance(value, list):
        labels = [_label(item) for item in value]
        return _known(labels) or _sorted([_row(item) for item in value])
    if not isinstance(value, dict) or not value:
        return None
    rows = [(_label(key), _score(item), None) for key, item in value.items()]
    if all(label is not None and score is not None for label, score, _ in rows):
        return _sorted(rows)  # identifier: score
    lists = [item for key, item in value.items() if _named(_LIST_KEY, key) and not _named(_SCORE_KEY, key)]
    inner = [item for item in value.values() if isinstance(item, dict) or _rows_only(item)]
    return next((ids for item in (*lists, *inner) if not isinstance(item, int) and (ids := _ids_of(item, n))), None)


def _rows_only(item: Any) -> bool:
    return isinstance(item, list) and all(isinstance(row, dict) for row in item)


def _named(pattern: re.Pattern[str], key: Any) -> bool:
    return pattern.fullmatch(str(key).lower()) is not None


def _label(item: Any) -> int | None:
    """The identifier that a value is (`3`, `"[3]"`, `"passage 3"`); None: it is none."""
    if isinstance(item, bool) or not isinstance(item, int | str):
        return None
    match = _LABEL.fullmatch(str(item))
    return int(match[1]) if match else None


def _score(item: Any) -> float | None:
    """The number that a value is, or holds under the name of a score."""
    if isinstance(item, dict):
        item = next((v for key, v in item.items() if _named(_SCORE_KEY, key)), None)
    return float(item) if isinstance(item, int | float) and not isinstance(item, bool) and abs(item) < 1e15 else None


def _row(item: Any) -> tuple[int | None, float | None, int | None]:
    """(identifier, score, rank) of an object of a list; None for what it does not say."""
    if not isinstance(item, dict):
        return None, None, None
    labels = [_label(v) for key, v in item.items() if _named(_ID_KEY, key)]
    ranks = [_label(v) for key, v in item.items() if _named(_RANK_KEY, key)]
    return next((i for i in labels if i is not None), None), _score(item), next(iter(ranks), None)


def _known(labels: Sequence[int | None]) -> list[int] | None:
    ids = [label for label in labels if label is not None]
    return ids if len(ids) == len(labels) else None


def _sorted(rows: Sequence[tuple[int | None, float | None, int | None]]) -> list[int] | None:
    """Identifiers in the order of their ranks, or as listed; None where the scores speak against the order listed."""
    ids, ranks = _known([row[0] for row in rows]), _known([row[2] for row in rows])
    if not ids or (ranks and len(set(ranks)) < len(ranks)):
        return None
    if ranks:
        return [i for _, i in sorted(zip(ranks, ids, strict=True))]
    scores = [row[1] for row in rows if row[1] is not None]
    return ids if scores == sorted(scores, reverse=True) else None
