"""What each stage of the chain does: one function a stage, and what it reads from the stages before it.

    synthesis   01   a teacher is asked about each query, or foreign examples are imported
    sft         02   imitation of the teacher, from the profile's model
    rl          03   GRPO with the multi-view reward, from the checkpoint of 02
    evaluation  04   systems on benchmarks, compared query by query (06 too)

The notebooks, `rrlib train` (`train_stage` below), the rows of the ablations and notebook 06 call these four with a
config each, so a parameter means the same wherever it is set. Inputs and output folders are arguments: a stage of a
run has its own, a row of a table shares what it can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rrlib.chain.from_profile import (
    KINDS,
    asking_of,
    config_of,
    corpus_folder,
    grpo_settings,
    launch_of,
    reward_of,
    sft_settings,
    sizes_of,
    spread_of,
)
from rrlib.chain.manifest import Stage, identity, open_stage, outputs_root, stage_state
from rrlib.chain.params import STAGES, Config, load_profile
from rrlib.disk import read_json, write_json
from rrlib.errors import VLLM_ON_A_CPU, InputError, missing_extra
from rrlib.evaluation.benchmarks import BenchmarkData, from_collection, load_benchmark
from rrlib.evaluation.experiment import Experiment
from rrlib.evaluation.registry import expand
from rrlib.evaluation.results import ExperimentResult
from rrlib.formats import Collection, read_collection, read_examples
from rrlib.reward import MultiViewReward
from rrlib.synthesis.export import import_examples
from rrlib.synthesis.pipeline import Progress, synthesize
from rrlib.synthesis.results import SynthesisResult
from rrlib.training.launch import Launch, progress, train
from rrlib.training.resume import TrainResult, load_result
from rrlib.training.trainer import OnLog
from rrlib.types import RankingExample

Echo = Callable[[str], None]
_POINTER = "collection.json"
TRAINS_WITH = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
"""The packages of the extra `train` without which 02 and 03 cannot start."""


# --- 01 --------------------------------------------------------------------------------------------------------------


def open_corpus(stage: Stage, ref: str, options: Mapping[str, Any] | None = None, **sizes: Any) -> Path:
    """The collection folder that `ref` stands for (see corpus_folder); later stages find it by `collection_of`.

    A callable writes it inside the stage. Raises InputError when it cannot be had.
    """
    own = stage.path("collection")
    folder = corpus_folder(ref, own, seed=stage.parameters["seed"], options=options, **sizes)
    write_json(stage.path(_POINTER), {"reference": ref, "folder": "collection" if folder == own else str(folder)})
    return folder


def synthesis(
    config: Config,
    source: Collection,
    client: Any,
    output: Path,
    *,
    split: str = "train",
    limit: int = 0,
    alpha: float | None = None,
    progress: Progress | None = None,
) -> SynthesisResult:
    """01: training examples of a collection's split in `output`; what was answered there before is not asked again.

    client: of `teacher_of`; where the config imports examples nobody is asked. limit: queries (or imported examples);
    0 = as many as the config says. alpha: of the filter; None = the config's. Raises what `synthesize` and
    `import_examples` raise.
    """
    threshold = config.alpha if alpha is None else alpha
    if config.import_from:
        many = limit or config.import_limit or None
        return import_examples(config.import_from, output, alpha=threshold, k=config.consistency_k, limit=many)
    return synthesize(
        source,
        client,
        output,
        split=split,
        limit=limit or config.train_queries or None,
        alpha=threshold,
        k=config.consistency_k,
        style=config.style,
        concurrency=config.concurrency,
        budget=config.budget or None,
        progress=progress,
        **asking_of(config),
    )


# --- 02 and 03 -------------------------------------------------------------------------------------------------------


def examples_of(run_dir: Path, config: Config) -> list[RankingExample]:
    """The examples that 01_synthesis left, as many as the stage uses, from the first on."""
    limit = config.rl_examples if config.stage == "03_rl" else config.sft_examples
    return read_examples(run_dir / "01_synthesis" / "teacher" / "examples.jsonl")[: limit or None]


def checkpoint_of(run_dir: Path, stage: str) -> Path:
    """Where 02_sft or 03_rl leaves its checkpoint."""
    return run_dir / stage / KINDS[stage] / "checkpoint"


def start_of(run_dir: Path, config: Config) -> str:
    """Where the stage starts: the profile's model for SFT, the checkpoint of SFT for GRPO."""
    return str(checkpoint_of(run_dir, "02_sft") if config.stage == "03_rl" else config.model)


