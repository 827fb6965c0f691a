"""The ablation table: its rows differ in what they say, what is shared is made once, and its numbers add up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats
from smoke_chain import Chain

from rrlib.engines.base import Decoding
from rrlib.errors import InputError
from rrlib.evaluation.significance import paired_t_power
from rrlib.formats import read_collection
from rrlib.lesson.plots.ablations import differences, seed_dots
from rrlib.lesson.sentences import cut_words
from rrlib.lesson.tables import ablation_view
from rrlib.metrics import ndcg
from rrlib.miniature import faultless_teacher
from rrlib.resources import repository
from rrlib.studies import report
from rrlib.studies.ablations import Table
from rrlib.studies.make import keep, main
from rrlib.studies.recipes import PAPER_ROWS, RECIPES, TEACHER_ROWS
from rrlib.studies.report import compared, markdown, steps_markdown, steps_table, stored_page, table
from rrlib.studies.rows import Result, judged, read_results
from rrlib.studies.setting import Setting, setting_of
from rrlib.studies.stored import STRADDLE_ROWS, stored_rows
from rrlib.studies.supervision import labelled_by_chain
from rrlib.studies.teacher import teacher_ranking
from rrlib.types import Passage, Query, RankingExample

ROWS = [
    *("first stage", "backbone", "full", "no RL", "no filter", "NDCG-only reward", "pointwise"),
    *("RBO where the gold list is right", "no reasoning, SFT", "one domain", *TEACHER_ROWS),
]


@pytest.fixture(scope="module")
def setting() -> Setting:
    """The smoke profile with less of everything: two updates of SFT, one of GRPO."""
    plain = {"micro_batch": 4, "dtype": "fp32"}
    sizes = {"train_queries": 60, "validation_queries": 0, "test_queries": 6, "pool": 12}
    small = setting_of("smoke").changed("01_synthesis", **sizes, consistency_k=10, alpha=0.7)
    small = small.changed("02_sft", **plain, epochs=0.1)
    short = {"prompts": 2, "rollouts": 2, "updates": 1, "steps": 1, "max_completion": 24}
    small = small.changed("03_rl", **plain, **short, rl_learning_rate=1e-5)
    return small.changed("04_evaluation", depth=12, max_new_tokens=24)


@pytest.fixture(scope="module")
def filled(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> tuple[Table, list[Result]]:
    maker = Table(tmp_path_factory.mktemp("table"), setting, say=lambda text: None)
    return maker, maker.fill(ROWS, [3])


def test_every_row_is_made_and_kept(filled: tuple[Table, list[Result]]) -> None:
    _, results = filled
    assert [(r.row, r.seed) for r in results] == [(name, 3) for name in ROWS]
    assert all(len(r.values) == 6 and r.data_kind == "synthetic" for r in results)
    by_row = {r.row: r for r in results}
    assert by_row["one domain"].examples < by_row["full"].examples == by_row["no RL"].examples
    assert "rl" in by_row["full"].seconds and "rl" not in by_row["no RL"].seconds


def test_what_rows_share_is_trained_once(filled: tuple[Table, list[Result]]) -> None:
    maker, _ = filled
    (home,) = maker.folder.glob("seed-3-*")
    # full, no RL and the rows of the reward share one SFT; the others have their own
    assert len(list(home.glob("sft-*"))) == 1 + len(["no filter", "no reasoning, SFT", "one domain", "pointwise"])
    said = dataclasses.replace(RECIPES["no RL"], alpha=maker.setting.config("01_synthesis").alpha)
    assert maker.checkpoint(3, said, {}) == maker.checkpoint(3, RECIPES["no RL"], {})
    rewards = {p.name: json.loads((p / "inputs.json").read_text())["reward"] for p in home.glob("grpo-*")}
    weights = {name: reward.partition("weights ")[2] for name, reward in rewards.items()}
    paper = "ndcg 1, recall 0.2, rbo 0.1"
    assert weights == {
        "grpo-full": paper,
        "grpo-no-filter-equal": paper,
        "grpo-one-domain-equal": paper,
        "grpo-ndcg-only-reward": "ndcg 1, recall 0, rbo 0",
        "grpo-rbo-where-the-gold-list-is-right": f"{paper}, rbo where right",
    }


def test_every_sft_makes_the_updates_of_the_full_recipe(filled: tuple[Table, list[Result]], setting: Setting) -> None:
    maker, results = filled
    (home,) = maker.folder.glob("seed-3-*")
    states = [json.loads(path.read_text()) for path in home.glob("sft-*/trainer/checkpoint-*/trainer_state.json")]
    assert {state["global_step"] for state in states} == {2} and len(states) == 5
    by_row = {r.row: r for r in results}
    assert by_row["no filter"].examples == by_row["full"].examples > by_row["one domain"].examples
    assert {name for name, row in by_row.items() if row.equal_updates} == {"no filter", "one domain"}
    kept = maker.examples(3, RECIPES["no filter"])
    sample, changes = maker._lists(3, RECIPES["no filter"])
    places = [kept.index(example) for example in sample]
    assert places == sorted(places) and places != list(range(len(places))) and not changes
    assert maker._lists(3, RECIPES["no filter"])[0] == sample, "the same seed draws the same lists"


def test_rows_that_make_as_many_updates_have_a_key_of_their_own(
    filled: tuple[Table, list[Result]], setting: Setting
) -> None:
    maker, results = filled
    before = Table(maker.folder, setting, say=lambda text: None, equal_updates=False)
    own = {"no filter", "one domain"}
    gold = {"listwise, gold", "pointwise, gold"}
    assert {name for name in RECIPES if maker.key_of(name) != before.key_of(name)} == own
    assert {name for name in RECIPES if maker.key_of(name) != setting.key} == own | gold
    assert {r.row for r in before.results()} == {r.row for r in results} - own


def test_one_supervision_teaches_both_forms(filled: tuple[Table, list[Result]]) -> None:
    maker, results = filled
    lists = maker.examples(3, RECIPES["full"])
    teacher, gold = (maker._taught(3, RECIPES[name], lists) for name in ("no RL", "listwise, gold"))
    assert teacher == lists and [e.relevance for e in gold] == [e.relevance for e in lists]
    assert [e.passages for e in gold] == [e.passages for e in lists]
    agrees = [sum(ndcg(e.gold, e.relevance, 5) > 0.99 for e in some) for some in (teacher, gold)]
    assert agrees[0] < agrees[1] == len(lists), "the teacher errs, the other does not"
    for name, judge in (("pointwise", teacher), ("pointwise, gold", gold)):
        points = maker._taught(3, RECIPES[name], lists)
        assert len(points) == sum(len(e.passages) for e in lists)
        first = [point.relevance[0] for point in points[: len(judge[0].passages)]]
        by_chain = [int(chain.endswith("yes")) for chain in judge[0].reasoning.split(" [")[1:]]
        assert first == (by_chain if name == "pointwise" else list(lists[0].relevance))
    by_row = {r.row: r for r in results}
    assert by_row["pointwise"].examples == by_row["no RL"].examples


def test_a_chain_without_verdicts_teaches_no_passage_alone() -> None:
    example = RankingExample(Query("q", "?"), (Passage("a", "x"), Passage("b", "y")), (1, 0), (0, 1), "[1] yes. [2] so")
    with pytest.raises(InputError, match="says 'so' of passage 2"):
        labelled_by_chain(example)
    assert labelled_by_chain(dataclasses.replace(example, reasoning="[1] no. [2] A yes")).relevance == (0, 1)


def test_the_teacher_ranks_as_well_as_it_believes(filled: tuple[Table, list[Result]], setting: Setting) -> None:
    maker, results = filled
    rows = {r.row: r for r in results if r.row in (*TEACHER_ROWS, "first stage")}
    assert all(set(r.graded) == set(r.values) and r.graded != r.values for r in rows.values())
    assert all(0 < r.valid <= 1 and r.tokens > 0 for r in (rows[name] for name in TEACHER_ROWS))
    folder = maker.collection(3)
    sizes = {"window": 10, "stride": 5, "depth": 12}
    test = read_collection(folder, "test")
    for full in (False, True):
        made = teacher_ranking(faultless_teacher(folder, seed=3), test, Decoding(4096), **sizes, full=full)
        assert set(judged(test.qrels, made.run).values()) == {1.0}, "one without errors has nothing to lose"
        assert made.readable == made.answers == len(test.queries) * (1 if full else 2)


def test_a_second_filling_makes_nothing_and_a_torn_row_is_made_again(
    filled: tuple[Table, list[Result]], setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, results = filled
    monkeypatch.setattr(Table, "_make", lambda *args: pytest.fail("a finished row was made again"))
    assert Table(maker.folder, setting, say=lambda text: None).fill(ROWS, [3]) == results
    monkeypatch.undo()
    whole = maker.path.read_bytes()
    maker.path.write_bytes(whole[:-20])  # killed while the last row was written
    with pytest.raises(InputError):
        read_results(maker.path)
    again = Table(maker.folder, setting, say=lambda text: None).fill(ROWS, [3])
    assert [r.values for r in again] == [r.values for r in results]
    assert maker.path.read_bytes().count(b"\n") == len(ROWS)


def test_other_settings_are_other_rows(filled: tuple[Table, list[Result]], setting: Setting) -> None:
    maker, results = filled
    other = Table(maker.folder, setting.changed("01_synthesis", alpha=0.9), say=lambda text: None)
    assert other.results() == [] and [r.values for r in maker.results()] == [r.values for r in results]


def test_unknown_rows_are_named(filled: tuple[Table, list[Result]]) -> None:
    with pytest.raises(InputError, match="no such row"):
        filled[0].fill(["no such row"], [3])


def made_up(row: str, seed: int, shift: float) -> Result:
    values = {f"q{i}": 0.5 + 0.1 * (i % 4) + shift + 0.01 * (i % 3) * (shift != 0) for i in range(40)}
    return Result(row, seed, values, 1.0, 90.0, 100, {}, "synthetic", "x")


def test_a_p_at_the_floor_of_the_test_is_a_bound_and_graded_values_name_their_seeds() -> None:
    some = [made_up(row, seed, -0.1 * (row == "no RL")) for row in ("full", "no RL") for seed in (1, 2)]
    some[2] = dataclasses.replace(some[2], graded=dict.fromkeys(some[2].values, 0.5))
    text = markdown(made := table(some, resamples=1000), some)
    assert "| < 0.0010 |" in text and "| 0.500 (1) | 80 |" in text
    view = ablation_view(made)
    assert list(view["graded"]) == ["", "0.500 (1)"] and view.loc["no RL", "p (Holm)"].startswith("< ")
    some[3] = dataclasses.replace(some[3], graded=dict.fromkeys(some[3].values, 0.7))
    assert "| 0.600 | 80 |" in markdown(table(some, resamples=100), some)


def test_the_table_is_paired_and_pooled_over_seeds() -> None:
    results = [made_up("full", seed, 0.0) for seed in (1, 2)] + [made_up("no RL", seed, -0.1 * seed) for seed in (1, 2)]
    made = table(results, resamples=2000)
    row = made.loc["no RL"]
    by_hand = [a.values[q] - b.values[q] for a, b in zip(results[2:], results[:2], strict=True) for q in a.values]
    assert row["difference"] == pytest.approx(sum(by_hand) / len(by_hand))
    assert row["low"] <= row["difference"] <= row["high"] < 0 and row["n"] == 80
    assert row["p"] < 0.01 and row["paper"] == pytest.approx(33.15 - 35.74)
    assert made.loc["full", "difference"] != made.loc["full", "difference"]  # the baseline has none
    full, cut = [[sum(r.values.values()) / len(r.values) for r in some] for some in (results[:2], results[2:])]
    assert row["p (seeds)"] == pytest.approx(stats.ttest_rel(full, cut).pvalue)


def test_a_row_that_lacks_a_seed_names_those_it_has() -> None:
    results = [made_up("full", seed, 0.0) for seed in (1, 2)] + [made_up("no RL", 2, -0.1)]
    made = table(results, resamples=500)
    assert made.loc["no RL", "seeds"].startswith("2: ") and ":" not in made.loc["full", "seeds"]
    assert made["p (seeds)"].isna().all()  # one pair of trainings


def test_signs_that_differ_from_the_papers_are_listed_with_a_sentence() -> None:
    results = [made_up("full", 1, 0.0), made_up("no RL", 1, -0.1), made_up("no filter", 1, 0.1)]
    listed = compared(table(results, resamples=500))
    assert list(listed.index) == ["no filter"] and listed.loc["no filter", "may be because"]
    assert all(name in report.WHY for name, row in RECIPES.items() if row.paper and name != "full")


def test_what_trainings_cannot_tell_is_said_beside_what_queries_cannot() -> None:
    """A row may differ by its queries, and have either sign by its trainings."""
    gaps = {"no filter": (0.3, -0.1), "no RL": (-0.1, -0.1001)}
    results = [made_up("full", seed, 0.0) for seed in (1, 2)]
    results += [made_up(name, seed, gap) for name, pair in gaps.items() for seed, gap in zip((1, 2), pair, strict=True)]
    made = table(results, resamples=500)
    assert made.loc["no filter", "low"] > 0 and "0.05 or more): no filter." in cut_words(made)
    assert compared(made).loc["no filter", "p (seeds)"] >= 0.05


def test_figures_and_markdown_hold_every_row() -> None:
    results = [made_up("full", 1, 0.0), made_up("no RL", 1, -0.1), made_up("first stage", 1, -0.3)]
    made = table(results, resamples=500)
    for figure in (differences(made), seed_dots(results)):
        assert "no RL" in [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    text = markdown(made, results)
    assert text.count("\n|") == 2 + 3 and "Seeds 1" in text
    with pytest.raises(InputError):
        differences(made.loc[["full"]])


def test_the_rows_of_the_profile_share_the_values_of_the_miniature() -> None:
    shared = setting_of("miniature")
    last, rl = shared.config("04_evaluation"), shared.config("03_rl")
    assert shared.config("01_synthesis").window - last.stride == rl.reward_k and last.depth == 30
    assert shared.sizes()["test"] >= 24 and rl.steps > 1


def test_a_setting_is_named_as_in_the_first_tables(setting: Setting) -> None:
    """Rows and folders made before the settings were parameters still count; what those tables did not read counts
    only where it differs from what they took instead."""
    assert list(setting.identity()) == [
        *("corpus", "sizes", "teacher", "model", "sft", "grpo", "corpus_options", "teacher_options", "alpha"),
        *("consistency_k", "temperature", "window", "stride", "depth", "k", "max_new_tokens", "engine_options"),
    ]
    assert setting.identity()["sft"]["micro_batch"] == 4 and setting.identity()["sft"]["seed"] == 0
    assert list(setting.changed("02_sft", sft_examples=9).identity())[-1] == "02_sft.sft_examples"
    keys = {setting.key, *(setting.changed("03_rl", **change).key for change in ({"rbo_p": 0.9}, {"steps": 2}))}
    assert len(keys) == 3 and setting.changed("03_rl", seed=99, run="other").key == setting.key


def test_paper_figures_are_those_of_the_paper() -> None:
    told = {name: row.paper for name, row in RECIPES.items() if row.paper is not None}
    assert told == {
        "full": 35.74,
        "no filter": 34.20,
        "no SFT": 28.69,
        "no RL": 33.15,
        "NDCG-only reward": 34.20,
        "no reasoning, SFT": 32.96,
        "no reasoning": 33.60,
        "one domain": 30.08,
    }


def test_stored_rows_are_whole(tmp_path: Path) -> None:
    results = stored_rows()
    seeds = {r.seed for r in results}
    assert {r.row for r in results} <= {"first stage", *RECIPES}
    assert all(len(r.values) == 600 and min(r.values.values()) >= 0 for r in results) and len(seeds) == 5
    there = {(r.row, r.seed) for r in results}
    assert {(name, seed) for name in ("first stage", *PAPER_ROWS) for seed in (7, 8, 9)} <= there
    claimed = {"first stage", *PAPER_ROWS, "teacher, windows", "teacher, full list"} - {"no filter", "one domain"}
    assert {(name, seed) for name in claimed for seed in seeds} <= there, "what is claimed rests on five seeds"
    other = {(r.row, r.seed) for r in stored_rows(STRADDLE_ROWS)}
    assert {(name, seed) for name in ("full", "NDCG-only reward") for seed in seeds} <= other


def test_a_finished_run_gives_the_rows_that_it_made(chain: Chain, tmp_path: Path) -> None:
    maker = Table(tmp_path, setting_of("smoke"), say=lambda text: None)
    rows = {r.row: r for r in maker.take(chain.run)}
    assert set(rows) == {"first stage", "backbone", "no RL", "full"} and {r.seed for r in rows.values()} == {7}
    told = {(r["system"], r["metric"]): r["mean"] for r in json.loads((chain.run / "results.json").read_text())["rows"]}
    for row, system in (("first stage", "first-stage"), ("backbone", "backbone"), ("no RL", "sft"), ("full", "sft+rl")):
        mean = sum(rows[row].values.values()) / len(rows[row].values)
        assert mean == pytest.approx(told[system, "nDCG@10"], abs=1e-3)
    maker.take(chain.run)
    assert len(maker.results()) == 4, "rows that are there are not kept twice"
    with pytest.raises(InputError, match="other settings"):
        Table(tmp_path, setting_of("miniature"), say=lambda text: None).take(chain.run)
    with pytest.raises(InputError, match="not finished"):
        maker.take(tmp_path)


def test_rows_of_equal_and_of_unequal_updates_are_never_one_sample() -> None:
    unequal = [dataclasses.replace(made_up("no filter", seed, 0.1), examples=115) for seed in (1, 2)]
    results = [made_up("full", seed, 0.0) for seed in (1, 2)] + unequal
    made = table(results, resamples=500)
    assert made.loc["no filter", "updates"] == pytest.approx(1.15) and made.loc["full", "updates"] == 1.0
    equal = dataclasses.replace(made_up("no filter", 2, -0.1), equal_updates=True, setting="y", graded={"q": 0.25})
    for both in ([*results, equal], [equal, *results]):
        made = table(both, resamples=500)
        assert made.loc["no filter", "n"] == 40 and made.loc["no filter", "difference"] < 0
        assert made.loc["no filter", "updates"] == 1.0 and made.loc["no filter", "graded"] == 0.25
        assert made["graded"].isna().sum() == 1
        assert "| 100% | 0.250 |" in markdown(made, both)
        assert report.row_means(both)["no filter"].keys() == {2}


def test_power_is_what_scipy_and_simulation_say() -> None:
    rng = np.random.default_rng(0)
    gaps = rng.normal(0.02, 0.01, size=(20_000, 3))
    found = float((stats.ttest_1samp(gaps, 0.0, axis=1).pvalue < 0.05).mean())
    assert paired_t_power(0.02, 0.01, 3) == pytest.approx(found, abs=0.01)
    assert paired_t_power(0.0, 0.01, 3) == pytest.approx(0.05)
    assert paired_t_power(0.02, 0.0045, 3) > 0.9 and paired_t_power(0.02, 0.001, 3) == pytest.approx(1.0)
    results = [made_up("full", seed, 0.0) for seed in (1, 2, 3)]
    results += [made_up("no RL", seed, shift) for seed, shift in ((1, -0.1), (2, -0.11), (3, -0.12))]
    (row,) = report.power_table([*results, made_up("no SFT", 1, -0.1)]).to_dict("records")
    assert (
        row["seeds"] == 3 and row["deviation"] == pytest.approx(0.01) and row["power"] == pytest.approx(found, abs=0.01)
    )
    enough = int(row["seeds for 80%"])
    assert paired_t_power(0.02, 0.01, enough) >= 0.8 > paired_t_power(0.02, 0.01, enough - 1)
    with pytest.raises(InputError):
        paired_t_power(0.02, 0.0, 3)


def test_finished_rows_are_kept_beside_the_stored_ones(setting: Setting, tmp_path: Path) -> None:
    maker, stored = Table(tmp_path, setting, say=lambda text: None), tmp_path / "stored.jsonl"
    made = (dataclasses.replace(made_up(row, 3, 0.0), setting=maker.key_of(row)) for row in ("full", "no filter"))
    results = [dataclasses.replace(result, graded=result.values) for result in made]
    maker.path.write_text("".join(json.dumps(dataclasses.asdict(result)) + "\n" for result in results))
    assert len(keep(maker, stored)) == len(results) == len(read_results(stored))
    assert all("there already" in line for line in keep(maker, stored)) and len(read_results(stored)) == len(results)
    older = dataclasses.asdict(results[0]) | {"graded": {}}
    stored.write_text(json.dumps(older) + "\n")  # a row of before, when graded values were not kept
    keep(maker, stored)
    assert read_results(stored)[0] == results[0] and len(read_results(stored)) == len(results)
    other = Table(maker.folder, maker.setting.changed("01_synthesis", alpha=0.9), say=lambda text: None)
    with pytest.raises(InputError, match="no finished rows"):
        keep(other, stored)
    assert main(["--output", str(tmp_path)]) == 2  # neither to make nor to keep


def test_the_page_is_written_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.main(["--write", str(page)])
    assert page.read_text() == f"before\n{report.BEGIN}\n\n{stored_page().strip()}\n\n{report.END}\nafter\n"
    begin, end = report.STRADDLE_BEGIN, report.STRADDLE_END
    page.write_text(f"{report.BEGIN}\n{report.END}\nbetween\n{begin}\nold\n{end}\n")
    report.main(["--write", str(page)])
    usual, other = page.read_text().split("between")
    assert stored_page().strip() in usual and stored_page(STRADDLE_ROWS).strip() in other and "\nold\n" not in other
    page.write_text(f"{report.BEGIN}\n{report.END}\n{begin}\n")
    with pytest.raises(InputError, match="end of straddle rows"):
        report.write_page(page)
    page.write_text("no marks")
    with pytest.raises(InputError, match="no place"):
        report.write_page(page)


def test_the_profile_makes_the_papers_rows() -> None:
    profile = yaml.safe_load((repository() / "params" / "ablations.yaml").read_text())
    assert profile["05_ablations"]["rows"] == ["first stage", *PAPER_ROWS]


def test_steps_are_judged_seed_by_seed() -> None:
    whole = [made_up(row, 1, shift) for row, shift in (("first stage", -0.3), ("backbone", -0.2), ("no RL", -0.1))]
    steps = steps_table([*whole, made_up("full", 1, 0.0), made_up("full", 2, 0.0)])
    assert list(steps.index) == [1], "seed 2 lacks the other rows"
    one = steps.loc[1]
    full, sft = (made_up(row, 1, shift).values for row, shift in (("full", 0.0), ("no RL", -0.1)))
    by_hand = sum(full[q] - sft[q] for q in full) / len(full)
    assert one["SFT+GRPO"] - one["SFT"] == pytest.approx(by_hand)
    assert one["GRPO adds"].startswith(f"{by_hand:+.3f} [")
    assert one["p, GRPO"] < 0.05 and one["n"] == len(whole[0].values)
    text = steps_markdown(steps)
    assert text.count("\n|") == 2 and f"| 1 | {one['first stage']:.3f} |" in text and "floor" not in text
    assert "| < 0.0001 | < 0.0001 |" in steps_markdown(steps.assign(**{"p, SFT": 1 / 10001, "p, GRPO": 1 / 10001}))
    assert "| 0.0002 | < 0.0001 |" in steps_markdown(steps.assign(**{"p, SFT": 2 / 10001, "p, GRPO": 1 / 10001}))
    assert steps_table(whole).empty


def test_the_docs_say_what_the_stored_rows_say() -> None:
    root = Path(__file__).resolve().parents[1]
    page = (root / "docs" / "ablations.md").read_text(encoding="utf-8")
    for text in (stored_page(), stored_page(STRADDLE_ROWS)):
        assert text.strip() in page, "run `python -m rrlib.studies.report --write`"
    steps = steps_markdown(steps_table(stored_rows())).strip()
    page = (root / "docs" / "miniature.md").read_text(encoding="utf-8")
    assert steps in page, "its first table belongs into docs/miniature.md"
