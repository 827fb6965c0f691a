"""How the commands of the studies end: what a person can mend is said in a line."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rrlib.errors import InputError, RRLibError


def exit_code(work: Callable[[], object]) -> int:
    """Do the work; 0, or 1 where it failed and 2 for bad input, with the error as a line on standard error."""
    try:
        work()
    except RRLibError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0
