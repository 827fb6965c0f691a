"""What the exhibits say: tables of the notebooks that conclude, figures that pages quote, and where both are from."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rrlib.chain.from_profile import config_of, listwise_of, plan_of
from rrlib.chain.params import load_profile
from rrlib.engines.base import Decoding
from rrlib.errors import InputError
from rrlib.evaluation.audition import add_answer_tag, tag_added
from rrlib.evaluation.paired import p_in_words, paired_rows
from rrlib.formats import Collection
from rrlib.lesson.plots.evaluation import length_and_quality
from rrlib.lesson.tables import climb_table, length_verdicts, pool_holds
from rrlib.plans.training import GIB
from rrlib.responses import parse_lenient
from rrlib.studies.stored import stored_experiments
from rrlib.types import Passage, Query

ROOT = Path(__file__).resolve().parent.parent
BELIEFS = json.loads((ROOT / "docs" / "results" / "beliefs.json").read_text(encoding="utf-8"))


def notebook(name: str) -> str:
    return " ".join((ROOT / "notebooks" / f"{name}.py").read_text(encoding="utf-8").replace("\n# ", " ").split())


# --- the answer tag ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "tagged"),
    [
        ("So yes A. Ranking: [2] > [1]", "So yes A. <answer> [2] > [1] </answer>"),
        ("<think> A. </think> Ranking: [2] > [1]", "<think> A. </think> <answer> [2] > [1] </answer>"),
        ("<think> A. Answer: [2] > [1]", "<think> A. </think> <answer> [2] > [1] </answer>"),
        ("[1] > [2] at first. Ranking: [2] > [1]", "[1] > [2] at first. <answer> [2] > [1] </answer>"),
        ("Answer: A <answer> [2] > [1] </answer>", "Answer: A <answer> [2] > [1] </answer>"),
        ("[1] A yes [2] B no", "[1] A yes [2] B no"),
        ("", ""),
    ],
)
def test_the_tag_is_added_where_there_is_a_list_without_one(text: str, tagged: str) -> None:
    assert add_answer_tag(text) == tagged
    assert parse_lenient(tagged, 2).order == ((1, 0) if ">" in text else (0, 1))


def test_tagged_answers_are_read_and_judged_again() -> None:
    passages = (Passage("a", "one"), Passage("b", "two"))
    source = Collection("c", {"q": Query("q", "why")}, {}, {"q": {"b": 1}}, {p.docid: p for p in passages})
    row = {"qid": "q", "query": "why", "level": "bad_format", "verdict": "no_answer", "ndcg": 0.63, "recall": 1.0}
    row |= {"tokens": 9, "text": "<think> B. Answer: [2] > [1]", "order": ["a", "b"], "passages": passages}
    (again,) = tag_added(pd.DataFrame([row]), source, k=1).to_dict("records")
    assert (again["level"], again["verdict"], again["ndcg"], again["order"]) == ("valid", "ok", 1.0, ["b", "a"])
    assert again["tokens"] == 9 and again["text"].endswith("</answer>")


# --- tables that conclude ---------------------------------------------------------------------------------------------
def test_lengths_that_do_not_differ_answer_nothing() -> None:
    lengths = {"flat": [460] * 20, "rising": range(100, 120), "falling": range(100, 300, 10), "noise": range(10, 30)}
    lengths |= {"narrow": range(460, 480)}
    values = {"flat": [i / 20 for i in range(20)], "rising": [i / 20 for i in range(20)]}
    values |= {"narrow": values["flat"]}
    values |= {"falling": [1 - i / 20 for i in range(20)], "noise": [(7 * i % 20) / 20 for i in range(20)]}
    rows = [{"system": s, "tokens": t, "value": v} for s in lengths for t, v in zip(lengths[s], values[s], strict=True)]
    table = length_verdicts(pd.DataFrame(rows))
    assert table.loc["flat", "p"] == "" and "all lengths are the same: no answer" in table.loc["flat", "says"]
    assert table.loc["narrow", "rank correlation"] == "+1.00" and table.loc["narrow", "p"] == "< 0.0001"
    assert "differ by less than 5% (middle nine tenths): this is not thinking longer" in table.loc["narrow", "says"]
    assert table.loc["rising", "says"] == "longer, better" and table.loc["falling", "says"] == "longer, worse"
    flat, rising = (
        length_and_quality(pd.DataFrame([row for row in rows if row["system"] == name]), "RR").axes[0]
        for name in ("flat", "falling")
    )
    assert flat.get_xlim() == (0.8 * 460, 1.2 * 460) and "equally long" in flat.get_title() != rising.get_title()
    assert table.loc["noise", "says"] == "cannot be told from none" and table.loc["falling", "longest"] == 290


def test_what_the_candidates_hold_is_counted() -> None:
    said = pool_holds({"p": ["a", "b"], "q": ["c"], "r": ["d"]}, {"p": {"a": 1, "z": 1}, "q": {"c": 0, "y": 2}})
    assert said.startswith("the candidates hold 25.0%") and "over 2 queries" in said and "50.0% of the queries" in said
    with pytest.raises(InputError, match="no query has a relevant passage"):
        pool_holds({"p": ["a"]}, {})


def completions(by_step: dict[int, list[float]]) -> pd.DataFrame:
    rows = [
        {"step": step, "prompt": f"{step}/{i}", "multi_view_reward": value, "views": json.dumps([value, None, 0.5])}
        for step, values in by_step.items()
        for i, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("late", "word"), [(0.5, "climbed"), (-0.5, "fell"), (0.0, "cannot be told")])
def test_a_climb_is_judged_by_the_groups_and_not_by_their_band(late: float, word: str) -> None:
    """The bands of first and last steps overlap in all three cases: the prompts differ by more than the steps."""
    early = [i / 20 for i in range(41)]
    table = climb_table(completions({2: early, 4: early, 6: [v + late for v in early]}))
    assert table.loc["reward", "it"] == word and table.loc["rbo", "it"] == "cannot be told"
    assert table.loc["reward", "difference"].startswith(f"{late:+.3f} [") and "recall" not in table.index


def test_p_at_its_floor_is_a_bound() -> None:
    better = [0.5 + 0.01 * i for i in range(30)]
    values = {"base": {"s": [0.1] * 30}, "best": {"s": better}, "same": {"s": [0.1] * 30}}
    base, best, same = paired_rows(values, "base", resamples=999)
    assert (p_in_words(base), p_in_words(best), p_in_words(same)) == ("", "< 0.0020", "1.0000")
    older = {key: value for key, value in best.items() if key != "p_floor"}
    assert p_in_words(older) == "0.0020" and p_in_words({**best, "p_floor": float("nan")}) == "0.0020"
    by_t = paired_rows(values, "base", test="t", resamples=999)[1]
    assert not p_in_words(by_t).startswith("<")


# --- profiles and plans -----------------------------------------------------------------------------------------------
def test_a_plan_counts_with_the_rows_of_the_data_where_they_are_known() -> None:
    """The miniature's rows are a tenth of what its profile allows; memory follows (docs/training.md)."""
    profile = load_profile(ROOT / "params" / "miniature.yaml")
    model = "package:rrlib.miniature/backbone"
    for stage, longest, limit in (("02_sft", 400, 4096), ("03_rl", 300, 4096 + 160)):
        config = config_of(profile, stage)
        allowed, real = (plan_of(config, model, gpu_memory=16.0, longest=tokens) for tokens in (0, longest))
        rows = longest + (160 if stage == "03_rl" else 0)
        facts = [dict(plan.facts)["tokens of a row"] for plan in (allowed, real)]
        assert facts[0].startswith(f"{limit}, the most that is allowed") and facts[1].startswith(f"{rows}, the longest")
        kept = [next(p.bytes for p in plan.parts if p.name == "activations kept") for plan in (allowed, real)]
        assert kept[0] / kept[1] == pytest.approx(limit / rows)
        assert real.needed < 1.5 * GIB < 2 * GIB < allowed.needed


