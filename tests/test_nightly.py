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


@pytest.mark.realdata
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", ["cranfield", "bright-theoremqa-questions-goldpool"])
def test_whole_sets_with_a_first_stage_made_here(
    realdata: Path, tmp_path: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    """All 225 Cranfield and 194 TheoremQA queries at depth 30: bm25s, the miniature's checkpoint, the table."""
    from test_real_benchmarks import SYSTEMS, copied
    from test_real_benchmarks import check as check_result

    from rrlib.evaluation import Experiment, load_benchmark

    data = load_benchmark(str(copied(realdata, tmp_path, name)), first_stage="bm25s", depth=30)
    result = Experiment(SYSTEMS, data, "nDCG@10 R@100", output=tmp_path / "out")
    check_result(result, 30)
    for row in result.rows("nDCG@10"):
        record_property(row["system"], f"nDCG@10 {row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}]")
    cost = result.costs.iloc[0]
    record_property("queries", f"{len(data.qrels)} (real), model {MODEL}, depth 30, 128 new tokens")
    record_property("seconds a query", f"{cost['seconds']:.2f}; windows {cost['calls_all']:.0f}")
    record_property(
        "responses", ", ".join(f"{k} {v:.2f}" for k, v in result.audit.iloc[0].items() if isinstance(v, float) and v)
    )