def sft(
    config: Config,
    examples: Sequence[RankingExample],
    model: str | Path,
    output: Path,
    *,
    launch: Launch | None = None,
    on_log: OnLog | None = None,
    echo: Echo = print,
) -> TrainResult:
    """02: supervised fine-tuning of `model` on the examples' chains and lists.

    launch: None = as the config says. on_log, echo: rows of the log, and lines of the workers, as they come. Killed
    and called again, it goes on; finished and called again, it hands back what is there. Raises what `train` raises.
    """
    return train(
        sft_settings(config),
        examples,
        model,
        output,
        style=config.style,
        launch=launch or launch_of(config),
        on_log=on_log,
        echo=echo,
    )


def rl(
    config: Config,
    examples: Sequence[RankingExample],
    model: str | Path,
    output: Path,
    *,
    reward: MultiViewReward | None = None,
    launch: Launch | None = None,
    on_log: OnLog | None = None,
    echo: Echo = print,
) -> TrainResult:
    """03: GRPO from `model` on the examples' prompts and labels, otherwise as `sft`. reward: None = the config's."""
    return train(
        grpo_settings(config),
        examples,
        model,
        output,
        style=config.style,
        reward=reward or reward_of(config),
        launch=launch or launch_of(config),
        on_log=on_log,
        echo=echo,
    )


def metrics_of(result: TrainResult) -> dict[str, float | int]:
    """Numbers for metrics.json: examples used and left out, first and last loss and reward, where they were logged."""
    numbers: dict[str, float | int] = {"examples": result.n_examples, "left_out_as_too_long": result.dropped}
    for key in ("loss", "reward"):
        values = [float(row[key]) for row in result.log if key in row]
        if values:
            numbers |= {f"first_{key}": values[0], f"last_{key}": values[-1]}
    return numbers


def stage_of(kind: str) -> str:
    """The stage that trains by `sft` or `grpo`. Raises InputError for another word."""
    for stage, trains_by in KINDS.items():
        if trains_by == kind:
            return stage
    raise InputError(f"no training {kind!r}", remedy=f"use one of {', '.join(KINDS.values())}")


def check_packages(config: Config) -> None:
    """Raises MissingPackageError where a package that the stage trains with is not installed. To be asked before a
    stage is opened, for that puts away what was finished there with other settings."""
    if config.stage not in KINDS:
        return
    missing = [name for name in TRAINS_WITH if find_spec(name) is None]
    if missing:
        raise missing_extra(missing[0], "train", needed_by=f"training ({config.stage})")
    if config.as_dict().get("use_vllm") and find_spec("vllm") is None:
        otherwise = f"{VLLM_ON_A_CPU}; or set use_vllm: false"
        raise missing_extra("vllm", "vllm", needed_by="use_vllm", otherwise=otherwise)


