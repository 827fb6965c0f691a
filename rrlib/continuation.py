"""The second half of an answer: a score behind a chain of thought, or the list behind a chain closed at its budget.

A pointwise answer with reasoning is asked for in two requests: the chain up to `</think>`, then the log-probabilities
of the words that judge (as Rank1 does). A chain with a budget is generated up to so many tokens; where it is longer it
is closed by `CLOSING`, and the model goes on from there (budget forcing, s1). Both are one answer to the scheduler.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rrlib.engines.base import Decoding, Reply, Request
from rrlib.errors import InputError
from rrlib.prompts import PromptStyle
from rrlib.responses import Parsed, Verdict, parse_lenient
from rrlib.templates import begins_to_think

CLOSING = " </think> <answer>"
"""What closes a chain that has used up its budget; the model goes on from there."""


def check_pair(style: PromptStyle, strategy: str) -> None:
    """Raises InputError for a style whose answers the strategy cannot use: one word a passage, or a list a window."""
    if (style.words is not None) != (strategy == "pointwise"):
        raise InputError(
            f"style {style.name!r} with strategy {strategy!r}",
            remedy="the pointwise strategy takes a pointwise style, and the others a listwise one",
        )


def behind_chain(prompt: str, chain: str) -> str:
    """A prompt whose chain of thought is given and closed, so that what follows is the list. An empty chain is what a
    budget of 0 leaves."""
    opened = prompt if begins_to_think(prompt) else prompt + "<think>"
    return " ".join([opened, *([chain.strip()] if chain.strip() else [])]) + CLOSING


@dataclass(frozen=True)
class Continuation:
    """When and how answers of a style go on.

    budget: reasoning tokens, 0 or more; None: no limit of its own. decoding: of the reranker; its max_new_tokens holds
    for both halves together. Raises InputError where style and budget do not go together.
    """

    style: PromptStyle
    budget: int | None
    decoding: Decoding

    def __post_init__(self) -> None:
        if self.budget is None:
            return
        if not self.style.think:
            raise InputError(f"a budget with style {self.style.name!r}, which does not reason", remedy="leave it out")
        least = 1 if self.style.words is None else 0  # a pointwise answer is read, not written
        if not 0 <= self.budget <= self.decoding.max_new_tokens - least:
            raise InputError(
                f"a budget of {self.budget} with {self.decoding.max_new_tokens} new tokens in all",
                remedy="leave room for the answer: raise max_new_tokens, or lower the budget",
            )

    @property
    def needed(self) -> bool:
        """Whether an answer may have a second half, for which the prompt must be known as a string."""
        return self.budget is not None or (self.style.words is not None and self.style.think)

    def begin(self, request: Request) -> Request:
        """The request for the first half: what it may write, and where it stops."""
        words, think = self.style.words, self.style.think
        if words is not None and not think:
            return replace(request, choices=words)
        stop = ("</think>",) if words is not None else ()
        return replace(request, max_new_tokens=self.budget, stop=stop)

    def go_on(self, number: int, asked: Request, reply: Reply, before: Reply | None) -> tuple[Request, Reply] | None:
        """The request that continues an answer, and what the answer is so far; None where the answer is complete.

        number: of the new request. asked, reply: a prompt, and what was written behind it. before: what was answered
        before `asked`, where that went on itself.
        """
        assert asked.prompt is not None
        begun = "<think>" in reply.text or begins_to_think(asked.prompt)
        chain = reply.text if begun else "<think>" + reply.text
        if self.style.words is not None:
            prompt = asked.prompt + chain.rstrip() + " </think>"
            onward = Request(number, prompt=prompt, key=asked.key, choices=self.style.words, seed=asked.seed)
            return onward, _so_far(reply, onward, asked)
        if self.budget is None or before is not None or reply.finish_reason != "length":
            return None
        if "</think>" in chain:  # the chain is closed and the list cut off: let it go on
            prompt = asked.prompt + chain
        else:
            prompt = asked.prompt + chain.rstrip("\ufffd").rstrip() + CLOSING
        room = self.decoding.max_new_tokens - self.budget
        onward = Request(number, prompt=prompt, key=asked.key, max_new_tokens=room, seed=asked.seed)
        return onward, _so_far(reply, onward, asked)

    def score(self, reply: Reply) -> float | None:
        """The probability of the word for relevant, among both words, in [0, 1]; None where there is none, as where a
        log-probability is no number, or both words are impossible."""
        words = self.style.words
        if words is None or not all(word in reply.logprobs for word in words):
            return None
        gap = reply.logprobs[words[1]] - reply.logprobs[words[0]]
        if math.isnan(gap):
            return None
        return 1.0 / (1.0 + math.exp(min(gap, 700.0)))


def _so_far(reply: Reply, onward: Request, asked: Request) -> Reply:
    """What an answer is so far, with the text that was put behind it to go on; `closed`: its chain was cut off."""
    assert onward.prompt is not None and asked.prompt is not None
    text = onward.prompt.removeprefix(asked.prompt)
    cut = reply.finish_reason == "length" and "</think>" not in reply.text
    return replace(reply, text=text, extra={**reply.extra, "closed": cut})


def joined(before: Reply, after: Reply) -> Reply:
    """Two parts of one answer: text, tokens and seconds together; the end of the second (of a score: of the first)."""
    if after.error is not None:
        return replace(
            after,
            tokens_in=before.tokens_in + after.tokens_in,
            tokens_out=before.tokens_out,
            seconds=before.seconds + after.seconds,
        )
    word = max(after.logprobs, key=lambda w: after.logprobs[w]) if after.logprobs else ""
    return replace(
        after,
        text=before.text + after.text + word,
        finish_reason=before.finish_reason if after.logprobs else after.finish_reason,
        tokens_in=before.tokens_in + after.tokens_in,
        tokens_out=before.tokens_out + after.tokens_out,
        seconds=before.seconds + after.seconds,
        retries=before.retries + after.retries,
        extra={**before.extra, **after.extra, "requests": 2 if before.seconds or before.tokens_in else 1},
    )


def read_answer(reply: Reply, n: int, scored: bool, style: str) -> Parsed:
    """The order, verdict and reasoning of an answer over n passages; one that failed keeps the order.

    scored: the window is one passage, whose score is its answer, so that only the reasoning is read.
    """
    if reply.error is not None:
        return Parsed(tuple(range(n)), Verdict.FAILED)
    if scored:
        reasoning = reply.text.partition("</think>")[0].strip().removeprefix("<think>").strip()
        cut = reply.finish_reason == "length"  # scored all the same
        return Parsed((0,), Verdict.TRUNCATED if cut else Verdict.OK, reasoning=reasoning)
    parsed = parse_lenient(reply.text, n, style, reply.finish_reason or None)
    return replace(parsed, reasoning=reply.reasoning or parsed.reasoning)
