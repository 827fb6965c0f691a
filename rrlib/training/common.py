"""What both stages share: settings, the hardware they meet, a tamed TRL, and the arguments of its trainers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rrlib.errors import InputError

ATTENTION = ("sdpa", "flash_attention_2", "eager")

OnLog = Callable[[dict[str, Any]], None]
"""Called with each row of the log as it is written: for live curves in a notebook."""


@dataclass(frozen=True)
class Common:
    """Settings of both stages.

    learning_rate: peak. micro_batch: rows per device and forward pass. weight_decay, max_grad_norm: of AdamW.
    dtype: `auto` = bf16 where the device has it; `bf16`, `fp32`. It is the autocast type: full fine-tuning keeps its
        weights, gradients and optimiser states in float32, in which an update at 1e-6 does not vanish by rounding.
    device: `auto` or `cpu`. attention: `sdpa` (part of torch), `flash_attention_2` (package flash-attn, GPU only) or
        `eager`. lora_rank: 0 = full fine-tuning; else LoRA on all linear layers with alpha = lora_alpha,
        merged into the base at the end. max_passage_tokens: as at inference (512 BRIGHT, 100 BEIR).
    too_long: `refuse` names examples over the limits, `drop` leaves them out and counts them.
    keep: how many of TRL's checkpoints stay on disk, 0 = all.
    """

    learning_rate: float = 5e-6
    micro_batch: int = 1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    device: Literal["auto", "cpu"] = "auto"
    gradient_checkpointing: bool = True
    attention: str = "sdpa"
    lora_rank: int = 0
    lora_alpha: int = 32
    max_passage_tokens: int = 512
    too_long: Literal["refuse", "drop"] = "refuse"
    keep: int = 2

    def __post_init__(self) -> None:
        for name, low in (("micro_batch", 1), ("max_passage_tokens", 1), ("lora_rank", 0), ("keep", 0)):
            require(self, name, low)
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate is {self.learning_rate}", remedy="give a positive rate, such as 5.0e-6")
        one_of(self, dtype=("auto", "bf16", "fp32"), device=("auto", "cpu"), attention=ATTENTION)
        if self.too_long not in ("refuse", "drop"):
            raise InputError(f"too_long is {self.too_long!r}", remedy="use refuse or drop")


def require(settings: Any, name: str, low: float) -> None:
    """Raise InputError unless the setting is at least `low`."""
    if getattr(settings, name) < low:
        raise InputError(f"{name} is {getattr(settings, name)}", remedy=f"give {low} or more")


def one_of(settings: Any, **known: tuple[str, ...]) -> None:
    """Raise InputError unless each named setting is one of its known values."""
    for name, values in known.items():
        if getattr(settings, name) not in values:
            raise InputError(f"{name} is {getattr(settings, name)!r}", remedy=f"use one of {', '.join(values)}")


# --- hardware --------------------------------------------------------------------------------------------------------


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


def world_size() -> int:
    """How many processes train together: torchrun and accelerate say so in the environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def load_numbered_cpus() -> None:
    """Let torch.load put tensors on `cpu:0`: so transformers calls the device of a process that trains beside others
    on a CPU, and torch knows only `cpu`. Without it no such training could be resumed."""
    import torch

    if not getattr(load_numbered_cpus, "done", False):
        here = re.compile(r"cpu:\d+").fullmatch
        torch.serialization.register_package(
            5, lambda storage: None, lambda storage, place: storage if here(str(place)) else None
        )
        load_numbered_cpus.done = True  # type: ignore[attr-defined]


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


# --- quiet -----------------------------------------------------------------------------------------------------------


@contextmanager
def tamed_trl() -> Iterator[None]:
    """No telemetry, no progress bars (stale text in an executed notebook), no 30 KB panel per logged step.

    And on a CPU, logits for the positions with a label only. TRL's fused head does so where Triton runs; elsewhere it
    computes those of every prompt token too and masks them out, since devices that compile dislike changing shapes.
    A CPU does not mind, and with long prompts that halves the time of a step. The loss is the same.

    And the reference model of GRPO is shared out by FSDP2 as the trained one is (see `shared_reference`).
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets
    import huggingface_hub.constants
    import trl.trainer.grpo_trainer as grpo
    import trl.trainer.utils as trl_utils
    from transformers.utils import logging as hf_logging

    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # read at its import, which may lie behind us
    bars = datasets.utils.are_progress_bars_disabled(), hf_logging.is_progress_bar_enabled()
    panel, use_triton = grpo.print_prompt_completions_sample, trl_utils._use_triton
    prepare = grpo.prepare_fsdp
    datasets.disable_progress_bars()
    hf_logging.disable_progress_bar()
    grpo.print_prompt_completions_sample = lambda *args, **kwargs: None
    # This name decides, in this module, about positions alone; the kernels look their own up.
    trl_utils._use_triton = lambda device: device.type == "cpu" or use_triton(device)
    grpo.prepare_fsdp = lambda model, accelerator: shared_reference(model, accelerator) or prepare(model, accelerator)
    try:
        yield
    finally:
        grpo.print_prompt_completions_sample, grpo.prepare_fsdp = panel, prepare
        trl_utils._use_triton = use_triton
        if not bars[0]:
            datasets.enable_progress_bars()
        if bars[1]:
            hf_logging.enable_progress_bar()


def shared_reference(model: Any, accelerator: Any) -> Any | None:
    """The model shared out by FSDP2, or None where FSDP2 is not at work.

    Under fsdp_cpu_ram_efficient_loading only the first process reads the weights; accelerate hands them on when it
    shares out the trained model. TRL 1.16 shares out the reference by itself (models/utils.py, prepare_fsdp), without
    handing on anything and as one piece: on all other processes its weights are whatever lay in memory, the KL is
    that to noise (6.9 instead of 0 before the first update, measured with two processes), and nothing says so.
    """
    if not accelerator.is_fsdp2:
        return None
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    return fsdp2_prepare_model(accelerator, model).eval()


# --- the parts of a trainer -------------------------------------------------------------------------------------------


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a checkpoint. Raises InputError when there is none, or none with a chat template."""
    from rrlib.engines.hf import load_tokenizer as load

    tokenizer = load(model)
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template", path=model, remedy="use an instruct checkpoint")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def model_length(model: str) -> int:
    """How many positions the model was made for."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    return int(getattr(config, "max_position_embeddings", None) or 1 << 30)


def lora_config(settings: Common) -> Any:
    """LoRA on all linear layers (paper: r = alpha = 32), or None for full fine-tuning."""
    if not settings.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def training_arguments(settings: Common, output: Path, device: str, bf16: bool) -> dict[str, Any]:
    """The arguments both of TRL's configs take from our settings; nothing that matters is left to a default."""
    base = "bfloat16" if settings.lora_rank and bf16 else "float32"  # a frozen base may be bf16, trained weights not
    return {
        "output_dir": str(output / "trainer"),
        "learning_rate": settings.learning_rate,
        "per_device_train_batch_size": settings.micro_batch,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "bf16": bf16,
        "fp16": False,
        "use_cpu": device == "cpu",
        "gradient_checkpointing": settings.gradient_checkpointing,
        "dataloader_pin_memory": device != "cpu",
        "model_init_kwargs": {"dtype": base, "attn_implementation": settings.attention},
        "save_total_limit": settings.keep or None,
        "disable_tqdm": True,
        "report_to": "none",
        "ddp_find_unused_parameters": False,  # every weight has a gradient; looking for others costs a pass
        **({"ddp_backend": "gloo"} if device == "cpu" and world_size() > 1 else {}),
    }
