"""An engine for the tests of the doors: it ranks by the number at the end of each text, or fails as it is told to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rrlib import Reranker
from rrlib.engines import Decoding, Reply, Request
from rrlib.prompts import format_response

GAINS = (3, 1, 4, 0, 5, 9, 2, 6)
TEXTS = [f"gain {gain}" for gain in GAINS]
BEST = [5, 7, 4, 2, 0, 6, 1, 3]
"""Places of TEXTS, best first."""
SHARES = [1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
"""The scores of eight passages whose order is all that is known."""


class Scripted:
    """Equal numbers keep the order they had. answers: what is written instead, a text or an error a call, in turn and
    then by the number again; None: by the number."""

    name, model, capacity = "scripted", "scripted", 8

    def __init__(self, answers: Sequence[str | Reply | None] = ()) -> None:
        self.answers = list(answers)
        self.waiting: list[Request] = []
        self.calls = 0

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        self.waiting += requests
        self.calls += len(requests)

    def collect(self) -> list[tuple[int, Reply]]:
        answered, self.waiting = self.waiting, []
        return [(request.id, self._reply(request)) for request in answered]

    def _reply(self, request: Request) -> Reply:
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            return answer if isinstance(answer, Reply) else Reply(answer, tokens_out=1)
        gains = [int(gain) for gain in re.findall(r"^\[\d+\] .*?(\d+)$", request.messages[-1]["content"], re.MULTILINE)]
        order = sorted(range(len(gains)), key=lambda place: -gains[place])
        return Reply(format_response("by gain", order), tokens_in=10, tokens_out=5)

    def cancel(self) -> None:
        self.waiting = []

    def close(self) -> None:
        self.waiting = []


def by_gain(*answers: Any, **options: Any) -> Reranker:
    """A reranker over the scripted engine. options: of Reranker."""
    return Reranker(Scripted(answers), **{"depth": None, **options})
