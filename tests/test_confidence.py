"""Confidence: votes out of records, calibration that holds and is refused elsewhere, the cut, risk and coverage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_sampling import WARM, Sampler

from rrlib.cli import main
from rrlib.errors import InputError, MissingFileError
from rrlib.evaluation.confidence import (
    Calibration,
    Confidence,
    Curve,
    cross_fitted,
    reliability,
    risk_coverage,
    set_quality,
    values_of,
)
from rrlib.evaluation.votes import Votes, votes_of
from rrlib.formats import read_run
from rrlib.records import WindowRecord
from rrlib.rerank import Reranker
from rrlib.types import Candidates, Passage, Query

SETTINGS: dict[str, Any] = {
    "engine": "e", "model": "m", "strategy": "sliding_window", "samples": 2, "fuse": "borda",
    "decoding": {"temperature": 1.0, "seed": 7},
}  # fmt: skip


def record(start: int, docids: str, order: tuple[int, ...], sample: int, verdict: str = "ok", round_: int = 0) -> Any:
    positions = tuple(range(start, start + len(docids)))
    return WindowRecord("q", positions, tuple(docids), order, verdict=verdict, sample=sample, round=round_)


def test_votes_by_hand() -> None:
    """a b c d; the tail window c d is asked first, then b and its winner; a window's places are those of the list."""
    records = [
        record(2, "cd", (1, 0), 0),
        record(2, "cd", (1, 0), 1),
        record(0, "abd", (2, 0, 1), 0, round_=1),
        record(0, "abd", (2, 1, 0), 1, round_=1),
    ]
    (vote,) = votes_of(records, SETTINGS)
    assert dict(vote.places) == {"d": 1.0, "a": 2.5, "b": 2.5, "c": 4.0} and list(vote.places) == ["d", "a", "b", "c"]
    assert vote.agreement == pytest.approx((1.0 + (1 + 0.5 + 1) / 3) / 2)  # the fused order is d a b


