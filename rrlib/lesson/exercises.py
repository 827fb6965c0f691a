"""Checks of the exercises: a sentence that says how a reader's function did, and never an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def check_exercise(function: Callable[..., Any], cases: Sequence[tuple[tuple[Any, ...], float]]) -> str:
    """Try an exercise's function on cases ((arguments), expected number); a sentence says how it went. Never raises."""
    for arguments, expected in cases:
        call = f"{function.__name__}({', '.join(map(repr, arguments))})"
        try:
            given = function(*arguments)
        except Exception as error:
            return f"not yet: {call} raises {type(error).__name__}: {error}"
        if given is None:
            return f"not solved yet: {call} gives None, {expected:.4f} is wanted"
        try:
            near = abs(float(given) - expected) <= 1e-6
        except (TypeError, ValueError):
            return f"not yet: {call} gives {given!r}, a number is wanted"
        if not near:
            return f"not yet: {call} gives {float(given):.4f}, {expected:.4f} is wanted"
    return f"right: all {len(cases)} cases hold"
