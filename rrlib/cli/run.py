"""`rrlib run params/PROFILE.yaml`: the whole chain of notebooks from one profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @app.command()
    def run(
        profile: Annotated[Path, typer.Argument(help="a profile, such as params/miniature.yaml")],
        name: Annotated[
            str | None, typer.Option(help="folder of the run below outputs/; default: the profile's name")
        ] = None,
        start: Annotated[
            str | None, typer.Option("--from", help="first stage, such as 03; those before it must be finished")
        ] = None,
        until: Annotated[str | None, typer.Option(help="last stage, such as 02")] = None,
        fresh: Annotated[bool, typer.Option("--fresh", help="start the stages over, whatever is there")] = False,
    ) -> None:
        """Run notebooks 01 to 04 with a profile's parameters; stages in which nothing changed are skipped.

        Examples:

        rrlib run params/smoke.yaml

        rrlib run params/miniature.yaml --name second --from 03
        """
        from rrlib.chain.run import render_chain, run_chain

        result = run_chain(profile, name=name, start=start, until=until, fresh=fresh, echo=typer.echo)
        typer.echo(render_chain(result))
