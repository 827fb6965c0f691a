"""Notebook 06 at tiny size, behind the smoke chain: it trains, asks, cuts chains short, and leaves its tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from keep import SHOWN, keep

from rrlib.chain.papermill_engine import execute
from rrlib.chain.params import inputs_of, load_profile, notebook_path
from rrlib.errors import InputError
from rrlib.evaluation import ExperimentResult
from rrlib.studies.stored import EXPERIMENTS, STORED, stored_experiments

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "stored": False,
    "queries": 4,
    "sft_examples": 24,
    "epochs": 1.0,
    "per_list": 2,
    "budgets": [0, 16],
    "max_new_tokens": 200,
}


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
    # what is kept of it is what it found
    kept = stored_experiments(keep(tmp_path / "smoke", tmp_path / "kept.jsonl"))
    assert kept.source["queries"] == 4 and kept.source["examples"] == 24 and "synthetic" in str(kept)
    for name in EXPERIMENTS:
        assert kept.results[name].to_dict(values=True) == ExperimentResult.load(stage / name).to_dict(values=True)
        assert kept.results[name].to_json() == (stage / name / "table.json").read_text().rstrip("\n")
    with pytest.raises(InputError, match="not finished"):
        keep(tmp_path, tmp_path / "kept.jsonl")


def test_with_stored_results_it_opens_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path))
    parameters = {"run": "smoke", "seed": 7, "interactive": False}
    execute(notebook_path("06_efficiency"), tmp_path / "06.ipynb", parameters, echo=lambda line: None, live=False)
    run = tmp_path / "smoke"
    assert sorted(p.name for p in run.iterdir()) == ["06_efficiency", "figures"], "no other stage is run"
    metrics, kept = json.loads((run / "06_efficiency" / "metrics.json").read_text()), stored_experiments()
    means = {row["system"]: row["mean"] for row in kept.results["experiment"].rows("nDCG@10")}
    assert metrics["nDCG@10 listwise"] == round(means["listwise"], 4)
    assert metrics["seconds_ratio"] > 0 and (run / "figures" / "06_efficiency_budget.png").is_file()


def test_stored_results_say_what_they_are_of() -> None:
    kept = stored_experiments()
    profile = load_profile(ROOT / "params" / f"{kept.source['profile']}.yaml")
    values = {**profile.parameters("01_synthesis"), **profile.parameters("06_efficiency")}
    assert kept.source["parameters"] == {key: values[key] for key in SHOWN}, (
        "the profile has changed since: run it again"
    )
    queries = values["queries"] or values["test_queries"]
    assert kept.source["queries"] == queries >= 12 and kept.source["data_kind"] == "synthetic"
    assert kept.source["date"] and kept.source["machine"] and kept.example.reasoning
    for result in kept.results.values():
        table = result.table[result.table["source"] == "measured"]
        assert (table["n"] == queries).all() and table["mean"].between(0, 1).all()
        assert (table["low"] <= table["mean"]).all() and (table["mean"] <= table["high"]).all()


def test_a_parameter_without_effect_on_stored_results_is_said_and_a_p_at_the_floor_is_a_bound() -> None:
    kept = stored_experiments()
    said = "\n".join(kept.unlike({"learning_rate": 1.0, "max_new_tokens": 512, "window": 10}))
    assert "learning_rate = 1.0 has no effect" in said and "had 160" in said and "window" not in said
    assert kept.results["experiment"].summary()["p (Holm)"].str.startswith("< ").any()


def test_results_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no stored results"):
        stored_experiments(tmp_path / "none.jsonl")
    lines = STORED.read_text().splitlines()
    (tmp_path / "cut.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(InputError, match="no whole file"):
        stored_experiments(tmp_path / "cut.jsonl")
    broken = {key: value for key, value in json.loads(lines[-1]).items() if key != "table"}
    (tmp_path / "broken.jsonl").write_text("\n".join([*lines[:-1], json.dumps(broken)]) + "\n")
    with pytest.raises(InputError, match="no whole result"):
        stored_experiments(tmp_path / "broken.jsonl")
    with pytest.raises(InputError, match="no finished experiment"):
        ExperimentResult.load(tmp_path)
