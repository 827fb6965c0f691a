"""Real text end to end through the Experiment call: a bm25s first stage, the miniature's checkpoint, a table with
intervals, excluded documents gone. The checkpoint knows nothing of these texts: the path is what is tested."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rrlib.engines import Decoding
from rrlib.evaluation import Experiment, ExperimentResult, Listwise, load_benchmark

MODEL = Listwise("package:rrlib.miniature/reranker", decoding=Decoding(max_new_tokens=128))
SHORT = 128
"""Tokens of a passage here: enough for every path, and a quarter of the work. `make nightly` (whole sets) and
test_real_texts.py show the full 512."""
SYSTEMS: dict[str, Any] = {"first stage": "first-stage", "reranked": MODEL, "random": "random", "oracle": "oracle"}


def copied(realdata: Path, tmp_path: Path, name: str) -> Path:
    """A copy that can be written to: the first stage is kept in it."""
    folder = tmp_path / name
    shutil.copytree(realdata / "collections" / name, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def check(result: ExperimentResult, depth: int) -> None:
    """Nothing lost or doubled, no model did better than the ceiling, costs are there, exports are written."""
    first, after = result.ranking("first stage"), result.ranking("reranked")
    assert first.keys() == after.keys()
    for qid, docids in first.items():
        assert sorted(after[qid]) == sorted(docids) and len(set(docids)) == len(docids)
        assert after[qid][depth:] == docids[depth:]
    for row in result.rows():
        assert 0 <= row["low"] <= row["mean"] <= row["high"] <= 1 and row["mean"] <= row["ceiling"] + 1e-9
        assert row["data_kind"] == "real"
    means = {row["system"]: row["mean"] for row in result.rows("nDCG@10")}
    assert means["oracle"] > means["first stage"] > means["random"]
    cost = result.costs.iloc[0]
    assert cost["tokens_in"] > 500 and cost["seconds"] > 0 and cost["latency_window_p95"] >= cost["latency_window_p50"]


@pytest.mark.realdata
def test_noveleval_whole(realdata: Path, tmp_path: Path) -> None:
    folder = realdata / "collections" / "noveleval"
    data = load_benchmark(
        str(folder), window=20, depth=20, max_passage_tokens=SHORT, metrics=("nDCG@1", "nDCG@5", "nDCG@10")
    )
    result = Experiment(SYSTEMS, data, output=tmp_path)
    check(result, 20)
    assert len(result.records("reranked")) == 21
    assert json.loads((tmp_path / "table.json").read_text())["baseline"] == "first stage"


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["cranfield", "bright-theoremqa-questions-goldpool"])
def test_ten_queries_with_a_first_stage_made_here(realdata: Path, tmp_path: Path, name: str) -> None:
    folder = copied(realdata, tmp_path, name)
    data = load_benchmark(str(folder), first_stage="bm25s", depth=30, max_passage_tokens=SHORT).limited(10)
    result = Experiment(SYSTEMS, data, "nDCG@10 R@100")
    check(result, 30)
    assert len(result.records("reranked")) == 20 and len(result.ranking("reranked")) == 10
    banned = {(qid, docid) for qid, docids in data.excluded.items() for docid in docids}
    shown = {(r.qid, docid) for r in result.records("reranked") for docid in r.docids}
    assert not banned & shown and (len(banned) > 150) == (name != "cranfield")
    assert any("first 10 of" in note for note in result.notes)
