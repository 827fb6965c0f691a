"""The smoke profile through `rrlib run`: run once in a session (the fixture `chain`), looked at by several tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ROOT / "params" / "smoke.yaml"


@dataclass(frozen=True)
class Chain:
    """outputs: the folder of all runs; out: what was printed; seconds: how long it took."""

    outputs: Path
    out: str
    seconds: float

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return self.outputs / "smoke"


def environment(outputs: Path) -> dict[str, str]:
    """The environment of a process that writes its runs to `outputs` and imports this library."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "RRLIB_OUTPUTS": str(outputs), "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def rrlib_run(outputs: Path, cwd: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """`rrlib run` with these arguments in a folder; what it did, and its seconds."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "rrlib", "run", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment(outputs), capture_output=True, text=True, timeout=590)
    return done, time.monotonic() - begun


def run_smoke(outputs: Path, elsewhere: Path) -> Chain:
    """All stages of the smoke profile, from another working directory."""
    done, seconds = rrlib_run(outputs, elsewhere, str(SMOKE))
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(elsewhere.iterdir()) == []
    return Chain(outputs, done.stdout, seconds)
