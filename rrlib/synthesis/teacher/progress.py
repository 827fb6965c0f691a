"""One line that says how far a run is: queries, calls, cost so far, and when it will be done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from rrlib.synthesis.teacher.ask import Usage


class ProgressLine:
    """Called after each query, as `synthesize(progress=...)` does; shows a line at most every `every` seconds.

    In a terminal the line is written over itself (to `stream`, standard error); elsewhere each stands alone. In a
    notebook one output is updated, so that a long run leaves one line. every: None = 0.5, and 30 in a log file.
    """

    def __init__(
        self, every: float | None = None, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stream, self._clock = stream or sys.stderr, clock
        self._begun, self._shown = clock(), float("-inf")
        self._width = self._stored = 0
        self._display = _display() if stream is None else None  # here, in the cell: later calls may come from a thread
        quick = self._display is not None or self.stream.isatty()
        self.every = every if every is not None else 0.5 if quick else 30.0

    def __call__(self, done: int, total: int, usage: Usage) -> None:
        """Show the line, if it is time; the last one always."""
        now = self._clock()
        if not usage.calls:  # what is stored already goes by at once, and says nothing about the rest
            self._stored, self._begun = done, now
        if now - self._shown < self.every and done < total:
            return
        self._shown = now
        self._show(self.line(done, total, usage, now - self._begun, self._stored), done >= total)

    @staticmethod
    def line(done: int, total: int, usage: Usage, seconds: float, stored: int = 0) -> str:
        """`412/1,200 queries, 1,236 calls (3 tried again, 0 failed), $0.42 so far, 31.9 calls/s, 0:42 to go`."""
        again = f"{usage.retries:,} tried again, {usage.failed:,} failed"
        parts = [f"{done:,}/{total:,} queries", f"{usage.calls:,} calls ({again})"]
        if usage.cached:
            parts.append(f"{usage.cached:,} from the cache")
        if usage.usd is not None:
            more = f" (at most ${usage.usd + usage.possible_usd:.4f})" if usage.possible_usd else ""
            parts.append(f"${usage.usd:.4f} so far{more}")
        if seconds > 0 and usage.calls:
            parts.append(f"{usage.calls / seconds:,.1f} calls/s")
        if stored < done < total and seconds > 0:
            parts.append(f"{_clock_time(seconds / (done - stored) * (total - done))} to go")
        elif done >= total:
            parts.append(f"done in {_clock_time(seconds)}")
        return ", ".join(parts)

    def _show(self, line: str, last: bool) -> None:
        if self._display is not None:
            self._display.update({"text/plain": line}, raw=True)
        elif self.stream.isatty():
            self._width = max(self._width, len(line))
            self.stream.write("\r" + line.ljust(self._width) + ("\n" if last else ""))
            self.stream.flush()
        else:
            self.stream.write(line + "\n")


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _display() -> Any:
    """An output of the running notebook cell that can be written over; None outside a kernel (papermill's is one)."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return None
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return display({"text/plain": "nothing to ask: every answer is stored"}, raw=True, display_id=True)
