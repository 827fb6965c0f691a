"""Settings of both stages from the parameters of a notebook: one flat name, one setting.

A parameter of 02_sft or 03_rl that is named like a field of the settings is that field. Where both stages have it with
another value, 03_rl has its own with `rl_` before it (rl_learning_rate). What the cells once spelled out stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rrlib.chain.params import Config
from rrlib.errors import InputError
from rrlib.prompts import get_style
from rrlib.reward import MultiViewReward
from rrlib.training.config import GRPOSettings, SFTSettings
from rrlib.training.launch import Launch

KINDS: Mapping[str, str] = {"02_sft": "sft", "03_rl": "grpo"}
"""Stage of the chain -> kind of training."""

_SETTINGS: Mapping[str, type[SFTSettings] | type[GRPOSettings]] = {"02_sft": SFTSettings, "03_rl": GRPOSettings}
_REWARD = ("reward_k", "reward_weights", "rbo_p", "style")
_LAUNCH = ("processes", "accelerate")


def read_parameters(stage: str, declared: Mapping[str, Any]) -> set[str]:
    """Which of a notebook's parameters the functions below read (what a cell need not name itself)."""
    if stage not in _SETTINGS:
        return set()
    names = set(_by_field(stage, declared).values()) | set(_LAUNCH) | {"gpu_memory"}
    return (names | (set(_REWARD) if stage == "03_rl" else set())) & set(declared)


def _by_field(stage: str, declared: Mapping[str, Any]) -> dict[str, str]:
    """Field of the settings -> the parameter that gives it."""
    found = {}
    for field in fields(_SETTINGS[stage]):
        names = [name for name in (f"rl_{field.name}", field.name) if name in declared]
        if names:
            found[field.name] = names[0]
    return found


def settings_of(config: Config) -> SFTSettings | GRPOSettings:
    """The settings of a training stage. Raises InputError for values that no training can have, or another stage."""
    if config.stage not in _SETTINGS:
        raise InputError(f"stage {config.stage} trains nothing", remedy=f"use one of {', '.join(_SETTINGS)}")
    values = config.as_dict()
    return _SETTINGS[config.stage](**{field: values[name] for field, name in _by_field(config.stage, values).items()})


def sft_settings(config: Config) -> SFTSettings:
    """The settings of 02_sft."""
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
    """How many processes train, and how they share the weights."""
    return Launch(processes=config.processes, accelerate=config.accelerate)
