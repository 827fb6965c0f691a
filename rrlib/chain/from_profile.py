"""What a profile names, as things: corpus, teacher, settings of the trainings, reward, systems, and plans on paper.

A parameter that is named like a field of a training's settings is that field. Where both trainings have it with
another value, 03_rl has its own with `rl_` before it (rl_learning_rate). A corpus is a folder or a `module:callable`
that writes one; a teacher is a `module:callable` or the base URL of an OpenAI-compatible server. Nothing here knows
which corpus, teacher or checkpoint it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rrlib.chain.manifest import outputs_root
from rrlib.chain.params import Config, Profile, load_profile
from rrlib.disk import read_json
from rrlib.engines.base import Decoding
from rrlib.errors import InputError
from rrlib.evaluation.systems import Listwise, Pointwise
from rrlib.formats import read_collection, read_examples
from rrlib.plans.evaluation import PaperPlan, paper_plan
from rrlib.plans.synthesis import SIMULATED
from rrlib.plans.training import GIB, IN_THE_DATA, Plan, device_memory, plan_grpo, plan_sft
from rrlib.prompts import get_style
from rrlib.resources import load_callable, resolve
from rrlib.reward import MultiViewReward
from rrlib.synthesis.teacher.prices import price_for
from rrlib.templates import template_facts
from rrlib.training.config import GRPOSettings, SFTSettings
from rrlib.training.launch import Launch
from rrlib.types import RankingExample

KINDS: Mapping[str, str] = {"02_sft": "sft", "03_rl": "grpo"}
"""Stage of the chain -> kind of training; also the name of its training's folder."""

_SETTINGS: Mapping[str, type[SFTSettings] | type[GRPOSettings]] = {
    "02_sft": SFTSettings,
    "03_rl": GRPOSettings,
    "06_efficiency": SFTSettings,
}
_FIXED: Mapping[str, Mapping[str, Any]] = {"06_efficiency": {"accumulation": 1, "gradient_checkpointing": False}}
"""Stage -> settings that its notebook does not offer, and that differ from the paper's."""

_LAUNCH = ("processes", "accelerate")
_SIZES = ("window", "stride", "depth", "max_passage_tokens")
_SYSTEMS = ("style", "engine", "engine_options", "max_new_tokens", "temperature", "top_p", "top_k", *_SIZES)
_EXPERIMENT = ("metrics", "seed", "resamples", "profile")
_READ: Mapping[str, tuple[str, ...]] = {
    "01_synthesis": (
        *("window", "max_new_tokens", "temperature", "concurrency", "style", "budget", "consistency_k", "alpha"),
        *("teacher", "teacher_model", "teacher_options", "teacher_price", "import_from", "import_limit"),
        "train_queries",
    ),
    "02_sft": (*_LAUNCH, "gpu_memory", "sft_examples", "style"),
    "03_rl": (*_LAUNCH, "gpu_memory", "rl_examples", "style", "reward_k", "reward_weights", "rbo_p"),
    "04_evaluation": (
        *(*_SYSTEMS, *_EXPERIMENT, "model", "checkpoints", "benchmarks"),
        *("data_root", "first_stage", "fetch", "queries"),
    ),
    "06_efficiency": (*_SYSTEMS, *_EXPERIMENT, "queries", "sft_examples"),
}
"""Stage -> the parameters that this module and rrlib.chain.stages read, beside the fields of the settings."""


def read_parameters(stage: str, declared: Mapping[str, Any]) -> set[str]:
    """Which of a notebook's parameters the functions of the chain read (what a cell need not name itself)."""
    fields_read = set(_by_field(stage, declared).values()) if stage in _SETTINGS else set()
    return (fields_read | set(_READ.get(stage, ()))) & set(declared)


def config_of(profile: Profile, stage: str, run: str | None = None) -> Config:
    """The parameters of a stage as the notebook's `config` would hold them."""
    return Config(stage, profile.parameters(stage, run=run))


# --- synthesis -------------------------------------------------------------------------------------------------------


def corpus_folder(ref: str, own: Path, *, seed: int, options: Mapping[str, Any] | None = None, **sizes: Any) -> Path:
    """The collection folder that `ref` stands for: itself, or `own`, where a callable has written it.

    ref: a folder, `package:module/folder`, or `module:callable`, called once as callable(own, seed=seed, **sizes,
    **options). Raises InputError when it cannot be had.
    """
    if ":" not in ref or ref.startswith("package:"):
        return Path(resolve(ref)).resolve()
    if not (own / "SOURCE.json").is_file():
        load_callable(ref)(own, seed=seed, **sizes, **dict(options or {}))
    return own