def test_a_sampled_profile_is_sampled_with_its_seed_and_a_greedy_one_is_not() -> None:
    decodings = {}
    for name in ("qwen3-8b", "llama3.1-8b"):
        profile = load_profile(ROOT / "params" / f"{name}.yaml")
        decodings[name] = listwise_of(config_of(profile, "04_evaluation"), "m").decoding
    assert decodings["qwen3-8b"] == Decoding(3172, 0.6, 0.95, 20, seed=42)
    assert decodings["llama3.1-8b"] == Decoding(3172)


def test_stored_results_name_the_parameters_that_have_no_effect() -> None:
    kept = stored_experiments()
    made_with = kept.source["parameters"]
    assert kept.unlike(made_with) == [] and kept.unlike({"engine_options": {"x": 1}}) == []
    (line,) = kept.unlike({**made_with, "epochs": 9.0})
    assert line == f"epochs = 9.0 has no effect: the stored results had {made_with['epochs']!r}"


# --- figures that pages quote -----------------------------------------------------------------------------------------
def test_the_table_of_the_world_is_that_of_its_file() -> None:
    columns, rows = BELIEFS["columns"], BELIEFS["rows"]
    lines = [f"| system | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in {**rows, **BELIEFS["read"]}.items()]
    page = (ROOT / "docs" / "world.md").read_text(encoding="utf-8")
    assert "\n".join(lines) in page and f"--queries {BELIEFS['queries']}" in page


def test_figures_of_beliefs_are_those_of_the_table() -> None:
    rows = {name.split(" (")[0]: cells for name, cells in {**BELIEFS["rows"], **BELIEFS["read"]}.items()}
    before, after = rows["SFT"], rows["SFT, then GRPO"]
    text = notebook("03_rl")
    for column in (2, 3):
        assert f"{float(before[column]):.1%}" in text and f"{float(after[column]):.1%}" in text
    assert f"{before[4]} a window before and {after[4]} after" in text


def test_scores_of_the_backbones_skills_are_those_of_its_record() -> None:
    record = json.loads((ROOT / "rrlib/miniature/backbone/pretraining.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "world.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\w+) \| [^|]+ \| ([\d.]+) \|$", page, re.MULTILINE))
    assert rows == {skill: f"{value:.3f}" for skill, value in record["scores"]["10 passages"].items()}


def test_notebook_06_quotes_its_stored_results_and_those_of_three_seeds() -> None:
    text, experiment = notebook("06_efficiency"), stored_experiments().results["experiment"]
    means = {row["system"]: row["mean"] for row in experiment.rows("nDCG@10")}
    seconds = experiment.costs.set_index("system")["seconds"]
    quoted = (means["listwise"], means["pointwise"], seconds["pointwise"] / seconds["listwise"])
    assert "({:.3f} listwise, {:.3f} pointwise, {:.2f} times the seconds)".format(*quoted) in text
    thinking = (ROOT / "docs" / "thinking.md").read_text(encoding="utf-8")
    listwise, pointwise, times = re.search(r"miniature` have ([\d.]+), ([\d.]+) and ([\d.]+) times", text).groups()  # type: ignore[union-attr]
    assert f"| listwise | {listwise} [" in thinking and f"| pointwise | {pointwise} [" in thinking
    assert f"takes {times} times the seconds" in thinking


def test_the_benchmark_of_beliefs_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    sys.modules.pop("beliefs", None)
    script: Any = __import__("beliefs")
    script.main(["--queries", "2", "--keep", str(tmp_path / "kept.json")])
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert last["name"] == "beliefs" and last["n"] == 2 == kept["queries"]
    assert set(kept["rows"]) >= set(BELIEFS["rows"]) and kept["columns"] == BELIEFS["columns"]
    share = float(kept["rows"]["SFT, then GRPO (committed)"][2])
    assert 0.0 < share <= 1.0, "answers whose belief could be read"
