"""Faults that a reader of notebooks 02 to 04 met: what a parameter changes and a cell passed over, what a sentence said
that the numbers beside it did not. Cells are taken from the notebooks, and run with what they need."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from test_advantage_by_view import VALID, kept
from test_solutions import checks, verdict

from rrlib.chain.manifest import open_stage
from rrlib.chain.params import inputs_of, notebook_path, read_cells
from rrlib.chain.results import SYSTEMS
from rrlib.chain.stages import chain_checkpoints
from rrlib.errors import InputError
from rrlib.evaluation import Listwise, from_collection
from rrlib.evaluation.audition import audition
from rrlib.formats import Collection
from rrlib.lesson import sentences, shown, thread, trust
from rrlib.lesson.explain import without_end
from rrlib.lesson.groups import advantage_by_view
from rrlib.prompts import format_response
from rrlib.studies.report import row_means
from rrlib.studies.stored import stored_rows
from rrlib.training.config import GRPOSettings
from rrlib.types import Passage, Query, RankingExample

ALL = ("01_synthesis", "02_sft", "03_rl")


def code(stage: str, words: str) -> str:
    """The source of the one code cell of a notebook that holds these words."""
    cells = [cell["source"] for cell in read_cells(notebook_path(stage)) if cell["cell_type"] == "code"]
    (found,) = [source for source in cells if words in source]
    return found


def text(stage: str) -> str:
    return " ".join(" ".join(c["source"] for c in read_cells(notebook_path(stage)) if c["cell_type"] != "code").split())


def value_of(stage: str, words: str, name: str, **names: Any) -> Any:
    """What a cell assigns to a name, where these names stand before it; `|=` on it counts too."""
    for node in ast.parse(code(stage, words)).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            exec(compile(ast.Module([node], []), stage, "exec"), names)
    return names[name]


# --- what 04 reads ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("values", "inputs"),
    [
        ({"benchmarks": ["bright"], "checkpoints": {"a": "b"}}, ()),
        ({"benchmarks": [], "checkpoints": {"a": "b"}}, ("01_synthesis",)),
        ({"benchmarks": ["bright"], "checkpoints": {}}, ("02_sft", "03_rl")),
        ({}, ALL),
    ],
)
def test_what_the_evaluation_reads_follows_from_both_parameters(
    values: dict[str, Any], inputs: tuple[str, ...]
) -> None:
    assert inputs_of("04_evaluation", values) == inputs


def test_the_other_notebooks_read_what_they_read() -> None:
    assert inputs_of("06_efficiency", {"stored": True}) == () == inputs_of("00_tour", {})
    assert inputs_of("06_efficiency", {"stored": False}) == ALL[:2] == inputs_of("03_rl", {"checkpoints": 1})


def test_the_chains_checkpoints_can_be_put_on_a_benchmark(tmp_path: Path) -> None:
    for name, kind in (("02_sft", "sft"), ("03_rl", "grpo")):
        with open_stage(tmp_path, name, {"run": "r"}) as stage:
            stage.data_kind = "synthetic"
            (stage.folder / kind / "checkpoint").mkdir(parents=True)
    values = {"benchmarks": ["bright"], "checkpoints": {}, "model": "backbone"}
    stage = open_stage(tmp_path, "04_evaluation", values, inputs_of("04_evaluation", values))
    found = chain_checkpoints(stage, SimpleNamespace(**values))  # type: ignore[arg-type]
    assert found["backbone"] == "backbone" and list(found) == ["backbone", "sft", "sft+rl"]
    assert [Path(found[name]).parent.name for name in ("sft", "sft+rl")] == ["sft", "grpo"]


@pytest.mark.parametrize(
    ("benchmarks", "checkpoints", "own"), [([], {}, False), (["bright"], {}, True), ([], {"mine": "m"}, True)]
)
def test_the_systems_that_a_profile_names_are_in_the_results(
    benchmarks: list[str], checkpoints: dict[str, str], own: bool
) -> None:
    names = {"benchmarks": benchmarks, "checkpoints": checkpoints, "SYSTEMS": SYSTEMS, "systems": {"mine": 1}}
    named = value_of("04_evaluation", "stage.finish", "named", **names)
    assert tuple(named) == (("mine",) if own else SYSTEMS)


# --- dr_grpo ----------------------------------------------------------------------------------------------------------
def test_without_the_deviation_a_group_counts_for_as_much_as_it_spreads() -> None:
    completions = kept([VALID, (0.5, 1.0, 0.81)], [VALID, (0.6, 1.0, 0.8)])  # RBO by 0.001, NDCG by 0.1
    shares = {d: advantage_by_view(completions, divide=d)["share of |advantage|"] for d in (True, False)}
    assert shares[True]["rbo"] == pytest.approx(0.46, abs=0.04)
    assert shares[False]["rbo"] == pytest.approx(0.001 / 0.101, abs=1e-3)
    assert shares[False].dropna().sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("loss", "normalize", "scale"),
    [
        ("grpo", "total", "group"),
        ("dapo", "total", "group"),
        ("dr_grpo", "total", "none"),
        ("dr_grpo", "views", "group"),
    ],
)
def test_figures_and_shares_of_03_divide_as_the_training_did(loss: str, normalize: str, scale: str) -> None:
    chosen = value_of("03_rl", '"favours"', "scale", loss=loss, normalize=normalize)
    assert chosen == scale
    for figure in ('"favours"', 'stage.figure("thread"'):
        (call,) = [
            node
            for node in ast.walk(ast.parse(code("03_rl", figure)))
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "group_update"
        ]
        assert isinstance(call.args[4], ast.Name) and call.args[4].id == "scale"
    told: dict[str, Any] = {}
    names = {"loss": loss, "normalize": normalize, "completions": 1, "reward_weights": {}, "groups": None}
    names |= {"shown": SimpleNamespace(say=lambda *said: None, table=lambda frame: frame)}
    names["sentences"] = SimpleNamespace(by_view_words=lambda frame: "")
    names["groups"] = SimpleNamespace(advantage_by_view=lambda *a, **options: told.update(options) or 1)
    exec(code("03_rl", "by_view_words"), names)
    assert told == ({"divide": scale == "group"} if normalize == "total" else {})


def test_a_spread_is_claimed_to_be_even_only_where_it_is() -> None:
    assert "brought to the same spread" in sentences.scale_words("grpo")
    assert "does not divide" in sentences.scale_words("dr_grpo") and "same" not in sentences.scale_words("dr_grpo")
    assert "each view against its group" in sentences.scale_words("dr_grpo", "views")
    page = text("03_rl")
    assert "since each group is brought to the same spread" not in page and "With `loss: dr_grpo`" in page


# --- the limit of a passage -------------------------------------------------------------------------------------------
EXAMPLE = RankingExample(
    Query("q", "why"), (Passage("a", "one"), Passage("b", "two")), (0, 1), (1, 0), "because", {"consistency": 1.0}
)


class Stop(Exception):
    """The reranker was made: no more is needed."""


def test_checkpoints_are_asked_under_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    def reranker(*given: Any, **options: Any) -> None:
        made.append(options)
        raise Stop

    source = Collection("c", {}, {}, {}, {})
    for module, ask in (
        ("rrlib.evaluation.audition", lambda **more: audition("m", source, window=10, **more)),
        ("rrlib.lesson.thread", lambda **more: thread.answers_of({"m": "m"}, EXAMPLE, **more)),
    ):
        monkeypatch.setattr(f"{module}.Reranker", reranker)
        monkeypatch.setattr(Collection, "candidates", lambda self, window: [])
        for more in ({}, {"max_passage_tokens": 64}):
            with pytest.raises(Stop):
                ask(**more)
    assert [options["max_passage_tokens"] for options in made] == [None, 64, None, 64]


@pytest.mark.parametrize("stage", ["02_sft", "03_rl"])
def test_02_and_03_ask_with_their_own_limit(stage: str) -> None:
    values = {"window": 10, "style": "reasonrank", "max_new_tokens": 9, "max_completion": 9, "reward_k": 5}
    values |= {"engine_options": {}, "max_passage_tokens": 77}
    trial = value_of(stage, "trial |=", "trial", **values)
    asking = value_of(stage, "answers_of(", "asking", trial=trial, **values)
    assert trial["max_passage_tokens"] == 77 == asking["max_passage_tokens"] and set(asking) < set(trial)


@pytest.mark.parametrize(("own", "limit"), [(64, 64), (None, 100)])
def test_the_thread_of_04_is_asked_as_its_systems_are(own: int | None, limit: int) -> None:
    data = from_collection(Collection("c", {}, {}, {}, {}), max_passage_tokens=100, window=8, stride=4, depth=12)
    models = {"m": Listwise("m", max_passage_tokens=own)}
    names: dict[str, Any] = {"engine": "numpy", "style": "reasonrank", "engine_options": {"k": 1}, "last": "m"}
    told: dict[str, Any] = {}
    names |= {"benchmarks": [], "checkpoints": {}, "data": [data], "trained": {}, "models": models}
    names |= {"window": 0, "stride": 0, "depth": 0}
    said = SimpleNamespace(thread_of=lambda run: 1, whole_list=lambda *a: told.update(a[3]), end_words=str)
    names |= {"thread": said, "stage": SimpleNamespace(run_dir="")}
    names |= {"stages": SimpleNamespace(collection_of=lambda *a: 1)}
    exec(code("04_evaluation", "whole_list"), names | {"shown": shown})
    assert (told["max_passage_tokens"], told["window"], told["stride"], told["depth"]) == (limit, 8, 4, 12)
    assert told["k"] == 1 and told["decoding"] == models["m"].decoding


# --- styles and forms -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("style", ["nothink", "rankgpt", "pointwise"])
def test_a_style_without_tags_is_refused_and_not_called_invalid(style: str) -> None:
    with pytest.raises(InputError, match="no answer block") as caught:
        audition("package:rrlib.miniature/backbone", Collection("c", {}, {}, {}, {}), window=4, style=style)
    assert "nothink_tags" in caught.value.remedy


def test_what_neither_answer_has_is_not_the_same() -> None:
    lists = [format_response("", order, "nothink_tags") for order in ((0, 1), (1, 0))]
    for answers, said in {
        (lists[0], lists[1]): "Neither answer has a reasoning; the list is another one.",
        (lists[0], "[1] > [2]"): "Neither answer has a reasoning; the list is the same.",
        ("<think> a </think> x", "<think> a </think> y"): "Neither answer has a list; the reasoning is the same.",
        ("x", "y"): "Neither answer has a reasoning or a list.",
        ("x", "x"): "The two answers are the same.",
    }.items():
        assert thread.kept_words(dict(zip("ab", answers, strict=True))) == said


def test_differences_are_read_in_the_style_of_the_answers() -> None:
    orders = [(0, 1, 2), (2, 1, 0), (2, 1, 0)]
    plain = [format_response("", order, "nothink") for order in orders]
    assert sentences.difference_words(plain, 3, "nothink") == "3 answers have 2 different lists."
    tagged = [format_response("", order, "nothink_tags") for order in orders]
    assert sentences.difference_words(tagged, 3, "nothink_tags") == "3 answers have 2 different lists."
    assert "style)" in code("03_rl", "difference_words")


def test_an_answer_is_shown_without_the_token_that_ends_it() -> None:
    for end in ("<|im_end|>", "</s>", " <|im_end|>\n<|endoftext|>", ""):
        assert without_end(f"<answer> [1] > [2] </answer>{end}") == "<answer> [1] > [2] </answer>"
    assert without_end("a < b <|x|> c") == "a < b <|x|> c" and "without_end(" in code("02_sft", "read_answers(stage")


# --- losses -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("losses", "fell"),
    [([], None), ([2.0], None), ([1.0, *[0.5] * 7, 2.0], None), ([2.0] * 9 + [1.0], True), ([1.0] * 20, False)],
)
def test_whether_a_loss_fell_is_a_question_of_means(losses: list[float], fell: bool | None) -> None:
    assert sentences.loss_fell([{"loss": loss} for loss in losses] + [{"reward": 1.0}]) is fell
    noisy = [{"loss": loss} for loss in [0.9, 3.0] + [1.5] * 16 + [1.0, 1.1]]  # the last batch is above the first
    assert sentences.loss_fell(noisy) is True


@pytest.mark.parametrize(("losses", "raises"), [([2.0], False), ([1.0, 2.0], False), ([1.0] * 10 + [2.0] * 10, True)])
def test_a_training_of_one_update_can_be_finished(losses: list[float], raises: bool, tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    log = [{"loss": loss} for loss in losses]
    numbers = {"first_loss": losses[0], "last_loss": losses[-1]}
    names = {"sentences": sentences, "result": SimpleNamespace(log=log, checkpoint=tmp_path)}
    names["stages"] = SimpleNamespace(metrics_of=lambda result: numbers)
    names["stage"] = SimpleNamespace(finish=lambda **metrics: "done")
    names["table"] = pd.DataFrame({"valid": [0.0] * 3, "NDCG": [0.0] * 3})
    if raises:
        with pytest.raises(AssertionError, match="not below"):
            exec(code("02_sft", "stage.finish"), names)
    else:
        exec(code("02_sft", "stage.finish"), names)


# --- what 04 shows ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("digits", [1, 2])
def test_a_rounded_win_is_no_tie(digits: int) -> None:
    cases, names = checks(notebook_path("04_evaluation"))["won_tied_lost"]

    def rounded(ours: list[float], theirs: list[float]) -> list[int]:
        gaps = [round(a - b, digits) for a, b in zip(ours, theirs, strict=True)]
        return [sum(g > 0 for g in gaps), sum(g == 0 for g in gaps), sum(g < 0 for g in gaps)]

    assert "[0.501]" in verdict(rounded, cases, names)


def test_each_cell_of_04_ends_with_what_fits_a_page() -> None:
    for cell in read_cells(notebook_path("04_evaluation")):
        body = ast.parse(cell["source"]).body if cell["cell_type"] == "code" else []
        if body and isinstance(body[-1], ast.Expr):
            last = body[-1].value
            last = last.orelse if isinstance(last, ast.IfExp) else last
            called = ast.unparse(last.func) if isinstance(last, ast.Call) else ast.unparse(last)
            assert called in ("print", "shown.table", "stage.figure", "write_results"), called


def test_a_table_of_intervals_has_a_column_each_and_no_nan() -> None:
    values = {"tau": (0.5, 0.4, 0.6), "rbo": (0.7, 0.6, 0.8), "same": (0.0, 0.0, 0.0), "follows": (float("nan"),) * 3}
    row: dict[str, Any] = {"windows": 20, "answered": 1.0}
    for name, (mean, low, high) in values.items():
        row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    table = trust.again_table(pd.DataFrame([row], index=pd.Index(["empty"], name="chain")))
    assert list(table.columns) == ["windows", "answered", "tau", "rbo", "follows"]
    assert list(table.loc["empty"]) == [20, 1.0, "0.50 [0.40, 0.60]", "0.70 [0.60, 0.80]", ""]
    html = shown.table(table)._repr_html_()
    assert "nan" not in html.lower() and f"max-width:{shown.WIDTH}px" in html
    none = pd.DataFrame(columns=["windows", "answered", "tau", "rbo", "same", "follows"])  # nothing was asked again
    assert trust.again_table(none).empty and shown.table(trust.again_table(none))


def test_whose_answers_are_valid_is_said() -> None:
    said = sentences.valid_words({"a": {"ok": 0.2, "no_answer": 0.5, "repaired": 0.3}, "b": {"ok": 1.0}})
    assert "a 20.0%, b 100.0% of the windows" in said and "mended: a 30.0%, b 0.0%." in said
    assert sentences.valid_words({}) and "valid_words" in code("04_evaluation", "verdict_shares")


def test_whether_one_passage_rises_or_all_is_counted() -> None:
    before = {qid: list("abcdef") for qid in ("one", "all", "some", "lost", "level")}
    after = {"one": list("fabcde"), "all": list("efabcd"), "some": list("feabcd"), "lost": list("bcdefa")}
    after["level"] = before["level"]
    relevant = {"one": "f", "all": "ef", "some": "aef", "lost": "a", "level": "a"}
    qrels = {qid: dict.fromkeys(docids, 1) for qid, docids in relevant.items()}
    said = sentences.rise_words(before, after, qrels)
    assert said.startswith(
        "Of 3 queries that gain, one relevant passage alone rises in 1, all of two or more in 1, two"
    )
    assert "but not all in 1." in said and "Most gains one (NDCG@10 0.356 to 1.000)" in said
    assert said.endswith("relevant candidates 1, of which 1 rise, the furthest by 5 places.")
    assert sentences.rise_words(before, before, qrels) == "No query gains in NDCG@10."
    assert "rise_words(before, after" in code("04_evaluation", "run_compare(before, after, data")


# --- what 03 says -----------------------------------------------------------------------------------------------------
def test_a_share_of_form_is_no_word_on_time() -> None:
    frame = pd.DataFrame({"groups": 1, "share of |advantage|": 0.7}, index=["form", "ndcg", "several", "nothing"])
    said = sentences.by_view_words(frame.assign(**{"their share of |advantage|": 0.3}))
    assert said.endswith("Broken form has 70% of all |advantage|: most of the advantage is about form.")


def test_03_says_which_mean_is_which_and_what_else_bounds_the_ratio() -> None:
    page = text("03_rl")
    assert "A curve is the mean over the rollouts of a step" in page and "mean of its groups" in page
    assert f"`dual_clip`, which is on by default ({GRPOSettings().dual_clip:g})" in page


def test_whether_the_student_beats_its_teacher_is_computed_from_stored_rows() -> None:
    rows = stored_rows()
    said, means = sentences.teacher_words(rows), row_means(rows)
    for name in ("teacher, windows", "teacher, full list", "no RL", "full"):
        assert f"{sum(means[name].values()) / len(means[name]):.3f}" in said, name
    assert "profile miniature (synthetic data" in said and f"{len(means['full'])} seeds, n 3000" in said
    assert said.count(", better") == 2  # and SFT alone is above, as the notebook says
    sft, *teachers = (means[name] for name in ("no RL", "teacher, windows", "teacher, full list"))
    assert all(sft[seed] > teacher[seed] for teacher in teachers for seed in sft)
    assert "stored_rows()" in code("03_rl", "teacher_words")
    lost = [row for row in rows if row.row not in ("teacher, windows", "no RL")]
    assert sentences.teacher_words(lost).endswith("no row no RL, teacher, windows is stored.")


def test_a_student_that_is_not_better_is_not_called_so() -> None:
    rows = stored_rows()
    swapped = {"full": "teacher, windows", "teacher, windows": "full"}
    said = sentences.teacher_words([replace(row, row=swapped.get(row.row, row.row)) for row in rows])
    assert "by windows -0.2" in said and "], worse" in said
