"""Starting a training: in this process, or in several that torchrun or accelerate start.

One process stays where it is called (a notebook's kernel). More are started as `python -m rrlib.training.worker JOB`,
by torchrun (data parallel; on a CPU through gloo) or by `accelerate launch` with a file of params/accelerate/ (FSDP2,
DeepSpeed ZeRO). Their output comes back line by line, the rows of the log as they are written. On a CPU `accelerate
launch` would start one process and say nothing, so torchrun it is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rrlib.disk import write_json
from rrlib.errors import InputError, MissingFileError, MissingPackageError, StageError
from rrlib.resources import PACKAGE, repository
from rrlib.reward import MultiViewReward
from rrlib.training.config import Count, CountOrOff, GRPOSettings, SFTSettings, check, choose_device
from rrlib.training.grpo import train_grpo
from rrlib.training.resume import TrainResult, load_result
from rrlib.training.schedule import batches, sft_schedule
from rrlib.training.sft import train_sft
from rrlib.training.trainer import OnLog
from rrlib.types import RankingExample

Echo = Callable[[str], None]
ROW, ERROR = "RRLIB_ROW ", "RRLIB_ERROR "
"""What lines of a worker begin with that are meant for the process that started it."""

_TERM_SECONDS = 60


@dataclass(frozen=True)
class Launch:
    """How a training is spread.

    processes: on this machine, one a GPU. accelerate: name of a file in params/accelerate (fsdp2, zero3, ...), or a
    path; empty = data parallel, every process with a whole copy. nodes, node, address, port: machines in all, the
    number of this one (0 first), host and port of the first; all of them see the same output folder.
    """

    processes: Count = 1
    accelerate: str = ""
    nodes: Count = 1
    node: CountOrOff = 0
    address: str = ""
    port: Count = 29500

    def __post_init__(self) -> None:
        check(self)
        if self.node >= self.nodes:
            raise InputError(f"node {self.node} of {self.nodes} nodes", remedy="count from 0")
        if self.nodes > 1 and not self.address:
            raise InputError(f"{self.nodes} nodes without an address", remedy="name the host of node 0")

    @property
    def total(self) -> int:
        """Processes on all machines."""
        return self.processes * self.nodes


def accelerate_file(name: str) -> Path:
    """The file of an accelerate configuration: `fsdp2` is params/accelerate/fsdp2.yaml. MissingFileError otherwise."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml", ".json"):
        if path.is_file():
            return path
        raise MissingFileError("no such accelerate configuration", path=path, remedy="name a file that is there")
    folder = repository() / "params" / "accelerate"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise MissingFileError(f"no accelerate configuration {name!r}", path=path, remedy=f"use one of {names}")
    return path


def sharding(name: str) -> str:
    """How a configuration shares a model: `none` (whole copies), `zero2` (gradients and optimiser) or `full`."""
    import yaml

    if not name:
        return "none"
    read = yaml.safe_load(accelerate_file(name).read_text(encoding="utf-8")) or {}
    kind = str(read.get("distributed_type", "")).upper()
    if kind == "DEEPSPEED":
        return {2: "zero2", 3: "full"}.get(int((read.get("deepspeed_config") or {}).get("zero_stage", 0)), "none")
    return "full" if kind == "FSDP" else "none"


def command(launch: Launch, job: Path, device: str) -> list[str]:
    """The command line that starts the workers. Raises InputError and MissingPackageError for what cannot start."""
    worker = ["-m", "rrlib.training.worker", str(job)]
    spread = launch.nodes > 1
    if device == "cpu" or not launch.accelerate:
        at = ["--nproc_per_node", str(launch.processes)]
        if spread:
            at += ["--nnodes", str(launch.nodes), "--node_rank", str(launch.node)]
            at += ["--master_addr", launch.address, "--master_port", str(launch.port)]
        else:
            at.append("--standalone")
        return [sys.executable, "-m", "torch.distributed.run", *at, *worker]
    path = accelerate_file(launch.accelerate)
    if "DEEPSPEED" in path.read_text(encoding="utf-8"):
        from importlib.util import find_spec

        if find_spec("deepspeed") is None:
            raise MissingPackageError(f"{path.name} needs the package deepspeed, or use accelerate: fsdp2")
    at = ["--config_file", str(path), "--num_processes", str(launch.total), "--num_machines", str(launch.nodes)]
    at += ["--machine_rank", str(launch.node)]
    if spread:
        at += ["--main_process_ip", launch.address, "--main_process_port", str(launch.port)]
    return [sys.executable, "-m", "accelerate.commands.launch", *at, *worker]


