"""`rrlib strategies`: what each strategy costs, counted by running it."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @app.command()
    def strategies(
        candidates: Annotated[int, typer.Option(help="length of the list")] = 100,
        window: Annotated[int, typer.Option(help="passages a window")] = 20,
        stride: Annotated[int, typer.Option(help="passages the window moves")] = 10,
        passage_tokens: Annotated[int, typer.Option(help="of a passage, for the column tokens", min=0)] = 200,
        frame_tokens: Annotated[int, typer.Option(help="of a window beside its passages", min=0)] = 400,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON and nothing else")] = False,
    ) -> None:
        """What each strategy costs for one query: calls, rounds that must wait for each other, passages shown, and the
        tokens read (passages x --passage-tokens + calls x --frame-tokens; what is written depends on the model).

        Counted by running the strategies, first with answers that confirm the first stage, then with a perfect ranker
        on a list in random order (mean of 20 orders). right: how many of the best a perfect ranker is sure to get.

        Example: rrlib strategies --candidates 100 --window 20 --stride 10
        """
        from rrlib.evaluation.tables import align
        from rrlib.plans.strategies import cells, cost_rows

        rows = cost_rows(candidates, window, stride, passage_tokens=passage_tokens, frame_tokens=frame_tokens)
        typer.echo(json.dumps(rows, indent=2) if as_json else align(cells(rows)))
