"""The questions about one query as one generator: select -> hard -> window -> rank (paper sections 4.1, B.1).

`Flow.questions(item)` yields the next question, receives its answer, and ends with what came of the query. It knows no
teacher and no file. Asking sends it what the teacher says, finishing what is stored, the dry run what it assumes: so
all three go the same way, and a question that one of them does not meet is met by none.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rrlib.engines.base import Message
from rrlib.synthesis import prompts
from rrlib.synthesis.assemble import Mix, Window, as_listed, assemble
from rrlib.synthesis.domains import Recipe, recipe_for
from rrlib.synthesis.fates import Fate, Step, faulty
from rrlib.synthesis.select import chunks, selected_docids
from rrlib.synthesis.sources.items import Item
from rrlib.types import Passage

Answer = Mapping[str, Any]
"""A store record, or what stands in for one: `docids`, `text`, `reasoning` and `finish_reason` are read."""

STEPS = tuple(Step)


@dataclass(frozen=True, slots=True)
class Question:
    """One call of the teacher. key: its id in the store of its step. window: what is to be ranked (rank alone)."""

    step: Step
    key: str
    item: Item
    recipe: Recipe
    passages: Sequence[Passage]
    window: Window | None = None

    def messages(self) -> tuple[Message, ...]:
        """The prompt; made when it is wanted, since a stored question needs none."""
        query, gold_answer = self.item.query.text, self.item.gold_answer
        if self.step == Step.RANK:
            return prompts.rank_messages(self.recipe, query, self.passages)
        build = prompts.select_messages if self.step == Step.SELECT else prompts.hard_messages
        return build(self.recipe, query, gold_answer, self.passages)

    def shown(self) -> dict[str, Any]:
        """What a store record says about the question beside its prompt."""
        row = {"step": str(self.step), "qid": self.item.query.qid, "docids": [p.docid for p in self.passages]}
        if self.window is None:
            return row
        return row | {"relevance": list(self.window.relevance), "roles": list(self.window.roles)}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the questions: a window with its ranking as the teacher gave it, or the fate that lost the query."""

    window: Window | None = None
    ranking: Answer | None = None
    fate: str = ""


Questions = Generator[Question, Answer | None, Outcome]
"""Yields a question, takes its answer (None = there is none to be had, which ends it), returns the outcome."""


@dataclass(frozen=True)
class Flow:
    """How a query becomes questions. depth: candidates looked at, None = all. domains: see recipe_for."""

    mix: Mix
    seed: int
    depth: int | None = None
    domains: Mapping[str, str] = field(default_factory=dict)

    def recipe(self, item: Item) -> Recipe:
        """The words of the item's domain."""
        return recipe_for(item.domain, self.domains)

    def questions(self, item: Item) -> Questions:
        """Every question about one query, one after another."""
        recipe, candidates = self.recipe(item), item.candidates[: self.depth]
        if not candidates or len(candidates) + len(item.hard_pool) < 2:
            return Outcome(fate=Fate.NO_CANDIDATES)
        traps: list[str] = []
        if recipe.labels == "qrels":
            if not item.labels:
                return Outcome(fate=Fate.NO_LABELS)
            positives = [p.docid for p in candidates if item.labels.get(p.docid, 0) > 0]
        else:
            if not item.gold_answer:
                return Outcome(fate=Fate.NO_GOLD_ANSWER)
            positives, fate = yield from self._choose(item, recipe, Step.SELECT, candidates)
            if not fate and positives and item.hard_pool:  # else there is nothing to be the trap of
                traps, fate = yield from self._choose(item, recipe, Step.HARD, item.hard_pool)
            if fate:
                return Outcome(fate=fate)
        if not positives and not item.listed:
            return Outcome(fate=Fate.NOTHING_SELECTED)
        by_docid = {p.docid: p for p in item.hard_pool}
        qid = item.query.qid
        hard = [by_docid[docid] for docid in traps if docid in by_docid]  # a dry run may read answers of another pool
        if item.listed:
            window = as_listed(candidates, set(positives))
        else:
            window = assemble(candidates, set(positives), self.mix, self.seed, qid, hard)
        if all(window.relevance) and not item.listed:
            return Outcome(fate=Fate.NO_NEGATIVES)
        ranking = yield Question(Step.RANK, qid, item, recipe, window.passages, window)
        return Outcome(window, ranking, "" if ranking is not None else Fate.CALL_FAILED)

    def _choose(
        self, item: Item, recipe: Recipe, step: Step, passages: Sequence[Passage]
    ) -> Generator[Question, Answer | None, tuple[list[str], str]]:
        """The documents chosen among the passages, a window or less a question, or the fate of the query.

        All pieces are asked before any is read: what a store holds does not depend on how well answers are read.
        """
        answers: list[Answer] = []
        for number, piece in enumerate(chunks(passages, self.mix.window)):
            answer = yield Question(step, f"{item.query.qid}/{number}", item, recipe, piece)
            if answer is None:
                return [], Fate.CALL_FAILED
            answers.append(answer)
        chosen, fault = selected_docids(answers)
        return chosen, faulty(step, fault) if fault else ""


def outcome_of(questions: Questions, answer: Callable[[Question], Answer | None]) -> Outcome:
    """Go through the questions, answering each by a plain function."""
    try:
        question = next(questions)
        while True:
            question = questions.send(answer(question))
    except StopIteration as end:
        result: Outcome = end.value
        return result
