"""GRPO with vLLM for real: the rollouts come from the weights that are trained, step after step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rrlib.training.alarms import find_alarms

pytestmark = pytest.mark.vllm  # conftest skips these where vllm is not installed; CI installs it
ROOT = Path(__file__).resolve().parents[1]
GAP = "sampling/sampling_logp_difference/mean"


def rollouts(output: Path, *options: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "vllm_rollouts.py"), str(output), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOG ")]
    log: list[dict[str, Any]] = json.loads(line.removeprefix("LOG "))
    return log


def test_vllm_samples_from_the_weights_that_are_trained(tmp_path: Path, record_property: Any) -> None:
    """Two steps at a rate at which unsynced weights would be seen: the mean gap of a token's log probability between
    vLLM (bf16) and the trainer (float32) stays under 0.01. The rollouts are a trained model's: most are valid, and the
    groups differ, so that there is something to learn."""
    log = rollouts(tmp_path)
    record_property("gaps", ", ".join(f"{row[GAP]:.4f}" for row in log))
    record_property("rewards", ", ".join(f"{row['reward']:.3f}" for row in log))
    record_property("groups without spread", ", ".join(f"{row['groups/no_spread']:.2f}" for row in log))
    assert len(log) == 2 and max(row[GAP] for row in log) < 0.01
    assert log[-1]["kl"] > 1e-3, "the step was large enough to tell"
    assert log[0]["share/valid"] > 0.8 and log[0]["reward"] > 0.8
    still = sum(row["groups/no_spread"] for row in log) / len(log)
    assert still <= 0.5 and log[0]["grad_norm"] > 0.01, "at least half of the eight groups teach something"


@pytest.mark.nightly
def test_the_gap_exposes_weights_that_are_not_synced(tmp_path: Path, record_property: Any) -> None:
    """The same without the second sync: the gap is several times what bf16 explains."""
    log = rollouts(tmp_path, "--unsynced")
    record_property("gaps", ", ".join(f"{row[GAP]:.4f}" for row in log))
    assert log[0][GAP] < 0.01 and log[-1][GAP] > 0.02
    assert "stale_weights" in [alarm.kind for alarm in find_alarms(log)]
