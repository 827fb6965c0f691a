"""`rrlib demo`: the method at work in twenty seconds of a busy core, with nothing to train, to download or to give."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer


def demo(
    queries: Annotated[int, typer.Option(help="test queries to rerank", min=1, max=600)] = 16,
    quiet: Annotated[bool, typer.Option(help="no progress bar")] = False,
) -> None:
    """Rerank a small part of the embedded miniature with the packaged model: figures, and one query followed.

    No training, no file, no network and no torch: twenty seconds of a busy core.

    \b
    Example:
      rrlib demo --queries 16
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read by numpy when it loads; more only hinder each other
        os.environ.setdefault(name, "1")
    from rrlib.miniature.demo import figures, run_demo, story

    began = time.perf_counter()
    found = run_demo(queries, progress=not quiet)
    for line in [*figures(found), "", *story(found)]:
        typer.echo(line)
    typer.echo(f"{time.perf_counter() - began:.0f} seconds. `rrlib --help` lists what else there is.", err=True)


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(demo)
