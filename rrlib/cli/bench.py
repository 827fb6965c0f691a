"""`rrlib bench`: which benchmarks are known, getting one, and what an evaluation will take."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer


def list_benchmarks(
    root: Annotated[Path | None, typer.Option(help="folder of local copies; default: RRLIB_DATA, or data")] = None,
) -> None:
    """List the benchmarks, their passage limit and metrics, and which have a local copy.

    Example: rrlib bench list --root data
    """
    from rrlib.evaluation.benchmarks import data_root
    from rrlib.evaluation.registry import BENCHMARKS
    from rrlib.evaluation.tables import align

    lines = [["benchmark", "queries", "passage tokens", "metrics", "local copy"]]
    for spec in BENCHMARKS.values():
        here = "yes" if (data_root(root) / spec.name / "qrels").is_dir() else "-"
        lines.append([spec.name, str(spec.queries), str(spec.max_passage_tokens), " ".join(spec.metrics), here])
    typer.echo(align(lines))


def fetch(
    names: Annotated[list[str], typer.Argument(help="benchmarks or suites (bright, r2med, beir), ir_datasets:ID")],
    root: Annotated[Path | None, typer.Option(help="folder of local copies; default: RRLIB_DATA, or data")] = None,
    run: Annotated[Path | None, typer.Option(help="ir_datasets: only the documents of this TREC run")] = None,
) -> None:
    """Get benchmarks from the hub or from ir_datasets into the folder of local copies; what is there stays.

    Example: rrlib bench fetch bright --root data
    """
    from rrlib.evaluation.benchmarks import locate
    from rrlib.evaluation.fetch import fetch as get
    from rrlib.evaluation.registry import expand

    for name in expand(names):
        spec, folder = locate(name, root)
        get(spec, folder, run=run)
        typer.echo(f"{name}: {folder}")


def plan(
    profile: Annotated[Path | None, typer.Argument(help="a profile whose 04_evaluation names benchmarks")] = None,
    benchmark: Annotated[
        list[str] | None, typer.Option(help="instead of a profile: a benchmark, suite or folder; again for more")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="a name such as qwen2.5-7b or qwen2.5-0.5b, a hub name, or a checkpoint folder; "
            "default: what the profile evaluates, else qwen2.5-7b"
        ),
    ] = "",
    gpus: Annotated[int | None, typer.Option(help="GPUs; default: the profile's tensor_parallel_size, else 1")] = None,
    gpu_gb: Annotated[float, typer.Option(help="memory of one GPU, GB")] = 80.0,
) -> None:
    """What an evaluation will take: windows exactly, tokens as bounds, memory, hours. Needs no texts and no model.

    Example: rrlib bench plan params/bright-7b.yaml --gpus 4
    """
    from rrlib.engines.trained import trained_settings
    from rrlib.errors import InputError
    from rrlib.plans.evaluation import PAPER_MODEL, paper_plan, render_plan
    from rrlib.prompts import POINT_STYLES

    if (profile is None) == (not benchmark):
        raise InputError("give a profile or --benchmark, one of them")
    if (gpus is not None and gpus < 1) or not 0 < gpu_gb < math.inf:
        raise InputError(f"--gpus {gpus}, --gpu-gb {gpu_gb}", remedy="give at least one GPU with some memory")
    if benchmark:
        if trained_settings(model).get("style") in POINT_STYLES:
            remedy = "it takes one short call a candidate and writes no chain; this plan counts windows that do"
            raise InputError(f"{model} judges single passages", remedy=remedy)
        plans = [paper_plan(benchmark, model=model or PAPER_MODEL, gpus=gpus or 1, gpu_gb=gpu_gb)]
    else:
        from rrlib.chain.from_profile import evaluations_of

        assert profile is not None
        plans = evaluations_of(profile, model=model, gpus=gpus or 0, gpu_gb=gpu_gb, benchmarks_needed=True)
    typer.echo("\n\n".join(map(render_plan, plans)))


def register(app: typer.Typer) -> None:
    """Add the command group to the app."""
    group = typer.Typer(help="Benchmarks by name: list, fetch, plan.", no_args_is_help=True, rich_markup_mode=None)
    group.command("list")(list_benchmarks)
    group.command()(fetch)
    group.command()(plan)
    app.add_typer(group, name="bench")
