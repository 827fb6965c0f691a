"""What the benchmarks share that train: the device, a model without weights worth the name, and the result where
nothing can be measured."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rrlib.plans.shapes import SHAPES, Shape, model_config
from rrlib.plans.training import GIB
from rrlib.resources import resolve
from rrlib.training.data import load_tokenizer

if TYPE_CHECKING:
    import torch

SEVEN = SHAPES["Qwen/Qwen2.5-7B-Instruct"]
TINY = Shape("qwen2", 64, 2, 4, 2, 16, 160, 5120, positions=4096)
"""Its vocabulary holds the miniature's tokenizer."""
SEED = 7


def device() -> tuple[str, str]:
    """(`cuda` or `cpu`, its name for a table)."""
    import torch

    if torch.cuda.is_available():
        return "cuda", torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return "cpu", f"cpu, {threads} thread{'s' if threads > 1 else ''}"


def versions() -> str:
    """Of the packages that decide the speed."""
    return ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "trl"))


def nothing_measured(name: str, unit: str, goal: float | None) -> None:
    """Say so, and print a result that claims nothing."""
    print("there is no CUDA GPU here, so nothing is measured: --tiny runs the same path at tiny shapes")
    none = {"name": name, "value": None, "unit": unit, "goal": goal, "holds": False, "n": 0, "device": "none"}
    print(json.dumps(none))


def miniature_tokenizer() -> Any:
    """A tokenizer that is always at hand; what it says does not matter for speed."""
    return load_tokenizer(resolve("package:rrlib.miniature/backbone"))


def random_model(shape: Shape, place: str, dtype: torch.dtype, **config: Any) -> Any:
    """A model of random weights on a device. config: fields of its configuration."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(SEED)
    with torch.device(place):
        return AutoModelForCausalLM.from_config(model_config(shape, **config), attn_implementation="sdpa", dtype=dtype)


def forget_peak() -> None:
    """Free what is cached on the GPU, and count its peak from here."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> float:
    """GiB since `forget_peak`; nan on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else float("nan")
