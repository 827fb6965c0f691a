"""A worker of rrlib.training whose weights are shared out by FSDP2, on a CPU through gloo.

    torchrun ... tests/fsdp_worker.py JOB [RECORD]

RECORD: of completions, as for tests/replay_worker.py; GRPO takes its rollouts from it.

Everything is what GPUs would run: the environment that `accelerate launch` makes of params/accelerate/fsdp2.yaml,
torch's `fully_shard`, sharded resume points, a final checkpoint gathered from both processes. Only accelerate's rule
that FSDP is for GPUs is taken back.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from replay_worker import install

from rrlib.training.launch import accelerate_file
from rrlib.training.worker import main


def environment() -> dict[str, str]:
    """What `accelerate launch --config_file fsdp2.yaml` tells its processes about FSDP."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    given = ["--config_file", str(accelerate_file("fsdp2")), "script.py"]
    made = prepare_multi_gpu_env(_validate_launch_command(launch_command_parser().parse_args(given))[0])
    return {key: value for key, value in made.items() if key.startswith("FSDP_") or key == "ACCELERATE_USE_FSDP"}


def allow_cpu() -> None:
    """Let accelerate shard on a CPU too."""
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    real = AcceleratorState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        plugin = kwargs.get("fsdp_plugin") or getattr(self, "fsdp_plugin", None)
        if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin

    AcceleratorState.__init__ = init


if __name__ == "__main__":
    os.environ.update(environment())
    allow_cpu()
    if sys.argv[2:]:
        install(Path(sys.argv[2]))
    sys.exit(main(sys.argv[1:2]))
