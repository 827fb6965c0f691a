"""The scripts of the efficiency figures, at tiny size: they train, rerank, pool over seeds, and go on when killed."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rrlib.errors import InputError
from rrlib.evaluation.results import ExperimentResult

ROOT = Path(__file__).resolve().parents[1]
PROFILE = """\
name: tiny
seed: 7
01_synthesis: {train_queries: 30, validation_queries: 4, test_queries: 4}
02_sft: {epochs: 1.0, micro_batch: 8}
04_evaluation: {max_new_tokens: 160, depth: 15}
"""


def script(name: str, profile: Path, output: Path, *more: str) -> list[str]:
    """Run a benchmark as `python benchmarks/NAME.py` would, in this process; its lines."""
    import contextlib
    import io

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        main = runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name=f"bench_{name}")["main"]
        main(["--profile", str(profile), "--output", str(output), "--queries", "4", *more])
    return text.getvalue().splitlines()


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "tiny.yaml"
    path.write_text(PROFILE)
    return path


def test_pointwise_against_listwise(profile: Path, tmp_path: Path) -> None:
    lines = script("pointwise", profile, tmp_path, "--per-list", "2")
    result = json.loads(lines[-1])
    assert result["name"] == "pointwise" and result["goal"] == 2.0 and result["n"] == 4 and result["value"] > 0
    assert result["holds"] is (result["value"] >= 2.0)
    table = {row.split("|")[1].strip(): row for row in lines if row.startswith("| ")}
    assert {"pointwise", "pointwise, no chain", "listwise", "listwise, no chain", "first stage"} <= set(table)
    again = script("pointwise", profile, tmp_path, "--per-list", "2")
    assert again[-1] == lines[-1]  # nothing was computed anew, seconds included


def test_think_and_no_think(profile: Path, tmp_path: Path) -> None:
    lines = script("think_nothink", profile, tmp_path, "--budgets", "0", "8")
    result = json.loads(lines[-1])
    assert result["name"] == "think_nothink" and result["n"] == 4 and -1 <= result["value"] <= 1
    modes, budgets = (tmp_path / "modes.md").read_text(), (tmp_path / "budgets.md").read_text()
    for name in ("no-think", "mixed: no-think", "mixed: think", "think", "mixed: router"):
        assert f"| {name} |" in modes
    assert "| budget 0 |" in budgets and "| no limit |" in budgets and (tmp_path / "budget.png").stat().st_size > 5000
    assert any(line.startswith("router, by seed:") for line in lines)


def frame(values: dict[str, list[float]]) -> Any:
    rows = [
        {"benchmark": "m", "qid": str(q), "system": name, "metric": "nDCG@10", "value": value}
        for name, numbers in values.items()
        for q, value in enumerate(numbers)
    ]
    costs = [{"benchmark": "m", "system": name, "calls": 3.0, "requests": 3.0, "tokens_in": 1.0, "tokens_out": 2.0,
              "seconds": 0.5} for name in values]  # fmt: skip
    return ExperimentResult(pd.DataFrame(), pd.DataFrame(rows), pd.DataFrame(costs), pd.DataFrame(), [], "a")


def test_seeds_are_pooled_query_by_query() -> None:
    from rrlib.trials import Trials, markdown, pooled

    results = {7: frame({"a": [0.0, 0.5], "b": [0.5, 1.0]}), 8: frame({"a": [1.0, 0.5], "b": [1.0, 0.5]})}
    table = pooled(results, "a", "nDCG@10")
    assert table.loc["b", "mean"] == 0.75 and table.loc["b", "n"] == 4 and table.loc["b", "seeds"] == "0.750 0.750"
    assert table.loc["b", "difference"].startswith("+0.2500 [+0.0000, +0.5000]")
    assert table.loc["b", "p (Holm)"] == 0.5 and table.loc["a", "difference"] == "" and table.loc["b", "seconds"] == 0.5
    assert markdown(table).splitlines()[2].startswith("| a | 0.5 |")
    with pytest.raises(InputError, match="between 0 and 1"):
        Trials("x", None, share=1.0)  # type: ignore[arg-type]
