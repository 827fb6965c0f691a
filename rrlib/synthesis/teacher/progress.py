"""How far a run is: a tqdm bar of its queries, with calls and cost beside it."""

from __future__ import annotations

import io
import sys
import time
from typing import Any

from rrlib.notebook import live_text
from rrlib.synthesis.teacher.ask import Usage


class ProgressBar:
    """Called after each query, as `synthesize(progress=...)` does. In a terminal the bar is drawn over itself; in a log
    file a line is written every 30 seconds; in a notebook one output of text is updated, which a stored notebook shows
    as it ended. It closes with the last query.

    options: of tqdm (file, mininterval, ...). Build it in the cell that shows it: later calls may come from a thread.
    """

    def __init__(self, **options: Any) -> None:
        from tqdm.std import tqdm  # tqdm.auto's widget would be missing in a notebook that was stored

        self._write = live_text("nothing to ask: every answer is stored") if "file" not in options else None
        if self._write is not None:
            options = {**options, "file": io.StringIO(), "disable": False}  # whatever is set for bars that print
        quick = self._write is not None or (options.get("file") or sys.stderr).isatty()
        options = {"mininterval": 0.5 if quick else 30.0} | options
        self.bar = tqdm(desc="teacher", unit="query", smoothing=0.0, **options)
        self._shown = 0.0

    def __call__(self, done: int, total: int, usage: Usage) -> None:
        """Move the bar to `done` of `total` queries."""
        bar = self.bar
        bar.total = total
        if not usage.calls:  # what is stored already goes by at once, and says nothing about the rest
            bar.initial, bar.start_t = done, time.time()
        bar.set_postfix_str(spent(usage), refresh=False)
        bar.update(done - bar.n)
        if self._write is not None and (done >= total or time.time() - self._shown >= 0.5):
            self._shown = time.time()
            self._write(str(bar))
        if done >= total:
            bar.close()


def spent(usage: Usage) -> str:
    """`1,236 calls (3 tried again, 0 failed), $0.42`: the calls and, where the price is known, the cost so far."""
    parts = [f"{usage.calls:,} calls ({usage.retries:,} tried again, {usage.failed:,} failed)"]
    if usage.cached:
        parts.append(f"{usage.cached:,} from the cache")
    if usage.usd is not None:
        more = f" (at most ${usage.usd + usage.possible_usd:.4f})" if usage.possible_usd else ""
        parts.append(f"${usage.usd:.4f}{more}")
    return ", ".join(parts)