def train(
    settings: SFTSettings | GRPOSettings,
    examples: Sequence[RankingExample],
    model: str | Path,
    output: str | Path,
    *,
    style: str = "reasonrank",
    reward: MultiViewReward | None = None,
    launch: Launch | None = None,
    on_log: OnLog | None = None,
    echo: Echo = print,
) -> TrainResult:
    """Train by SFT or GRPO (as the settings say), here or in `launch.total` processes; the result is the same.

    Raises what train_sft and train_grpo raise, also where a worker raised it; StageError when the workers died of
    something else (the end of their output is in the message, all of it in `launch/output.log`).
    """
    launch = launch or Launch()
    device = choose_device(settings)
    if launch.total == 1 and not _many_gpus(device):
        if isinstance(settings, SFTSettings):
            return train_sft(examples, model, output, settings, style, on_log=on_log)
        return train_grpo(examples, model, output, settings, reward, style, on_log=on_log)
    job = write_job(settings, examples, model, Path(output), style, reward)
    _run(command(launch, job, device), job, settings, len(examples), launch, on_log, echo)
    for name in (job, job.with_name("examples.jsonl")):
        name.unlink(missing_ok=True)
    return load_result(output)


def _many_gpus(device: str) -> bool:
    """TRL refuses a process that sees several GPUs, as transformers would spread the batch over them."""
    if device != "cuda" or "WORLD_SIZE" in os.environ:
        return False
    import torch

    return torch.cuda.device_count() > 1


def write_job(
    settings: SFTSettings | GRPOSettings,
    examples: Sequence[RankingExample],
    model: str | Path,
    output: Path,
    style: str,
    reward: MultiViewReward | None,
) -> Path:
    """What the workers read: `launch/job.json` and `launch/examples.jsonl` in the output folder."""
    from rrlib.formats import write_examples

    folder = output.resolve() / "launch"
    folder.mkdir(parents=True, exist_ok=True)
    write_examples(folder / "examples.jsonl", examples)
    write_json(
        folder / "job.json",
        {
            "kind": "sft" if isinstance(settings, SFTSettings) else "grpo",
            "settings": asdict(settings),
            "reward": asdict(reward) if reward is not None else None,
            "model": str(model),
            "output": str(output.resolve()),
            "style": style,
        },
        sort_keys=True,
        default=str,
    )
    return folder / "job.json"


def _run(
    line: list[str],
    job: Path,
    settings: SFTSettings | GRPOSettings,
    examples: int,
    launch: Launch,
    on_log: OnLog | None,
    echo: Echo,
) -> None:
    total = _updates(settings, examples, launch.total)
    echo(f"{launch.total} processes: {' '.join(line[2:])}")
    failure: dict[str, Any] = {}
    tail: list[str] = []
    with (
        open(job.with_name("output.log"), "a", encoding="utf-8") as log,
        subprocess.Popen(
            line,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=_environment(launch),
            start_new_session=True,
        ) as process,
    ):
        try:
            for text in process.stdout or ():
                log.write(text)
                log.flush()
                if text.startswith(ROW):
                    row = json.loads(text[len(ROW) :])
                    if on_log is not None:
                        on_log(row)
                    echo(progress(row, total))
                elif text.startswith(ERROR):
                    failure = failure or json.loads(text[len(ERROR) :])
                elif not failure and text.strip():
                    tail = [*tail[-19:], text.rstrip()]
        except BaseException:
            _end(process)
            raise
    if process.returncode:
        kind = InputError if failure.get("input") else StageError
        message = failure.get("message") or "\n".join(tail)
        raise kind(message if failure else f"the workers ended with code {process.returncode} -> {message}")


def _environment(launch: Launch) -> dict[str, str]:
    """Of the workers: this library on their path, one thread, and one GPU where there is one process."""
    paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    env.setdefault("OMP_NUM_THREADS", "1")
    if launch.total == 1:
        env["CUDA_VISIBLE_DEVICES"] = env.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return env


def _end(process: subprocess.Popen[str]) -> None:
    """End our workers and all they started (a group of their own), first politely."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(_TERM_SECONDS)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _updates(settings: SFTSettings | GRPOSettings, examples: int, processes: int) -> int:
    if isinstance(settings, SFTSettings):
        return sft_schedule(settings, examples, processes).updates
    return batches(settings, processes).max_steps


_SHOWN: Mapping[str, str] = {
    "loss": "loss", "reward": "reward", "view/ndcg": "NDCG", "share/valid": "valid",
    "completions/mean_length": "length", "kl": "KL", "time/generate": "generation s",
}  # fmt: skip


def progress(row: Mapping[str, Any], total: int = 0) -> str:
    """One row of the log as one line: `step 4/400  loss 0.0123  reward 0.81 ...`."""
    numbers = [f"{name} {float(row[key]):.4g}" for key, name in _SHOWN.items() if isinstance(row.get(key), int | float)]
    of = f"/{total}" if total else ""
    return "  ".join([f"step {row.get('step')}{of}", *numbers, f"{float(row.get('seconds', 0.0)):.0f} s"])
