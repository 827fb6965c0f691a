"""A server's answer, read from plain JSON: what was paid for is never thrown away for its wrapping.

Content may be a text, a list of chunks or a mapping; reasoning may stand in a field, a chunk or inline; a response may
come as a stream of events nobody asked for, under another content type, or one level deeper. Only what holds no answer
at all is unusable.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rrlib.engines.base import Reply
from rrlib.errors import EngineError

EXTRA_FIELD = "rrlib"
"""A field of a response in which a simulated teacher says that it is one, and what it believed."""

_REASONING_KINDS = ("thinking", "reasoning", "thought", "summary")
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
_CUT_OFF = (
    "max_tokens", "model_length", "max_output_tokens", "max_length", "length", "model_context_window_exceeded",
)  # fmt: skip
_BROKEN_OFF = (
    "abort", "aborted", "cancelled", "canceled", "error", "network_error", "insufficient_system_resource",
)  # fmt: skip
"""How a server names, with 200, an answer that it gave up: vLLM what is in flight when it is stopped, gateways what a
provider behind them lost on the way."""
_WRAPPINGS = ("response", "result", "data", "body", "output")


class UnusableAnswer(Exception):
    """A 200 that holds no answer: an error body, no choices, not JSON, an answer broken off. Tried again."""


class WebPage(UnusableAnswer):
    """A page for people, such as a login form: this address is no API, or something stands before it."""


def read_body(text: str) -> dict[str, Any]:
    """The response as one mapping with `choices`. Raises UnusableAnswer, or WebPage for a page in HTML."""
    body = _parse(text)
    for _ in range(2):
        if isinstance(body, list) and len(body) == 1:
            body = body[0]
        if isinstance(body, Mapping) and not body.get("choices"):
            body = next((body[n] for n in _WRAPPINGS if isinstance(body.get(n), Mapping | list) and body[n]), body)
    if isinstance(body, Mapping) and isinstance(body.get("choices"), list) and body["choices"]:
        return dict(body)
    if isinstance(body, Mapping) and not body.get("error"):
        if isinstance(body.get("message"), Mapping):  # servers whose answer is one choice
            return {**body, "choices": [body]}
        if body.get("role") == "assistant" and "content" in body:
            return {**body, "choices": [{"message": body, "finish_reason": body.get("stop_reason")}]}
    why: Any = body.get("error") if isinstance(body, Mapping) else body
    raise UnusableAnswer(f"an answer without choices: {why or 'no choices'}")


def _parse(text: str) -> Any:
    stripped = text.lstrip("\ufeff \t\r\n")
    try:
        return json.loads(stripped)
    except ValueError as error:
        if re.match(r"<(?:!doctype|html|head|body|\?xml|!--)", stripped, re.IGNORECASE):
            title = re.search(r"<title[^>]*>\s*(.*?)\s*</title>", stripped, re.IGNORECASE | re.DOTALL)
            named = f" ({' '.join(title[1].split())[:100]!r})" if title else ""
            raise WebPage(f"a web page{named} instead of JSON") from None
        events = _events(stripped)
        if not events:
            raise UnusableAnswer(f"not JSON: {error}") from None
        return _assembled(events)


def _events(text: str) -> list[dict[str, Any]]:
    """The rows of a stream of events; empty where the text is none or is broken off."""
    rows = []
    for line in re.split(r"\r\n|\n|\r", text):  # these end a line of events, and no other sign does
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data in ("", "[DONE]"):
            continue
        try:
            rows.append(json.loads(data))
        except ValueError:
            return []
    return [row for row in rows if isinstance(row, dict)]


def _assembled(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One response out of the pieces of a stream."""
    message: dict[str, str] = {}
    choice: dict[str, Any] = {"finish_reason": None, "message": message}
    body: dict[str, Any] = {"choices": [choice]}
    for event in events:
        if event.get("error"):
            return {"error": event["error"]}
        body |= {name: event[name] for name in ("usage", EXTRA_FIELD) if event.get(name)}
        for piece in event.get("choices") or []:
            if piece.get("index"):
                continue
            delta = piece.get("delta") or piece.get("message") or {"content": piece.get("text")}
            for name in ("content", *_REASONING_FIELDS):
                if delta.get(name):
                    message[name] = message.get(name, "") + read_content(delta[name])[0]
            choice["finish_reason"] = piece.get("finish_reason") or choice["finish_reason"]
    if choice["finish_reason"] is None:
        raise UnusableAnswer("a stream of events that breaks off")
    return body


