"""A trained judge of single passages as teacher: its lists under labels of people (section 4.1).

The selection prompt is answered by the human labels. The ranking prompt is answered by the judge, which reads its own
prompt for each passage alone and orders the list by the probability of its word for relevant. So the self-consistency
filter meets the errors of a real model. In a profile:

    01_synthesis: {teacher: "rrlib.synthesis.judge:JudgeTeacher",
                   teacher_options: {checkpoint: "outputs/pointwise-lora/checkpoint", form: graded}}

Without a form it gives no chain, and its examples need a style without a think block. The form `graded` writes down
what the judge found: each passage and its grade, the probability in tenths, from 0 to 9. The list then follows from the
grades, equal ones in the order shown. A list of yes and no would lose much of what the judge knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rrlib.engines import Decoding, Engine, Message, Reply
from rrlib.errors import InputError
from rrlib.prompts import format_ranking
from rrlib.ranking import judged_scores
from rrlib.rerank import Reranker
from rrlib.resources import locate, model_hash
from rrlib.synthesis.chains import quoted_words
from rrlib.synthesis.human import MODEL, HumanTeacher, read_question
from rrlib.types import Passage

GRADED = "graded"
GRADES = 10
"""Grades of a passage, 0 to 9: one character, which most tokenizers keep as one token."""


def grade_of(chance: float) -> int:
    """The grade of a probability of being relevant, in [0, 1]: its tenth."""
    return min(int(chance * GRADES), GRADES - 1)


def graded(texts: Sequence[str], grades: Sequence[int], words: int = 0) -> str:
    """`[1] iron rusts in damp air: 7`, a line each, in the order shown; of a text its first `words` words (0: all)."""
    lines = zip(texts, grades, strict=True)
    return "\n".join(f"[{i}] {quoted_words(Passage(str(i), text), words)}: {g}" for i, (text, g) in enumerate(lines, 1))


class JudgeTeacher:
    """`async chat(messages, decoding) -> Reply`, as any chat client.

    folder, seed: as for HumanTeacher, whose labels answer what is to be selected. checkpoint: a pointwise reranker, as
    `Reranker` takes it (a folder, a hub name, `package:module/folder`, an Engine). form: of the chain, `none` or
    `graded`; words: of a passage quoted in it (0: all). style, max_passage_tokens: None is what it was trained with.
    engine, engine_options: see rrlib.engines.make_engine. Nothing is drawn, so the decoding of a call is not used, and
    a window all of whose passages were judged for its query before asks nothing. Raises InputError for a folder without
    labels, for a style that judges no single passage, and for another form.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        checkpoint: str | Path | Engine,
        seed: int = 0,
        form: str = "none",
        words: int = 0,
        engine: str = "transformers",
        style: str | None = None,
        max_passage_tokens: int | None = None,
        **engine_options: Any,
    ) -> None:
        if form not in ("none", GRADED):
            raise InputError(f"form {form!r}", remedy=f"a judge writes {GRADED}, or none")
        self.form, self.words = form, words
        self._chances: dict[tuple[str, str], float] = {}  # (query, text) -> probability of being relevant
        self._people = HumanTeacher(folder, seed=seed)
        self.reranker = Reranker(
            checkpoint,
            engine,
            strategy="pointwise",
            style=style,
            max_passage_tokens=max_passage_tokens,
            depth=None,
            **engine_options,
        )
        self.model = f"{Path(str(getattr(checkpoint, 'model', checkpoint))).name}, {MODEL} labels"
        self.settings = {
            "style": self.reranker.style.name,
            "max_passage_tokens": self.reranker.max_passage_tokens,
            "weights": model_hash(locate(self.reranker.engine.model)),
            **({"form": form, "words": words} if form == GRADED else {}),
        }

    async def chat(self, messages: Sequence[Message], decoding: Decoding) -> Reply:
        """Answer a selection prompt by the labels, a ranking prompt by the judge.

        A list of which any passage could not be judged is an error: as a label, the place it kept would be a guess.
        """
        asked = read_question(messages)
        if asked.selects or not asked.query:
            return self._people.answer(messages, decoding)
        pairs = [(asked.query, text) for text in asked.texts]
        read = written = 0
        if len(pairs) > 1 and any(pair not in self._chances for pair in pairs):  # one alone needs no judge
            ranking = await self.reranker.rank_async(asked.query, list(asked.texts))
            unread = [record for record in ranking.windows if record.unread or record.error is not None]
            if unread:
                why = unread[-1].error or unread[-1].verdict
                return Reply(error=f"{len(unread)} of {len(asked.texts)} passages were not judged: {why}")
            read = sum(record.tokens_in for record in ranking.windows)
            written = sum(record.tokens_out for record in ranking.windows)
            chances = judged_scores(ranking.docids, ranking.windows)
            for docid, chance in zip(ranking.docids, chances or [], strict=True):
                self._chances[pairs[int(docid) - 1]] = chance
        found = [self._chances.get(pair, 1.0) for pair in pairs]
        if self.form != GRADED:
            return Reply(format_ranking(_order(found)), tokens_in=read, tokens_out=written)
        grades = [grade_of(chance) for chance in found]
        chain = graded(asked.texts, grades, self.words)
        return Reply(format_ranking(_order(grades)), chain, tokens_in=read, tokens_out=written)


def _order(worth: Sequence[float]) -> list[int]:
    """Positions by worth, highest first, equal ones in the order shown."""
    return sorted(range(len(worth)), key=lambda i: -worth[i])
