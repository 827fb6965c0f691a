"""Plans of a profile, and of a notebook's config: the one on paper, the other on the machine at hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rrlib.chain.from_profile import grpo_settings, launch_of, sft_settings
from rrlib.chain.manifest import outputs_root
from rrlib.chain.params import Config, load_profile
from rrlib.chain.training import config_of, example_count
from rrlib.plans.training import GIB, Plan, device_memory, plan_grpo, plan_sft
from rrlib.training.launch import Launch


def plan_of(
    config: Config, model: str | Path, *, launch: Launch | None = None, gpu_memory: float = 0.0, examples: int = 0
) -> Plan:
    """The plan of a training stage. gpu_memory: GiB of one GPU; 0 = as the config says, and where that is 0 too, as
    this machine has. Where processes share one memory (no GPU), each has its part of it."""
    spread = launch or launch_of(config)
    memory = (gpu_memory or float(config.gpu_memory)) * GIB or _here(spread)
    if config.stage == "02_sft":
        return plan_sft(sft_settings(config), model, spread, memory, examples)
    return plan_grpo(grpo_settings(config), model, spread, memory)


def _here(launch: Launch) -> float:
    import torch

    return device_memory() / (1 if torch.cuda.is_available() else launch.processes)


def plans_of(
    profile: str | Path, *, gpu_memory: float = 0.0, processes: int = 0, examples: int = 0
) -> tuple[Plan, Plan]:
    """The plans of SFT and GRPO of a profile. examples: 0 = those that the profile's run has, where it has any."""
    loaded = load_profile(profile)
    sft, grpo = config_of(loaded, "02_sft"), config_of(loaded, "03_rl")
    known = examples or example_count(outputs_root() / loaded.name)
    count = min(known, sft.sft_examples) if sft.sft_examples and known else known
    first, second = (
        plan_of(
            config,
            sft.model,
            launch=replace(launch_of(config), processes=processes) if processes else None,
            gpu_memory=gpu_memory,
            examples=count,
        )
        for config in (sft, grpo)
    )
    return first, second
