"""What the teacher is asked. Three prompts of our own, after the criteria of the paper (section 4.1).

Selecting (positives, hard negatives) shows the gold answer, ranking never does: `rank_messages` has no parameter for
it. All put every text on one line (`Query: ...`, `Gold answer: ...`, `[1] ...`), so no text can pretend to be another
line, and `[n]` inside texts becomes `(n)`. Change VERSION whenever a word changes: every stored record carries it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rrlib.engines.base import Message
from rrlib.prompts import neutralise, rewrite_ids
from rrlib.synthesis.domains import Recipe
from rrlib.types import Passage

VERSION = "2"
MAX_PASSAGE_CHARS = 8000
"""Longer passages are cut for the teacher; the student sees 512 tokens at most anyway."""

_BREAK = re.compile(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


def flatten(text: str) -> str:
    """The text on one line, with identifiers and chat markers inside it made harmless."""
    return neutralise(rewrite_ids(_BREAK.sub(" ", text.encode("utf-8", "replace").decode()).strip()))


def passage_line(number: int, passage: Passage) -> str:
    """`[3] Title: text`; number is 1-based."""
    text = f"{passage.title}: {passage.text}" if passage.title else passage.text
    return f"[{number}] {flatten(text[:MAX_PASSAGE_CHARS])}"


def _lines(passages: Sequence[Passage]) -> str:
    return "\n".join(passage_line(i, passage) for i, passage in enumerate(passages, 1))


def select_messages(recipe: Recipe, query: str, gold_answer: str, passages: Sequence[Passage]) -> tuple[Message, ...]:
    """Which of these passages are relevant? The teacher sees the gold answer (or solution) here, and only here."""
    system = (
        "You judge passages for a search engine. You are given a query, its gold answer and a numbered list of "
        "passages, and you say which passages are relevant. Judge by the gold answer, not by your own."
    )
    user = (
        f"{recipe.task}\n{recipe.relevant}\n\n"
        f"Query: {flatten(query)}\nGold answer: {flatten(gold_answer)}\n\n"
        f"Passages:\n{_lines(passages)}\n\n"
        "Reply with the identifiers of the relevant passages and nothing else, separated by commas, such as [2], [5]. "
        "If no passage is relevant, reply with the single word None."
    )
    return {"role": "system", "content": system}, {"role": "user", "content": user}


def hard_messages(recipe: Recipe, query: str, gold_answer: str, passages: Sequence[Passage]) -> tuple[Message, ...]:
    """Which of these passages only look relevant? Asked of web results, to find hard negatives (section 4.1)."""
    system = (
        "You judge passages for a search engine. You are given a query, its gold answer and a numbered list of "
        "passages, and you say which passages are traps: they look relevant and are not. Judge by the gold answer, "
        "not by your own."
    )
    user = (
        f"{recipe.task}\n{recipe.relevant}\n{recipe.hard}\n\n"
        f"Query: {flatten(query)}\nGold answer: {flatten(gold_answer)}\n\n"
        f"Passages:\n{_lines(passages)}\n\n"
        "Reply with the identifiers of the traps and nothing else, separated by commas, such as [2], [5]. "
        "If no passage is a trap, reply with the single word None."
    )
    return {"role": "system", "content": system}, {"role": "user", "content": user}


def rank_messages(recipe: Recipe, query: str, passages: Sequence[Passage]) -> tuple[Message, ...]:
    """In which order do these passages help? The gold answer is not shown, so the chain must find its own way."""
    system = (
        "You rank passages for a search engine. You are given a query and a numbered list of passages; you reason "
        "about what the query needs and what each passage gives, and then you order all passages."
    )
    user = (
        f"{recipe.task}\n{recipe.relevant}\n\n"
        f"Query: {flatten(query)}\n\n"
        f"Passages:\n{_lines(passages)}\n\n"
        f"Think first: what would answer the query, and which of the {len(passages)} passages lead there? If you have "
        "no separate place for your reasoning, put it between <think> and </think>. Then reply with all "
        f"{len(passages)} identifiers, most relevant first, each exactly once, in the form [2] > [1] > ..., and "
        "nothing else."
    )
    return {"role": "system", "content": system}, {"role": "user", "content": user}
