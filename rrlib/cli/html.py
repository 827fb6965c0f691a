"""`rrlib html NOTEBOOK...`: executed notebooks as pages that read offline; `--run NAME`: all lessons as pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @app.command()
    def html(
        notebooks: Annotated[list[Path] | None, typer.Argument(help="executed notebooks")] = None,
        run: Annotated[str, typer.Option(help="a finished run: all notebooks, its own as it executed them")] = "",
        output: Annotated[Path, typer.Option(help="folder of the pages")] = Path("outputs/html"),
    ) -> None:
        """Write executed notebooks as single HTML files: pictures inside, no script, nothing fetched.

        Example: rrlib html outputs/smoke/notebooks/*.ipynb --output outputs/smoke/html
        Example: rrlib html --run smoke --output docs/lessons
        """
        from rrlib.errors import InputError
        from rrlib.lesson.pages import build_lessons, export_html

        if bool(run) == bool(notebooks):
            raise InputError("give notebooks, or --run NAME", remedy="rrlib html --help has an example of each")
        if run:
            build_lessons(run, output, echo=typer.echo)
        for notebook in notebooks or ():
            typer.echo(str(export_html(notebook, output)))
