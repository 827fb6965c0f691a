"""The run of a trainer: its log, its final checkpoint, its result. The same for SFT and GRPO, one process or many."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.disk import write_json
from rrlib.training.alarms import Alarms
from rrlib.training.card import model_card
from rrlib.training.common import OnLog, load_numbered_cpus
from rrlib.training.resume import TrainResult

if TYPE_CHECKING:
    from transformers import Trainer


@dataclass(frozen=True)
class Facts:
    """What is known of a run before its first step, for the result and the model card.

    model: the checkpoint it starts from, as given. n_examples: trained on. dropped: left out as too long.
    settings: name -> value. info: as it came out (device, longest prompt, ...).
    """

    stage: str
    model: str
    n_examples: int
    dropped: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)


def log_writer(output: Path, on_log: OnLog | None, alarms: Alarms | None = None) -> Any:
    """A trainer callback that writes log.jsonl line by line; after a resume the file begins with the old lines.

    Every row gets `seconds`, training time so far, summed over resumed parts. Alarms are told and kept in alarms.jsonl.
    """
    from transformers import TrainerCallback

    path = output / "log.jsonl"
    watch = alarms or Alarms()

    class LogWriter(TrainerCallback):
        def __init__(self) -> None:
            self.start = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            rows = clean_log(state.log_history)
            self.start = time.perf_counter() - (rows[-1].get("seconds", 0.0) if rows else 0.0)
            if state.is_world_process_zero:
                path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
                watch.begin(output / "alarms.jsonl", rows)

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            row = state.log_history[-1]
            row["seconds"] = round(time.perf_counter() - self.start, 3)
            if not state.is_world_process_zero or "train_runtime" in row:
                return
            with open(path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(row) + "\n")
            watch.tell(row)
            if on_log is not None:
                on_log(dict(row))

    return LogWriter()


def clean_log(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """TRL's log without its closing summary row."""
    return [dict(row) for row in history if "train_runtime" not in row]


def run_trainer(trainer: Trainer, tokenizer: Any, output: Path, resume: str | None, facts: Facts) -> TrainResult:
    """Train (from `resume`, a TRL checkpoint, when there is one), save `checkpoint/`, then `result.json`."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    load_numbered_cpus()
    trainer.train(resume_from_checkpoint=resume)
    log = clean_log(trainer.state.log_history)
    info = {**facts.info, "steps": trainer.state.global_step, "resumed_from": resume and Path(resume).name}
    save_checkpoint(trainer, tokenizer, output / "checkpoint", model_card(facts, info, log))
    seconds = float(trainer.state.log_history[-1].get("seconds", 0.0))
    if trainer.is_world_process_zero():
        result = {"seconds": seconds, "n_examples": facts.n_examples, "dropped": facts.dropped, "info": info}
        write_json(output / "result.json", result, sort_keys=True, default=str)
    trainer.accelerator.wait_for_everyone()
    return TrainResult(output / "checkpoint", log, seconds, facts.n_examples, facts.dropped, info)


def save_checkpoint(trainer: Trainer, tokenizer: Any, folder: Path, card: str) -> None:
    """Weights (LoRA merged into the base), configuration, tokenizer, model card; the folder appears when it is whole.

    Sharded weights (FSDP, ZeRO) are gathered by all processes and written by the first. An adapter is saved first and
    merged into a base that is read anew, since sharded weights cannot be merged in place.
    """
    part, adapter = (folder.with_name(f"{folder.name}{end}") for end in (".part", ".adapter"))
    first = trainer.is_world_process_zero()
    for left in (part, adapter):
        if first:
            shutil.rmtree(left, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        plugin.set_state_dict_type("FULL_STATE_DICT")
    model = trainer.accelerator.unwrap_model(trainer.model)
    lora = hasattr(model, "merge_and_unload")
    trainer.save_model(str(adapter if lora else part))
    if not first:
        return
    if lora:
        _merge(model, adapter).save_pretrained(part)
    tokenizer.save_pretrained(part)
    (part / "training_args.bin").unlink(missing_ok=True)  # a pickle; the settings are in inputs.json
    (part / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(adapter, ignore_errors=True)
    os.replace(part, folder)


def _merge(model: Any, adapter: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # else ZeRO would shard this model too, and wait for processes that do not load it
    base = model.get_base_model()
    fresh = AutoModelForCausalLM.from_pretrained(base.config._name_or_path, dtype=base.dtype)
    return PeftModel.from_pretrained(fresh, str(adapter)).merge_and_unload()
