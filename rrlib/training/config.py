"""Every setting of both stages, its bounds, and what the settings come to on this machine.

A bound stands in the annotation of its setting (`Annotated[int, Bound(1)]`), a closed set of words is its `Literal`;
`check` reads both, so nothing is said twice.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from rrlib.errors import InputError


class Bound(NamedTuple):
    """A setting lies in [low, high), in (low, high) where `above`. remedy: what to do where it does not."""

    low: float
    high: float = math.inf
    above: bool = False
    remedy: str = ""

    def holds(self, value: float) -> bool:
        """Whether the value is within the bound; not-a-number never is."""
        return (value > self.low if self.above else value >= self.low) and value < self.high


Count = Annotated[int, Bound(1)]
CountOrOff = Annotated[int, Bound(0)]
"""0 turns something off, or leaves it to something else."""
NotNegative = Annotated[float, Bound(0)]
Rate = Annotated[float, Bound(0, above=True, remedy="give a positive rate, such as 5.0e-6")]


def check(settings: Any) -> None:
    """Raise InputError, with the name and what is allowed, unless each field is within its annotation's bound or words.

    settings: a dataclass instance.
    """
    for name, kind in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise InputError(f"{name} is {value!r}", remedy=f"use one of {', '.join(get_args(kind))}")
        for bound in getattr(kind, "__metadata__", ()):
            if not bound.holds(value):
                raise InputError(f"{name} is {value}", remedy=bound.remedy or f"give {bound.low} or more")


# --- settings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Common:
    """Settings of both stages.

    learning_rate: peak. micro_batch: rows per device and forward pass. weight_decay: of AdamW. max_grad_norm: a longer
        gradient is cut to it, 0 = never.
    dtype: `auto` = bf16 where the device has it; `bf16`, `fp32`. It is the autocast type: full fine-tuning keeps its
        weights, gradients and optimiser states in float32, in which an update at 1e-6 does not vanish by rounding.
    device: `auto` or `cpu`. attention: `sdpa` (part of torch), `flash_attention_2` (package flash-attn, GPU only) or
        `eager`. lora_rank: 0 = full fine-tuning; else LoRA on all linear layers with alpha = lora_alpha,
        merged into the base at the end. max_passage_tokens: as at inference (512 BRIGHT, 100 BEIR).
    too_long: `refuse` names examples over the limits, `drop` leaves them out and counts them.
    keep: how many of TRL's checkpoints stay on disk, 0 = all.
    """

    learning_rate: Rate = 5e-6
    micro_batch: Count = 1
    weight_decay: NotNegative = 0.0
    max_grad_norm: NotNegative = 1.0
    seed: int = 0
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    device: Literal["auto", "cpu"] = "auto"
    gradient_checkpointing: bool = True
    attention: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    lora_rank: CountOrOff = 0
    lora_alpha: int = 32
    max_passage_tokens: Count = 512
    too_long: Literal["refuse", "drop"] = "refuse"
    keep: CountOrOff = 2

    def __post_init__(self) -> None:
        check(self)
        if self.lora_rank and not self.lora_alpha >= 1:
            raise InputError(f"lora_alpha is {self.lora_alpha}", remedy="give 1 or more, such as lora_rank")


@dataclass(frozen=True)
class SFTSettings(Common):
    """Settings of supervised fine-tuning; see Common for the rest.

    accumulation: forward passes per update, so an update sees micro_batch * accumulation * GPUs rows.
    epochs: passes over the data, fractions allowed. max_steps: stop after so many updates, 0 = by epochs.
    schedule: of the learning rate. warmup: share of the updates, in [0, 1).
    max_length: limit on prompt + response in tokens; longer examples are refused or dropped, never cut.
    save_every: updates between two resume points, 0 = at the end of each epoch.
    """

    accumulation: Count = 8
    epochs: Annotated[float, Bound(0, above=True, remedy="give a positive number of passes")] = 5.0
    max_steps: CountOrOff = 0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Annotated[float, Bound(0, 1, remedy="it is a share of the updates, such as 0.1")] = 0.1
    max_length: Annotated[int, Bound(2)] = 23552
    save_every: CountOrOff = 0


@dataclass(frozen=True)
class GRPOSettings(Common):
    """Settings of GRPO; see Common for the rest. A step here is one rollout batch, as in the paper.

    prompts: prompts per step. rollouts: completions per prompt. updates: optimiser updates per step.
    steps: rollout batches. beta: weight of the KL to the starting checkpoint. clip: of the ratio; clip_high: of the
    ratio upwards where it differs (DAPO: 0.28), 0 = as clip; dual_clip: upper bound of the ratio for negative
    advantages, above that of the clip (verl: 3). entropy: weight of the entropy bonus. max_prompt, max_completion:
    tokens; longer prompts are refused or dropped, longer completions are cut and earn -1. save_every: steps between two
    resume points.

    Beyond the paper, off by default:
    loss: `grpo` (mean over a sequence, then over sequences: the paper's run), `dr_grpo` (arXiv 2503.20783: divided by a
        constant length, and advantages not by the group's spread), `dapo` (arXiv 2503.14476: mean over all tokens).
    normalize: `total` normalises the reward within a group, `views` each view on its own before they are summed (GDPO,
        arXiv 2601.05242).
    mask_truncated: completions that were cut off teach nothing, instead of earning -1 (they stay in the group's mean).

    rollout_engine: without vLLM. `generate`: transformers, and TRL's own passes; `prefix`: each prompt is read once for
        all of its rollouts, when they are drawn and when they are scored; `graph`: drawn by a CUDA graph, on one GPU
        (rollouts.py); `auto`: prefix on a CPU, graph on one GPU, generate on several or for other architectures.
    use_vllm: rollouts by vLLM, else as rollout_engine says. vllm_mode: `colocate` (in the trainer's processes, with
        vllm_memory of each GPU, split over vllm_tensor_parallel GPUs; with vllm_sleep it gives its memory back while
        the update runs, as verl does) or `server` (vllm_server: its base URL).
    vllm_correction: weigh tokens by the ratio of trainer's and vLLM's probabilities (truncated at 3, token by token);
        off as in the paper's run.
    """

    learning_rate: Rate = 1e-6
    weight_decay: NotNegative = 0.01
    prompts: Count = 16
    rollouts: Annotated[int, Bound(2)] = 8
    updates: Count = 2
    steps: Count = 200
    beta: NotNegative = 0.001
    clip: Annotated[float, Bound(0, 1, above=True, remedy="give a number between 0 and 1: 0.2 in the paper")] = 0.2
    dual_clip: float = 3.0
    entropy: NotNegative = 0.0
    temperature: Annotated[float, Bound(0, above=True, remedy="rollouts are sampled: 1.0 in the paper")] = 1.0
    max_prompt: Count = 20480
    max_completion: Count = 3072
    save_every: Count = 25
    clip_high: NotNegative = 0.0
    loss: Literal["grpo", "dr_grpo", "dapo"] = "grpo"
    normalize: Literal["total", "views"] = "total"
    mask_truncated: bool = False
    rollout_engine: Literal["auto", "generate", "prefix", "graph"] = "auto"
    use_vllm: bool = False
    vllm_mode: Literal["colocate", "server"] = "colocate"
    vllm_server: str = "http://localhost:8000"
    vllm_memory: Annotated[float, Bound(0, 1, above=True, remedy="it is a share of a GPU, such as 0.5")] = 0.5
    vllm_tensor_parallel: Count = 1
    vllm_sleep: bool = False
    vllm_correction: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dual_clip is not None and not self.dual_clip > 1 + (self.clip_high or self.clip):
            raise InputError(f"dual_clip is {self.dual_clip}", remedy="give more than 1 + clip_high (or clip): 3.0")
        if self.normalize == "views" and self.loss == "dr_grpo":
            raise InputError(
                "loss dr_grpo leaves out the spread by which normalize: views divides", remedy="choose one of them"
            )
        if self.rollout_engine in ("prefix", "graph") and self.use_vllm:
            why = f"rollouts by vLLM and by rollout_engine: {self.rollout_engine}"
            raise InputError(why, remedy="choose one of them")
        if (self.prompts * self.rollouts) % self.updates:
            raise InputError(
                f"{self.prompts} prompts x {self.rollouts} rollouts do not split into {self.updates} updates"
            )


ADDED_LATER = {"rollout_engine": "auto"}
"""Settings that came after trainings had been stored, with the value that those trainings had without it."""


def as_stored(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are kept and compared: equal to those of a training that was stored before a setting came."""
    return {name: value for name, value in settings.items() if (name, value) not in ADDED_LATER.items()}


# --- hardware ---------------------------------------------------------------------------------------------------------


def choose_device(settings: Common) -> str:
    """`cuda` or `cpu`."""
    import torch

    return "cuda" if settings.device == "auto" and torch.cuda.is_available() else "cpu"


def choose_bf16(settings: Common, device: str) -> bool:
    """Whether to train under bf16 autocast. `auto`: where the device computes in it (else it is emulated, slowly)."""
    from rrlib.doctor import training_dtype

    if settings.dtype != "auto":
        return settings.dtype == "bf16"
    return training_dtype(cuda=None if device == "cuda" else False) == "bfloat16"


def check_attention(settings: Common, device: str) -> None:
    """Raise InputError where the attention that is asked for cannot run, before a model is loaded for it."""
    if settings.attention != "flash_attention_2":
        return
    from transformers.utils import is_flash_attn_2_available

    if device != "cuda" or not is_flash_attn_2_available():
        raise InputError(
            f"attention is 'flash_attention_2', which needs CUDA and the package flash-attn (device: {device})",
            remedy="use sdpa: on a GPU torch computes it with the same kernels where no row is padded",
        )


def world_size() -> int:
    """How many processes train together: torchrun and accelerate say so in the environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))
