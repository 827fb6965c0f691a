"""What became of a `rrlib rerank`: its exit code, and what it says on standard error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

NOTHING_RANKED = 3
"""Exit code of a run in which no window was reranked."""


def outcome(result: Any, trained: Mapping[str, Any], window: int, asks_model: bool) -> tuple[int, str]:
    """The exit code of a reranking, and its last line: which share of the windows kept the order that they had.

    0: all calls were answered, 1: some failed, NOTHING_RANKED: no window was reranked, so that no run is written.
    result: what was counted, as `tally` and `counts`.
    """
    from rrlib.prompts import POINT_STYLES
    from rrlib.responses import Verdict

    tally = result.tally
    n, unread = tally.windows, tally.unread.total()
    if not asks_model and result.counts.get("missing") != n:
        return 0, ""  # a recorded run is repeated as it was, its failures too
    if n and unread == n:
        verdict, times = tally.unread.most_common(1)[0]
        if not asks_model:
            remedy = "give the --strategy, --window, --stride and --depth that the answers were recorded with"
        elif tally.failed:
            remedy = f"the last reason was {tally.last_error!r}; mend it and run the same command again"
        elif verdict == Verdict.TRUNCATED:
            remedy = "raise --max-new-tokens, and begin anew with --fresh"
        elif trained.get("style") in POINT_STYLES:
            remedy = "the checkpoint judges single passages: leave --strategy out, with --fresh"
        elif trained.get("window", window) < window:
            remedy = f"the checkpoint was trained with windows of {trained['window']}: give --window and --fresh"
        else:
            remedy = "name a checkpoint that was trained to rank, in its own --prompt and --window, with --fresh"
        line = f"nothing was reranked, so no run was written: {times} of {n} windows are {verdict} -> {remedy}"
        return NOTHING_RANKED, line
    if tally.failed:
        again = "run the same command again, and they are asked again"
        share = f"{tally.failed} of {n} windows ({tally.failed / n:.1%})"
        return 1, f"{share} failed and keep the order they had -> {again}"
    return 0, ""


def report(counts: dict[str, int]) -> None:
    """What happened, on standard error: failures, missing windows and repeats are said aloud."""
    parts = [f"{counts['queries']} queries", f"{counts['windows']} windows"]
    parts += [f"{counts[k]} {k.replace('_', ' ')}" for k in ("asked", "reused", "failed", "missing") if counts.get(k)]
    if counts.get("in_flight_at_kill"):
        parts.append(f"{counts['in_flight_at_kill']} were in flight when the last run was killed and were asked again")
    verdicts = {k.removeprefix("verdict_"): v for k, v in counts.items() if k.startswith("verdict_")}
    typer.echo("; ".join(parts), err=True)
    typer.echo("verdicts: " + (", ".join(f"{k} {v}" for k, v in sorted(verdicts.items())) or "none"), err=True)
