"""Confidence and faithfulness with the packaged reranker: what notebook 04 shows of it, and the two benchmarks."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrlib.engines import Decoding
from rrlib.errors import InputError
from rrlib.evaluation import Listwise, from_collection
from rrlib.evaluation.confidence import reliability, risk_coverage
from rrlib.evaluation.votes import Votes
from rrlib.formats import read_collection
from rrlib.lesson import trust
from rrlib.lesson.plots.trust import confidence
from rrlib.miniature.generate import build
from rrlib.records import WindowRecord

ROOT = Path(__file__).resolve().parent.parent
SYSTEM = Listwise("package:rrlib.miniature/reranker", decoding=Decoding(160))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = build(tmp_path_factory.mktemp("world"), seed=7, train=0, validation=4, test=6, pool=10)
    return from_collection(read_collection(folder, "test"), read_collection(folder, "validation"))


def test_how_sure_it_is_with_and_without_validation_queries(world: Any, tmp_path: Path) -> None:
    drawn = trust.draw(SYSTEM, world, tmp_path, 2, 1.0, 5, 7)
    assert (len(drawn.votes), len(drawn.validation)) == (5, 4) and drawn.settings["samples"] == 2
    lines = (tmp_path / "test.jsonl").read_text().splitlines()
    assert len(lines) == 10 and (tmp_path / "validation.jsonl").is_file()
    assert trust.draw(SYSTEM, world, tmp_path, 2, 1.0, 5, 7).votes == drawn.votes  # read back
    assert (tmp_path / "test.jsonl").read_text().splitlines() == lines
    sure = trust.sureness(drawn, "nDCG@10")
    assert sure.queries == 5 and sure.calibrated is not None and len(sure.curve.risk) == 5
    assert 0 <= sure.calibrated.precision <= 1 and sure.calibrated.kept >= 0
    assert f"5 queries. {sure.calibrated.relevant:.1f} passages a query are relevant; a cut" in sure.in_words()
    assert f"{sure.curve.all_answered:.3f} for all: " in sure.in_words()
    without = trust.sureness(replace(drawn, validation=[]), "nDCG@10")
    assert without.queries == 5 and without.curve.all_answered == pytest.approx(sure.curve.all_answered)
    assert len(confidence(sure.calibrated.reliability, sure.curve, "nDCG@10").axes) == 2
    blind = {qid: dict.fromkeys(grades, 0) for qid, grades in drawn.validation_qrels.items()}
    unknown = trust.sureness(replace(drawn, validation_qrels=blind), "nDCG@10")
    assert (
        unknown.calibrated is None and "Nothing is calibrated: 4 judged queries with 0 relevant" in unknown.in_words()
    )
    assert len(confidence(None, unknown.curve, "nDCG@10").axes[0].lines) == 1


def test_the_words_say_what_the_curve_says() -> None:
    votes = [Votes("", f"q{i}", {"a": 1.0, "b": 2.0}, i / 10) for i in range(10)]
    qrels = {f"q{i}": {"a": int(i > 4), "b": 1} for i in range(10)}
    sure = trust.sureness(trust.Drawn(votes, qrels, votes, qrels, {**SETTINGS}), "nDCG@10")
    assert "here agreement tells good lists from bad ones (Spearman 0.87" in sure.in_words()
    votes = [replace(vote, agreement=0.5) for vote in votes]
    sure = trust.sureness(trust.Drawn(votes, qrels, votes, qrels, {**SETTINGS}), "nDCG@10")
    assert "is not shown here (Spearman nan" in sure.in_words()


SETTINGS = {"samples": 2, "fuse": "rrf", "strategy": "full_list", "model": "m", "decoding": {}}


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(InputError, match="no passage has a probability"):
        reliability([], [], {})
    with pytest.raises(InputError, match="0 confidences of 0 values"):
        risk_coverage([], [])


def test_lists_follow_from_the_reasoning_and_the_table_says_so(world: Any) -> None:
    from rrlib.rerank import Reranker

    items = world.candidates()
    reranker = Reranker(SYSTEM.model, decoding=SYSTEM.decoding)
    records = reranker.rerank(items).records
    frame = trust.follow_table({"it": records, "silent": [replace(r, reasoning="") for r in records]}, 7)
    assert frame.loc["it", "compared"] >= 5 and frame.loc["it", "agreement"].startswith("1.00")
    assert frame.loc["silent", "agreement"] == "" and frame.loc["silent", "reasoning"] == "no reasoning 6"
    again = trust.asked_again(SYSTEM, world, records, 4, 7)
    assert list(again["windows"]) == [4, 4, 4, 4] and again.loc["own", "tau"] == pytest.approx(1.0)
    assert again.loc["other", "follows"] > 0.9 > 0.7 > again.loc["other", "tau"]
    assert trust.again_in_words(again).endswith("the reasoning decides.")
    flat = again.assign(tau=1.0, tau_low=1.0, tau_high=1.0)
    assert "not shown" in trust.again_in_words(flat)
    again.loc["other", "answered"] = 0.0
    assert "no list to compare" in trust.again_in_words(again)


def test_nothing_to_ask_again_is_said(world: Any) -> None:
    silent = WindowRecord("test-0001", (0, 1), ("a", "b"), (0, 1), verdict="truncated", collection=world.name)
    empty = trust.asked_again(SYSTEM, world, [silent], 0, 7)
    assert empty.empty and "nothing could be asked again" in trust.again_in_words(empty)


@pytest.mark.parametrize(
    ("script", "arguments", "n"),
    [
        ("confidence.py", ["--queries", "10", "--samples", "2"], 10),
        ("faithfulness.py", ["--queries", "4"], 4),
    ],
)
def test_the_benchmarks_run(
    script: str, arguments: list[str], n: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(ROOT / "benchmarks" / script), run_name="bench")["main"]
    main([*arguments, "--pool", "10", "--output", str(tmp_path)])
    said = capsys.readouterr().out
    row = json.loads(said.splitlines()[-1])
    assert row["name"] == script.removesuffix(".py") and row["n"] == n and np.isfinite(row["value"])
    assert "borda" in said if script == "confidence.py" else "shuffled" in said
    assert (tmp_path / "greedy.jsonl").is_file()
