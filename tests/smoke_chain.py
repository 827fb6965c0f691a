"""The smoke profile through `rrlib run`: run once in a session (the fixture `chain`), looked at by several tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

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


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a test session see."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def run_once(shared: Path) -> Chain:
    """The smoke run of a folder: made by whoever asks first, a process or a thread; the others wait for it."""
    told = shared / "chain.json"
    with FileLock(shared / "chain.lock"):
        if not told.is_file():
            homes = (shared / "chain-outputs", shared / "chain-elsewhere")
            for home in homes:
                home.mkdir(exist_ok=True)  # who asks after a run that failed is told why, by the same failure
            made = run_smoke(*homes)
            told.write_text(json.dumps({"out": made.out, "seconds": made.seconds}), encoding="utf-8")
    return Chain(shared / "chain-outputs", **json.loads(told.read_text(encoding="utf-8")))
