"""One training from examples to checkpoint: what SFT and GRPO do alike, in one process or in many.

`Training.run` is the order of things: encode and check every length, look at the output folder, build TRL's trainer,
train, save. A stage (sft.py, grpo.py) gives the parts that are its own.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rrlib.disk import write_json
from rrlib.engines.checkpoints import check_checkpoint
from rrlib.engines.trained import write_trained
from rrlib.patches import load_numbered_cpus, tamed_trl
from rrlib.resources import resolve
from rrlib.training.alarms import LEFT_OUT, Alarms
from rrlib.training.card import Facts, model_card
from rrlib.training.config import Common, as_stored, check_attention, choose_bf16, choose_device, world_size
from rrlib.training.data import Encoded, load_tokenizer, model_length
from rrlib.training.probe import probe
from rrlib.training.resume import TrainResult, begin, fingerprint, locked
from rrlib.types import RankingExample

if TYPE_CHECKING:
    from transformers import Trainer

OnLog = Callable[[dict[str, Any]], None]
"""Called with each row of the log as it is written: for live curves in a notebook."""


class Training(ABC):
    """The skeleton of a stage.

    path: the model, resolved. tokenizer, positions: of the model. encoded: the rows that fit. output: the folder.
    Raises InputError where settings, examples and model do not go together.
    """

    stage: ClassVar[str]

    def __init__(
        self,
        examples: Sequence[RankingExample],
        model: str | Path,
        output: str | Path,
        settings: Common,
        style: str,
        on_log: OnLog | None = None,
    ) -> None:
        self.examples, self.model, self.settings, self.style, self.on_log = examples, model, settings, style, on_log
        self.path, self.output = resolve(model), Path(output)
        check_checkpoint(self.path)
        self.device = choose_device(settings)
        check_attention(settings, self.device)
        self.tokenizer, self.positions = load_tokenizer(self.path), model_length(self.path)
        self.encoded = self.encode()
        self.bf16 = choose_bf16(settings, self.device)

    @abstractmethod
    def encode(self) -> Encoded:
        """The examples as ids, with every length checked."""

    @abstractmethod
    def config(self) -> Any:
        """TRL's arguments."""

    @abstractmethod
    def trainer(self, **shared: Any) -> Trainer:
        """TRL's trainer over the encoded rows. shared: the arguments that both of TRL's trainers take."""

    @abstractmethod
    def probe_limits(self) -> tuple[int, int]:
        """(tokens that an answer of the probe may have, optimiser updates between two places where it may ask)."""

    def inputs(self) -> dict[str, Any]:
        """What a run depends on beyond settings, model, examples, style and processes."""
        return {}

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """What stands in the result and the model card beyond device, dtype, processes, style and size."""

    def run(self) -> TrainResult:
        """Train, or go on, or return what is finished."""
        shared = {"stage": self.stage, "style": self.style, "processes": world_size()}
        inputs = as_stored(fingerprint(self.settings, self.path, self.examples, **shared, **self.inputs()))
        with tamed_trl(), locked(self.output):
            config = self.config()
            with config.main_process_first(local=False):  # one process clears the folder, then the others look at it
                finished, resume = begin(self.output, inputs)
            if finished is not None:
                return finished
            trainer = self.trainer(
                model=self.path,  # a path, since TRL reloads GRPO's reference from it
                args=config,
                processing_class=self.tokenizer,
                peft_config=lora_config(self.settings),
                callbacks=[update_guard(), log_writer(self.output, self.on_log)],
            )
            row = self.encoded.rows[0]
            trainer.add_callback(probe(trainer, self.tokenizer, row, self.output, *self.probe_limits()))
            return self._train(trainer, resume)

    def _train(self, trainer: Trainer, resume: str | None) -> TrainResult:
        """Train (from `resume`, a TRL checkpoint, when there is one), save `checkpoint/`, then `result.json`."""
        from transformers import PrinterCallback

        info = {
            "device": self.device,
            "bf16": self.bf16,
            "processes": world_size(),
            "style": self.style,
            **self.info(),
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
        }
        n_examples, dropped = len(self.encoded.rows), self.encoded.dropped
        trainer.remove_callback(PrinterCallback)
        load_numbered_cpus()
        trainer.train(resume_from_checkpoint=resume)
        log = clean_log(trainer.state.log_history)
        info |= {"steps": trainer.state.global_step, "resumed_from": resume and Path(resume).name}
        facts = Facts(self.stage, str(self.model), n_examples, dropped, asdict(self.settings), info)
        trained = self.style, max(len(e.passages) for e in self.examples), self.settings.max_passage_tokens
        save_checkpoint(trainer, self.tokenizer, self.output / "checkpoint", model_card(facts, log), trained)
        seconds = float(trainer.state.log_history[-1].get("seconds", 0.0))
        if trainer.is_world_process_zero():
            result = {"seconds": seconds, "n_examples": n_examples, "dropped": dropped, "info": info}
            write_json(self.output / "result.json", result, sort_keys=True, default=str)
        trainer.accelerator.wait_for_everyone()
        return TrainResult(self.output / "checkpoint", log, seconds, n_examples, dropped, info)


