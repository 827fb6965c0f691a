"""`rrlib pack CHECKPOINT OUT`: a trained checkpoint as a small adapter to take away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @app.command()
    def pack(
        checkpoint: Annotated[str, typer.Argument(help="such as outputs/my-run/03_rl/grpo/checkpoint")],
        output: Annotated[Path, typer.Argument(help="the folder to write; a new one")],
        base: Annotated[str, typer.Option(help="what it was trained from: folder, hub name, GGUF file or package:...")],
        rank: Annotated[int, typer.Option(help="of the matrices; LoRA of this rank is packed exactly", min=1)] = 16,
        least_share: Annotated[
            float, typer.Option(help="refuse an adapter that holds less of the change", min=0.0, max=1.0)
        ] = 0.9,
        with_first_stage: Annotated[
            bool, typer.Option("--with-first-stage", help="its order is to be fused with that of a run that it reranks")
        ] = False,
        force: Annotated[bool, typer.Option("--force", help="write it whatever share it holds")] = False,
        data: Annotated[str, typer.Option(help="for the card: what it was trained on, and the licence")] = "",
        note: Annotated[str, typer.Option(help="for the card: one more paragraph, above its results")] = "",
        results: Annotated[
            Path | None, typer.Option(help="JSON with the rows that prove it; default: the run's results.json")
        ] = None,
    ) -> None:
        """Write the change that training made to linear weights as a PEFT adapter in bfloat16, with card and source.

        The folder is then a model: `--model OUT`, Reranker("OUT"), `model: OUT` in a profile.

        Example: rrlib pack outputs/my-run/03_rl/grpo/checkpoint my-reranker --base Qwen/Qwen2.5-0.5B-Instruct
        """
        from rrlib.errors import InputError
        from rrlib.training.pack import pack as pack_checkpoint

        rows = None
        if results is not None:
            try:
                rows = json.loads(results.read_text(encoding="utf-8"))["rows"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError("no JSON with rows", path=results, remedy="name a results.json") from error
        packed = pack_checkpoint(
            checkpoint, output, base=base, rank=rank, least_share=least_share, force=force, data=data, rows=rows,
            with_first_stage=with_first_stage, note=note,
        )  # fmt: skip
        weight, least = packed.weakest
        typer.echo(f"{packed.folder}: rank {packed.rank}, {packed.size / 1e6:.1f} MB")
        typer.echo(f"it holds {packed.share:.2%} of the change; least in {weight} ({least:.2%})")
