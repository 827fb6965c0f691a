"""The benchmarks of the miniature's trainings, at tiny size: the same code, a table and a result."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def run(name: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], str]:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(list(arguments)) == 0
    out = capsys.readouterr().out
    return json.loads(out.strip().splitlines()[-1]), out


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The smoke profile with less of everything."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "name: tiny\nseed: 7\n"
        "01_synthesis: {train_queries: 30, validation_queries: 8, test_queries: 4}\n"
        "02_sft: {epochs: 0.5, micro_batch: 4, accumulation: 1}\n"
        "03_rl: {steps: 2, prompts: 2, rollouts: 2, updates: 1, micro_batch: 4, max_completion: 24}\n"
        "04_evaluation: {max_new_tokens: 24}\n"
    )
    return path


def test_dtype(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, out = run("dtype", capsys, "--profile", str(tiny), "--sft", "2", "--rl", "1", "--train-queries", "30")
    assert result["name"] == "dtype" and result["n"] == 3
    assert set(result["whole"]) == {"bf16", "fp32"} and all(seconds > 0 for seconds in result["whole"].values())
    assert result["value"] == round(result["whole"]["fp32"] / result["whole"]["bf16"], 2)
    assert "this machine trains in" in out and out.count(" to ") >= 4


def test_validation_choice_of_epochs(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("epochs", "0.25", "--profile", str(tiny), "--validation", "6", "--output", str(tmp_path / "out"))
    result, out = run("validation_choice", capsys, *arguments)
    assert result["n"] == 6 and result["best"] in (0.25, 0.5)
    assert "| 0.25 | " in out and "| 0.5 | " in out and out.count("| SFT |") == 2
    before = {path: path.read_bytes() for path in tmp_path.joinpath("out").rglob("*.jsonl")}
    again, _ = run("validation_choice", capsys, *arguments)  # everything is read back
    assert again == result and before
    assert all(path.read_bytes() == content for path, content in before.items())


def test_validation_choice_of_alpha(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("alpha", "0.9", "--profile", str(tiny), "--validation", "4", "--rl", "--output", str(tmp_path / "out"))
    result, out = run("validation_choice", capsys, *arguments)
    assert result["best"] in (0.4, 0.9) and out.count("| SFT |") == out.count("| SFT+RL |") == 2
    lists = [int(line.split("|")[2]) for line in out.splitlines() if "| SFT |" in line]
    assert lists[0] > lists[1] > 0  # a stricter filter keeps fewer
