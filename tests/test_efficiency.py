"""Notebook 06 at tiny size, behind the smoke chain: it trains, asks, cuts chains short, and leaves its tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rrlib.papermill_engine import execute
from rrlib.params import inputs_of, load_profile, notebook_path

ROOT = Path(__file__).resolve().parents[1]
TINY = {"queries": 4, "sft_examples": 24, "epochs": 1.0, "per_list": 2, "budgets": [0, 16], "max_new_tokens": 200}


def test_its_profile_runs_what_it_reads() -> None:
    profile = load_profile(ROOT / "params" / "efficiency.yaml")
    values = profile.parameters("06_efficiency")
    assert set(inputs_of("06_efficiency", values)) | {"06_efficiency"} == set(profile.stages)
    assert values["budgets"] == sorted(values["budgets"]) and values["window"] == profile.parameters("02_sft")["window"]


def test_the_notebook_at_tiny_size(chain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("01_synthesis", "02_sft"):
        shutil.copytree(chain.run / name, tmp_path / "smoke" / name)
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path))
    parameters = {"run": "smoke", "seed": 7, "interactive": False, **TINY}
    execute(notebook_path("06_efficiency"), tmp_path / "06.ipynb", parameters, echo=lambda line: None, live=False)
    stage = tmp_path / "smoke" / "06_efficiency"
    metrics = json.loads((stage / "metrics.json").read_text())
    assert metrics["seconds_ratio"] > 0 and 0 <= metrics["nDCG@10 pointwise"] <= 1
    rows = {row["system"]: row for row in json.loads((stage / "experiment" / "table.json").read_text())["table"]}
    assert rows["pointwise"]["calls"] == 30 and rows["listwise"]["calls"] == 5
    assert rows["both: no-think"]["tokens_out"] is not None
    chosen = {c["system"]: c for c in json.loads((stage / "robustness" / "table.json").read_text())["chosen"]}
    fitted = next(c for name, c in chosen.items() if name.startswith("fit "))
    assert fitted["window"] < chosen["listwise"]["window"] == 10
    closed = json.loads((stage / "budgets" / "table.json").read_text())["audit"]
    assert next(row for row in closed if row["system"] == "budget 0")["closed"] == 1.0
