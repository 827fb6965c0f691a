"""How fast is SFT at the shapes of a 7B model on one GPU: tokens a second, share of the peak (MFU), memory?

Random weights of Qwen2.5-7B's shapes, float32 with their optimiser states as in full fine-tuning, bf16 autocast,
gradient checkpointing, rows of 4k to 23k tokens. Where the states of all 28 layers do not fit one GPU, as many layers
are taken as do (the plan of rrlib.plans.training says how many), and the table says so. Each length is timed twice in
one process, in turn: TRL's trainer with our settings, and a plain transformers loop (model(labels=...), backward,
AdamW).

MFU counts 6 operations a parameter and token and causal attention, and not the recomputation (PaLM, appendix B).

    python benchmarks/sft_gpu.py                    # needs a CUDA GPU
    python benchmarks/sft_gpu.py --tiny             # the same path at tiny shapes, anywhere
    python benchmarks/sft_gpu.py --lengths 8192 --layers 12 --peak 989e12
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import measure
import torch

from rrlib.errors import InputError
from rrlib.patches import tamed_trl
from rrlib.plans.shapes import SHAPES, Shape, flops_per_token
from rrlib.plans.training import GIB, device_memory, plan_sft
from rrlib.training.config import SFTSettings
from rrlib.training.launch import Launch
from rrlib.training.sft import sft_config

LENGTHS = (4096, 8192, 16384, 23552)
GOAL_LENGTH, GOAL = 8192, 0.5
PEAKS = {"H100": 989e12, "H200": 989e12, "H800": 989e12, "A100": 312e12, "A800": 312e12, "L40": 181e12, "4090": 165e12}
"""Dense bf16 operations a second, from the makers' data sheets (SXM parts where there are several)."""


def layers_that_fit(shape: Shape, length: int, memory: float) -> int:
    """The most layers whose plan fits this memory, at most the shape's own. Raises InputError when not one does."""
    settings = SFTSettings(max_length=length)
    name = "benchmark"
    for layers in range(shape.layers, 0, -1):
        SHAPES[name] = replace(shape, layers=layers, positions=max(shape.positions, length))
        fits = plan_sft(settings, name, Launch(), memory).fits
        del SHAPES[name]
        if fits:
            return layers
    raise InputError(f"not one layer fits {memory / GIB:.0f} GiB at {length} tokens", remedy="take shorter rows")


