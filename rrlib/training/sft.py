"""Stage one: imitate the teacher (paper section 4.2). Language-model loss on the response alone.

The defaults are the paper's for Qwen2.5-7B-Instruct in full: lr 5e-6, batch 1 x 8 accumulation per GPU, 5 epochs, bf16,
cut-off 23552 tokens, cosine with 10% warm-up. Where the paper and the released configuration differ: LoRA on the 32B
model ran 4 epochs after the paper, 7 after the released file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rrlib.errors import InputError
from rrlib.prompts import PromptBuilder
from rrlib.resources import resolve
from rrlib.training.common import (
    Common,
    OnLog,
    check_attention,
    choose_bf16,
    choose_device,
    load_tokenizer,
    lora_config,
    model_length,
    one_of,
    require,
    tamed_trl,
    training_arguments,
    world_size,
)
from rrlib.training.data import Encoded, Limits, encode_examples
from rrlib.training.probe import probe
from rrlib.training.resume import TrainResult, begin, fingerprint, locked
from rrlib.training.trainer import Facts, log_writer, run_trainer
from rrlib.types import RankingExample


@dataclass(frozen=True)
class SFTSettings(Common):
    """Settings of supervised fine-tuning; see Common for the rest.

    accumulation: forward passes per update, so an update sees micro_batch * accumulation * GPUs rows.
    epochs: passes over the data, fractions allowed. max_steps: stop after so many updates, 0 = by epochs.
    schedule: `cosine`, `linear` or `constant`. warmup: share of the updates, in [0, 1).
    max_length: limit on prompt + response in tokens; longer examples are refused or dropped, never cut.
    save_every: updates between two resume points, 0 = at the end of each epoch.
    """

    accumulation: int = 8
    epochs: float = 5.0
    max_steps: int = 0
    schedule: str = "cosine"
    warmup: float = 0.1
    max_length: int = 23552
    save_every: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (("accumulation", 1), ("max_steps", 0), ("max_length", 2), ("save_every", 0)):
            require(self, name, low)
        if self.epochs <= 0:
            raise InputError(f"epochs is {self.epochs}", remedy="give a positive number of passes")
        if not 0.0 <= self.warmup < 1.0:
            raise InputError(f"warmup is {self.warmup}", remedy="it is a share of the updates, such as 0.1")
        one_of(self, schedule=("cosine", "linear", "constant"))


def encode_for_sft(
    examples: Sequence[RankingExample], model: str | Path, settings: SFTSettings, style: str = "reasonrank"
) -> Encoded:
    """The rows SFT would train on, with every length checked; costs no model. Raises InputError naming offenders."""
    path = resolve(model)
    tokenizer = load_tokenizer(path)
    total = min(settings.max_length, model_length(path))
    builder = PromptBuilder(tokenizer, style, settings.max_passage_tokens)
    return encode_examples(
        examples, tokenizer, builder, Limits(total, total, total), responses=True, too_long=settings.too_long
    )


def train_sft(
    examples: Sequence[RankingExample],
    model: str | Path,
    output: str | Path,
    settings: SFTSettings | None = None,
    style: str = "reasonrank",
    *,
    on_log: OnLog | None = None,
) -> TrainResult:
    """Fine-tune `model` on the examples' reasoning and gold lists.

    Parameters
    ----------
    examples: with reasoning, unless the style has no think block.
    model: checkpoint folder, hub name, `.gguf` file or `package:` reference.
    output: folder of this training. Called again with the same inputs it continues at its last resume point,
        bit for bit on a CPU; once finished it returns the stored result. Under torchrun or accelerate, all processes
        call this, with one folder that all of them see.
    settings: defaults are the paper's for Qwen2.5-7B.
    style: prompt style; the prompt is the one inference will use.
    on_log: called with each row of the log.

    Returns the final checkpoint and the log (loss, mean_token_accuracy, learning_rate, grad_norm, seconds per step).
    Raises InputError for bad settings or examples that are too long, StageError for a folder begun with other inputs.
    """
    from datasets import Dataset
    from trl import SFTTrainer

    settings = settings or SFTSettings()
    path, out = resolve(model), Path(output)
    device = choose_device(settings)
    check_attention(settings, device)
    encoded = encode_for_sft(examples, path, settings, style)
    inputs = fingerprint(settings, path, examples, stage="sft", style=style, processes=world_size())
    tokenizer = load_tokenizer(path)
    bf16 = choose_bf16(settings, device)
    with tamed_trl(), locked(out):
        config = sft_config(settings, out, device, bf16)
        with config.main_process_first(local=False):  # one process clears the folder, then the others look at it
            done, resume = begin(out, inputs)
        if done is not None:
            return done
        trainer = SFTTrainer(
            model=path,
            args=config,
            train_dataset=Dataset.from_dict(_columns(encoded)),
            processing_class=tokenizer,
            peft_config=lora_config(settings),
            callbacks=[log_writer(out, on_log)],
        )
        info = {
            "device": device,
            "bf16": bf16,
            "processes": world_size(),
            "style": style,
            "prompt_tokens_max": encoded.prompt_tokens,
            "response_tokens_max": encoded.response_tokens,
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
        }
        room = min(2 * encoded.response_tokens, model_length(path) - encoded.prompt_tokens)
        trainer.add_callback(probe(trainer, tokenizer, encoded.rows[0], out, max(room, 1), 1))
        facts = Facts("sft", str(model), len(encoded.rows), encoded.dropped, asdict(settings), info)
        return run_trainer(trainer, tokenizer, out, resume, facts)


def sft_config(settings: SFTSettings, output: Path, device: str, bf16: bool) -> Any:
    """TRL's SFTConfig for our settings: every value that matters is set, and none is left to a default."""
    from trl import SFTConfig

    return SFTConfig(
        **training_arguments(settings, output, device, bf16),
        gradient_accumulation_steps=settings.accumulation,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,  # below 1 it is a share
        max_length=settings.max_length,  # TRL's default of 1024 would cut off the answers
        packing=False,
        save_strategy="steps" if settings.save_every else "epoch",
        save_steps=settings.save_every or 500,
        logging_steps=1,
        dataset_kwargs={"skip_prepare_dataset": True},  # our ids and labels go in as they are
    )


def _columns(encoded: Encoded) -> dict[str, list[Any]]:
    return {
        "input_ids": [[*row.prompt_ids, *row.response_ids] for row in encoded.rows],
        "labels": [row.labels for row in encoded.rows],
    }
