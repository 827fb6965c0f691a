"""`rrlib miniature`: write the embedded world, train its backbone anew, pack a trained reranker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def build_command(
    folder: Annotated[Path, typer.Argument(help="the collection folder to write")],
    seed: Annotated[int, typer.Option(help="one seed gives one set of bytes")] = 1,
    train: Annotated[int, typer.Option(help="training queries", min=0)] = 2000,
    validation: Annotated[int, typer.Option(help="validation queries", min=0)] = 200,
    test: Annotated[int, typer.Option(help="test queries", min=0)] = 600,
    pool: Annotated[int, typer.Option(help="candidates a query", min=3)] = 30,
) -> None:
    """Write corpus, queries, labels and first-stage runs as a BEIR folder with extras.

    \b
    Example:
      rrlib miniature build my-world --seed 7 --train 500 --validation 50 --test 100
    """
    from rrlib.miniature import build

    written = build(folder, seed=seed, train=train, validation=validation, test=test, pool=pool)
    print(f"{written}: {train} training, {validation} validation and {test} test queries")


def pretrain_command(
    output: Annotated[Path, typer.Argument(help="the checkpoint folder to write")],
    steps: Annotated[int | None, typer.Option(help="steps of each part (default: the recipe's)", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="seed (default: the recipe's)")] = None,
    bf16: Annotated[bool, typer.Option(help="bfloat16 autocast; without such instructions, --no-bf16")] = True,
) -> None:
    """Train the tiny backbone from nothing (about 45 minutes on one core with bfloat16 instructions).

    \b
    Example:
      rrlib miniature pretrain my-backbone
    """
    import dataclasses
    import json

    from rrlib.miniature.pretrain import RECIPE, pretrain_all

    parts = tuple(
        dataclasses.replace(
            part, bf16=bf16, steps=steps or part.steps, seed=part.seed if seed is None else seed + number
        )
        for number, part in enumerate(RECIPE)
    )
    record = pretrain_all(output, parts, lambda row: print(json.dumps(row), flush=True))
    print(json.dumps(record["scores"]))
    print(f"written to {output}")


def pack_command(
    run: Annotated[Path, typer.Argument(help="the folder of a finished run, such as outputs/miniature")],
    output: Annotated[Path, typer.Argument(help="the checkpoint folder to write")],
) -> None:
    """Keep a run's final checkpoint in bfloat16, with SOURCE.json that says what made it and how it did.

    \b
    Example:
      rrlib miniature pack outputs/miniature my-reranker
    """
    from rrlib.miniature.model import pack_run

    print(f"written to {pack_run(run, output)}")


def register(app: typer.Typer) -> None:
    """Add the command group `miniature`."""
    group = typer.Typer(help="The embedded world: its collection and its tiny backbone.", no_args_is_help=True)
    app.add_typer(group, name="miniature")
    group.command("build")(build_command)
    group.command("pretrain")(pretrain_command)
    group.command("pack")(pack_command)
