"""Whole sets of real text, once by `make nightly`: bm25s, the miniature's checkpoint, the experiment's table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from test_real_benchmarks import MODEL, SYSTEMS, check, copied

from rrlib.evaluation import Experiment, load_benchmark

pytestmark = pytest.mark.nightly


@pytest.mark.realdata
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", ["cranfield", "bright-theoremqa-questions-goldpool"])
def test_whole_sets_with_a_first_stage_made_here(
    realdata: Path, tmp_path: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    """All 225 Cranfield and 194 TheoremQA queries at depth 30."""
    data = load_benchmark(str(copied(realdata, tmp_path, name)), first_stage="bm25s", depth=30)
    result = Experiment(SYSTEMS, data, "nDCG@10 R@100", output=tmp_path / "out")
    check(result, 30)
    for row in result.rows("nDCG@10"):
        record_property(row["system"], f"nDCG@10 {row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}]")
    cost, audit = result.costs.iloc[0], result.audit.iloc[0]
    record_property("queries", f"{len(data.qrels)} (real), model {MODEL.model}, depth 30, 128 new tokens")
    record_property("seconds a query", f"{cost['seconds']:.2f}; windows {cost['calls_all']:.0f}")
    shares = {str(k): float(v) for k, v in audit.items() if k not in ("benchmark", "system")}
    record_property("responses", ", ".join(f"{k} {v:.2f}" for k, v in shares.items() if v))
