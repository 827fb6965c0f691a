"""Stores -> examples: a pure function of what the teacher said, so another alpha or a better reader asks nothing."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rrlib.formats import write_examples, write_jsonl
from rrlib.synthesis import prompts
from rrlib.synthesis.filter import keeps, self_consistency
from rrlib.synthesis.job import Job, window_of
from rrlib.synthesis.rank import read_ranking
from rrlib.types import Query, RankingExample


@dataclass(frozen=True)
class SynthesisResult:
    """Where the results lie, and the counts. `summary` is what `summary.json` holds."""

    examples: Path
    dropped: Path
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_examples(self) -> int:
        """How many examples were kept."""
        return int(self.summary["examples"])


def finish(job: Job, queries: list[Query], out: Path, stored: int) -> SynthesisResult:
    """Stores -> examples, dropped, summary. Nothing is asked here."""
    reasons: Counter[str] = Counter()
    domains: Counter[str] = Counter()
    general: Counter[str] = Counter()
    drops: list[dict[str, Any]] = []

    def examples() -> Iterator[RankingExample]:
        for query in queries:
            domain, recipe = job.domain(query.qid)
            if recipe.name == "general":
                general[domain] += 1
            example, reason, value = _example(job, query)
            if example is None:
                reasons[reason] += 1
                row = {"qid": query.qid, "domain": domain, "reason": reason}
                drops.append(row if value is None else {**row, "consistency": value})
            else:
                domains[domain] += 1
                yield example

    paths = out / "examples.jsonl", out / "dropped.jsonl"
    write_examples(paths[0], examples())
    write_jsonl(paths[1], drops)
    summary = {
        "queries": len(queries),
        "examples": sum(domains.values()),
        "dropped": dict(sorted(reasons.items())),
        "by_domain": dict(sorted(domains.items())),
        "general_recipe": dict(sorted(general.items())),
        "alpha": job.alpha,
        "stored_before": stored,
        "torn_lines": job.select.torn + job.rank.torn,
        "answers": {"select": len(job.select), "rank": len(job.rank)},
        "this_run": {k: round(v, 3) for k, v in asdict(job.teacher.usage).items() if k != "in_a_row"},
        "model": job.teacher.model,
        "prompt_version": prompts.VERSION,
        "decoding": asdict(job.teacher.decoding),
        "seed": job.seed,
        "data_kind": job.collection.data_kind,
    }
    scratch = out / "summary.tmp"
    scratch.write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(scratch, out / "summary.json")
    return SynthesisResult(*paths, summary)


def _example(job: Job, query: Query) -> tuple[RankingExample | None, str, float | None]:
    """The example of a query, or the reason why there is none (and its consistency, when that is the reason)."""
    candidates = job.candidates(query)
    if candidates is None:
        return None, "no_candidates", None
    window, reason = window_of(job, query, candidates)
    if window is None:
        return None, reason, None
    record = job.rank.get(query.qid)
    if record is None:
        return None, "call_failed", None
    read = read_ranking(
        record["text"],
        len(window.passages),
        reasoning=record["reasoning"],
        finish_reason=record["finish_reason"],
        style=job.style,
    )
    if read.fault:
        return None, f"rank: {read.fault}", None
    value = self_consistency(read.gold, window.relevance, job.k)
    if not keeps(value, job.alpha):
        return None, "below_alpha", value
    domain, recipe = job.domain(query.qid)
    meta = {
        "domain": domain,
        "recipe": recipe.name,
        "collection": job.collection.name,
        "data_kind": job.collection.data_kind,
        "teacher": record["model"],
        "teacher_kind": record["teacher_kind"],
        "prompt_version": record["prompt_version"],
        "decoding": record["decoding"],
        "seed": job.seed,
        "consistency": value,
        "roles": list(window.roles),
    }
    return RankingExample(query, window.passages, window.relevance, read.gold, read.reasoning, meta), "", value
