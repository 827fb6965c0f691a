"""What a run needs from its first question to its last line: source, flow, teacher, stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rrlib.errors import StageError
from rrlib.synthesis.fates import Step
from rrlib.synthesis.flow import Flow, Question
from rrlib.synthesis.sources.items import Shard, Source
from rrlib.synthesis.teacher.ask import Teacher, request_hash
from rrlib.synthesis.teacher.store import Store


@dataclass(frozen=True)
class Job:
    """Made once a run. alpha, k, style: of the finishing alone, so another value of them asks nothing again."""

    source: Source
    flow: Flow
    teacher: Teacher
    stores: Mapping[Step, Store]
    alpha: float
    k: int
    style: str
    limit: int | None
    shard: Shard

    def stored(self, question: Question) -> dict[str, Any] | None:
        """The stored answer to a question, or None."""
        return self.stores[question.step].get(question.key)

    def stored_tokens(self, call: str) -> tuple[int, int] | None:
        """(tokens in, tokens out) of the stored answer of a call `step/key`, or None."""
        step, _, key = call.partition("/")
        record = self.stores[Step(step)].get(key) if step in self.stores else None
        return None if record is None else (record["tokens_in"], record["tokens_out"])

    async def ask(self, question: Question) -> dict[str, Any] | None:
        """The answer to a question, from the store or else from the teacher; None when it is not to be had now.

        Raises StageError where the stored answer belongs to another question, and what `Teacher.ask` raises.
        """
        messages = question.messages()
        record = self.stored(question)
        store, key = self.stores[question.step], question.key
        if record is not None:
            if record["request"] != request_hash(messages):
                raise StageError(
                    f"{store.path}: the stored answer {key!r} belongs to another question (the collection has changed)"
                    " -> use another folder, or start it afresh"
                )
            return record
        if self.teacher.halted:
            return None

        def keep(answer: dict[str, Any]) -> None:
            sent = {"id": key, "seed": self.flow.seed, "prompt": [dict(m) for m in messages]}
            store.append({**answer, **question.shown(), **sent})

        return self.stored(question) if await self.teacher.ask(f"{question.step}/{key}", messages, keep) else None
