"""Names of fields in JSON records, and what may stand in them.

One place for the key names that corpora and toolkits use, so that every reader accepts the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rrlib.errors import InputError
from rrlib.formats.textio import BLANKS
from rrlib.types import Passage

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")

ID_KEYS = ("_id", "id", "qid", "docid")
TEXT_KEYS = ("text", "contents", "segment", "body", "passage")
QUERY_TEXT_KEYS = (*TEXT_KEYS, "query")


def few(ids: Collection[str], shown: int = 3) -> str:
    """The first few ids, and how many more there are: `'a', 'b', 'c' and 5 more`."""
    names = ", ".join(repr(identifier) for identifier in list(ids)[:shown])
    return names if len(ids) <= shown else f"{names} and {len(ids) - shown} more"


def as_id(value: object, what: str, path: str | Path | None, line: int | None) -> str:
    """An id as a string: strings stay as they are, integers are written out; anything else is an `InputError`."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value:
        return value
    raise InputError(f"{what} is {value!r}", path=path, line=line, remedy="ids are non-empty strings or integers")


def no_control(text: str, what: str, path: str | Path | None = None, line: int | None = None) -> None:
    """Refuse an id with control characters: `InputError`, with a few of its characters."""
    if _CONTROL.search(text) is None:
        return
    remedy = f"give it another {what}"
    if "\r" in text:
        remedy += "; where carriage returns end the lines (old Mac), tr '\\r' '\\n' mends the file"
    shown = repr(text) if len(text) <= 60 else f"{text[:60]!r}... of {len(text):,} characters"
    raise InputError(f"the {what} {shown} contains a control character", path=path, line=line, remedy=remedy)


def check_id(
    text: str, what: str, path: str | Path | None = None, line: int | None = None, blanks: bool = True
) -> None:
    """Refuse an id that would not come back from a line of a run: `InputError` says why. blanks: allowed inside."""
    no_control(text, what, path, line)
    bad = ""
    if not text:
        bad = "is empty"
    elif text != text.strip(BLANKS):
        bad = "begins or ends with a blank"
    elif not blanks and " " in text:
        bad = "contains a blank"
    elif what == "query id" and text.startswith("#"):
        bad = "begins with #, which begins a comment in runs and judgements"
    elif what == "query id" and text.startswith("\ufeff"):
        bad = "begins with a byte order mark, which readers take off at the start of a file"
    elif _SURROGATE.search(text):
        bad = "contains a lone surrogate, which UTF-8 cannot hold"
    if bad:
        raise InputError(f"the {what} {text!r} {bad}", path=path, line=line, remedy=f"give it another {what}")


def record_id(record: Mapping[str, Any], what: str, path: str | Path | None, line: int | None) -> str:
    """The id of a record, under the first of `_id`, `id`, `qid`, `docid` that is there."""
    for key in ID_KEYS:
        if key in record:
            identifier = as_id(record[key], f"the {what} id ({key})", path, line)
            no_control(identifier, f"{what} id", path, line)
            return identifier
    raise InputError(
        f"a {what} without an id; its keys are {few(record) or 'none'}",
        path=path,
        line=line,
        remedy=f"name the id one of {', '.join(ID_KEYS)}",
    )


def record_text(
    record: Mapping[str, Any],
    what: str,
    path: str | Path | None,
    line: int | None,
    keys: tuple[str, ...] = TEXT_KEYS,
) -> str:
    """The text of a record: the first non-empty one under `keys`; empty if all that are there are empty.

    Raises `InputError` where no key is there, or where a value is not a string.
    """
    empty = False
    for key in keys:
        value = record.get(key)
        if value is None:
            continue
        if not isinstance(value, str):
            raise InputError(
                f"the {what} text ({key}) is not a string but {type(value).__name__}",
                path=path,
                line=line,
                remedy="write texts as JSON strings",
            )
        if value:
            return value
        empty = True
    if empty:
        return ""
    if null := next((key for key in keys if key in record), None):
        raise InputError(
            f"a {what} without a text: its {null!r} is null",
            path=path,
            line=line,
            remedy=f"write the text there, or under another of {', '.join(keys)} (an empty one is '')",
        )
    raise InputError(
        f"a {what} without a text; its keys are {few(record) or 'none'}",
        path=path,
        line=line,
        remedy=f"name the text one of {', '.join(keys)}",
    )


def record_passage(record: Mapping[str, Any], path: str | Path | None, line: int | None) -> Passage:
    """A corpus record as a `Passage` (id, text, title)."""
    title = record.get("title")
    if title is not None and not isinstance(title, str):
        raise InputError("the title is not a string", path=path, line=line, remedy="write titles as JSON strings")
    docid = record_id(record, "document", path, line)
    return Passage(docid, record_text(record, f"document ({docid!r})", path, line), title or "")
