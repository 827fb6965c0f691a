"""Stores -> examples: a pure function of what the teacher said, so another alpha or a better reader asks nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rrlib.disk import replacing, write_json
from rrlib.errors import StageError
from rrlib.formats import example_to_json
from rrlib.formats.textio import dump_line
from rrlib.synthesis import prompts
from rrlib.synthesis.assemble import Window
from rrlib.synthesis.fates import Fate, Step, faulty
from rrlib.synthesis.filter import keeps, self_consistency
from rrlib.synthesis.flow import Answer, outcome_of
from rrlib.synthesis.job import Job
from rrlib.synthesis.rank import read_ranking
from rrlib.synthesis.sources.items import Item, qid_hash
from rrlib.types import RankingExample

SUMMARY = ("account.json", "summary.json")
RESULTS = ("examples.jsonl", "dropped.jsonl", "fates.jsonl")
ACCOUNT = ("stored_before", "torn_lines", "this_run", "account")
"""What the summary says of how it went: of the runs, not of the data. It has a file of its own, account.json."""

JOURNAL = ("select.jsonl", "hard.jsonl", "rank.jsonl", "calls.jsonl", "account.json", "store.lock")
"""Files of an output folder that differ between two runs of the same: clocks, counts, the order of arrival.

Nothing behind synthesis reads them. What is read (examples, dropped, fates, summary) is the same in both.
"""


@dataclass(frozen=True)
class SynthesisResult:
    """Where the results lie, and the counts. `summary` is what `summary.json` and `account.json` hold together."""

    examples: Path
    dropped: Path
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_examples(self) -> int:
        """How many examples were kept."""
        return int(self.summary["examples"])

    @property
    def fates(self) -> Path:
        """One line a query: kept, or why not; its consistency, and what a simulated teacher believed."""
        return self.examples.with_name("fates.jsonl")


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """What goes wrong while results are written is a StageError that names their folder."""
    try:
        yield
    except OSError as error:
        raise StageError(f"{out}: cannot write results: {error.strerror or error}") from error


class Results:
    """The three result files, written line by line beside the old ones, which they replace when all is written."""

    def __init__(self, out: Path) -> None:
        self.paths = [out / name for name in RESULTS]
        self._files: list[IO[bytes]] = []
        self._open = ExitStack()

    def __enter__(self) -> Results:
        with writing(self.paths[0].parent):
            self._files = [self._open.enter_context(replacing(path)) for path in self.paths]
        return self

    def write(self, fate: Mapping[str, Any], example: Mapping[str, Any] | None) -> None:
        """One query: its row (position, qid, domain, fate, ...), and its example if it was kept."""
        if example is not None:
            self._files[0].write(dump_line(example).encode() + b"\n")
        else:
            row = {"qid": fate["qid"], "domain": fate["domain"], "reason": fate["fate"]}
            if fate["fate"] == Fate.BELOW_ALPHA:
                row["consistency"] = fate["consistency"]
            self._files[1].write(dump_line(row).encode() + b"\n")
        self._files[2].write(dump_line(fate).encode() + b"\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing(self.paths[0].parent):
            self._open.__exit__(kind, error, trace)


@dataclass
class Tally:
    """What the summary counts; `add` takes one fate after another."""

    queries: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    domains: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    general: Counter[str] = field(default_factory=Counter)
    conflicts: int = 0

    def add(self, fate: Mapping[str, Any]) -> None:
        """One query."""
        self.queries += 1
        self.general[fate["domain"]] += fate["recipe"] == "general"
        self.conflicts += fate.get("conflicts", 0)
        if fate["fate"] == Fate.KEPT:
            self.domains[fate["domain"]] += 1
            self.licences[fate["licence"]] += 1
        else:
            self.reasons[fate["fate"]] += 1

    def summary(self) -> dict[str, Any]:
        """The counts, by name."""

        def rows(counter: Counter[str]) -> dict[str, int]:
            return {key: n for key, n in sorted(counter.items()) if n}

        return {
            "queries": self.queries,
            "examples": sum(self.domains.values()),
            "dropped": rows(self.reasons),
            "by_domain": rows(self.domains),
            "by_licence": rows(self.licences),
            "general_recipe": rows(self.general),
            "positive_and_hard": self.conflicts,
        }


def finish(job: Job, out: Path, stored: int) -> SynthesisResult:
    """Stores -> examples, dropped, fates, summary. Nothing is asked here; one query is in memory at a time."""
    tally, of_source, digest, own = Tally(), 0, 0, 0
    with Results(out) as results:
        for position, item in enumerate(islice(iter(job.source), job.limit)):
            number = qid_hash(item.query.qid)
            of_source, digest = of_source + 1, digest ^ number
            if item.query.qid not in job.shard:
                continue
            own ^= number
            fate, example = judge(job, position, item)
            tally.add(fate)
            results.write(fate, None if example is None else example_to_json(example))
    teacher, stores = job.teacher, job.stores
    summary = {
        **tally.summary(),
        "alpha": job.alpha,
        "k": job.k,
        "stored_before": stored,
        "torn_lines": sum(s.torn for s in stores.values()) + teacher.ledger.torn,
        "answers": {step: len(store) for step, store in stores.items()},
        "this_run": _rounded({k: v for k, v in asdict(teacher.usage).items() if k != "in_a_row"}),
        "account": _rounded(asdict(teacher.ledger.account)),
        "model": teacher.model,
        "prompt_version": prompts.VERSION,
        "decoding": asdict(teacher.decoding),
        "seed": job.flow.seed,
        "data_kind": job.source.data_kind,
        "collection": job.source.name,
        "shard": str(job.shard),
        "source": {"queries": of_source, "digest": f"{digest:016x}", "own_digest": f"{own:016x}"},
    }
    write_summary(out, summary)
    return SynthesisResult(results.paths[0], results.paths[1], summary)


def write_summary(out: Path, summary: Mapping[str, Any]) -> None:
    """Write account.json (what ACCOUNT names), then summary.json (the rest); each atomically. Raises StageError."""
    parts = {
        "account.json": {key: value for key, value in summary.items() if key in ACCOUNT},
        "summary.json": {key: value for key, value in summary.items() if key not in ACCOUNT},
    }
    with writing(out):
        for name, part in parts.items():
            write_json(out / name, part, sort_keys=True)


def read_summary(out: Path) -> dict[str, Any]:
    """summary.json and account.json as one. Raises OSError when one is not there, ValueError when one is not JSON."""
    return {
        key: value for name in SUMMARY for key, value in json.loads((out / name).read_text(encoding="utf-8")).items()
    }


def _rounded(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in numbers.items()}


def judge(job: Job, position: int, item: Item) -> tuple[dict[str, Any], RankingExample | None]:
    """The fate of a query as a row of fates.jsonl, and its example if it was kept."""
    recipe = job.flow.recipe(item)
    row: dict[str, Any] = {
        "position": position,
        "qid": item.query.qid,
        "domain": item.domain,
        "recipe": recipe.name,
        "licence": item.licence,
        "fate": "",
    }
    outcome = outcome_of(job.flow.questions(item), job.stored)
    window, record = outcome.window, outcome.ranking
    if window is not None and window.conflicts:
        row["conflicts"] = len(window.conflicts)
    if window is None or record is None:
        return row | {"fate": outcome.fate}, None
    if "simulated" in record:
        row["simulated"] = record["simulated"]
    ranking = read_ranking(
        record["text"],
        len(window.passages),
        reasoning=record["reasoning"],
        finish_reason=record["finish_reason"],
        style=job.style,
    )
    if ranking.fault:
        return row | {"fate": faulty(Step.RANK, ranking.fault)}, None
    value = 1.0  # a list without a relevant passage contradicts nothing, and has no consistency
    if any(window.relevance):
        value = row["consistency"] = self_consistency(ranking.gold, window.relevance, job.k)
    if item.labels:  # human judgements, where there are any: an opinion on the list that the teacher had no part in
        grades = [max(item.labels.get(p.docid, 0), 0) for p in window.passages]
        row["quality"], row["first_right"] = self_consistency(ranking.gold, grades, job.k), grades[ranking.gold[0]] > 0
    if not keeps(value, job.alpha):
        return row | {"fate": Fate.BELOW_ALPHA}, None
    meta = _meta(job, item, window, record, value)
    example = RankingExample(item.query, window.passages, window.relevance, ranking.gold, ranking.reasoning, meta)
    return row | {"fate": Fate.KEPT}, example


def _meta(job: Job, item: Item, window: Window, record: Answer, consistency: float) -> dict[str, Any]:
    """Where an example comes from: its texts, its teacher, its labels."""
    meta = {
        "domain": item.domain,
        "recipe": job.flow.recipe(item).name,
        "collection": job.source.name,
        "data_kind": job.source.data_kind,
        "licence": item.licence,
        "teacher": record["model"],
        "teacher_kind": record["teacher_kind"],
        "prompt_version": record["prompt_version"],
        "decoding": record["decoding"],
        "seed": job.flow.seed,
        **({"consistency": consistency} if any(window.relevance) else {}),
        "roles": list(window.roles),
    }
    return meta | ({"positive_and_hard": list(window.conflicts)} if window.conflicts else {})
