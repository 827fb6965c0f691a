"""`rrlib html NOTEBOOK...`: executed notebooks as pages that read offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @app.command()
    def html(
        notebooks: Annotated[list[Path], typer.Argument(help="executed notebooks")],
        output: Annotated[Path, typer.Option(help="folder of the pages")] = Path("outputs/html"),
    ) -> None:
        """Write executed notebooks as single HTML files: pictures inside, no script, nothing fetched.

        Example: rrlib html outputs/smoke/notebooks/*.ipynb --output outputs/smoke/html
        """
        from rrlib.lesson.copies import export_html

        for notebook in notebooks:
            typer.echo(str(export_html(notebook, output)))
