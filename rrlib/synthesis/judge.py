"""A trained judge of single passages as teacher: its lists, without a chain, under labels of people (section 4.1).

The selection prompt is answered by the human labels. The ranking prompt is answered by the judge, which reads its own
prompt for each passage alone and orders the list by the probability of its word for relevant. So the self-consistency
filter meets the errors of a real model. Examples of such a teacher need a style without a think block. In a profile:

    01_synthesis: {teacher: "rrlib.synthesis.judge:JudgeTeacher",
                   teacher_options: {checkpoint: "outputs/pointwise-lora/checkpoint"}}
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rrlib.engines import Decoding, Engine, Message, Reply
from rrlib.prompts import format_ranking
from rrlib.rerank import Reranker
from rrlib.resources import locate, model_hash
from rrlib.synthesis.human import MODEL, HumanTeacher, read_question


class JudgeTeacher:
    """`async chat(messages, decoding) -> Reply`, as any chat client.

    folder, seed: as for HumanTeacher, whose labels answer what is to be selected. checkpoint: a pointwise reranker, as
    `Reranker` takes it (a folder, a hub name, `package:module/folder`, an Engine). style, max_passage_tokens: None is
    what it was trained with. engine, engine_options: see rrlib.engines.make_engine. Nothing is drawn, so the decoding
    of a call is not used. Raises InputError for a folder without labels, and for a style that judges no single passage.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        checkpoint: str | Path | Engine,
        seed: int = 0,
        engine: str = "transformers",
        style: str | None = None,
        max_passage_tokens: int | None = None,
        **engine_options: Any,
    ) -> None:
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
        }

    async def chat(self, messages: Sequence[Message], decoding: Decoding) -> Reply:
        """Answer a selection prompt by the labels, a ranking prompt by the judge.

        A list of which any passage could not be judged is an error: as a label, the place it kept would be a guess.
        """
        asked = read_question(messages)
        if asked.selects or not asked.query:
            return self._people.answer(messages, decoding)
        ranking = await self.reranker.rank_async(asked.query, list(asked.texts))
        unread = [record for record in ranking.windows if record.unread or record.error is not None]
        if unread:
            why = unread[-1].error or unread[-1].verdict
            return Reply(error=f"{len(unread)} of {len(asked.texts)} passages were not judged: {why}")
        order = [int(docid) - 1 for docid in ranking.docids]
        return Reply(
            format_ranking(order),
            tokens_in=sum(record.tokens_in for record in ranking.windows),
            tokens_out=sum(record.tokens_out for record in ranking.windows),
        )
