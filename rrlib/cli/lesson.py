"""`rrlib lesson FOLDER`: student copies of the notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @app.command()
    def lesson(
        folder: Annotated[Path, typer.Argument(help="where the copies go: a new or empty folder")],
        fresh: Annotated[bool, typer.Option("--fresh", help="rename the lesson that is there, and begin anew")] = False,
        interactive: Annotated[bool, typer.Option(help="the copies show their widgets")] = True,
    ) -> None:
        """Write student copies of all notebooks: no outputs, no solutions.

        Example: rrlib lesson outputs/lesson
        """
        from rrlib.lesson.copies import build_lesson

        copies = build_lesson(folder, fresh=fresh, interactive=interactive, echo=typer.echo)
        typer.echo(f"{len(copies)} notebooks in {folder}: {', '.join(copy.stem for copy in copies)}")
