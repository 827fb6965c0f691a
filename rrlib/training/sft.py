"""Stage one: imitate the teacher (paper section 4.2). Language-model loss on the response alone.

What is learned stands in `target`. The defaults of SFTSettings are the paper's for Qwen2.5-7B-Instruct in full: lr
5e-6, batch 1 x 8 accumulation per GPU, 5 epochs, bf16, cut-off 23552 tokens, cosine with 10% warm-up. Where the paper
and the released configuration differ: LoRA on the 32B model ran 4 epochs after the paper, 7 after the released file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.prompts import PromptBuilder
from rrlib.resources import resolve
from rrlib.training.config import SFTSettings
from rrlib.training.data import Encoded, Limits, encode_examples, load_tokenizer, model_length
from rrlib.training.resume import TrainResult
from rrlib.training.trainer import OnLog, Training, training_arguments
from rrlib.types import RankingExample

if TYPE_CHECKING:
    from transformers import Trainer

IGNORED = -100
"""Label of a token that is not learned: torch's cross entropy leaves it out."""


def target(prompt_ids: Sequence[int], response_ids: Sequence[int]) -> list[int]:
    """The label of each token of prompt + response: nothing of the prompt is learned, all of the response is.

    The response is `<think> reasoning </think> <answer> [2] > [1] > ... </answer>` (rrlib.prompts.format_target) and
    the end-of-turn token, so that the model learns to stop. The loss of an update is the mean of -log p(label | all
    tokens before it) over all labels that are not IGNORED, of all its rows together.
    """
    return [IGNORED] * len(prompt_ids) + list(response_ids)  # (prompt + response,)


def encode_for_sft(
    examples: Sequence[RankingExample], model: str | Path, settings: SFTSettings, style: str = "reasonrank"
) -> Encoded:
    """The rows SFT would train on, with every length checked; costs no model. Raises InputError naming offenders."""
    path = resolve(model)
    return _encode(examples, load_tokenizer(path), model_length(path), settings, style)


def _encode(
    examples: Sequence[RankingExample], tokenizer: Any, positions: int, settings: SFTSettings, style: str
) -> Encoded:
    total = min(settings.max_length, positions)
    builder = PromptBuilder(tokenizer, style, settings.max_passage_tokens)
    limits = Limits(total, total, total)
    return encode_examples(examples, tokenizer, builder, limits, target=target, too_long=settings.too_long)


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
    return SFT(examples, model, output, settings or SFTSettings(), style, on_log).run()


class SFT(Training):
    """Supervised fine-tuning as a stage of training."""

    stage = "sft"
    settings: SFTSettings

    def encode(self) -> Encoded:
        return _encode(self.examples, self.tokenizer, self.positions, self.settings, self.style)

    def config(self) -> Any:
        return sft_config(self.settings, self.output, self.device, self.bf16)

    def trainer(self, **shared: Any) -> Trainer:
        from datasets import Dataset
        from trl import SFTTrainer

        rows = self.encoded.rows
        columns = {
            "input_ids": [[*row.prompt_ids, *row.response_ids] for row in rows],
            "labels": [row.labels for row in rows],
        }
        return SFTTrainer(train_dataset=Dataset.from_dict(columns), **shared)

    def probe_limits(self) -> tuple[int, int]:
        room = min(2 * self.encoded.response_tokens, self.positions - self.encoded.prompt_tokens)
        return max(room, 1), 1

    def info(self) -> dict[str, Any]:
        return {
            "prompt_tokens_max": self.encoded.prompt_tokens,
            "response_tokens_max": self.encoded.response_tokens,
        }


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
