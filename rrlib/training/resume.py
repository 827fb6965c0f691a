"""An output folder of a training: what it depends on, where to go on, and what came out.

It holds `inputs.json` (what the run depends on), `trainer/` (TRL's own checkpoints), `log.jsonl` (one line a logged
step, written while training runs), `alarms.jsonl`, `answers.jsonl` (one query's answers), `checkpoint/` (the result)
and `result.json`, written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rrlib.disk import Lock, differences, read_json, write_json
from rrlib.errors import StageError
from rrlib.resources import model_hash
from rrlib.types import RankingExample

FREE = ("save_every", "keep")
"""Settings that may change between a kill and its resume: they do not touch the numbers."""


@dataclass(frozen=True)
class TrainResult:
    """checkpoint: folder for from_pretrained, tokenizer with chat template included. log: rows as in log.jsonl.

    seconds: of training, over all resumed parts. n_examples: trained on; dropped: left out as too long.
    info: settings as they came out (dtype, device, longest prompt and response, steps, ...).
    """

    checkpoint: Path
    log: list[dict[str, Any]]
    seconds: float
    n_examples: int
    dropped: int
    info: Mapping[str, Any] = field(default_factory=dict)


def fingerprint(
    settings: Any, model: str, examples: Sequence[RankingExample], **others: Any
) -> dict[str, str | int | float | bool | None]:
    """What a run depends on, flat: every setting, a hash of the examples and of the model, and `others`."""
    from rrlib.formats import example_to_json

    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(example_to_json(example), sort_keys=True, default=str).encode())
    flat = {key: value for key, value in asdict(settings).items() if key not in FREE}
    return {**flat, **others, "model": model_hash(model), "examples": digest.hexdigest()[:16]}


def begin(output: Path, inputs: Mapping[str, Any]) -> tuple[TrainResult | None, str | None]:
    """Look at an output folder: (the finished result, None), or (None, TRL checkpoint to resume from or None).

    A finished run of other inputs is cleared away. An unfinished one is refused: raises StageError naming the keys.
    """
    previous = read_json(output / "inputs.json") or {}
    finished = bool(read_json(output / "result.json"))
    changed = differences(previous, inputs) if previous else []
    checkpoint = last_checkpoint(output / "trainer", int(previous.get("processes", 1)))
    if finished and previous and not changed and (output / "checkpoint").is_dir():
        return load_result(output), None
    if changed and not finished and checkpoint:
        listed = "; ".join(f"{d.key}: was {d.previous!r}, is {d.current!r}" for d in changed)
        raise StageError(
            f"{output}: an unfinished training was begun with other inputs ({listed}) -> "
            "go back to them, or remove the folder (--fresh)"
        )
    if finished or changed or not previous:
        for name in ("trainer", "checkpoint", "checkpoint.part"):
            shutil.rmtree(output / name, ignore_errors=True)
        for name in ("result.json", "log.jsonl", "alarms.jsonl", "answers.jsonl"):
            (output / name).unlink(missing_ok=True)
        checkpoint = None
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "inputs.json", dict(inputs), sort_keys=True, default=str)
    return None, checkpoint


def last_checkpoint(folder: Path, processes: int = 1) -> str | None:
    """The newest whole checkpoint of TRL in a folder, of a training by so many processes. Half-written ones (killed
    while saving) are removed."""
    newest_first = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True)
    for path in newest_first:
        if _is_whole(path, processes):
            return str(path)
        shutil.rmtree(path, ignore_errors=True)
    return None


def _is_whole(path: Path, processes: int) -> bool:
    """trainer_state.json is written last; beside it must lie an optimiser (plain, FSDP's shards, or DeepSpeed's) and
    the random numbers of every process."""
    state = read_json(path / "trainer_state.json") or {}
    optimiser = any((path / name).exists() for name in ("optimizer.pt", "optimizer.bin", "optimizer_0", "latest"))
    randoms = list(path.glob("rng_state*.pth"))
    return state.get("global_step") == int(path.name.rpartition("-")[2]) and optimiser and len(randoms) == processes


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep a second training out of the same folder; the lock falls with the process, however that ends.

    Raises StageError when another process trains there. Only the first process of a distributed training takes it.
    """
    output.mkdir(parents=True, exist_ok=True)
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    with Lock(output / ".lock", f"{output}: another process trains here -> wait for it, or end it"):
        yield


def load_result(output: str | Path) -> TrainResult:
    """The result of a finished training, read back from its folder. Raises StageError when it is not finished."""
    output = Path(output)
    stored = read_json(output / "result.json")
    if not stored or not (output / "checkpoint").is_dir():
        raise StageError(f"{output}: this training is not finished")
    lines = (output / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return TrainResult(
        output / "checkpoint",
        [json.loads(line) for line in lines],
        float(stored["seconds"]),
        int(stored["n_examples"]),
        int(stored["dropped"]),
        stored.get("info", {}),
    )