def train_stage(
    kind: str,
    profile: str | Path,
    *,
    name: str | None = None,
    fresh: bool = False,
    finish: bool = True,
    launch: Launch | None = None,
    processes: int = 0,
    echo: Echo = print,
) -> TrainResult:
    """Stage 02 (`sft`) or 03 (`grpo`) of a profile without its notebook, for clusters where nobody opens one.

    Parameters
    ----------
    name: of the run; default: the profile's.
    fresh: start the stage over.
    finish: write the stage's manifest at the end. Without it the stage stays open: `rrlib run` then executes its
        notebook, which finds the training done and draws its figures.
    launch: machines (nodes, node, address, port); the rest of it, and what is left out, is as the profile says.
    processes: on this machine; 0 = as the profile says.

    Raises ProfileError, InputError and StageError as `rrlib run` does, MissingPackageError before any folder is
    touched; what was begun goes on where it stopped.
    """
    stage_name, loaded = stage_of(kind), load_profile(profile)
    config = config_of(loaded, stage_name, name or loaded.name)
    run_dir, spread = outputs_root() / config.run, spread_of(config, launch, processes)
    output, inputs = run_dir / stage_name / kind, STAGES[stage_name]
    stage: Stage | None = None
    if spread.node == 0:
        match = identity(run_dir, stage_name, config.as_dict(), inputs)
        if not fresh and stage_state(run_dir, stage_name, match)[0] == "finished":
            echo(f"{stage_name} of run {config.run} is finished and unchanged; --fresh trains it again")
            return load_result(output)
        check_packages(config)
        stage = open_stage(run_dir, stage_name, config.as_dict(), inputs, fresh=fresh)
    result = {"sft": sft, "grpo": rl}[kind](
        config,
        examples_of(run_dir, config),
        start_of(run_dir, config),
        output,
        launch=spread,
        on_log=(lambda row: echo(progress(row))) if spread.total == 1 else None,
        echo=echo,
    )
    if stage is not None and finish:
        echo(stage.finish(**metrics_of(result), trained_by="rrlib train"))
    return result


# --- 04 --------------------------------------------------------------------------------------------------------------


def collection_of(stage: Stage, split: str) -> Collection:
    """One split of the collection that 01_synthesis opened, read from a later stage."""
    pointer = read_json(stage.input("01_synthesis", _POINTER))
    return read_collection(stage.run_dir / "01_synthesis" / pointer["folder"], split)


def evaluation_data(stage: Stage, config: Config) -> list[BenchmarkData]:
    """The benchmarks that the config names, or the test split of the chain's collection, its validation split beside
    it; only the first `queries` of each (0 = all). Benchmarks set the stage's data kind."""
    sizes, names = sizes_of(config), config.as_dict().get("benchmarks")
    if names:
        loading = {"root": config.data_root or None, "first_stage": config.first_stage, "fetch": config.fetch}
        named = [load_benchmark(name, **loading, **sizes).limited(config.queries) for name in expand(names)]
        kinds = {data.data_kind for data in named}
        # not that of the checkpoints' training; a mixture is called by what is least real in it
        stage.data_kind = next(kind for kind in ("simulated", "synthetic", "real") if kind in kinds)
        return named
    try:
        validation = collection_of(stage, "validation")
    except InputError:
        validation = None
    return [from_collection(collection_of(stage, "test"), validation, **sizes).limited(config.queries)]


def chain_checkpoints(stage: Stage, config: Config) -> dict[str, str]:
    """name -> checkpoint: those of the profile, or the chain's three (before training, after SFT, after SFT and RL), on
    whatever benchmarks. Raises StageError where a checkpoint of the chain is missing."""
    if config.checkpoints:
        return dict(config.checkpoints)
    return {
        "backbone": config.model,
        "sft": str(stage.input("02_sft", "sft", "checkpoint")),
        "sft+rl": str(stage.input("03_rl", "grpo", "checkpoint")),
    }


def evaluation(
    config: Config,
    systems: Mapping[str, Any],
    data: BenchmarkData | Sequence[BenchmarkData],
    output: Path,
    *,
    echo: Echo | None = print,
    **changes: Any,
) -> ExperimentResult:
    """04: rank the candidates by every system and compare them with the first, by the config's metrics and resamples.

    output: keeps windows, rankings and tables; called again, it goes on there. changes: other arguments of Experiment.
    Raises InputError, before any model is loaded, that lists all that is wrong.
    """
    options = {"seed": config.seed, "resamples": config.resamples, "profile": config.profile}
    return Experiment(systems, data, **{"metrics": config.metrics, **options, **changes}, output=output, echo=echo)
