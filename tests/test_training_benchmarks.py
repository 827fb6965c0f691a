"""The GPU benchmarks at tiny shapes: the same code, on a CPU."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rrlib.errors import InputError
from rrlib.plans.shapes import SHAPES
from rrlib.plans.training import GIB

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
KEYS = {"name", "value", "unit", "goal", "holds", "n", "device"}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], str]:
    assert load(name).main(["--tiny", *arguments]) == 0
    out = capsys.readouterr().out
    result: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    assert set(result) >= KEYS and result["name"] == name
    return result, out


def test_sft_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    result, out = run("sft_gpu", capsys, "--steps", "4", "--peak", "1e12")
    rows = result["rows"]
    assert [(r["tokens"], r["side"]) for r in rows] == [
        (64, "rrlib (TRL)"), (64, "plain loop"), (128, "rrlib (TRL)"), (128, "plain loop")
    ]  # fmt: skip
    assert all(r["speed"] > 0 and 0 < r["mfu"] < 1 for r in rows) and result["goal"] is None
    assert "float32 weights" in out and "2/2" in out


def test_the_layers_of_an_80_gb_gpu() -> None:
    """All states of 28 layers in float32 would take 122 GB: the script takes fewer, and fewer still for long rows."""
    script, shape = load("sft_gpu"), SHAPES["Qwen/Qwen2.5-7B-Instruct"]
    layers = [script.layers_that_fit(shape, length, 80 * GIB) for length in script.LENGTHS]
    assert 8 <= layers[-1] <= layers[0] < 28
    assert script.layers_that_fit(shape, 4096, 200 * GIB) == 28
    with pytest.raises(InputError, match="not one layer fits"):
        script.layers_that_fit(shape, 23552, 8 * GIB)
    assert "benchmark" not in SHAPES


def test_grpo_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    result, out = run("grpo_gpu", capsys, "--steps", "2", "--prompts", "2", "--rollouts", "2")
    assert set(result["parts"]) == {"time/generate", "time/score", "time/update"}
    assert all(math.isfinite(seconds) and seconds > 0 for seconds in result["parts"].values())
    assert result["value"] == pytest.approx(sum(result["parts"].values()), abs=0.01)
    assert "generation" in out and result["n"] == 1


@pytest.mark.parametrize("name", ["sft_gpu", "grpo_gpu"])
def test_without_a_gpu_nothing_is_claimed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA GPU here")
    assert load(name).main([]) == 0
    out = capsys.readouterr().out
    result = json.loads(out.strip().splitlines()[-1])
    assert "no CUDA GPU" in out and set(result) == KEYS and (result["value"], result["holds"]) == (None, False)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["sft_gpu", "grpo_gpu"])
def test_on_a_gpu_at_tiny_shapes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cpu" not in run(name, capsys)[0]["device"]


def test_the_losses_without_a_run_claim_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert load("grpo_losses").main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "run `rrlib run params/miniature.yaml --until 02` first" in out
    assert json.loads(out.strip().splitlines()[-1])["value"] is None


def test_every_variant_of_the_losses_is_one_that_grpo_takes() -> None:
    from rrlib.training.config import GRPOSettings

    variants = load("grpo_losses").VARIANTS
    assert (
        variants["grpo"] == {} and len({GRPOSettings(**change) for change in variants.values()}) == len(variants) == 5
    )