def open_teacher(
    ref: str, folder: Path, *, seed: int, model: str = "", options: Mapping[str, Any] | None = None
) -> Any:
    """The chat client that `ref` stands for: an OpenAI-compatible base URL (with `model`), or `module:callable`.

    A callable is called as callable(folder, seed=seed, **options), folder being the collection's.
    """
    if ref.startswith(("http://", "https://")):
        from rrlib.engines.client import OpenAIClient

        if not model:
            raise InputError("a teacher behind a base URL needs a model", remedy="set teacher_model in the profile")
        return OpenAIClient(ref, model, **dict(options or {}))
    return load_callable(ref)(folder, seed=seed, **dict(options or {}))


def teacher_of(config: Config, folder: Path) -> Any:
    """The chat client of 01_synthesis over a collection folder; None where examples are imported."""
    if config.import_from:
        return None
    return open_teacher(
        config.teacher, folder, seed=config.seed, model=config.teacher_model, options=config.teacher_options
    )


def asking_of(config: Config) -> dict[str, Any]:
    """What the teacher is asked, and by which rules: arguments of `synthesize` and of its plan."""
    return {
        "window": config.window,
        "seed": config.seed,
        "decoding": Decoding(max_new_tokens=config.max_new_tokens, temperature=config.temperature),
        "price": price_for(config.teacher_model, config.teacher_price),
    }


# --- trainings -------------------------------------------------------------------------------------------------------


def _by_field(stage: str, declared: Mapping[str, Any]) -> dict[str, str]:
    """Field of the settings -> the parameter that gives it."""
    parameter_of = {}
    for field in fields(_SETTINGS[stage]):
        names = [name for name in (f"rl_{field.name}", field.name) if name in declared]
        if names:
            parameter_of[field.name] = names[0]
    return parameter_of


def settings_of(config: Config) -> SFTSettings | GRPOSettings:
    """The settings of a training stage. Raises InputError for values that no training can have, or another stage."""
    if config.stage not in _SETTINGS:
        raise InputError(f"stage {config.stage} trains nothing", remedy=f"use one of {', '.join(_SETTINGS)}")
    values = config.as_dict()
    given = {field: values[name] for field, name in _by_field(config.stage, values).items()}
    return _SETTINGS[config.stage](**{**_FIXED.get(config.stage, {}), **given})


def sft_settings(config: Config) -> SFTSettings:
    """The settings of 02_sft, or of the trainings of 06_efficiency."""
    settings = settings_of(config)
    assert isinstance(settings, SFTSettings)
    return settings


def grpo_settings(config: Config) -> GRPOSettings:
    """The settings of 03_rl."""
    settings = settings_of(config)
    assert isinstance(settings, GRPOSettings)
    return settings


def reward_of(config: Config) -> MultiViewReward:
    """The reward of 03_rl: cut-off, weights, persistence, and a think block where the prompt style has one."""
    return MultiViewReward(
        k=config.reward_k, weights=config.reward_weights, p=config.rbo_p, think=get_style(config.style).think
    )


def launch_of(config: Config) -> Launch:
    """How many processes train, and how they share the weights; one where the stage has no such parameters."""
    values = config.as_dict()
    return Launch(**{name: values[name] for name in _LAUNCH if name in values})


def spread_of(config: Config, launch: Launch | None, processes: int = 0) -> Launch:
    """The profile's processes (or as many as are named) and sharding, on the machines that the command line names."""
    ours = launch_of(config)
    return replace(launch or ours, processes=processes or ours.processes, accelerate=ours.accelerate)


# --- systems ---------------------------------------------------------------------------------------------------------


def sizes_of(config: Config) -> dict[str, Any]:
    """window, stride, depth and max_passage_tokens of an evaluation; what is 0 keeps the benchmark's own."""
    values = config.as_dict()
    return {name: values[name] for name in _SIZES if values[name]}


def listwise_of(config: Config, model: str | Path, **changes: Any) -> Listwise:
    """A checkpoint as a listwise system on the stage's engine. changes: other fields of Listwise."""
    return Listwise(**{"model": str(model), "style": config.style, **_asked(config), **changes})


def pointwise_of(config: Config, model: str | Path, **changes: Any) -> Pointwise:
    """A checkpoint as a pointwise system on the stage's engine. changes: other fields of Pointwise."""
    return Pointwise(**{"model": str(model), **_asked(config), **changes})


