"""What a run would ask and cost, without asking: the dry run.

It walks through the questions as the run does (rrlib.synthesis.flow), reads the answers that are stored, and assumes
for the others that every selection names the first passage it is shown, so that a ranking follows. Prompt tokens are
guessed from bytes, the length of answers from those that are stored already, or from `expect`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rrlib.engines.base import Decoding
from rrlib.engines.limits import BYTES_PER_TOKEN, size_of
from rrlib.formats import Collection
from rrlib.synthesis.assemble import Mix
from rrlib.synthesis.flow import STEPS, Answer, Flow, Question, outcome_of
from rrlib.synthesis.sources.items import CollectionSource, Shard, Source, numbered
from rrlib.synthesis.teacher.ledger import MOST_BYTES_PER_TOKEN
from rrlib.synthesis.teacher.prices import Price, price_of

SIMULATED = "rrlib.miniature:SimulatedTeacher"
WITHOUT_COST = (SIMULATED, "rrlib.synthesis.human:HumanTeacher")
"""Teachers that can ask no server. Others of ours may, as a checkpoint behind an address."""

EXPECTED_ANSWER = 1000
"""Tokens of reasoning and answer a call, before anything is known: the paper's chains have 626 to 928 (section 5)."""


@dataclass(frozen=True)
class Plan:
    """calls: still to be made, by step. tokens_in, tokens_out: expected. usd: expected dollars; most_usd: if every
    answer came up to its limit; None without a price. stored: answers that are there already."""

    queries: int
    calls: Mapping[str, int]
    stored: int
    tokens_in: int
    tokens_out: int
    usd: float | None
    most_usd: float | None
    model: str

    def text(self) -> str:
        """The plan in three lines."""
        parts = ", ".join(f"{n:,} {step}" for step, n in self.calls.items() if n) or "none"
        total = sum(self.calls.values())
        assumed = " (as if each selection finds a passage)" if self.calls["select"] or self.calls["hard"] else ""
        lines = [
            f"queries: {self.queries:,}; calls to make: {total:,} ({parts}); answers stored already: {self.stored:,}"
            + assumed,
            f"tokens: about {self.tokens_in:,} read and {self.tokens_out:,} written by {self.model}",
        ]
        if self.usd is None and self.model in WITHOUT_COST:
            lines.append("cost: none; it answers in this process")
        elif self.usd is None or self.most_usd is None:
            lines.append("cost: no price of this model is known -> give one, in dollars a million tokens")
        else:
            lines.append(f"cost: about ${self.usd:.2f}; ${self.most_usd:.2f} at most, without retries")
        return "\n".join(lines)


def first_of(question: Question) -> Answer:
    """The answer that a dry run assumes where none is stored: a selection names the first passage it is shown."""
    docids = [p.docid for p in question.passages]
    return {"docids": docids, "text": "[1]", "reasoning": "", "finish_reason": "stop"}


def plan(
    source: Collection | Source,
    model: str,
    out_dir: str | Path,
    *,
    split: str = "train",
    window: int = 20,
    seed: int = 0,
    limit: int | None = None,
    decoding: Decoding | None = None,
    depth: int | None = None,
    max_positives: int = 0,
    hard_negatives: float = 0.5,
    domains: Mapping[str, str] | None = None,
    shard: Shard | None = None,
    price: Price | None = None,
    expect: int = EXPECTED_ANSWER,
    assume: Callable[[Question], Answer] = first_of,
) -> Plan:
    """Count the calls that `synthesize` with the same settings would make now. Writes nothing, asks nothing.

    expect: tokens of an answer, for steps without a stored answer. assume: what the teacher is taken to say where
    nothing is stored, since what is asked next depends on it. The other parameters are those of synthesize.
    """
    if isinstance(source, Collection):
        source, limit = CollectionSource(source, split, seed, limit, depth), None  # of queries, not of their windows
    shard, decoding = shard or Shard(), decoding or Decoding(temperature=0.6)
    price = price if price is not None else price_of(model)
    flow = Flow(Mix(window, max_positives, hard_negatives), seed, depth, domains or {})
    calls, sizes, queries = dict.fromkeys(map(str, STEPS), 0), 0, 0
    with closing(_Answers(Path(out_dir))) as answers:

        def answer(question: Question) -> Answer:
            nonlocal sizes
            stored = answers.get(question)
            if stored is not None:
                return stored
            calls[question.step] += 1
            sizes += size_of(question.messages())
            return assume(question)

        for _, item in numbered(source, limit, shard):
            queries += 1
            outcome_of(flow.questions(item), answer)
    written = round(sum(n * answers.lengths.get(step, expect) for step, n in calls.items()))
    read = round(sizes / answers.bytes_per_token)
    most_read, most_written = sizes / MOST_BYTES_PER_TOKEN, sum(calls.values()) * decoding.max_new_tokens
    usd = None if price is None else price.cost(read, written)
    most_usd = None if price is None else price.cost(most_read, most_written)
    return Plan(queries, calls, len(answers), read, written, usd, most_usd, model)


class _Answers:
    """The stored answers of an output folder, read and never written: where each lies, and how long they are.

    lengths: mean tokens of an answer, by step. bytes_per_token: of the prompts that were sent.
    """

    def __init__(self, out: Path) -> None:
        self._files: dict[str, BinaryIO] = {}
        self._offsets: dict[tuple[str, str], int] = {}
        self.lengths: dict[str, float] = {}
        size = tokens = 0
        for path in (out / f"{step}.jsonl" for step in STEPS):
            if not path.is_file():
                continue
            file = self._files[path.stem] = open(path, "rb")  # noqa: SIM115 - closed at the end of the with block
            offset, lengths = 0, []
            for line in file:
                if line.endswith(b"\n"):  # else torn by a kill: the run will mend it
                    row = json.loads(line)
                    self._offsets.setdefault((path.stem, row["id"]), offset)
                    lengths.append(row["tokens_out"])
                    size, tokens = size + size_of(row["prompt"]), tokens + row["tokens_in"]
                offset += len(line)
            if lengths:
                self.lengths[path.stem] = sum(lengths) / len(lengths)
        self.bytes_per_token = size / tokens if tokens else BYTES_PER_TOKEN

    def get(self, question: Question) -> Answer | None:
        """The stored answer to a question, or None."""
        offset = self._offsets.get((question.step, question.key))
        if offset is None:
            return None
        self._files[question.step].seek(offset)
        answer: Answer = json.loads(self._files[question.step].readline())
        return answer

    def __len__(self) -> int:
        return len(self._offsets)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
