"""RankingExample -> token ids, and every length known before work starts.

A training prompt must be the inference prompt, token for token. So the prompt is not handed to TRL as chat messages,
which it would template and tokenize in its own way: it is rendered by rrlib.prompts and encoded exactly as the engines
do it (`encode_prompt`), and TRL gets the ids. The response is encoded on its own, since that is how it is generated:
behind a finished prompt. So no token can merge across the boundary, and templates that rewrite what an assistant said
(Qwen3's) have no hand in it. It ends with the template's end-of-turn token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rrlib.errors import InputError
from rrlib.prompts import PromptBuilder, format_target, get_style
from rrlib.templates import begins_to_think
from rrlib.types import Passage, RankingExample

Ids = Sequence[int]

_PROBE = "rrlib probe"


@dataclass(frozen=True, slots=True)
class Limits:
    """Token limits. prompt: of the prompt; response: of the response; total: of both. All inclusive."""

    prompt: int
    response: int
    total: int


@dataclass(frozen=True, slots=True)
class Row:
    """One example as ids: the prompt, the response with its end-of-turn token, and a label for each token of both
    (training.sft.target). Response and labels are empty for GRPO."""

    example: RankingExample
    prompt: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...] = ()
    labels: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows that fit, and how many examples were dropped since they did not."""

    rows: tuple[Row, ...]
    dropped: int
    prompt_tokens: int
    """Longest prompt."""
    response_tokens: int
    """Longest response."""


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a checkpoint. Raises InputError when there is none, or none with a chat template."""
    from rrlib.engines.hf import load_tokenizer as load

    tokenizer = load(model)
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template", path=model, remedy="use an instruct checkpoint")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def model_length(model: str) -> int:
    """How many positions the model was made for."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    return int(getattr(config, "max_position_embeddings", None) or 1 << 30)


def encode_prompt(tokenizer: Any, builder: PromptBuilder, query: str, passages: Sequence[Passage]) -> tuple[str, Any]:
    """(templated string, ids) of a window: the one way a prompt becomes tokens, in training as at inference."""
    text = builder.render(query, passages)
    return text, tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def end_of_turn(tokenizer: Any) -> int:
    """The id with which the chat template ends what an assistant says.

    Raises InputError when the tokenizer's eos token is another one: the model would learn to stop with a token at
    which no engine stops.
    """
    turns = [{"role": "user", "content": "-"}, {"role": "assistant", "content": _PROBE}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False)
    tail = text.rpartition(_PROBE)[2].lstrip()
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    if not ids or ids[0] != tokenizer.eos_token_id:
        closing = tokenizer.decode(ids[:1]) if ids else "nothing"
        raise InputError(
            f"the chat template ends a turn with {closing!r}, but the tokenizer's eos token is {tokenizer.eos_token!r}",
            remedy="set eos_token of the checkpoint's tokenizer to the end-of-turn token",
        )
    return int(ids[0])


def encode_examples(
    examples: Sequence[RankingExample],
    tokenizer: Any,
    builder: PromptBuilder,
    limits: Limits,
    *,
    target: Callable[[Ids, Ids], list[int]] | None,
    too_long: Literal["refuse", "drop"] = "refuse",
) -> Encoded:
    """Encode all examples and check all lengths.

    target: (prompt ids, response ids) -> labels, for SFT on reasoning + list; None = prompts alone (GRPO).
    too_long: `refuse` raises InputError that names the offenders; `drop` leaves them out and counts them.

    Raises InputError also when nothing is left, when a response holds a special token of the tokenizer, and when a
    style with a think block meets an example without reasoning.
    """
    if not examples:
        raise InputError("there are no training examples", remedy="run the synthesis first, or lower its alpha")
    _tell_apart(examples, builder)
    rows: list[Row] = []
    long: list[str] = []
    stop = end_of_turn(tokenizer) if target is not None else None
    for example in examples:
        styled = builder.in_style(str(example.meta.get("style") or builder.style.name))  # see rrlib.training.mix
        if styled is not builder and target is None:
            raise InputError(
                f"example {example.query.qid} is of style {styled.style.name!r}, GRPO of {builder.style.name!r}",
                remedy="train one mode at a time: pass that style, or examples without one",
            )
        text, prompt_ids = encode_prompt(tokenizer, styled, example.query.text, example.passages)
        response_ids = _response_ids(example, tokenizer, styled, stop, text) if stop is not None else []
        excess = _excess(len(prompt_ids), len(response_ids), limits)
        if excess:
            long.append(f"{example.query.qid}: {excess}")
        else:
            labels = target(prompt_ids, response_ids) if target is not None else []
            rows.append(Row(example, text, tuple(prompt_ids), tuple(response_ids), labels))
    if long and too_long == "refuse":
        shown = "; ".join(long[:5]) + (f"; and {len(long) - 5} more" if len(long) > 5 else "")
        raise InputError(
            f"{len(long)} of {len(examples)} examples are too long ({shown})",
            remedy="raise the limit, cut passages shorter, or let the settings drop what is too long",
        )
    if not rows:
        raise InputError(f"all {len(examples)} examples are too long ({long[0]}; ...)", remedy="raise the limits")
    return Encoded(tuple(rows), len(long), max(len(r.prompt_ids) for r in rows), max(len(r.response_ids) for r in rows))


def _tell_apart(examples: Sequence[RankingExample], builder: PromptBuilder) -> None:
    """Raise InputError where two styles of the data send the same prompt: no model could know which is meant."""
    styles = list(dict.fromkeys(str(e.meta.get("style") or builder.style.name) for e in examples))
    listwise = [name for name in styles if get_style(name).words is None]
    shown: dict[str, str] = {}
    for name in listwise if len(listwise) > 1 else ():
        text = builder.in_style(name).render(examples[0].query.text, examples[0].passages)
        if text in shown:
            raise InputError(
                f"the styles {shown[text]!r} and {name!r} send the same prompt with this chat template",
                remedy="mix styles that a model can tell apart, such as reasonrank and nothink_tags",
            )
        shown[text] = name


def _excess(prompt: int, response: int, limits: Limits) -> str:
    if prompt > limits.prompt:
        return f"prompt of {prompt} tokens, limit {limits.prompt}"
    if response > limits.response:
        return f"response of {response} tokens, limit {limits.response}"
    if prompt + response > limits.total:
        return f"prompt and response of {prompt + response} tokens, limit {limits.total}"
    return ""


def _response_ids(example: RankingExample, tokenizer: Any, builder: PromptBuilder, stop: int, prompt: str) -> list[int]:
    style = builder.style
    if style.think and not example.reasoning.strip():
        raise InputError(
            f"example {example.query.qid} has no reasoning, but the style {style.name!r} has a think block",
            remedy="train a style without one, or make examples with reasoning",
        )
    text = format_target(example, style.name)
    if begins_to_think(prompt):  # the template has opened the block: the response goes on inside
        text = text.removeprefix("<think>").lstrip() if style.think else f"\n</think>\n\n{text}"
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    special = set(tokenizer.all_special_ids) & set(ids)
    if special:
        shown = tokenizer.decode([special.pop()])
        raise InputError(
            f"the response of example {example.query.qid} holds the special token {shown!r}",
            remedy="tags must be ordinary tokens, and reasoning must hold no chat marker",
        )
    return [*ids, stop]
