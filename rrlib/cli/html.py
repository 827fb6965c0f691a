"""`rrlib html NOTEBOOK...`: executed notebooks as offline pages; `--run NAME`: all lessons; `--api`: the reference."""

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
        api: Annotated[bool, typer.Option("--api", help="the API reference, from the docstrings")] = False,
        output: Annotated[Path, typer.Option(help="folder of the pages")] = Path("outputs/html"),
    ) -> None:
        """Write executed notebooks as single HTML files: pictures inside, no script, nothing fetched.

        Example: rrlib html outputs/smoke/notebooks/*.ipynb --output outputs/smoke/html
        Example: rrlib html --run smoke --output docs/lessons
        Example: rrlib html --api --output outputs/api
        """
        from rrlib.errors import InputError
        from rrlib.lesson.pages import build_lessons, export_html
        from rrlib.lesson.reference import build_reference

        if [bool(run), bool(notebooks), api].count(True) != 1:
            raise InputError("give notebooks, --run NAME or --api", remedy="rrlib html --help has an example of each")
        names: dict[str, Path] = {}
        for notebook in notebooks or ():
            if (other := names.setdefault(notebook.stem, notebook)) is not notebook:
                remedy = "write them into two folders, with --output"
                raise InputError(f"{other} and {notebook} would be one page, {notebook.stem}.html", remedy=remedy)
        if api:
            typer.echo(f"{len(build_reference(output))} pages, from {output / 'index.html'}")
        if run:
            build_lessons(run, output, echo=typer.echo)
        for notebook in notebooks or ():
            typer.echo(str(export_html(notebook, output)))
