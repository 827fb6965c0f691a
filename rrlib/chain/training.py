"""A training stage of the chain without its notebook: what `rrlib train` does, for clusters where nobody opens one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rrlib.chain.from_profile import KINDS, launch_of, reward_of, settings_of
from rrlib.chain.manifest import Stage, open_stage, outputs_root, stage_state
from rrlib.chain.params import STAGES, Config, Profile, load_profile
from rrlib.disk import read_json
from rrlib.errors import InputError
from rrlib.training.launch import Launch, train
from rrlib.training.resume import TrainResult, load_result
from rrlib.types import RankingExample

FOLDERS = {"02_sft": "sft", "03_rl": "grpo"}
"""Stage -> folder of its training, where the notebook looks for it too."""


def stage_of(kind: str) -> str:
    """The stage that trains by `sft` or `grpo`. Raises InputError for another word."""
    for stage, known in KINDS.items():
        if known == kind:
            return stage
    raise InputError(f"no training {kind!r}", remedy=f"use one of {', '.join(KINDS.values())}")


def config_of(profile: Profile, stage: str, run: str | None = None) -> Config:
    """The parameters of a stage as the notebook's `config` would hold them."""
    return Config(stage, profile.parameters(stage, run=run))


def train_stage(
    kind: str,
    profile: str | Path,
    *,
    name: str | None = None,
    fresh: bool = False,
    finish: bool = True,
    launch: Launch | None = None,
    processes: int = 0,
    echo: Callable[[str], None] = print,
) -> TrainResult:
    """Train stage 02 (`sft`) or 03 (`grpo`) of a profile, in its run folder, as its notebook would.

    Parameters
    ----------
    name: of the run; default: the profile's.
    fresh: start the stage over.
    finish: write the stage's manifest at the end. Without it the stage stays open: `rrlib run` then executes its
        notebook, which finds the training done and draws its figures.
    launch: machines (nodes, node, address, port); the rest of it, and what is left out, is as the profile says.
    processes: on this machine; 0 = as the profile says.

    Raises ProfileError, InputError and StageError as `rrlib run` does; what was begun goes on where it stopped.
    """
    stage_name, loaded = stage_of(kind), load_profile(profile)
    config = config_of(loaded, stage_name, name or loaded.name)
    settings, run_dir = settings_of(config), outputs_root() / config.run
    spread = spread_of(config, launch, processes)
    output = run_dir / stage_name / FOLDERS[stage_name]
    first = spread.node == 0
    stage: Stage | None = None
    if first:
        if not fresh and _finished(run_dir, stage_name, config):
            echo(f"{stage_name} of run {config.run} is finished and unchanged; --fresh trains it again")
            return load_result(output)
        stage = open_stage(run_dir, stage_name, config.as_dict(), STAGES[stage_name], fresh=fresh)
    result = train(
        settings,
        examples_of(run_dir, config),
        model_of(run_dir, config),
        output,
        style=config.style,
        reward=reward_of(config) if kind == "grpo" else None,
        launch=spread,
        on_log=_printer(echo) if spread.total == 1 else None,
        echo=echo,
    )
    if stage is not None and finish:
        echo(stage.finish(**metrics_of(result)))
    return result


def _finished(run_dir: Path, stage: str, config: Config) -> bool:
    from rrlib.chain.manifest import identity

    match = identity(run_dir, stage, config.as_dict(), STAGES[stage])
    return stage_state(run_dir, stage, match)[0] == "finished"


def spread_of(config: Config, launch: Launch | None, processes: int = 0) -> Launch:
    """The profile's processes (or as many as are named) and sharding, on the machines that the command line names."""
    ours = launch_of(config)
    return replace(launch or ours, processes=processes or ours.processes, accelerate=ours.accelerate)


def examples_of(run_dir: Path, config: Config) -> list[RankingExample]:
    """The examples that 01_synthesis left, as many as the stage uses."""
    from rrlib.formats import read_examples

    limit = config.sft_examples if config.stage == "02_sft" else config.rl_examples
    return read_examples(run_dir / "01_synthesis" / "teacher" / "examples.jsonl")[: limit or None]


def model_of(run_dir: Path, config: Config) -> str:
    """Where the stage starts: the profile's model for SFT, the checkpoint of SFT for GRPO."""
    return str(config.model) if config.stage == "02_sft" else str(run_dir / "02_sft" / "sft" / "checkpoint")


def metrics_of(result: TrainResult) -> dict[str, float | int | str]:
    """Numbers for metrics.json: first and last loss or reward."""
    found: dict[str, float | int | str] = {"examples": result.n_examples, "trained_by": "rrlib train"}
    found["left_out_as_too_long"] = result.dropped
    for key in ("loss", "reward"):
        values = [float(row[key]) for row in result.log if key in row]
        if values:
            found |= {f"first_{key}": values[0], f"last_{key}": values[-1]}
    return found


def _printer(echo: Callable[[str], None]) -> Callable[[dict[str, object]], None]:
    from rrlib.training.launch import progress

    return lambda row: echo(progress(row))


def example_count(run_dir: Path) -> int:
    """Examples that the synthesis of a run kept, 0 where it has not run."""
    manifest = read_json(run_dir / "01_synthesis" / "manifest.json")
    path = run_dir / "01_synthesis" / "teacher" / "examples.jsonl"
    if manifest is None or not path.is_file():
        return 0
    with path.open("rb") as lines:
        return sum(1 for _ in lines)