def test_a_sample_without_a_list_agrees_with_nothing_and_a_window_asked_again_counts_once() -> None:
    asked = [record(0, "ab", (1, 0), 0), record(0, "ab", (0, 1), 1, verdict="truncated")]
    (vote,) = votes_of(asked, SETTINGS)
    assert list(vote.places) == ["b", "a"] and vote.agreement == pytest.approx(0.5)
    (vote,) = votes_of([*asked, record(0, "ab", (1, 0), 1)], SETTINGS)
    assert vote.agreement == pytest.approx(1.0) and dict(vote.places) == {"b": 1.0, "a": 2.0}
    (vote,) = votes_of([record(0, "ab", (0, 1), s, verdict="failed") for s in (0, 1)], SETTINGS)
    assert list(vote.places) == ["a", "b"] and vote.agreement == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "no settings"),
        ({**SETTINGS, "samples": 1}, "cannot agree with itself"),
        ({**SETTINGS, "strategy": "setwise"}, "keeps no list"),
    ],
)
def test_what_has_no_votes(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        votes_of([record(0, "ab", (0, 1), 0)], settings)


def test_a_curve_is_monotone_short_and_level_outside() -> None:
    curve = Curve.fitted([1, 1, 2, 3, 4, 5, 6], [1, 0, 1, 0, 0, 0, 0], increasing=False)
    # 1 and 2 pool to 2/3: (1 + 0 + 1) / 3; from 3 on nothing is relevant, of which the two ends are kept
    assert curve.x == (1.0, 2.0, 3.0, 6.0) and curve.y == pytest.approx((2 / 3, 2 / 3, 0.0, 0.0))
    assert curve([0.0, 2.5, 99.0]).tolist() == pytest.approx([2 / 3, 1 / 3, 0.0])
    one = Curve.fitted([2, 2], [0, 1], increasing=True)
    assert one.x == (2.0,) and one([1, 3]).tolist() == [0.5, 0.5]


def world(queries: int, name: str) -> tuple[list[Candidates], dict[str, dict[str, int]]]:
    """Lists of 20 whose best numbers are relevant; every other query has them close together: it is hard to read."""
    items, qrels, dice = [], {}, np.random.default_rng(len(name))
    for number in range(queries):
        relevant, gap = int(dice.integers(1, 6)), (2, 30)[number % 2]
        gains = [
            int(100 + gap + dice.integers(0, 5)) if i < relevant else int(100 - dice.integers(0, 10)) for i in range(20)
        ]
        order = dice.permutation(20)
        passages = tuple(Passage(f"d{i}", f"gain {gains[i]}") for i in order)
        items.append(Candidates(Query(f"{name}{number}", "which?"), passages))
        qrels[f"{name}{number}"] = {f"d{i}": int(i < relevant) for i in range(20)}
    return items, qrels


def sampled_votes(queries: int, name: str) -> tuple[list[Votes], dict[str, dict[str, int]], dict[str, Any]]:
    items, qrels = world(queries, name)
    reranker = Reranker(Sampler(noise=8.0), samples=4, decoding=WARM, window=10, stride=5)
    result = reranker.rerank(items)
    votes = votes_of(result.records, reranker.settings())
    assert {vote.qid: list(vote.places) for vote in votes} == result.run()  # the list of the run, from records alone
    return votes, qrels, reranker.settings()


@pytest.fixture(scope="module")
def fitted() -> Any:
    votes, qrels, settings = sampled_votes(80, "val")
    return Calibration.fit(votes, qrels, settings), votes, qrels, settings


def test_calibration_holds_on_other_queries_and_tells_hard_from_easy(fitted: Any) -> None:
    calibration, _, _, _ = fitted
    votes, qrels, _ = sampled_votes(80, "t")
    said = calibration.of_votes(votes)
    table = reliability(said, votes, qrels)
    assert table.error < 0.08 and table.brier < 0.11
    assert table.predicted[0] < 0.1 < 0.7 < table.predicted[-1] and table.observed[0] < 0.1 < 0.7 < table.observed[-1]
    curve = risk_coverage([one.expected for one in said], list(values_of(votes, qrels, "nDCG@10").values()))
    assert curve.ideal_area < curve.area < 0.8 * curve.all_answered
    hard = np.mean([one.expected for one in said[0::2]])
    assert hard + 0.05 < np.mean([one.expected for one in said[1::2]])


def test_the_cut_beats_every_fixed_depth(fitted: Any) -> None:
    calibration, _, _, _ = fitted
    votes, qrels, _ = sampled_votes(80, "t")
    cut = set_quality([(one.qid, one.relevant_docids(0.4)) for one in calibration.of_votes(votes)], qrels)[2].mean()
    fixed = [set_quality([(v.qid, list(v.places)[:k]) for v in votes], qrels)[2].mean() for k in range(1, 21)]
    assert cut > max(fixed)


def test_cross_fitting_never_sees_the_query_it_speaks_of(fitted: Any) -> None:
    _, votes, qrels, settings = fitted
    said = cross_fitted(votes, qrels, settings, folds=4)
    assert [one.qid for one in said] == [vote.qid for vote in votes]
    flipped = {**qrels, votes[0].qid: {docid: 1 - grade for docid, grade in qrels[votes[0].qid].items()}}
    assert cross_fitted(votes, flipped, settings, folds=4)[0] == said[0]
    with pytest.raises(InputError, match="judge more queries"):
        cross_fitted(votes[:6], qrels, settings, folds=4)


def test_a_calibration_is_kept_and_refused_for_other_settings(fitted: Any, tmp_path: Path) -> None:
    calibration, _, _, settings = fitted
    calibration.save(tmp_path / "c.json")
    again = Calibration.load(tmp_path / "c.json")
    assert (again.relevance, again.expected, again.metric) == (calibration.relevance, calibration.expected, "nDCG@10")
    again.check({**settings, "engine": "vllm", "dtype": "bfloat16", "decoding": {**settings["decoding"], "seed": 1}})
    for changed in ({"samples": 8}, {"fuse": "borda"}, {"model": "other"}, {"window": 20}, {"budget": 5}):
        with pytest.raises(InputError, match=f"{'checkpoint' if 'model' in changed else next(iter(changed))}="):
            again.check({**settings, **changed})
    with pytest.raises(InputError, match=r"decoding\.temperature=0\.7, here it is 0\.2"):
        again.check({**settings, "decoding": {**settings["decoding"], "temperature": 0.2}})
    with pytest.raises(MissingFileError):
        Calibration.load(tmp_path / "none.json")
    for text in ("{}", "[]", "no", '{"kind": "rrlib calibration"}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match="not a calibration"):
            Calibration.load(tmp_path / "bad.json")


@pytest.mark.parametrize("qrels", [{}, {"val0": {}, "val1": {}}, {"val0": {"d0": 1}}])
def test_what_cannot_be_fitted(fitted: Any, qrels: Any) -> None:
    with pytest.raises(InputError, match="say nothing"):
        Calibration.fit(fitted[1], qrels, fitted[3])


@pytest.mark.parametrize(
    ("confidence", "values", "risk"),
    [
        ([0.9, 0.1], [1.0, 0.5], [0.0, 0.25]),
        ([0.1, 0.9], [1.0, 0.5], [0.5, 0.25]),
        ([0.5, 0.5], [1.0, 0.5], [0.25, 0.25]),  # equally sure: in any order
        ([0.5, 0.5, 0.9], [1.0, 0.0, 0.8], [0.2, 0.35, 0.4]),
    ],
)
def test_risk_by_hand(confidence: list[float], values: list[float], risk: list[float]) -> None:
    curve = risk_coverage(confidence, values)
    assert curve.risk.tolist() == pytest.approx(risk) and curve.coverage[-1] == 1.0
    assert curve.area == pytest.approx(np.mean(risk)) and curve.all_answered == pytest.approx(risk[-1])
    assert curve.ideal_area <= curve.area + 1e-12


def test_sets_by_hand() -> None:
    qrels = {"a": {"x": 1, "y": 1, "z": 0}, "b": {"x": 0}}
    precision, recall, f1 = set_quality([("a", ["x", "z"]), ("a", []), ("b", []), ("b", ["x"])], qrels)
    assert precision.tolist() == [0.5, 0.0, 1.0, 0.0] and recall.tolist() == [0.5, 0.0, 1.0, 1.0]
    assert f1.tolist() == [0.5, 0.0, 1.0, 0.0]
    assert Confidence("", "a", {"x": 0.9, "y": 0.4, "z": 0.6}, 1.0).relevant_docids(0.5) == ["x", "z"]
    with pytest.raises(InputError, match="threshold of 2"):
        Confidence("", "a", {}, 1.0).relevant_docids(2)


def test_the_command_fits_applies_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = {}
    for name, samples in (("val", 4), ("t", 4), ("other", 3)):
        items, qrels = world(24, name)
        logs[name] = str(tmp_path / f"{name}.jsonl")
        Reranker(Sampler(noise=8.0), samples=samples, decoding=WARM, window=10, log=logs[name]).rerank(items)
        lines = [f"{qid} 0 {docid} {grade}" for qid, grades in qrels.items() for docid, grade in grades.items()]
        (tmp_path / f"{name}.qrels").write_text("\n".join(lines) + "\n")
    file, sure, run = (str(tmp_path / name) for name in ("c.json", "sure.jsonl", "kept.trec"))
    assert main(["confidence", logs["val"], "--qrels", str(tmp_path / "val.qrels"), "--output", file]) == 0
    out = capsys.readouterr().out
    assert "fitted on 24 queries with 480 passages" in out and "knowing nothing" in out
    applied = ["confidence", logs["t"], "--calibration", file, "--output", sure, "--run", run]
    assert main([*applied, "--abstain-below", "0.7"]) == 0
    rows = [json.loads(line) for line in Path(sure).read_text().splitlines()]
    left = [row["qid"] for row in rows if not row["answered"]]
    assert len(rows) == 24 and 0 < len(left) < 24 and f"{len(left)} left unanswered" in capsys.readouterr().out
    kept = {row["qid"]: row["kept"] for row in rows if row["kept"]}
    assert {qid: [hit.docid for hit in hits] for qid, hits in read_run(Path(run)).items()} == kept
    assert (
        all(row["relevant"][docid] >= 0.5 for row in rows for docid in row["kept"]) and len(rows[0]["relevant"]) == 20
    )
    assert main(["confidence", logs["other"], "--calibration", file, "--output", sure]) == 2
    assert "samples=4, here it is 3" in capsys.readouterr().err
    assert main(["confidence", logs["t"], "--output", sure]) == 2
    assert main([*applied, "--keep", "7"]) == 2
    Path(run).unlink()
    assert main([*applied, "--abstain-below", "1"]) == 3 and not Path(run).exists()
