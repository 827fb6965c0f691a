"""What the tiny backbone practises before it is fine-tuned: five small skills, and listwise answers in weak format.

name      the concept of passage [i], identifiers in random order
cue       the two concepts that a cue suggests, and the belief that two cues decide
judge     named concepts judged against a stated belief: the copying step of a verdict, without reading
verdict   passages judged against a stated belief
sort      an answer list from verdicts
listwise  the whole reasoning behind the wire prompt, mostly in a wrong format

A row is a list of (text, learn) pieces: the loss counts only pieces that can be predicted, since random identifiers
and random names would drown the signal. Queries borrow their topics from other domains, so no combination of
(concept, cue pair, topic) that a collection can hold is ever practised.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from rrlib.miniature import thinking
from rrlib.miniature.generate import PoolMaker, WorldPassage, WorldQuery, make_corpus
from rrlib.miniature.world import World
from rrlib.prompts import PromptBuilder, format_ranking, format_response
from rrlib.types import Passage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Row = list[tuple[str, bool]]
SKILLS = ("name", "cue", "judge", "verdict", "sort", "listwise")
EXACT_SHARE = 0.15
"""Share of the listwise rows in the exact format: the backbone follows the format weakly, as a chat model would."""


class Practice:
    """Draws practice rows. seed: of the passages; every method takes its own generator."""

    def __init__(self, world: World, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self.world, self.tokenizer = world, tokenizer
        self.names = list(world.concepts)
        self.passages = make_corpus(world, seed, 12)
        self.maker = PoolMaker(self.passages)
        self.builder = PromptBuilder(tokenizer)
        self.encode: Callable[[str], tuple[int, ...]] = lru_cache(maxsize=8000)(
            lambda text: tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        )

    def row(self, skill: str, size: int, rng: random.Random) -> Row:
        """One row of a skill; size: passages in its window."""
        return getattr(self, f"_{skill}")(size, rng)  # type: ignore[no-any-return]

    def tokens(self, row: Row) -> tuple[list[int], list[bool]]:
        """Token ids of a row, and which of them are learned."""
        ids: list[int] = []
        learn: list[bool] = []
        for text, learned in row:
            piece = (
                self.encode(text) if len(text) < 200 else self.tokenizer(text, add_special_tokens=False)["input_ids"]
            )
            ids += piece
            learn += [learned] * len(piece)
        return ids, learn

    # --- draws -------------------------------------------------------------------------------------------------------
    def query(self, rng: random.Random) -> WorldQuery:
        """A query with a topic of another domain."""
        concept = rng.choice(self.names)
        domain = self.world.domain_of(concept)
        pair = rng.choice(domain.decisive_pairs(concept))
        cues = pair if rng.random() < 0.5 else (pair[1], pair[0])
        other = rng.choice([d for d in self.world.domains.values() if d is not domain] or [domain])
        topic = rng.choice(other.topics)
        text = domain.query_text(topic, cues, rng.choice(domain.questions))
        return WorldQuery("practice", text, domain.name, concept, cues, topic)

    def window(self, query: WorldQuery, size: int, rng: random.Random) -> list[WorldPassage]:
        relevant = rng.randint(0 if size > 1 else 1, max(1, min(3, size // 3)))
        return self.maker.draw(query, size, rng, relevant)

    # --- skills ------------------------------------------------------------------------------------------------------
    def _shown(self, window: list[WorldPassage]) -> Row:
        return [(f"[{i}] {p.text}\n", False) for i, p in enumerate(window, 1)]

    def _name(self, size: int, rng: random.Random) -> Row:
        window = self.window(self.query(rng), size, rng)
        row = self._shown(window)
        for i in rng.sample(range(size), size):
            row += [(f"[{i + 1}]", False), (f" {window[i].concept}", True), (" ", False)]
        return row

    def _cue(self, size: int, rng: random.Random) -> Row:
        query = self.query(rng)
        first, second = (cue.concepts for cue in query.cues)
        if rng.random() < 0.3:  # a cue alone
            return [(f" {query.cues[0].text}:", False), (f" {' or '.join(first)}.", True)]
        rivals = thinking.rivals_of(query.concept, first, second)
        belief = thinking.belief_text(query.concept, rivals)
        return [(f" {query.text}\n", False), (f" {thinking.cue_text(first, second)} {belief}", True)]

    def _belief(self, rng: random.Random) -> tuple[WorldQuery, list[str]]:
        query = self.query(rng)
        return query, thinking.rivals_of(query.concept, *(cue.concepts for cue in query.cues))

    def _concepts(self, query: WorldQuery, rivals: list[str], size: int, rng: random.Random) -> list[str]:
        """Names as a window holds them: the concept, its rivals, and as many others."""
        return [rng.choice([query.concept, *rivals, *rng.sample(self.names, 4)]) for _ in range(size)]

    def _judge(self, size: int, rng: random.Random) -> Row:
        query, rivals = self._belief(rng)
        row: Row = [(f" {thinking.belief_text(query.concept, rivals)} ", False)]
        for i, name in enumerate(self._concepts(query, rivals, size, rng), 1):
            row += [(f"[{i}] {name}", False), (f" {thinking.verdict(name, query.concept, rivals)}", True), (" ", False)]
        return row

    def _verdict(self, size: int, rng: random.Random) -> Row:
        query, rivals = self._belief(rng)
        window = self.window(query, size, rng)
        row = [*self._shown(window), (f" {thinking.belief_text(query.concept, rivals)} ", False)]
        for i, passage in enumerate(window, 1):
            judged = thinking.verdict(passage.concept, query.concept, rivals)
            row += [(f"[{i}]", False), (f" {passage.concept} {judged}", True), (" ", False)]
        return row

    def _sort(self, size: int, rng: random.Random) -> Row:
        query, rivals = self._belief(rng)
        concepts = self._concepts(query, rivals, size, rng)
        order = thinking.order_of(concepts, query.concept, rivals)
        judged = " ".join(thinking.passage_texts(concepts, query.concept, rivals))
        row: Row = [(f"{judged} </think> <answer>", False)]
        for place, position in enumerate(order):
            row += [(" > " if place else " ", False), (f"[{position + 1}]", True)]
        return [*row, (" ", False), ("</answer>", True)]

    def _listwise(self, size: int, rng: random.Random) -> Row:
        query = self.query(rng)
        window = self.window(query, size, rng)
        first, second = (cue.concepts for cue in query.cues)
        concepts = [p.concept for p in window]
        thought = thinking.reasoning(first, second, query.concept, concepts)
        order = thinking.order_of(concepts, query.concept, thinking.rivals_of(query.concept, first, second))
        prompt = self.builder.render(query.text, [Passage(p.docid, p.text) for p in window])
        return [(prompt, False), (weak_format(thought, order, rng) + "<|im_end|>", True)]


def weak_format(thought: str, order: list[int], rng: random.Random) -> str:
    """The answer in the exact format (EXACT_SHARE of the time), or with the tags left out, in one of four ways."""
    draw = rng.random()
    if draw < EXACT_SHARE:
        return format_response(thought, order)
    ranking = format_ranking(order)
    others = (
        f"{thought} Ranking: {ranking}",
        f"<think> {thought} </think> Ranking: {ranking}",
        f"<think> {thought} Answer: {ranking}",
        f"Answer: {thought} <answer> {ranking} </answer>",
    )
    return others[rng.randrange(len(others))]
