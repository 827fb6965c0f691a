"""The commands that docs/results.md names: each is ours as it stands there; and a killed training goes on."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_together import judge

from rrlib.chain.params import load_profile
from rrlib.resources import profile_path
from rrlib.studies import filtered, pointwise, real
from rrlib.studies.real_rows import read_rows, read_runs, runs_path, table_path

__all__ = ["judge"]

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/results.md").read_text(encoding="utf-8")
STUDIES = {"real": real, "pointwise": pointwise, "filtered": filtered}


def in_table() -> list[str]:
    """The commands of the table at the end of the page."""
    (part,) = re.findall(r"<!-- real commands -->(.*?)<!-- end -->", PAGE, re.DOTALL)
    return re.findall(r"\| `(python [^|]+)` \|", part)


def in_blocks() -> list[str]:
    """The commands of the page's blocks, continued lines in one, without comments."""
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
    lines = re.sub(r"\\\n\s*", "", blocks).splitlines()
    return [line.split("    #")[0] for line in lines if line.startswith(("python -m rrlib", "rrlib "))]


def parsed(command: str) -> Any:
    """The options of a command of a study, by its own parser, which ends the test where it refuses one."""
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"], command
    return STUDIES[words[2].removeprefix("rrlib.studies.")].parser().parse_args(words[3:])


def test_the_table_holds_the_commands_of_the_rows() -> None:
    rows = read_rows(table_path())
    assert set(in_table()) == {row["command"] for row in rows} and len(in_table()) >= len({*in_table()}) > 30


@pytest.mark.parametrize("command", sorted({*in_table(), *(run.command for run in read_runs(runs_path(table_path())))}))
def test_a_row_s_command_parses_and_its_profile_is_there(command: str) -> None:
    args = parsed(command)
    if args.command != "model":
        return
    assert load_profile(profile_path(args.profile)).parameters("04_evaluation")["depth"] > 0
    assert isinstance(json.loads(args.engine_options), dict)
    assert args.checkpoint and (args.checkpoint == "CHECKPOINT") == ("CHECKPOINT" in command)


@pytest.mark.parametrize("command", in_blocks())
def test_a_command_of_the_text_parses(command: str) -> None:
    if not command.startswith("rrlib "):
        args = parsed(command)
        if profile := getattr(args, "profile", ""):
            assert pointwise.settings(profile, "pointwise_nothink", 7, getattr(args, "set", []))
        return
    import typer

    from rrlib.cli import build_app

    group: Any = typer.main.get_command(build_app())
    words = shlex.split(command)[1:]
    made = group.commands[words[0]].make_context(words[0], words[1:])
    assert made.params


def test_the_blocks_name_the_trainings_and_the_packing() -> None:
    named = " ".join(in_blocks())
    for words in (
        "studies.pointwise",
        "studies.filtered",
        "studies.real static",
        "rrlib pack outputs/judge",
        "rrlib rerank",
    ):
        assert words in named


def test_the_card_shows_the_rows_that_the_page_chooses(tmp_path: Path) -> None:
    (made,) = re.findall(r"^python -c .+$", PAGE, re.MULTILINE)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    subprocess.run([sys.executable, *shlex.split(made)[1:]], cwd=tmp_path, check=True, timeout=60)
    stored = json.loads((tmp_path / "judge-rows.json").read_text(encoding="utf-8"))
    source = json.loads((ROOT / "rrlib/checkpoints/smollm2-135m-judge/SOURCE.json").read_text(encoding="utf-8"))
    assert stored == {"rows": source["results"]}


# --- a training of single passages that was killed ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("together", [True, False])
def test_a_killed_training_goes_on_bit_equal(judge: str, tmp_path: Path, together: bool) -> None:
    from safetensors.torch import load_file

    from rrlib.miniature import build

    build(tmp_path / "collections" / "entailmentbank", seed=7, train=12, validation=1, test=1, pool=8)
    values: dict[str, Any] = {"model": judge, "save_every": 4, "max_length": 1024, "lora_rank": 0, "dtype": "fp32"}
    values |= {"micro_batch": 1, "accumulation": 3} if together else {"micro_batch": 2}  # 4 or 12 updates an epoch
    values["epochs"] = 6.0 if together else 2.0
    words = ["--profile", "smoke", "--collection", "entailmentbank", "--first-stage", "bm25", "--per-list", "2"]
    words += [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    words += ["--data", str(tmp_path / "collections"), *(["--together"] if together else [])]
    cut, whole = ([*words, "--output", str(tmp_path / name)] for name in ("cut", "whole"))
    kill_after(6, cut, tmp_path / "cut")
    again = pointwise.train(pointwise.parser().parse_args(cut))
    assert again.info["resumed_from"] and int(again.info["resumed_from"].rpartition("-")[2]) % 4 == 0
    straight = pointwise.train(pointwise.parser().parse_args(whole))
    assert [row.get("loss") for row in again.log] == [row.get("loss") for row in straight.log]
    ours, theirs = (load_file(result.checkpoint / "model.safetensors") for result in (again, straight))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert pointwise.main(cut) == 0, "what is finished is handed back"


def kill_after(step: int, words: list[str], output: Path) -> None:
    """Run the command in a process of its own, and kill it as a machine that fails would, once it has logged a step."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "rrlib.studies.pointwise", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env) as process:
        while process.poll() is None:
            log = output / "log.jsonl"
            if log.is_file() and f'"step": {step}' in log.read_text(encoding="utf-8"):
                process.kill()
                break
            time.sleep(0.01)
        said = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, said[-2000:]
