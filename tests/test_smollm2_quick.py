"""A real model, real questions and people's labels through all four notebooks; and a chain that was killed goes on.

`params/smollm2-135m-quick.yaml` is run as a user runs it. The kill is tried on a random model in a GGUF file, with the
same profile at other sizes: what is resumed is the same code.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from smoke_chain import ROOT, environment

PROFILE = ROOT / "params" / "smollm2-135m-quick.yaml"
MEMORY = 8e9
"""Bytes that any process of the run may take."""
CPU_SECONDS = 360
"""That all processes of the run may take together, by one thread each: six minutes."""

pytestmark = [pytest.mark.realdata, pytest.mark.timeout(1500)]

# A process that says, when it ends, what the largest of all processes below it took, and their CPU seconds.
MEASURED = """
import json, resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
json.dump({"memory": used.ru_maxrss * 1024, "cpu": used.ru_utime + used.ru_stime}, open(sys.argv[1], "w"))
sys.exit(code)
"""


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.smollm2
def test_the_quick_profile_runs_on_real_questions(realdata: Path, tmp_path: Path, record_property: Any) -> None:
    env = {**environment(tmp_path / "outputs"), "RRLIB_REALDATA": str(realdata)}
    usage = tmp_path / "usage.json"
    command = [sys.executable, "-c", MEASURED, str(usage), sys.executable, "-m", "rrlib", "run", str(PROFILE)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    run = tmp_path / "outputs" / "smollm2-135m-quick"
    rows = read(run / "results.json")["rows"]
    assert {row["system"] for row in rows} == {"first-stage", "backbone", "sft", "sft+rl", "oracle"}
    assert {row["data_kind"] for row in rows} == {"real"} and {row["collection"] for row in rows} == {"entailmentbank"}
    assert len(list((run / "notebooks").glob("0[1-4]_*.ipynb"))) == 4
    for line in (run / "01_synthesis" / "teacher" / "examples.jsonl").read_text(encoding="utf-8").splitlines():
        meta = json.loads(line)["meta"]
        assert meta["teacher_kind"] == "human" and meta["data_kind"] == "real"
    for stage, kind in (("02_sft", "sft"), ("03_rl", "grpo")):
        assert (run / stage / kind / "checkpoint" / "model.safetensors").is_file()
    used = read(usage)
    record_property("GB at most in a process", round(used["memory"] / 1e9, 1))
    record_property("CPU seconds", round(used["cpu"]))
    assert used["memory"] < MEMORY and used["cpu"] < CPU_SECONDS


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The profile with a random model of two layers, a token a byte, and with lists that it can read in seconds."""
    from test_gguf import write_gguf

    folder = tmp_path_factory.mktemp("small")
    profile = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
    profile["name"] = "killed"
    profile["shared"] |= {"model": str(write_gguf(folder / "tiny.gguf", positions=4096)), "max_passage_tokens": 32}
    profile["01_synthesis"] |= {"train_queries": 4, "validation_queries": 1}
    profile["02_sft"] |= {"micro_batch": 1, "epochs": 2.0, "max_length": 3600, "max_new_tokens": 16, "save_every": 1}
    profile["03_rl"] |= {"max_prompt": 3600, "max_completion": 16, "steps": 3, "save_every": 1}
    path = folder / "killed.yaml"
    path.write_text(yaml.safe_dump(profile), encoding="utf-8")
    return path


TRAINING = "trainer/checkpoint-*/trainer_state.json"
SIGNS = {
    "01_synthesis": "01_synthesis/teacher/rank.jsonl",
    "02_sft": f"02_sft/sft/{TRAINING}",
    "03_rl": f"03_rl/grpo/{TRAINING}",
    "04_evaluation": "04_evaluation/experiment/*/windows.jsonl",
}
"""Stage -> the file that tells, once something stands in it, that the stage has done a part of its work."""


def run_until_killed(profile: Path, env: dict[str, str], run: Path, stage: str) -> None:
    """`rrlib run`, and SIGKILL for it and its kernel when a part of this stage is done."""
    command = [sys.executable, "-m", "rrlib", "run", str(profile)]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while not any(path.stat().st_size for path in run.glob(SIGNS[stage])):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        kernels = children(process.pid)
        for pid in (process.pid, *kernels):
            os.kill(pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and kernels
    assert not (run / stage / "manifest.json").exists() and (run / stage / "begun.json").exists()


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def whole_lines(path: Path) -> list[str]:
    """The lines of a log but for a last one that was cut off."""
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def test_a_chain_that_was_killed_in_each_stage_goes_on(small: Path, realdata: Path, tmp_path: Path) -> None:
    env = {**environment(tmp_path), "RRLIB_REALDATA": str(realdata), "RRLIB_CACHE": str(small.parent / "cache")}
    run, before = tmp_path / "killed", {}
    for stage in SIGNS:
        run_until_killed(small, env, run, stage)
        if stage in ("01_synthesis", "04_evaluation"):
            before |= {path: whole_lines(path) for path in run.glob(SIGNS[stage])}
    command = [sys.executable, "-m", "rrlib", "run", str(small)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    for path, lines in before.items():
        after = whole_lines(path)
        assert lines and after[: len(lines)] == lines and len(set(after)) == len(after), path
    for training in ("02_sft/sft", "03_rl/grpo"):
        assert read(run / training / "result.json")["info"]["resumed_from"].startswith("checkpoint-")
        steps = [json.loads(line)["step"] for line in (run / training / "log.jsonl").read_text().splitlines()]
        assert steps == sorted(set(steps)), "a row is missing or there twice"
    assert {row["system"] for row in read(run / "results.json")["rows"]} >= {"first-stage", "backbone", "sft", "sft+rl"}
    assert "01_synthesis" in done.stdout and "unchanged, skipped" in done.stdout and "begun before" in done.stdout
