"""`rrlib train sft|grpo PROFILE`: a training stage of the chain without its notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @app.command()
    def train(
        kind: Annotated[str, typer.Argument(help="sft (stage 02) or grpo (stage 03)")],
        profile: Annotated[Path, typer.Argument(help="a profile, such as params/qwen2.5-7b.yaml")],
        name: Annotated[
            str | None, typer.Option(help="folder of the run below outputs/; default: the profile's name")
        ] = None,
        fresh: Annotated[bool, typer.Option("--fresh", help="start the stage over, whatever is there")] = False,
        finish: Annotated[
            bool, typer.Option("--finish/--no-finish", help="close the stage, or leave its notebook to `rrlib run`")
        ] = True,
        processes: Annotated[
            int, typer.Option(help="processes on this machine, one a GPU; default: as the profile says", min=0)
        ] = 0,
        nodes: Annotated[int, typer.Option(help="machines in all", min=1)] = 1,
        node: Annotated[int, typer.Option(help="number of this machine, 0 first", min=0)] = 0,
        address: Annotated[str, typer.Option(help="host name of machine 0")] = "",
        port: Annotated[int, typer.Option(help="a free port there")] = 29500,
    ) -> None:
        """Train as notebook 02 or 03 would; run the same line again after a crash and it goes on where it stopped.

        Examples:

        rrlib train sft params/qwen2.5-7b.yaml

        rrlib train grpo params/qwen2.5-7b.yaml --nodes 2 --node $SLURM_NODEID --address $HEAD
        """
        import logging

        from rrlib.chain.stages import train_stage
        from rrlib.training.launch import Launch

        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        machines = Launch(nodes=nodes, node=node, address=address, port=port)
        result = train_stage(
            kind, profile, name=name, fresh=fresh, finish=finish, launch=machines, processes=processes, echo=typer.echo
        )
        counts = f"{result.n_examples} examples, {result.dropped} left out as too long, {result.seconds:.0f} s"
        typer.echo(f"checkpoint: {result.checkpoint}  ({counts})")