def make_row(shape: Shape, length: int) -> dict[str, list[int]]:
    """Random tokens: the last tenth, at least one token, is the response that is learned."""
    ids = torch.randint(0, shape.vocabulary, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    prompt = length - max(length // 10, 1)
    return {"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]}


class Clock:
    """Seconds of each step: the device is waited for on both sides."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds, self.began = device, list[float](), 0.0

    def start(self) -> None:
        self._wait()
        self.began = time.perf_counter()

    def stop(self) -> None:
        self._wait()
        self.seconds.append(time.perf_counter() - self.began)

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def ours(shape: Shape, row: dict[str, list[int]], steps: int, device: str, bf16: bool) -> list[float]:
    """Seconds of each optimiser step of TRL's trainer with our settings, one row a step."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTTrainer

    clock = Clock(device)

    class Timer(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            clock.start()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.stop()

    settings = SFTSettings(
        accumulation=1, max_steps=steps, max_length=len(row["labels"]), save_every=10**6,
        device="auto" if device == "cuda" else "cpu", dtype="bf16" if bf16 else "fp32", warmup=0.0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, tamed_trl():
        config = sft_config(settings, Path(folder), device, bf16)
        config.model_init_kwargs, config.save_strategy = None, "no"
        data = Dataset.from_dict({key: [value] * steps for key, value in row.items()})
        trainer = SFTTrainer(
            model=measure.random_model(shape, device, torch.float32), args=config, train_dataset=data,
            processing_class=measure.miniature_tokenizer(), callbacks=[Timer()],
        )  # fmt: skip
        trainer.train()
    return clock.seconds


def plain(shape: Shape, row: dict[str, list[int]], steps: int, device: str, bf16: bool) -> list[float]:
    """Seconds of each step of a loop as the transformers documentation has it."""
    model = measure.random_model(shape, device, torch.float32).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-6, fused=device == "cuda")
    ids, labels = (torch.tensor([row[key]], device=device) for key in ("input_ids", "labels"))
    clock = Clock(device)
    for _ in range(steps):
        clock.start()
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        clock.stop()
    return clock.seconds


def measured(run: Callable[[], list[float]]) -> tuple[float, float] | None:
    """(median seconds of a step after the first two, peak GiB), or None where memory ran out."""
    measure.forget_peak()
    try:
        seconds = run()
    except torch.OutOfMemoryError:
        return None
    return statistics.median(seconds[2:]), measure.peak_memory()


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table and the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, on a GPU or a CPU")
    parser.add_argument("--lengths", type=int, nargs="*", help="tokens of a row")
    parser.add_argument("--layers", type=int, default=0, help="layers; default: as many as fit")
    parser.add_argument("--steps", type=int, default=8, help="steps a side; the first two are not counted")
    parser.add_argument("--peak", type=float, default=0.0, help="bf16 operations a second of this GPU")
    given = parser.parse_args(argv)
    device, name = measure.device()
    if device == "cpu" and not given.tiny:
        measure.nothing_measured("sft_gpu", "MFU", GOAL)
        return 0
    peak = given.peak or next((value for key, value in PEAKS.items() if key in name), 0.0)
    lengths = given.lengths or ([64, 128] if given.tiny else LENGTHS)
    base = measure.TINY if given.tiny else measure.SEVEN
    bf16 = device == "cuda"
    print(f"{name}; {measure.versions()}; {'bf16 autocast' if bf16 else 'float32'} over float32 weights and optimiser")
    print(f"{'tokens':>7}{'layers':>8}{'side':>18}{'tokens/s':>11}{'MFU':>8}{'peak GiB':>10}")
    rows: list[dict[str, Any]] = []
    for length in lengths:
        layers = given.layers or (base.layers if given.tiny else layers_that_fit(base, length, device_memory()))
        shape, row = replace(base, layers=layers, positions=max(base.positions, length)), make_row(base, length)
        for side, run in (("rrlib (TRL)", ours), ("plain loop", plain)):
            speed_and_peak = measured(lambda run=run, s=shape, r=row: run(s, r, given.steps, device, bf16))
            speed = length / speed_and_peak[0] if speed_and_peak else 0.0
            mfu = speed * flops_per_token(shape, length) / peak if peak else None
            rows.append({"tokens": length, "layers": layers, "side": side, "speed": speed, "mfu": mfu})
            shown = f"{speed:>11.0f}" if speed_and_peak else f"{'out of memory':>11}"
            memory = f"{speed_and_peak[1]:>10.1f}" if speed_and_peak else ""
            share = "" if mfu is None else f"{mfu:>8.1%}"
            print(f"{length:>7}{f'{layers}/{base.layers}':>8}{side:>18}{shown}{share}{memory}")
    pairs = [(a["speed"], b["speed"]) for a, b in zip(rows[::2], rows[1::2], strict=True)]
    at = next((r for r in rows if r["tokens"] == GOAL_LENGTH and r["side"].startswith("rrlib")), rows[0])
    print(f"slower than the plain loop at {sum(a < b for a, b in pairs)} of {len(pairs)} lengths")
    result = {
        "name": "sft_gpu",
        "value": None if at["mfu"] is None else round(at["mfu"], 3),
        "unit": f"MFU at {at['tokens']} tokens, {at['layers']} layers",
        "goal": None if given.tiny else GOAL,
        "holds": at["mfu"] is not None and at["mfu"] >= GOAL and all(a >= b for a, b in pairs),
        "n": given.steps - 2,
        "device": name,
        "rows": rows,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
