"""A worker of rrlib.training that does not generate: it hands out recorded completions, each process its share.

    torchrun ... tests/replay_worker.py JOB RECORD

RECORD: JSON list with one [prompt ids, completion ids] a generation, over all processes in their order.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from rrlib.training import grpo
from rrlib.training.worker import main


def install(record: Path) -> None:
    """Replace generation by the record."""
    turns = json.loads(record.read_text())
    rank, calls = int(os.environ.get("RANK", "0")), iter(range(len(turns)))

    def replay(self: Any, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> tuple[list[list[int]], None]:
        prompts, completions = turns[next(calls)]
        share = slice(rank * len(prompt_ids), (rank + 1) * len(prompt_ids))
        assert prompts[share] == prompt_ids, "this process rolls out other prompts than were recorded"
        return completions[share], None

    grpo.shared_prefix_rollouts = replay


if __name__ == "__main__":
    install(Path(sys.argv[2]))
    sys.exit(main(sys.argv[1:2]))
