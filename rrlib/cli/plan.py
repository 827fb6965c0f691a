"""`rrlib plan PROFILE`: what a profile's trainings need on each GPU, and its evaluation, on paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @app.command()
    def plan(
        profile: Annotated[Path, typer.Argument(help="a profile, such as params/qwen2.5-7b.yaml")],
        gpu_memory: Annotated[
            float, typer.Option(help="GiB of one GPU; default: the profile's, else this machine's")
        ] = 0.0,
        processes: Annotated[int, typer.Option(help="GPUs; default: the profile's `processes`", min=0)] = 0,
        examples: Annotated[int, typer.Option(help="examples to count updates with; default: the run's", min=0)] = 0,
    ) -> None:
        """Memory of each GPU by part, with formulas and sources, the updates of SFT and GRPO, what evaluating the model
        takes, and what its chat template does (system role, reasoning block, end of a turn), where its tokenizer is on
        this machine. A stage that the profile does not run is left out.

        Rows count with the longest of the profile's run, or of lists made for the plan where the teacher is part of
        the library; else with the most that the profile allows, and each plan says which. Needs no weights, no GPU and
        no network. What cannot fit ends with exit code 2 and says what would help.

        Examples:

        rrlib plan params/qwen2.5-7b.yaml

        rrlib plan params/qwen2.5-32b-lora.yaml --gpu-memory 40 --examples 13500
        """
        from rrlib.chain.from_profile import evaluations_of, plans_of, template_line
        from rrlib.errors import InputError
        from rrlib.plans.evaluation import render_plan
        from rrlib.plans.training import render

        plans = plans_of(profile, gpu_memory=gpu_memory, processes=processes, examples=examples)
        for plan_of_stage in plans:
            typer.echo(render(plan_of_stage) + "\n")
        too_large: InputError | None = None
        try:
            for evaluation in evaluations_of(profile, gpu_memory=gpu_memory):
                typer.echo(f"evaluation of {evaluation.model}\n{render_plan(evaluation)}\n")
        except InputError as error:
            too_large = error
            typer.echo(f"evaluation: {error}\n")
        typer.echo(template_line(profile))
        for plan_of_stage in plans:
            plan_of_stage.check()
        if too_large is not None:
            raise too_large
