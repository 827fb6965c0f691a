"""How many updates, of how many rows: the arithmetic of both stages, on paper.

transformers counts optimiser updates, the paper counts GRPO's rollout batches, and TRL splits a rollout batch by
processes and passes. All of it is worked out here, so that a profile can be held against the paper without a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rrlib.errors import InputError

if TYPE_CHECKING:
    from rrlib.training.config import GRPOSettings, SFTSettings


@dataclass(frozen=True, slots=True)
class Batches:
    """TRL's batch algebra for our settings.

    accumulation: forward passes per update; per_generation: forward passes per rollout batch; max_steps: optimiser
    updates in all; save_steps and logging_steps count updates too and fall on generation boundaries, the only places
    where a resume is exact and where the reward is logged.
    """

    accumulation: int
    per_generation: int
    max_steps: int
    save_steps: int
    logging_steps: int


def batches(settings: GRPOSettings, processes: int = 1) -> Batches:
    """Raises InputError when the completions of an update do not split evenly over processes and micro-batches."""
    update = settings.prompts * settings.rollouts // settings.updates
    pass_size = settings.micro_batch * processes
    if update % pass_size:
        raise InputError(
            f"an update of {update} completions does not split into passes of {settings.micro_batch} on "
            f"{processes} processes",
            remedy=f"choose a micro_batch that divides {update // processes if update % processes == 0 else update}",
        )
    accumulation = update // pass_size
    return Batches(
        accumulation,
        accumulation * settings.updates,
        settings.steps * settings.updates,
        settings.save_every * settings.updates,
        settings.updates,
    )


@dataclass(frozen=True, slots=True)
class SFTSchedule:
    """rows_per_update: over all processes. per_epoch, updates, warmup: optimiser updates."""

    rows_per_update: int
    per_epoch: int
    updates: int
    warmup: int


def sft_schedule(settings: SFTSettings, examples: int, processes: int = 1) -> SFTSchedule:
    """What transformers makes of the settings: the last, smaller update of an epoch counts as one. Where rows run short
    of the processes there, accelerate repeats some.

    examples: rows that are trained on. Raises InputError when there are none.
    """
    if examples < 1:
        raise InputError("there are no examples to plan for", remedy="give their number")
    passes = math.ceil(math.ceil(examples / settings.micro_batch) / processes)
    per_epoch = max(math.ceil(passes / settings.accumulation), 1)
    updates = settings.max_steps or math.ceil(settings.epochs * per_epoch)
    rows = settings.micro_batch * settings.accumulation * processes
    return SFTSchedule(rows, per_epoch, updates, math.ceil(settings.warmup * updates))


def epochs_for(settings: SFTSettings, examples: int, updates: int, processes: int = 1) -> float:
    """Passes over `examples` rows that come to exactly `updates` updates of SFT, whatever the settings' own are."""

    def planned(passes: float) -> SFTSchedule:
        return sft_schedule(replace(settings, epochs=passes, max_steps=0), examples, processes)

    passes = updates / planned(1.0).per_epoch
    while planned(passes).updates > updates:  # by the last bit
        passes = math.nextafter(passes, 0.0)
    return passes