def read_reply(body: Mapping[str, Any]) -> Reply:
    """The first choice of a response. Raises UnusableAnswer where there is none, or the server has broken it off."""
    choice = body["choices"][0]
    if not isinstance(choice, Mapping):
        choice = {"text": choice}
    if (reason := _finish_reason(choice)).lower() in _BROKEN_OFF:
        raise UnusableAnswer(f"an answer that the server broke off ({reason})")
    message = choice.get("message", choice.get("delta"))
    if isinstance(message, Mapping):
        text, thought = read_content(message.get("content"))
        text = text or read_content(message.get("refusal"))[0]
        fields = (read_content(message.get(name)) for name in _REASONING_FIELDS)
        reasoning = next((a or b for a, b in fields if a or b), "") or thought
    else:
        text, reasoning = read_content(choice.get("text") if message is None else message)
    if choice.get("error"):  # what text there is stops somewhere
        raise UnusableAnswer(f"an answer without choices: {choice['error']}")
    usage = body.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    extra = body.get(EXTRA_FIELD)
    return Reply(
        text=text,
        reasoning=reasoning,
        finish_reason=reason,
        tokens_in=_count(usage.get("prompt_tokens", usage.get("input_tokens"))),
        tokens_out=_count(usage.get("completion_tokens", usage.get("output_tokens"))),
        extra=extra if isinstance(extra, dict) else {},
    )


def read_content(content: Any) -> tuple[str, str]:
    """(text, reasoning) of a content: a text, a list of chunks in their order, or a mapping that holds a text."""
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    if isinstance(content, Mapping):
        kind = str(content.get("type") or "")
        names = ("text", "content", "value", "output_text", *_REASONING_FIELDS, "summary")
        inner = next((content[name] for name in names if content.get(name)), None)
        if inner is None and not kind:  # an answer in JSON that the server has parsed
            return (json.dumps(content) if content else ""), ""
        text, thought = read_content(inner)
        if any(word in kind for word in _REASONING_KINDS) or content.get("thought") is True:
            return "", text or thought
        return text, thought
    if isinstance(content, Sequence):
        parts = [read_content(part) for part in content]
        return "".join(text for text, _ in parts), "".join(thought for _, thought in parts)
    return str(content), ""


def _finish_reason(choice: Mapping[str, Any]) -> str:
    reason = str(choice.get("finish_reason") or choice.get("done_reason") or "")
    return "length" if reason.lower() in _CUT_OFF else reason


def _count(value: Any) -> int:
    """A number of tokens; 0 where a server gives none that can be one."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0
    return int(number) if math.isfinite(number) and number > 0 and not isinstance(value, bool) else 0


def read_choices(body: Mapping[str, Any], choices: Sequence[str]) -> Reply:
    """The log-probabilities of the choices from the alternatives of the first generated token.

    Raises EngineError where there are none, or no choice is among them: then nothing is known of any.
    """
    reply = read_reply(body)
    scored = body["choices"][0].get("logprobs") or {}
    rows = scored.get("top_logprobs")  # completions: a dict a token; chat: content[0].top_logprobs, a list
    if rows and isinstance(rows[0], dict):
        alternatives = {str(token): float(value) for token, value in rows[0].items() if value is not None}
    else:
        content = scored.get("content") or []
        first = (content[0].get("top_logprobs") or []) if content else []
        alternatives = {str(row["token"]): float(row["logprob"]) for row in first if row.get("logprob") is not None}
    if not alternatives:
        raise EngineError("the server gave no log-probabilities: pointwise scores need a server that gives them")
    ordered = sorted(alternatives.items(), key=lambda item: item[1])  # of two that are written alike the likelier stays
    named = {re.sub(r"^[\u0120\u2581]", " ", token): value for token, value in ordered}  # a blank as tokenizers show it
    found = _first_tokens(named, choices)
    if not found:  # a blank more or less makes no other word
        bare = {choice: choice.strip() for choice in choices}
        of_bare = _first_tokens({token.strip(): value for token, value in named.items()}, list(bare.values()))
        found = {choice: of_bare[word] for choice, word in bare.items() if word in of_bare}
    if not found:
        words, likeliest = (", ".join(map(repr, of)) for of in (choices, [token for token, _ in ordered[:-6:-1]]))
        raise EngineError(
            f"none of the words {words} is among the {len(alternatives)} likeliest tokens ({likeliest}, ...), so there "
            "is no score -> use a prompt style whose words the model writes"
        )
    floor = min(alternatives.values())
    logprobs = {choice: found.get(choice, floor) for choice in choices}
    return replace(reply, text="", finish_reason="stop", logprobs=logprobs)


def _first_tokens(alternatives: Mapping[str, float], choices: Sequence[str]) -> dict[str, float]:
    """Of each choice that one of these tokens begins, and no other choice with it: the longest such token's value."""
    found: dict[str, float] = {}
    for choice in choices:
        others = [other for other in choices if other != choice]
        fits = [t for t in alternatives if t and choice.startswith(t) and not any(o.startswith(t) for o in others)]
        if fits:
            found[choice] = alternatives[max(fits, key=len)]
    return found
