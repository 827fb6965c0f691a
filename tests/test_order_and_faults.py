"""The benchmarks of what stands beside the engine, small: overhead, schedule, faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def row_of(name: str, *options: str) -> tuple[dict[str, Any], str]:
    """The last line of a benchmark, and all it printed."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


def test_a_window_costs_less_when_its_passages_are_prepared() -> None:
    row, table = row_of("overhead", "--queries", "2", "--repeats", "2", "--limit", "512")
    assert row["name"] == "overhead" and 0 < row["value"] < row["before"], table


def test_ours_is_as_quick_as_all_open_and_done_earlier() -> None:
    row, table = row_of("schedule", "--suites", "trec-dl", "--slots", "8")
    assert row["name"] == "schedule" and row["value"] < 1
    cells = {line[:14].strip(): line[14:].replace("%", "").split() for line in table.splitlines() if "%" in line}
    (wall, first, half, _), (its_wall, its_first, its_half, _) = cells["ours"], cells["all open"]
    assert float(wall) <= 1.02 * float(its_wall)
    assert int(first) < 20 < 60 < int(its_first)
    assert int(half) <= int(its_half) - 20


@pytest.mark.parametrize("fault", ["killed", "one of three", "full"])
def test_a_run_is_the_same_whatever_goes_wrong(fault: str) -> None:
    row, table = row_of("faults", "--queries", "12", "--kills", "3", "--ill", "2", "--only", fault)
    assert row["name"] == "faults" and row["holds"] and row["n"] >= 1, table
