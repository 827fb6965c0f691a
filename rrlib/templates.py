"""What a checkpoint's chat template does to a window: the system role, the reasoning block, the end of a turn.

Chat templates are programs, and they differ: Gemma's of 2024 has no system role, those of R1's distills and of
Qwen3-Thinking open the reasoning block in the prompt, Llama 3.2's writes today's date. This is the place that knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rrlib.errors import InputError

_PROBE = "the-probe-of-rrlib"


def begins_to_think(prompt: str) -> bool:
    """Whether a prompt ends inside a reasoning block: some chat templates (R1's distills, Qwen3-Thinking) open it."""
    return prompt.rstrip().endswith("<think>")


def whole_response(prompt: str | None, text: str, think: bool) -> str:
    """A response as its format has it: what the prompt has begun stands in front of what the model wrote.

    prompt: as it was sent; None where a server made it, which is then told by an answer that ends a block it never
    began. think: the style reasons; where it does not, a block that is closed at once is none. A model that writes
    `<think>` itself behind an opened block has begun it once, not twice.
    """
    begun = "</think>" in text.partition("<think>")[0] if prompt is None else begins_to_think(prompt)
    if not begun:
        return text
    rest = text.lstrip()
    if not think and rest.startswith("</think>"):
        return rest.removeprefix("</think>").lstrip()
    return text if rest.startswith("<think>") else "<think>" + text


def without_system(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The messages with the system's text in front of the first user's, for those that know no system role."""
    rows = [dict(message) for message in messages]
    system = "\n\n".join(row["content"] for row in rows if row["role"] == "system")
    others = [row for row in rows if row["role"] != "system"]
    if system and others and others[0]["role"] == "user":
        others[0]["content"] = f"{system}\n\n{others[0]['content']}"
    elif system:
        others.insert(0, {"role": "user", "content": system})
    return others


def apply_template(tokenizer: Any, messages: Sequence[Mapping[str, str]], **switches: Any) -> str:
    """The templated string with the generation prompt.

    A template that refuses a system message, or says nothing and drops it, gets its text in front of the user's.
    Raises InputError where the template fails for another reason.
    """
    import jinja2

    def apply(rows: Sequence[Mapping[str, str]]) -> str:
        text: str = tokenizer.apply_chat_template(list(rows), tokenize=False, add_generation_prompt=True, **switches)
        return text

    system = [message["content"].strip() for message in messages if message["role"] == "system"]
    try:
        text = apply(messages)
        if all(said in text for said in system):
            return text
    except jinja2.TemplateError as error:
        if not system:
            raise InputError(f"the chat template fails: {error}", remedy="use an instruct checkpoint") from error
    try:
        return apply(without_system(messages))
    except jinja2.TemplateError as error:
        raise InputError(f"the chat template fails: {error}", remedy="use an instruct checkpoint") from error


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """What a chat template does. opens_block: the prompt ends inside `<think>`. closes_block: told not to think, it
    writes an empty block itself. end: what ends an assistant's turn. dated: today's date stands in the prompt."""

    system_role: bool
    opens_block: bool
    closes_block: bool
    end: str
    dated: bool

    def __str__(self) -> str:
        parts = [
            "has a system role" if self.system_role else "has no system role (its text goes in front of the user's)",
            "opens <think> in the prompt, so that a response goes on inside" if self.opens_block else "opens no block",
            *(["writes an empty block where thinking is switched off"] if self.closes_block else []),
            f"ends a turn with {self.end}" if self.end else "ends a turn with nothing",
            *(["writes today's date into the prompt: a run resumes on the same day only"] if self.dated else []),
        ]
        return ", ".join(parts)


def template_facts(tokenizer: Any) -> TemplateFacts:
    """Look at the chat template of a tokenizer. Raises InputError where it has none, or one that fails."""
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template", remedy="use an instruct checkpoint")
    user, system = {"role": "user", "content": "-"}, {"role": "system", "content": _PROBE}
    try:
        role = _PROBE in tokenizer.apply_chat_template([system, user], tokenize=False, add_generation_prompt=True)
    except Exception:  # a template's own refusal; every other fault shows in the next line
        role = False
    off = apply_template(tokenizer, [user], enable_thinking=False).rstrip()
    turns = [user, {"role": "assistant", "content": _PROBE}]
    spoken: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False)
    return TemplateFacts(
        system_role=role,
        opens_block=begins_to_think(apply_template(tokenizer, [user])),
        closes_block=off.endswith("</think>"),
        end=spoken.rpartition(_PROBE)[2].strip(),
        dated="strftime_now" in str(tokenizer.chat_template),
    )
