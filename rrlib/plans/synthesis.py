"""What a run would ask and cost, without asking: the dry run.

Selections are counted exactly; a ranking is counted for every query that may come to one, so it is an upper figure.
Prompt tokens are guessed from bytes, and answers from the answers that are stored already, or from `expect`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rrlib.engines.base import Decoding
from rrlib.engines.limits import BYTES_PER_TOKEN, size_of
from rrlib.formats import Collection
from rrlib.synthesis import prompts
from rrlib.synthesis.domains import recipe_for
from rrlib.synthesis.select import chunks
from rrlib.synthesis.sources.items import CollectionSource, Shard, Source
from rrlib.synthesis.teacher.ledger import MOST_BYTES_PER_TOKEN
from rrlib.synthesis.teacher.prices import Price, price_of

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
        lines = [
            f"queries: {self.queries:,}; calls to make: {total:,} ({parts}); answers stored already: {self.stored:,}",
            f"tokens: about {self.tokens_in:,} read and {self.tokens_out:,} written by {self.model}",
        ]
        if self.usd is None or self.most_usd is None:
            lines.append("cost: no price of this model is known -> give one, in dollars a million tokens")
        else:
            lines.append(f"cost: about ${self.usd:.2f}; ${self.most_usd:.2f} at most, without retries")
        return "\n".join(lines)


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
    domains: Mapping[str, str] | None = None,
    shard: Shard | None = None,
    price: Price | None = None,
    expect: int = EXPECTED_ANSWER,
) -> Plan:
    """Count the calls that `synthesize` with the same settings would make now. Writes nothing, asks nothing.

    expect: tokens of an answer, for steps without a stored answer. The other parameters are those of synthesize.
    """
    if isinstance(source, Collection):
        source, limit = CollectionSource(source, split, seed, limit, depth), None  # of queries, not of their windows
    shard, settings = shard or Shard(), decoding or Decoding(temperature=0.6)
    price = price if price is not None else price_of(model)
    known, lengths, ratio = _stored(Path(out_dir))
    calls = dict.fromkeys(("select", "hard", "rank"), 0)
    sizes, queries = 0, 0
    for item in islice(iter(source), limit):
        if item.query.qid not in shard:
            continue
        queries += 1
        recipe, candidates = recipe_for(item.domain, domains), item.candidates[:depth]
        text, gold = item.query.text, item.gold_answer
        if (
            not candidates
            or (recipe.labels == "teacher" and not gold)
            or (recipe.labels == "qrels" and not item.labels)
        ):
            continue
        if recipe.labels == "teacher":
            for step, passages, build in (
                ("select", candidates, prompts.select_messages),
                ("hard", item.hard_pool, prompts.hard_messages),
            ):
                for number, piece in enumerate(chunks(passages, window)):
                    if f"{step}/{item.query.qid}/{number}" not in known:
                        calls[step] += 1
                        sizes += size_of(build(recipe, text, gold, piece))
        if f"rank/{item.query.qid}" not in known:
            calls["rank"] += 1
            sizes += size_of(prompts.rank_messages(recipe, text, candidates[:window]))
    written = round(sum(n * lengths.get(step, expect) for step, n in calls.items()))
    most_written = sum(calls.values()) * settings.max_new_tokens
    read, most_read = round(sizes / ratio), sizes / MOST_BYTES_PER_TOKEN
    return Plan(
        queries,
        calls,
        len(known),
        read,
        written,
        None if price is None else price.cost(read, written),
        None if price is None else price.cost(most_read, most_written),
        model,
    )


def _stored(out: Path) -> tuple[set[str], dict[str, float], float]:
    """(ids of the stored answers, mean answer length by step, bytes a prompt token) of an output folder."""
    known: set[str] = set()
    lengths: dict[str, float] = {}
    size = tokens = 0
    for step in ("select", "hard", "rank"):
        path, written, count = out / f"{step}.jsonl", 0, 0
        if not path.is_file() or not path.stat().st_size:
            continue
        with open(path, "rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):  # torn by a kill: the run will mend it
                    continue
                row = json.loads(line)
                known.add(f"{step}/{row['id']}")
                written, count = written + row["tokens_out"], count + 1
                size, tokens = size + size_of(row["prompt"]), tokens + row["tokens_in"]
        lengths[step] = written / count if count else 0.0
    return known, lengths, size / tokens if tokens else BYTES_PER_TOKEN