def _asked(config: Config) -> dict[str, Any]:
    values = config.as_dict()
    return {
        "engine": values.get("engine", "transformers"),
        "engine_options": config.engine_options,
        "decoding": _decoding(values),
    }


def _decoding(values: Mapping[str, Any]) -> Decoding:
    """Greedy where the stage has no temperature; what is sampled is drawn with the run's seed."""
    temperature = values.get("temperature", 0.0)
    cut = {name: values[name] for name in ("top_p", "top_k") if name in values}
    return Decoding(values["max_new_tokens"], temperature, **cut, seed=values["seed"] if temperature else None)


# --- plans -----------------------------------------------------------------------------------------------------------


def plan_of(
    config: Config,
    model: str | Path,
    *,
    launch: Launch | None = None,
    gpu_memory: float = 0.0,
    examples: int = 0,
    longest: int = 0,
    of: str = IN_THE_DATA,
) -> Plan:
    """The plan of a training stage. gpu_memory: GiB of one GPU; 0 = as the config says, and where that is 0 too, as
    this machine has. Where processes share one memory (no GPU), each has its part of it. longest: tokens of the
    longest row of the data (02: prompt and response; 03: prompt); 0 = not known, the plan is for the limit. of: what
    it is the longest of, in words."""
    spread = launch or launch_of(config)
    memory = (gpu_memory or float(config.gpu_memory)) * GIB or _memory_here(spread)
    if config.stage == "02_sft":
        return plan_sft(sft_settings(config), model, spread, memory, examples, longest, of)
    return plan_grpo(grpo_settings(config), model, spread, memory, longest, of)


def _memory_here(launch: Launch) -> float:
    import torch

    return device_memory() / (1 if torch.cuda.is_available() else launch.processes)


def plans_of(
    profile: str | Path, *, gpu_memory: float = 0.0, processes: int = 0, examples: int = 0
) -> tuple[Plan, ...]:
    """The plans of SFT and GRPO, as far as the profile runs them. examples: 0 = those that its run has, if any.

    Rows count with the longest of that run; where nothing is made yet and the teacher costs nothing, of a few lists
    made for it; else with the most that the profile allows.
    """
    loaded = load_profile(profile)
    trainings = [stage for stage in KINDS if stage in loaded.stages]
    if not trainings:
        return ()
    sft = config_of(loaded, "02_sft")
    longest, of = _lengths_of(loaded, sft)
    available = examples or _examples_made(outputs_root() / loaded.name)
    count = min(available, sft.sft_examples) if sft.sft_examples and available else available
    configs = [config_of(loaded, stage) for stage in trainings]
    return tuple(
        plan_of(
            config,
            sft.model,
            launch=replace(launch_of(config), processes=processes) if processes else None,
            gpu_memory=gpu_memory,
            examples=count,
            longest=longest[config.stage],
            of=of,
        )
        for config in configs
    )


_LISTS = 200
"""Lists that are made for a plan, to see how long rows are."""


def _lengths_of(profile: Profile, sft: Config) -> tuple[dict[str, int], str]:
    """(tokens of the longest row by stage, as plan_of takes them, 0 where unknown; what they are the longest of)."""
    from rrlib.engines.hf import load_tokenizer
    from rrlib.prompts import PromptBuilder
    from rrlib.training.data import Limits, encode_examples

    examples, of = _examples_at_hand(profile)
    nothing = dict.fromkeys(KINDS, 0)
    if not examples:
        return nothing, of
    try:
        tokenizer = load_tokenizer(str(sft.model), here=True)
        builder = PromptBuilder(tokenizer, sft.style, sft_settings(sft).max_passage_tokens)
        rows = encode_examples(examples, tokenizer, builder, Limits(*[1 << 30] * 3), target=lambda *_: []).rows
    except InputError:  # no tokenizer here, or lists that this style cannot be taught with
        return nothing, of
    both = max(len(row.prompt_ids) + len(row.response_ids) for row in rows)
    return {"02_sft": both, "03_rl": max(len(row.prompt_ids) for row in rows)}, of


