"""Checks of the exercises: a sentence that says how a reader's function did, and never an error.

A check says what the function gave, on which side that is wrong, and the hint of that case. It does not say what is
wanted, so no answer can be copied out of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

Case = tuple[tuple[Any, ...], Any] | tuple[tuple[Any, ...], Any, str]
"""The arguments of one call; what it has to give (a number, a text, or a list of such); the hint where it does not."""


def answered_by(method: Callable[..., Any], calls: Mapping[str, tuple[Any, ...]]) -> list[Case]:
    """Cases whose answers a function of the library gives. calls: hint -> arguments of a call."""
    return [(arguments, method(*arguments), hint) for hint, arguments in calls.items()]


def check_exercise(function: Callable[..., Any], cases: Sequence[Case]) -> str:
    """Try an exercise's function on the cases, in their order; a sentence says how it went. Never raises, but lets an
    interrupt through.

    The first case that does not hold is told, with its hint. Numbers may differ by 1e-6. The function gets a copy of
    the arguments, so that it cannot change those of the other cases.
    """
    name = getattr(function, "__name__", type(function).__name__)
    for number, (arguments, expected, *hint) in enumerate(cases):
        call = f"{name}({', '.join(map(repr, arguments))})"
        said = f"; hint: {hint[0]}" if hint else ""
        said += f" ({number} of {len(cases)} cases hold before it)"
        try:
            given = _plain(function(*deepcopy(arguments)))
            wrong = "" if given is None else _wrong(given, _plain(expected))
            gives = f"gives {given!r}, {wrong}" if wrong else ""
        except (Exception, SystemExit) as error:
            return f"not yet: {call} raises {_in_words(error)}{said}"
        if given is None:
            return f"not solved yet: {call} gives None{said}"
        if wrong:
            return f"not yet: {call} {gives}{said}"
    return f"right: all {len(cases)} cases hold"


def _in_words(error: BaseException) -> str:
    """The kind of an error and what it says, where that can be said."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def _plain(value: Any) -> Any:
    """Lists in the place of arrays and tuples, so that they can be compared."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _wrong(given: Any, expected: Any) -> str:
    """What is wrong with the given value, in words that do not name the expected one; empty where they agree."""
    if isinstance(expected, list):
        if not isinstance(given, list):
            return "a list is wanted"
        if len(given) != len(expected):
            return f"{'more' if len(given) > len(expected) else 'fewer'} entries than are wanted"
        parts = [_wrong(ours, theirs) for ours, theirs in zip(given, expected, strict=True)]
        return next((f"of which entry {i} is wrong: {part}" for i, part in enumerate(parts) if part), "")
    if isinstance(expected, str):
        return "" if given == expected else "another text is wanted"
    if not isinstance(given, int | float) or (isinstance(given, bool) and not isinstance(expected, bool)):
        return "a number is wanted"
    if math.isclose(given, expected, rel_tol=0.0, abs_tol=1e-6):
        return ""
    return "too much" if given > expected else "too little" if given < expected else "a number is wanted"
