"""Training a judge of single passages on all passages of a query at once, as one sequence.

The prompts of a query's passages begin alike. Here that beginning is read once, and behind it stands the rest of each
prompt, which sees the beginning and itself: the same logits as from separate prompts, for a quarter of the tokens
where passages are sentences. So the passages of a query can also be compared with each other in the loss.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rrlib.engines.hf import common_length
from rrlib.errors import InputError
from rrlib.prompts import get_style
from rrlib.training.config import SFTSettings
from rrlib.training.resume import TrainResult
from rrlib.training.sft import SFT
from rrlib.training.trainer import OnLog
from rrlib.types import RankingExample

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Trainer

LIST_WEIGHT = 0.5
"""Weight of the list's term in the loss, beside the word's."""


class Joined(NamedTuple):
    """The prompts of a query's n passages as one sequence of t tokens.

    ids, positions: (t,). part: (t,), 0 for the common beginning, i + 1 for passage i. last: (n,), index of each
    prompt's last token, where the answer is read.
    """

    ids: list[int]
    positions: list[int]
    part: list[int]
    last: list[int]


def join(prompts: Sequence[Sequence[int]]) -> Joined:
    """Put prompts behind their common beginning. Each keeps at least one token of its own."""
    rows = [list(prompt) for prompt in prompts]
    shared = common_length(rows)
    ids, positions, part, last = rows[0][:shared], list(range(shared)), [0] * shared, []
    for number, row in enumerate(rows, start=1):
        ids += row[shared:]
        positions += range(shared, len(row))
        part += [number] * (len(row) - shared)
        last.append(len(ids) - 1)
    return Joined(ids, positions, part, last)


def sees(part: Tensor) -> Tensor:
    """Who attends to whom: (t,) parts -> (t, t) booleans, row = the token that looks. A token sees those before it of
    the common beginning and of its own passage."""
    import torch

    mine = (part[:, None] == part[None]) | (part[None] == 0)
    return mine & torch.ones_like(mine).tril()


def judging_loss(scores: Tensor, relevant: Tensor) -> Tensor:
    """Loss of a query: scores (n,) = logit of the word yes minus that of no, relevant (n,) of 0 and 1 -> a number.

    The first term is the cross entropy of the two words, a mean over passages; the second that of a softmax over the
    list (ListNet's, Cao et al. 2007, its target the relevant ones in equal shares), half as heavy. It is 0 where a
    list has no relevant passage, or no other.
    """
    import torch
    from torch.nn import functional

    loss = functional.binary_cross_entropy_with_logits(scores, relevant)
    if 0 < int(relevant.sum()) < len(relevant):
        target = relevant / relevant.sum()
        loss = loss - LIST_WEIGHT * (target * torch.log_softmax(scores, dim=0)).sum()
    return loss


def lengthen(examples: Sequence[RankingExample], share: float, seed: int = 0, most: int = 4) -> list[RankingExample]:
    """Pointwise examples, in which the passages of a share of the queries stand among 1 to `most` irrelevant ones.

    So the judge learns that a long passage is relevant when a part of it is. What is put beside a passage was
    irrelevant to its own query; the labels stay. share: of the queries, in [0, 1].
    """
    rng = random.Random(f"{seed}/lengthen")
    beside = [e.passages[0] for e in examples if e.relevance[0] <= 0]
    chosen: dict[str, bool] = {}
    out = []
    for example in examples:
        query = query_of(example)
        if query not in chosen:
            chosen[query] = rng.random() < share
        if chosen[query] and beside:
            own = example.passages[0]
            drawn = [p.text for p in rng.sample(beside, min(rng.randint(1, most), len(beside))) if p.docid != own.docid]
            drawn.insert(rng.randint(0, len(drawn)), own.text)
            example = replace(example, passages=(replace(own, text=". ".join(drawn)),))
        out.append(example)
    return out


def query_of(example: RankingExample) -> str:
    """The query of a pointwise example, whose id ends in the passage's number (rrlib.training.mix)."""
    return example.query.qid.rpartition("/")[0]


def train_together(
    examples: Sequence[RankingExample],
    model: str | Path,
    output: str | Path,
    settings: SFTSettings,
    style: str = "pointwise_nothink",
    *,
    on_log: OnLog | None = None,
) -> TrainResult:
    """Train a pointwise model without reasoning, a query's passages together; `judging_loss` is what it learns by.

    examples: of `pointwise_examples`; those of one query become one sequence. settings: an update sees `accumulation`
    queries a process, micro_batch is 1; max_length is for one prompt with its answer. Otherwise as train_sft, resume
    included. Raises InputError for a style that reasons or ranks lists, for words of several tokens, for another
    attention than sdpa, and as train_sft.
    """
    return _Together(examples, model, output, settings, style, on_log).run()


class _Together(SFT):
    def encode(self) -> Any:
        style = get_style(self.style)
        if style.words is None or style.think:
            raise InputError(
                f"the style {self.style!r} does not answer by a word alone", remedy="use pointwise_nothink"
            )
        if self.settings.attention != "sdpa":  # `sees` is of booleans: eager would add them to the scores
            raise InputError(f"attention {self.settings.attention!r} cannot keep passages apart", remedy="use sdpa")
        if self.settings.micro_batch != 1:
            raise InputError(f"micro_batch {self.settings.micro_batch}", remedy="set micro_batch 1, raise accumulation")
        self.words = [self.tokenizer(word, add_special_tokens=False)["input_ids"] for word in style.words]
        if any(len(ids) != 1 for ids in self.words):
            raise InputError(f"{style.words} are no single tokens of this tokenizer", remedy="train with sft instead")
        return super().encode()

    def inputs(self) -> dict[str, Any]:
        return {"loss": f"together, list {LIST_WEIGHT}"}

    def trainer(self, **shared: Any) -> Trainer:
        from datasets import Dataset
        from trl import SFTTrainer

        queries: dict[str, list[Any]] = {}
        for row in self.encoded.rows:
            queries.setdefault(query_of(row.example), []).append(row)
        lines = [
            {
                **join([row.prompt_ids for row in rows])._asdict(),
                "relevant": [float(row.example.relevance[0] > 0) for row in rows],
            }
            for rows in queries.values()
        ]
        yes, no = (ids[0] for ids in self.words)

        class JoinedTrainer(SFTTrainer):  # type: ignore[misc]
            def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
                relevant, last = inputs.pop("relevant"), inputs.pop("last")
                logits = model(**inputs, use_cache=False, logits_to_keep=last).logits[0].float()
                scores = logits[:, yes] - logits[:, no]
                self._metrics["train"]["right"].append(float(((scores > 0) == (relevant > 0)).float().mean()))
                loss = judging_loss(scores, relevant)
                return (loss, {"scores": scores}) if return_outputs else loss

        shared["args"].remove_unused_columns = False
        out = JoinedTrainer(train_dataset=Dataset.from_list(lines), data_collator=collate, **shared)
        out.model_accepts_loss_kwargs = False  # so that an update is the mean over its queries
        return out


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """The one query of a micro-batch as tensors: ids and positions (1, t), attention (1, 1, t, t), last and relevant
    (n,)."""
    import torch

    (row,) = rows
    return {
        "input_ids": torch.tensor([row["ids"]]),
        "position_ids": torch.tensor([row["positions"]]),
        "attention_mask": sees(torch.tensor(row["part"]))[None, None],
        "last": torch.tensor(row["last"]),
        "relevant": torch.tensor(row["relevant"]),
    }
