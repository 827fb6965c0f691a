"""What is too long for every change: `make nightly` runs it and keeps the figures in docs/nightly.md."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_real_texts import MODEL, arguments, check, replay

from rrlib.cli import main
from rrlib.evaluation.metrics import per_query
from rrlib.evaluation.significance import bootstrap_interval, paired_test
from rrlib.formats import read_qrels, read_run
from rrlib.responses import audit

pytestmark = pytest.mark.nightly


@pytest.mark.realdata
@pytest.mark.timeout(3600)
def test_dl19_whole_at_depth_100(
    realdata: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """All 43 queries, 9 windows each. The miniature's checkpoint knows nothing of these texts: the path is what is
    tested, and the figure is kept whatever it is."""
    folder = realdata / "collections" / "dl19-bm25-top100"
    run, out = folder / "first_stage.trec", tmp_path / "out.trec"
    began = time.perf_counter()
    assert main(arguments(folder, run, out, 100)) == 0
    seconds = time.perf_counter() - began
    check(run, out, 100)
    rows = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert len(rows) == 43 * 9
    replay(run, out.with_suffix(".jsonl"), tmp_path / "again.trec", 100)
    assert (tmp_path / "again.trec").read_bytes() == out.read_bytes()
    qrels = read_qrels(folder / "qrels" / "test.tsv")
    metric = "nDCG@10"
    before = per_query(qrels, read_run(run), [metric])[metric]
    after = per_query(qrels, read_run(out), [metric])[metric]
    for name, scores in (("first stage", before), ("reranked", after)):
        interval = bootstrap_interval(list(scores.values()), seed=7)
        record_property(name, f"{metric} {interval.mean:.4f} [{interval.low:.4f}, {interval.high:.4f}]")
    qids = sorted(before)
    record_property("paired p", f"{paired_test([after[q] for q in qids], [before[q] for q in qids], seed=7):.4f}")
    record_property("queries", f"{len(qids)} (real), model {MODEL}, depth 100, 128 new tokens")
    record_property("seconds for 387 windows", round(seconds))
    record_property("responses", ", ".join(f"{r.kind} {r.count}" for r in audit(rows) if r.count))
