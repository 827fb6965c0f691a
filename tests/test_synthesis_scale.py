"""Synthesis at scale: the benchmark's two questions, small on every change, whole at night."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def benchmark(*arguments: str, timeout: float) -> dict[str, Any]:
    """The last line of benchmarks/synthesis_throughput.py."""
    paths = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/synthesis_throughput.py"), *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def test_memory_does_not_grow_with_the_queries() -> None:
    """2,000 queries of 20 passages, 54 MB of answers: what would be kept of them would show."""
    row = benchmark("--queries", "2000", "--calls", "64", "--delay", "0.05", timeout=580)
    assert row["name"] == "synthesis_throughput" and row["n"] == 64 and 0 < row["value"] <= 1.05
    assert row["memory_growth_mb"] < 20


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_the_whole_benchmark(record_property: Any) -> None:
    row = benchmark(timeout=3500)
    record_property(
        "figures",
        f"{row['value']:.1%} of the ideal rate (64 in flight, 2 s each); memory +{row['memory_growth_mb']} MB over the "
        f"last nine tenths of {row['memory_queries']:,} queries",
    )
    assert row["holds"], row