# --- the parts of a trainer -------------------------------------------------------------------------------------------


def training_arguments(settings: Common, output: Path, device: str, bf16: bool) -> dict[str, Any]:
    """The arguments both of TRL's configs take from our settings; nothing that matters is left to a default."""
    base = "bfloat16" if settings.lora_rank and bf16 else "float32"  # a frozen base may be bf16, trained weights not
    return {
        "output_dir": str(output / "trainer"),
        "learning_rate": settings.learning_rate,
        "per_device_train_batch_size": settings.micro_batch,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "bf16": bf16,
        "fp16": False,
        "use_cpu": device == "cpu",
        "gradient_checkpointing": settings.gradient_checkpointing,
        "dataloader_pin_memory": device != "cpu",
        "model_init_kwargs": {"dtype": base, "attn_implementation": settings.attention},
        "save_total_limit": settings.keep or None,
        "disable_tqdm": True,
        "report_to": "none",
        "ddp_find_unused_parameters": False,  # every weight has a gradient; looking for others costs a pass
        **({"ddp_backend": "gloo"} if device == "cpu" and world_size() > 1 else {}),
    }


def lora_config(settings: Common) -> Any:
    """LoRA on all linear layers (paper: r = alpha = 32), or None for full fine-tuning."""
    if not settings.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def update_guard() -> Any:
    """A trainer callback that leaves an update out whose gradient is not finite: one such update would make every
    weight NaN, and the training would go on without a word. verl, in which the paper trained, leaves it out too (verl
    0.4, workers/actor/dp_actor.py, `_optimizer_step`). The row of the log counts them, and an alarm rings.
    """
    import torch
    from transformers import TrainerCallback

    class UpdateGuard(TrainerCallback):
        def __init__(self) -> None:
            self.left_out = 0

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            grads = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
            if not grads:  # DeepSpeed keeps them to itself
                return
            local = [grad.to_local() if hasattr(grad, "to_local") else grad for grad in grads]
            sums = torch.stack([grad.sum(dtype=torch.float32) for grad in local])  # not finite where a part is not
            bad = sums.isfinite().logical_not().any().float()
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(bad, op=torch.distributed.ReduceOp.MAX)  # all leave it out, or none
            if bool(bad):
                kwargs["optimizer"].zero_grad(set_to_none=True)  # an optimiser passes over weights without a gradient
                self.left_out += 1

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.left_out:
                state.log_history[-1][LEFT_OUT], self.left_out = self.left_out, 0

    return UpdateGuard()


def log_writer(output: Path, on_log: OnLog | None) -> Any:
    """A trainer callback that writes log.jsonl line by line; after a resume the file begins with the old lines.

    Every row gets `seconds`, training time so far, summed over resumed parts. Alarms are said and go to alarms.jsonl.
    """
    from transformers import TrainerCallback

    path, watch = output / "log.jsonl", Alarms()

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


# --- the result -------------------------------------------------------------------------------------------------------


def save_checkpoint(trainer: Trainer, tokenizer: Any, folder: Path, card: str, trained: tuple[str, int, int]) -> None:
    """Weights (LoRA merged into the base), configuration, tokenizer, model card, and what it was `trained` with (style,
    window, passage limit); the folder appears complete.

    Sharded weights (FSDP, ZeRO) are gathered by all processes and written by the first. An adapter is saved first and
    merged into a base that is read anew, since sharded weights cannot be merged in place; it stays as `adapter` beside
    the folder, as small as it is.
    """
    part, adapter = (folder.with_name(f"{folder.name}{end}") for end in (".part", ".adapter"))
    first = trainer.is_world_process_zero()
    for leftover in (part, adapter):
        if first:
            shutil.rmtree(leftover, ignore_errors=True)
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
    write_trained(part, *trained)
    shutil.rmtree(folder, ignore_errors=True)
    if lora:
        shutil.rmtree(folder.with_name("adapter"), ignore_errors=True)
        os.replace(adapter, folder.with_name("adapter"))
    os.replace(part, folder)


def _merge(model: Any, adapter: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # else ZeRO would shard this model too, and wait for processes that do not load it
    base = model.get_base_model()
    fresh = AutoModelForCausalLM.from_pretrained(base.config._name_or_path, dtype=base.dtype)
    return PeftModel.from_pretrained(fresh, str(adapter)).merge_and_unload()
