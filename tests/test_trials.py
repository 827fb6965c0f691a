"""The scripts of the efficiency figures, at tiny size: they train, rerank, pool over seeds, and go on when killed."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from trials import ROW_OF, Trials, arguments, markdown, opened, pooled

from rrlib.chain.from_profile import sft_settings
from rrlib.errors import InputError
from rrlib.evaluation.results import ExperimentResult
from rrlib.studies.setting import setting_of

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for both scripts: what they share is made once."""
    return tmp_path_factory.mktemp("trials")


@pytest.fixture(scope="module")
def printed(profile: Path, folder: Path) -> dict[str, list[str]]:
    """Both scripts, run once: tests may be spread over processes, so none of them can rely on another."""
    return {
        "pointwise": script("pointwise", profile, folder, "--per-list", "2"),
        "think_nothink": script("think_nothink", profile, folder, "--budgets", "0", "8"),
    }


def test_pointwise_against_listwise(profile: Path, folder: Path, printed: dict[str, list[str]]) -> None:
    lines = printed["pointwise"]
    result = json.loads(lines[-1])
    assert result["name"] == "pointwise" and result["goal"] == 2.0 and result["n"] == 4 and result["value"] > 0
    assert result["holds"] is (result["value"] >= 2.0)
    table = {row.split("|")[1].strip(): row for row in lines if row.startswith("| ")}
    assert {"pointwise", "pointwise, no chain", "listwise", "listwise, no chain", "first stage"} <= set(table)
    again = script("pointwise", profile, folder, "--per-list", "2")
    assert again[-1] == lines[-1]  # nothing was computed anew, seconds included
    chains = script("pointwise", profile, folder, "--per-list", "2", "--chains")
    assert chains[-1] == lines[-1] and not any("no chain |" in line for line in chains)


def test_think_and_no_think(folder: Path, printed: dict[str, list[str]]) -> None:
    lines = printed["think_nothink"]
    result = json.loads(lines[-1])
    assert result["name"] == "think_nothink" and result["n"] == 4 and -1 <= result["value"] <= 1
    modes, budgets = (folder / "modes.md").read_text(), (folder / "budgets.md").read_text()
    for name in ("no-think", "mixed: no-think", "mixed: think", "think", "mixed: router"):
        assert f"| {name} |" in modes
    assert "| budget 0 |" in budgets and "| no limit |" in budgets and (folder / "budget.png").stat().st_size > 5000
    assert any(line.startswith("router, by seed:") for line in lines)


def test_listwise_forms_are_rows_of_the_table(
    profile: Path,
    folder: Path,
    printed: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from rrlib.studies import ablations
    from rrlib.training.sft import encode_for_sft

    trials = Trials(folder, setting_of(profile))
    (home,) = folder.glob("seed-7-*")
    assert len(list(home.glob("sft-*"))) == 2, "think and no-think, once for both scripts"
    made = {path.name for path in (folder / "seed-7" / "sft").iterdir()}
    assert made == {"mixed-0.5", "pointwise", "pointwise-no-chain"}
    for form, row in ROW_OF.items():
        recipe = ablations.RECIPES[row]
        lists, config = trials.examples(form, 7)[:8], trials.setting.config("02_sft")
        settings = sft_settings(config)
        ours = encode_for_sft(lists, config.model, settings, "reasonrank").rows
        theirs = encode_for_sft(trials.table.examples(7, recipe)[:8], config.model, settings, recipe.style).rows
        assert [(r.prompt_ids, r.response_ids) for r in ours] == [(r.prompt_ids, r.response_ids) for r in theirs]
    # a table that has made its rows: its own checkpoints are taken, and nothing is trained
    monkeypatch.setattr("transformers.Trainer.train", lambda *a, **k: pytest.fail("a row's checkpoint was made again"))
    expected = {row: trials.table.checkpoint(7, ablations.RECIPES[row], {})[0] for row in ROW_OF.values()}
    assert {row: trials.checkpoint(form, 7) for form, row in ROW_OF.items()} == expected
    assert "row 'no reasoning, SFT'" in capsys.readouterr().out


def test_shuffled_input_and_a_small_context(tmp_path: Path) -> None:
    import contextlib
    import io

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        main = runpy.run_path(str(ROOT / "benchmarks" / "robustness.py"), run_name="bench")["main"]
        main(["--queries", "2", "--tokens", "60", "--output", str(tmp_path), "--root", str(tmp_path / "data")])
    result = json.loads(text.getvalue().splitlines()[-1])
    assert result["name"] == "robustness" and result["n"] == 2 and -1 <= result["value"] <= 1
    found = ExperimentResult.load(tmp_path)
    assert found.baseline == "as retrieved" and found.chosen("as retrieved")["window"] == 10
    assert found.chosen("smaller windows")["window"] < 10 and found.chosen("shuffled")["window"] == 10
    assert found.chosen("shorter passages")["max_passage_tokens"] < 512
    shown = {name: json.loads((tmp_path / name / "windows.jsonl").read_text().splitlines()[0])["docids"]
             for name in ("as retrieved", "shuffled")}  # fmt: skip
    assert shown["as retrieved"] != shown["shuffled"]


def test_each_seed_may_have_a_folder_of_its_own(profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path / "usual"))

    def given(*more: str) -> Any:
        return arguments(None, "think").parse_args(["--profile", "smoke", "--seeds", "7", "8", *more])

    trials, home = opened(given("--output", str(tmp_path / "a"), str(tmp_path / "b")), "think")
    assert {seed: one.folder.name for seed, one in trials.items()} == {7: "a", 8: "b"}
    assert home == tmp_path / "usual" / "think-smoke" and home.is_dir()
    trials, home = opened(given("--output", str(tmp_path / "a")), "think")
    assert {one.folder for one in trials.values()} == {home} == {tmp_path / "a"}
    assert opened(given(), "think")[0][8].folder == tmp_path / "usual" / "think-smoke"
    with pytest.raises(InputError, match="3 folders for 2 seeds"):
        opened(given("--output", "a", "b", "c"), "think")


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
    """Seed 7 gains a half on one query and nothing on the other, seed 8 nothing: queries are drawn within a seed."""
    results = {7: frame({"a": [0.0, 0.5], "b": [0.5, 0.5]}), 8: frame({"a": [1.0, 0.5], "b": [1.0, 0.5]})}
    table = pooled(results, "a", "nDCG@10")
    assert table.loc["b", "mean"] == 0.625 and table.loc["b", "n"] == 4 and table.loc["b", "seeds"] == "0.500 0.750"
    assert table.loc["b", "difference"] == "+0.1250 [+0.0000, +0.2500]"
    assert table.loc["b", "p (Holm)"] == 1.0 and table.loc["a", "difference"] == "" and table.loc["b", "seconds"] == 0.5
    assert markdown(table).splitlines()[2].startswith("| a | 0.5 |")
    lacking = pooled({**results, 9: frame({"a": [0.5, 0.5]})}, "a", "nDCG@10")
    assert lacking.loc["b", "seeds"] == "7: 0.500 8: 0.750" and lacking.loc["a", "seeds"] == "0.250 0.750 0.500"
    with pytest.raises(InputError, match="between 0 and 1"):
        Trials("x", None, share=1.0)  # type: ignore[arg-type]
