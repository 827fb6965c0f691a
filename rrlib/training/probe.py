"""One query's answer as training goes on: greedy, at step 0, in the middle and at the end.

Curves say how much changed, an answer says what. The answers are drawn greedily, so they take nothing from the random
numbers of the training: with and without them, and after a resume, its steps are the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.disk import append_jsonl
from rrlib.engines import prefix
from rrlib.engines.graphs import GraphDecoder
from rrlib.training.data import Row

if TYPE_CHECKING:
    from transformers import Trainer

FILE = "answers.jsonl"


def probe(trainer: Trainer, tokenizer: Any, row: Row, output: Path, max_new_tokens: int, updates: int) -> Any:
    """A trainer callback that writes answers.jsonl: step, qid, query, text, tokens.

    row: the query that is asked. updates: optimiser updates between two places where all processes stand still
    together (1 for SFT, those of a rollout batch for GRPO); the middle is moved to such a place.
    """
    from transformers import TrainerCallback

    def answer(step: int) -> None:
        if step in {record["step"] for record in read_answers(output)}:
            return
        ids = _greedy(trainer, tokenizer, row.prompt_ids, max_new_tokens)
        if trainer.is_world_process_zero():
            text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            query = row.example.query
            record = {"step": step, "qid": query.qid, "query": query.text, "text": text, "tokens": len(ids)}
            append_jsonl(output / FILE, record)
        trainer.accelerator.wait_for_everyone()

    class Probe(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0:
                answer(0)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            middle = max(state.max_steps // 2 // updates, 1) * updates
            if state.global_step == middle < state.max_steps:
                start = time.perf_counter()
                answer(middle)
                if hasattr(trainer, "leave_out"):  # GRPO's
                    trainer.leave_out(time.perf_counter() - start)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            answer(state.global_step)

    return Probe()


def _greedy(trainer: Trainer, tokenizer: Any, prompt_ids: Sequence[int], max_new_tokens: int) -> list[int]:
    """The model's most likely answer, with weights gathered from all processes; its mode is left as it was."""
    import torch

    accelerator = trainer.accelerator
    if accelerator.device.type == "cuda" and accelerator.num_processes == 1 and prefix.supports(trainer.model):
        decoder = GraphDecoder(accelerator.unwrap_model(trainer.model), copied=trainer.args.bf16)
        return decoder.decode([prompt_ids], max_new_tokens=max_new_tokens, eos=[tokenizer.eos_token_id])[0]
    from trl.distributed import DistributedBackend
    from trl.models.utils import unwrap_model_for_generation

    ids = torch.tensor([list(prompt_ids)], device=trainer.accelerator.device)  # (1, P)
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
        ) as model,
        torch.no_grad(),
        DistributedBackend(trainer.accelerator).summon_full_params(trainer.model_wrapped, recurse=False),
    ):
        training = model.training
        model.eval()
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )  # (1, P + new)
        model.train(training)
    new: list[int] = out[0, ids.shape[1] :].tolist()
    return new


def read_answers(output: str | Path) -> list[dict[str, Any]]:
    """The answers kept by a training, in the order of their steps; empty when there are none."""
    path = Path(output) / FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except ValueError:  # the process was killed while it wrote this line
            continue
    return sorted(records, key=lambda record: int(record["step"]))