def _examples_at_hand(profile: Profile) -> tuple[list[RankingExample], str]:
    """(lists of the profile's run, or some made now where that costs nothing, or none; what they are, in words)."""
    path = outputs_root() / profile.name / "01_synthesis" / "teacher" / "examples.jsonl"
    if _examples_made(outputs_root() / profile.name):
        return read_examples(path), f"of the run {profile.name}"
    config = config_of(profile, "01_synthesis")
    if config.teacher != SIMULATED or config.import_from or "01_synthesis" not in profile.stages:
        return [], ""
    from rrlib.synthesis.pipeline import synthesize

    sizes = {"train": min(config.train_queries or _LISTS, _LISTS), "validation": 1, "test": 1, "pool": config.pool}
    with TemporaryDirectory() as made:
        options = config.corpus_options
        folder = corpus_folder(config.corpus, Path(made, "collection"), seed=config.seed, options=options, **sizes)
        client, asked = teacher_of(config, folder), {"style": config.style, **asking_of(config)}
        result = synthesize(read_collection(folder, "train"), client, Path(made, "teacher"), limit=_LISTS, **asked)
        examples = read_examples(result.examples)
    return examples, f"of {len(examples)} lists made for this plan"


def evaluations_of(
    profile: str | Path,
    *,
    model: str = "",
    gpus: int = 0,
    gpu_gb: float = 0.0,
    gpu_memory: float = 0.0,
    benchmarks_needed: bool = False,
) -> list[PaperPlan]:
    """What 04_evaluation of a profile will take, a plan for each of its checkpoints, or for the model that it trains.

    Where it names no benchmarks it is of one query, or refused if they are needed. model: instead of the profile's.
    gpus: 0 = tensor_parallel_size of its engine. gpu_gb: GB of one GPU; 0 = gpu_memory (GiB), the profile's (where it
    trains nothing, as its `hardware` says), or this machine's. None where the profile does not run 04_evaluation and
    no benchmarks are needed. Raises as `paper_plan`.
    """
    loaded = load_profile(profile)
    if "04_evaluation" not in loaded.stages and not benchmarks_needed:
        return []
    config = config_of(loaded, "04_evaluation")
    if benchmarks_needed and not config.benchmarks:
        remedy = "set `benchmarks`; `rrlib plan` counts one query of its own collection"
        raise InputError("its 04_evaluation names no benchmarks", path=profile, remedy=remedy)
    sizes = {name: getattr(config, name) for name in (*_SIZES, "max_new_tokens", "queries")}
    given = gpu_memory * GIB / 1e9 or _memory_named(loaded)
    memory = gpu_gb or given or _memory_here(Launch()) / 1e9
    together = gpus or int(config.engine_options.get("tensor_parallel_size", 1))
    models = [model] if model else dict.fromkeys(map(str, config.checkpoints.values())) or [str(config.model)]
    names = list(config.benchmarks)
    return [paper_plan(names, model=name, gpus=together, gpu_gb=memory, **sizes) for name in models]


def _memory_named(profile: Profile) -> float:
    """GB of one GPU that a profile names: for its trainings, or where it has none in its `hardware`; 0: in neither."""
    if "02_sft" in profile.stages:
        return float(config_of(profile, "02_sft").gpu_memory) * GIB / 1e9
    named = re.search(r"GPUs? of (\d+) GB", profile.hardware)
    return float(named[1]) if named else 0.0


def template_line(profile: str | Path) -> str:
    """What the chat template of a profile's model does, in a line; where its tokenizer is not at hand, it says so. Of a
    profile that neither trains nor evaluates, what there is instead of a plan."""
    from rrlib.engines.hf import load_tokenizer

    loaded = load_profile(profile)
    stage = next((stage for stage in ("02_sft", "04_evaluation") if stage in loaded.stages), "")
    if not stage:
        base = str(loaded.parameters(loaded.stages[-1]).get("base", ""))
        instead = f"; its rows are trained as {base} is -> rrlib plan params/{base}.yaml" if base else ""
        return f"{', '.join(loaded.stages)}: no training and no evaluation of its own to plan{instead}"
    config = config_of(loaded, stage)
    model = str(next(iter(config.as_dict().get("checkpoints", {}).values()), config.model))
    try:
        tokenizer = load_tokenizer(model, here=True)
    except InputError:
        return f"chat template of {model}: not looked at, its tokenizer is not on this machine"
    return f"chat template of {model}: {template_facts(tokenizer)}"


def _examples_made(run_dir: Path) -> int:
    """Examples that the synthesis of a run kept, 0 where it has not run."""
    path = run_dir / "01_synthesis" / "teacher" / "examples.jsonl"
    if read_json(run_dir / "01_synthesis" / "manifest.json") is None or not path.is_file():
        return 0
    with path.open("rb") as lines:
        return sum(1 for _ in lines)
