"""One process of a training in several: `python -m rrlib.training.worker JOB`, started by rrlib.training.launch.

Rows of the log go to standard output behind `RRLIB_ROW`, an error of rrlib behind `RRLIB_ERROR`; only the first process
speaks there, the others say an error on standard error. Exit code 2 is bad input, 1 any other failure.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from rrlib.errors import InputError, RRLibError
from rrlib.training.launch import ERROR, ROW


def work(job: Path) -> None:
    """Do what job.json says, together with the other processes."""
    from rrlib.formats import read_examples
    from rrlib.reward import MultiViewReward
    from rrlib.training.config import GRPOSettings, SFTSettings
    from rrlib.training.grpo import train_grpo
    from rrlib.training.sft import train_sft

    read: dict[str, Any] = json.loads(job.read_text(encoding="utf-8"))
    examples = read_examples(job.with_name("examples.jsonl"))
    model, output, style = read["model"], read["output"], read["style"]
    if read["kind"] == "sft":
        train_sft(examples, model, output, SFTSettings(**read["settings"]), style, on_log=_say)
    else:
        reward = MultiViewReward(**read["reward"]) if read["reward"] else None
        train_grpo(examples, model, output, GRPOSettings(**read["settings"]), reward, style, on_log=_say)


def _say(row: dict[str, Any]) -> None:
    print(ROW + json.dumps(row), flush=True)


def main(argv: list[str]) -> int:
    """Run the job of the one argument; the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    first = os.environ.get("RANK", "0") == "0"
    try:
        work(Path(argv[0]))
    except RRLibError as error:
        if first:
            print(ERROR + json.dumps({"input": isinstance(error, InputError), "message": str(error)}), flush=True)
        else:
            print(error, file=sys.stderr, flush=True)
        return 2 if isinstance(error, InputError) else 1
    finally:
        _leave()
    return 0


def _leave() -> None:
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
