"""What notebook 01 shows: fates, wrong beliefs before and after, alpha by validation, progress; and its import."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from smoke_chain import SMOKE, Chain, rrlib_run
from test_synthesis import Teacher, make_collection, run
from test_synthesis_release import examples, released_13k

from rrlib.chain.manifest import identity, open_stage, stage_state
from rrlib.chain.papermill_engine import execute
from rrlib.chain.params import STAGES, load_profile, notebook_path
from rrlib.cli import main
from rrlib.engines.base import Decoding, Reply
from rrlib.errors import InputError
from rrlib.formats import read_examples
from rrlib.lesson import story
from rrlib.lesson.plots import synthesis as figures
from rrlib.synthesis.domains import RECIPES, table_of_recipes
from rrlib.synthesis.export import examples_of, import_examples
from rrlib.synthesis.fates import Fate
from rrlib.synthesis.pipeline import follow
from rrlib.synthesis.results import JOURNAL, RESULTS
from rrlib.synthesis.sources.items import CollectionSource
from rrlib.synthesis.teacher.ask import Usage
from rrlib.synthesis.teacher.prices import Price, price_for
from rrlib.synthesis.teacher.progress import ProgressBar, spent


class Believer(Teacher):
    """A simulated teacher: it believes wrongly about every third query, and then ranks backwards."""

    async def chat(self, messages: Any, decoding: Decoding) -> Reply:
        reply = await super().chat(messages, decoding)
        text = messages[1]["content"]
        number = int(re.search(r"^Query: question (\d+)$", text, re.MULTILINE).group(1))  # type: ignore[union-attr]
        wrong = "\nGold answer: " not in text and number % 3 == 0
        told = {
            "data_kind": "simulated",
            "truth": "a",
            "belief": "b" if wrong else "a",
            "error": "random" if wrong else "",
        }
        text = " > ".join(reversed(reply.text.split(" > "))) if wrong else reply.text
        return replace(reply, text=text, extra=told)


@pytest.fixture(scope="module")
def believed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(make_collection(12), Believer(), tmp_path_factory.mktemp("believed"), alpha=0.2)


def test_what_a_simulated_teacher_believed_is_labelled_and_counted(believed: Any) -> None:
    records = [json.loads(line) for line in (believed.examples.parent / "rank.jsonl").read_text().splitlines()]
    assert all(
        r["teacher_kind"] == "simulated" and set(r["simulated"]) == {"truth", "belief", "error"} for r in records
    )
    frame = story.fates(believed)
    assert len(frame) == 12 and frame["wrong"].sum() == 4 and set(frame["error"]) == {"", "random"}
    table = story.wrong_beliefs(frame, 0.7)
    assert list(table.index) == ["all lists", "wrong belief", "  of them random"]
    assert list(table["before"]) == [12, 4, 4] and list(table["after"]) == [8, 0, 0]
    assert table.loc["wrong belief", "share before"] == 0.333 and table.loc["wrong belief", "share after"] == 0.0
    assert list(story.wrong_beliefs(frame, 0.0)["after"]) == [12, 4, 4], "whatever alpha the run had"
    assert len(figures.filter_curves(frame, 0.4).axes) == 2


def test_a_real_teacher_says_nothing_about_its_beliefs(tmp_path: Path) -> None:
    result = run(make_collection(4), Teacher(), tmp_path)
    frame = story.fates(result)
    assert frame["wrong"].isna().all() and "simulated" not in (tmp_path / "rank.jsonl").read_text()
    assert "does not say" in story.wrong_beliefs(frame, 0.4).to_string()
    assert len(figures.filter_curves(frame, 0.4).axes) == 1


def test_alpha_by_hand() -> None:
    """Four lists: consistency 1.0 right, 0.8 right, 0.6 wrong, 0.3 wrong."""
    frame = pd.DataFrame(
        {
            "consistency": [1.0, 0.8, 0.6, 0.3, np.nan],
            "first_right": [1, 1, 0, 0, np.nan],
            "quality": [1, 1, 0.5, 0, np.nan],
        }
    )
    table = story.alpha_table(frame, (0.0, 0.5, 0.7, 0.9))
    assert list(table["kept"]) == [4, 3, 2, 1] and list(table["precision"]) == [0.5, 0.667, 1.0, 1.0]
    assert list(table["recall"]) == [1.0, 1.0, 1.0, 0.5] and list(table["F1"]) == [0.667, 0.8, 1.0, 0.667]
    assert list(table["quality"]) == [0.625, 0.833, 1.0, 1.0]
    assert story.best_alpha(table, 0.4) == 0.7
    assert story.verdict_on(0.7, frame, (0.0, 0.5, 0.7, 0.9)) == (
        "best F1 on 4 validation lists: 1.000 at alpha 0.7, which is used"
    )
    said = story.verdict_on(0.0, frame, (0.0, 0.5, 0.7, 0.9))
    assert "at alpha 0.7; used is 0, lower by 0.333 [0.000, 0.600]: within the noise" in said, "four lists are few"
    many = pd.concat([frame] * 30)
    assert re.search(r"lower by 0\.333 \[0\.2\d\d, 0\.4\d\d\]: outside the noise", story.verdict_on(0.0, many))
    assert "no labels" in story.verdict_on(0.4, story.fates(None))
    empty = story.alpha_table(story.fates(None))
    assert len(empty) == 0 and story.best_alpha(empty, 0.4) == 0.4
    assert len(figures.choice_curves(table, 0.7).axes[0].get_lines()) == 4
    for draw in (lambda: figures.choice_curves(empty, 0.4), lambda: figures.filter_curves(story.fates(None), 0.4)):
        with pytest.raises(InputError):
            draw()


def test_quality_is_judged_by_labels_the_teacher_did_not_make(believed: Any) -> None:
    """The qrels of the toy collection call one passage relevant: it is first in no reversed list."""
    frame = story.fates(believed).set_index("qid")
    assert frame["quality"].notna().all()
    assert not frame.loc["q0", "first_right"] and frame.loc["q0", "quality"] < frame.loc["q1", "quality"]


def test_the_story_of_one_query(believed: Any, tmp_path: Path) -> None:
    asked = follow(believed.examples.parent, "q1")
    whole, short = story.prompt_sent(asked, "select", 9999), story.prompt_sent(asked, "select", 200)
    assert "Query: question 1\nGold answer: secret 1\n" in whole and story.answers(asked, "select").count("|") == 1
    assert short == f"{whole[:100]}\n[...]\n{whole[-100:]}" and "secret" not in story.prompt_sent(asked, "rank")
    assert story.answers(asked, "rank").startswith("because it is good\n\n[")
    imported = import_examples(released_13k(tmp_path / "copy"), tmp_path / "out")
    nobody = follow(tmp_path / "out", "q1")
    assert story.prompt_sent(nobody, "select") == story.answers(nobody, "rank") == story.IMPORTED
    assert story.fates(imported)["consistency"].notna().all() and len(examples_of(imported)) == 2
    with pytest.raises(InputError, match="run synthesize first"):
        follow(tmp_path, "q1")
    collection = make_collection(3, domain="msmarco")
    order = [item.query.qid for item in CollectionSource(collection, seed=5)]
    first = story.followed(collection, 6, seed=5)
    assert (first.query.qid, first.number, len(first.passages)) == (order[0], 1, 6)
    collection.metadata[order[2]]["domain"] = "biology"
    assert story.followed(collection, 6, seed=5) == story.Followed(
        collection.queries[order[2]], collection.candidates(6)[int(order[2][1:])].passages, 3
    )
    assert story.followed(collection, 6, seed=5, limit=2).query.qid == order[0], "only among those that are asked"
    copied = story.followed(collection, 6, import_from=str(tmp_path / "copy"))
    assert copied.query.text == examples()[0].query.text and copied.number == 1


def test_the_fate_of_one_query(believed: Any, tmp_path: Path) -> None:
    example, fate = story.outcome(believed, "q1")
    assert example is not None and example.query.qid == "q1" and fate == "kept, self-consistency 1.000; alpha 0.2"
    strict = run(make_collection(12), Believer(), tmp_path, alpha=0.9)
    assert story.outcome(strict, "q0")[0] is None and story.outcome(strict, "q0")[1].startswith("below alpha, self-")
    assert story.outcome(strict, "q0")[1].endswith("; alpha 0.9. " + Fate.BELOW_ALPHA.sentence)
    assert story.outcome(strict, "nobody") == (None, "nobody was not asked about")


def test_what_is_looked_at_in_stories() -> None:
    assert len(table_of_recipes()) == len(RECIPES)
    assert story.Markdown("# x")._repr_markdown_() == "# x"


def test_prices_of_a_profile() -> None:
    assert price_for("nobody") is None and price_for("nobody", [1, 2]) == Price(1.0, 2.0, "profile")
    with pytest.raises(InputError, match="two numbers"):
        price_for("nobody", [1])


def test_progress_says_how_far_how_dear_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = Usage(calls=1236, retries=3, failed=1, cached=2, usd=0.42, possible_usd=0.08)
    assert spent(usage) == ("1,236 calls (3 tried again, 1 failed), 2 from the cache, $0.4200 (at most $0.5000)")
    assert "$" not in spent(Usage())
    now, out = 1000.0, io.StringIO()
    for clock in ("time.time", "tqdm.std.time"):
        monkeypatch.setattr(clock, lambda: now)
    show = ProgressBar(file=out, mininterval=0.0, ascii=True)
    for done in range(1, 11):  # six are stored, and gone through in no time; the next take two seconds each
        now += 0.001 if done <= 6 else 2.0
        show(done, 10, Usage(calls=max(0, done - 6)))
    lines = out.getvalue().strip().split("\r")
    (eighth,) = (line for line in lines if "8/10" in line)
    assert "00:04<00:04" in eighth and "2.00s/query" in eighth, "the rate of this run"
    assert "10/10" in lines[-1] and "4 calls" in lines[-1] and out.getvalue().endswith("\n"), "closed"


def test_progress_in_a_notebook_is_one_text_whatever_is_set_for_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    shown = SimpleNamespace(update=lambda data, raw: lines.append(data["text/plain"]))
    monkeypatch.setattr("rrlib.notebook.in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: shown)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    show = ProgressBar()
    for done in range(1, 11):
        show(done, 10, Usage(calls=done))
    assert "10/10" in lines[-1] and "10 calls" in lines[-1] and len(lines) <= 3


def test_progress_in_a_log_is_a_line_now_and_then() -> None:
    out = io.StringIO()
    show = ProgressBar(file=out)
    for done in range(1, 101):
        show(done, 100, Usage(calls=done))
    assert 1 <= len(out.getvalue().strip().split("\r")) <= 3


IMPORTED = """
name: imported
seed: 3
01_synthesis: {import_from: COPY, train_queries: 2, validation_queries: 2, test_queries: 2}
02_sft: {MODEL epochs: 5.0, micro_batch: 2, max_new_tokens: 32}
03_rl: {steps: 1, prompts: 2, rollouts: 4, micro_batch: 4, max_completion: 32}
"""
"""The profile key `import_from`, and trainings of a few steps."""


def imported(tmp_path: Path, model: str = "") -> tuple[Path, Path]:
    """(profile, folder of its run) for a copy of the released set in `tmp_path`."""
    copy, profile = released_13k(tmp_path / "copy"), tmp_path / "imported.yaml"
    profile.write_text(IMPORTED.replace("COPY", str(copy)).replace("MODEL", model))
    return profile, tmp_path / "outputs" / "imported"


def same_as_published(run_dir: Path) -> None:
    """What 02 and 03 read is what was published, and the stage says where it is from."""
    folder = run_dir / "01_synthesis" / "teacher"
    read = read_examples(folder / "examples.jsonl")
    for one, two in zip(read, examples(), strict=True):
        assert one.query.text == two.query.text and one.passages == two.passages and one.relevance == two.relevance
        assert one.gold == two.gold and one.reasoning == two.reasoning
    assert not (folder / "rank.jsonl").exists() and "math-theorem" in (folder / "DATA_CARD.md").read_text()
    manifest = json.loads((run_dir / "01_synthesis" / "manifest.json").read_text())
    assert manifest["record"]["data_kind"] == "real" and "/copy" in json.dumps(manifest["match"])


@pytest.mark.timeout(600)
def test_the_released_set_goes_through_01_into_both_trainings(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """01 as a notebook, without asking anybody; then both trainings, as stages 02 and 03 of the same profile."""
    profile, run_dir = imported(tmp_path, f"model: {backbone}, dtype: fp32, max_length: 1000,")
    done, _ = rrlib_run(tmp_path / "outputs", tmp_path, str(profile), "--until", "01")
    assert done.returncode == 0, done.stdout + done.stderr
    same_as_published(run_dir)
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path / "outputs"))
    assert main(["train", "sft", str(profile)]) == 0
    assert main(["train", "grpo", str(profile)]) == 0
    sft, rl = (json.loads((run_dir / stage / "metrics.json").read_text()) for stage in ("02_sft", "03_rl"))
    assert sft["examples"] == rl["examples"] == 2 and sft["last_loss"] < sft["first_loss"]
    (written,) = (run_dir / "03_rl/grpo/trainer/completions").glob("*.parquet")
    prompts = pd.read_parquet(written)["prompt"].astype(str)
    assert len(prompts) == 8 and all(any(e.passages[0].text[:10] in p for e in examples()) for p in prompts)
    for stage in ("02_sft", "03_rl"):
        assert json.loads((run_dir / stage / "manifest.json").read_text())["record"]["data_kind"] == "real"


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_the_released_set_goes_through_the_notebooks(tmp_path: Path) -> None:
    """01, 02 and 03 by papermill, as a reader with a local copy runs them."""
    profile, run_dir = imported(tmp_path)
    done, _ = rrlib_run(tmp_path / "outputs", tmp_path, str(profile), "--until", "03")
    assert done.returncode == 0, done.stdout + done.stderr
    same_as_published(run_dir)
    sft, rl = (json.loads((run_dir / stage / "metrics.json").read_text()) for stage in ("02_sft", "03_rl"))
    assert sft["examples"] == rl["prompts"] == 2 and sft["last_loss"] < sft["first_loss"]


@pytest.mark.timeout(600)
def test_01_opened_again_leaves_the_later_stages_finished(chain: Chain, tmp_path: Path, monkeypatch: Any) -> None:
    """In Jupyter a finished notebook is run once more: nobody is asked, and 02 to 04 need not train again."""
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path))
    run_dir = tmp_path / "smoke"
    shutil.copytree(chain.run, run_dir)
    profile = load_profile(SMOKE)
    before = (run_dir / "01_synthesis/teacher/calls.jsonl").read_bytes()
    account = (run_dir / "01_synthesis/teacher/account.json").read_bytes()
    parameters = profile.parameters("01_synthesis", run="smoke")
    execute(notebook_path("01_synthesis"), tmp_path / "01.ipynb", parameters, echo=lambda line: None, live=False)
    assert (run_dir / "01_synthesis/teacher/calls.jsonl").read_bytes() == before
    assert (run_dir / "01_synthesis/teacher/account.json").read_bytes() != account, "it did run"
    for stage, inputs in STAGES.items():
        match = identity(run_dir, stage, profile.parameters(stage, run="smoke"), inputs)
        assert stage_state(run_dir, stage, match) == ("finished", [])


def test_a_second_run_of_01_leaves_what_02_reads_unchanged(tmp_path: Path) -> None:
    """How often, how long and in which order the teacher was asked is no input of 02; what it said is."""

    def made(folder: Path, teacher: Any, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        stage = open_stage(folder, "01_synthesis", {"seed": 1})
        stage.journal, stage.data_kind = JOURNAL, "synthetic"
        result = run(make_collection(8), teacher, stage.path("teacher"), **options)
        stage.finish(examples=result.n_examples)
        return identity(folder, "02_sft", {"seed": 1}, ["01_synthesis"])["inputs"], dict(result.summary)

    first, then = made(tmp_path, Teacher())
    again, now = made(tmp_path, silent := Teacher())
    assert again == first and silent.asked == []
    assert (then["stored_before"], now["stored_before"]) == (0, 24) and then["this_run"] != now["this_run"]
    anew, _ = made(tmp_path / "anew", Teacher(delay=0.001), concurrency=1)
    assert anew == first, "nor does another order of arrival"
    otherwise, _ = made(tmp_path / "other", Teacher(lambda kind, query, r: replace(r, reasoning="since it is good")))
    assert otherwise != first, "what the teacher said counts"
    files = {path.name for path in (tmp_path / "01_synthesis/teacher").iterdir()}
    assert files == {*JOURNAL, *RESULTS, "store.json", "summary.json"}
