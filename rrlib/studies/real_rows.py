"""The rows of the table on real language: their closed words, their file, and the runs behind them.

docs/results/real.json holds `{"rows": [...]}`, a row a system, profile, collection, first stage, metric and seed
(ROW_KEYS). docs/results/real-runs.jsonl holds a line a run: the headline metric of every query, so that any two systems
can be tested query by query later, and what the run cost. Both are written by rrlib.studies.real alone.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from rrlib.chain.manifest import outputs_root
from rrlib.disk import read_json, write_json
from rrlib.errors import InputError, MissingFileError
from rrlib.evaluation.benchmarks import BenchmarkData
from rrlib.evaluation.metrics import parse_metrics
from rrlib.evaluation.results import ExperimentResult
from rrlib.formats import read_jsonl, write_jsonl
from rrlib.formats.collection import DATA_KINDS
from rrlib.resources import repository

HEADLINE = "nDCG@10"

ROW_KEYS = (
    *("system", "collection", "first_stage", "metric", "mean", "low", "high", "n", "seed", "profile", "data_kind"),
    *("command", "date", "device"),
)
_KEY = ("system", "profile", "collection", "first_stage", "metric", "seed")
COMMAND = "python -m rrlib.studies.real"
"""How every row's command begins."""


class SystemName(StrEnum):
    """The systems of the table, in its order."""

    FIRST_STAGE = "first-stage"
    """The candidates as they were retrieved."""
    RANDOM = "random"
    """The candidates in a random order, the mean of several."""
    ORACLE = "oracle"
    """The candidates in the best order: what no reranker can beat."""
    PRIOR = "prior"
    """How often a passage is relevant in training, whatever the query."""
    NEIGHBOURS = "neighbours"
    """The relevant passages of the most similar training questions."""
    STATIC = "static"
    """Word vectors of both sides, learned on the training split; no language model."""
    DENSE = "dense-minilm"
    """all-MiniLM-L6-v2, a sentence encoder that has never seen these collections."""
    ZERO_SHOT = "zero-shot"
    """The language model before any training on ranking."""
    SFT = "sft"
    """After supervised training on reasoning and lists."""
    SFT_RL = "sft+rl"
    """After supervised training and GRPO."""
    SFT_PLAIN = "sft no reasoning"
    """Supervised training on the lists alone."""
    SFT_RL_PLAIN = "sft+rl no reasoning"
    """Supervised training on the lists alone, then GRPO without a chain."""
    RL_ONLY = "rl only"
    """GRPO from the language model, without supervised training."""
    NDCG_ONLY = "ndcg only"
    """The full recipe with NDCG as the only reward."""
    ONE_DOMAIN = "one domain"
    """Trained on one collection, tested on the other."""
    POINTWISE = "pointwise"
    """Each passage judged on its own, with a chain, from the same labels."""
    POINTWISE_PLAIN = "pointwise no reasoning"
    """Each passage judged on its own, without a chain, from the same labels."""


class FirstStageName(StrEnum):
    """What retrieved the candidates."""

    STEM = "stem"
    """BM25 over stemmed words."""
    AI2_25 = "ai2-25"
    """The 25 facts of the trained retriever of EntailmentBank's authors, in the order of BM25."""
    BM25 = "bm25"
    """BM25 without a stemmer."""
    GIVEN = "given"
    """The order in which the release lists its candidates."""


COLLECTIONS: Mapping[str, tuple[FirstStageName, ...]] = {
    "entailmentbank": (FirstStageName.AI2_25, FirstStageName.STEM, FirstStageName.BM25),
    "argkp": (FirstStageName.STEM, FirstStageName.BM25),
    "noveleval": (FirstStageName.GIVEN,),
    "dl19-bm25-top100": (FirstStageName.BM25,),
    "cranfield": (FirstStageName.BM25,),
}
"""Collection -> its first stages. Training saw the first two alone; nothing is tuned on the others."""

WANTED = tuple(
    (system, collection, first_stage)
    for collection, first_stage in (("entailmentbank", "ai2-25"), ("entailmentbank", "stem"), ("argkp", "stem"))
    for system in SystemName
)
"""(system, collection, first stage) of the whole table: docs/results.md names those that were not run."""


TRAINED_COLLECTIONS = tuple(dict.fromkeys(collection for _, collection, _ in WANTED))
"""The collections that training saw."""


def check_row(row: Mapping[str, Any]) -> None:
    """Raises InputError for a row with other keys, an unknown name, a figure that is no fraction, or no command."""
    if set(row) != set(ROW_KEYS):
        raise InputError(f"a row with the keys {', '.join(sorted(row))}", remedy=f"the keys are {', '.join(ROW_KEYS)}")
    name = ", ".join(str(row[key]) for key in _KEY)

    def refuse(what: str, remedy: str) -> InputError:
        return InputError(f"row {name}: {what}", remedy=remedy)

    for key, words in (
        ("system", [*SystemName]),
        ("collection", [*COLLECTIONS]),
        ("first_stage", [*COLLECTIONS.get(row["collection"], ())]),
        ("data_kind", [*DATA_KINDS]),
    ):
        if row[key] not in words:
            raise refuse(f"{key} {row[key]!r}", f"use one of {', '.join(words)}")
    if [str(measure) for measure in parse_metrics([row["metric"]])] != [row["metric"]]:
        raise refuse("the metric is not written as ir-measures writes it", str(parse_metrics([row["metric"]])[0]))
    if not 0 <= row["low"] <= row["mean"] <= row["high"] <= 1:
        raise refuse(f"{row['low']} <= {row['mean']} <= {row['high']} are no fractions", "give fractions, not percent")
    for key, least in (("n", 1), ("seed", 0)):
        if not isinstance(row[key], int) or isinstance(row[key], bool) or row[key] < least:
            raise refuse(f"{key} is {row[key]!r}", f"a whole number from {least} on")
    if not str(row["command"]).startswith(COMMAND):
        raise refuse(f"the command {row['command']!r}", f"it begins with {COMMAND}")
    datetime.date.fromisoformat(row["date"])
    if not row["device"]:
        raise refuse("no device", "say where it ran")


def check_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    """Every row by itself, and no row twice. Raises InputError."""
    seen = set()
    for row in rows:
        check_row(row)
        key = tuple(row[name] for name in _KEY)
        if key in seen:
            raise InputError(f"row {', '.join(map(str, key))} stands twice", remedy="one row a metric and seed")
        seen.add(key)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of the file, checked; [] where there is no file. Raises InputError for a file that is no table."""
    if not path.is_file():
        return []
    stored = read_json(path)
    if not isinstance(stored, dict) or set(stored) != {"rows"}:
        raise InputError('a table is {"rows": [...]}', path=path, remedy="restore it from git")
    check_rows(stored["rows"])
    return list(stored["rows"])


def put_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows, or put them in the place of those with the same key (system, profile, collection, first stage, metric,
    seed).

    The file is replaced at once; commands that write at the same time wait for each other. Raises InputError for rows
    that do not belong here, before anything is written.
    """
    check_rows(rows)
    with _turn():
        by_key = {tuple(row[name] for name in _KEY): dict(row) for row in [*read_rows(path), *rows]}
        ordered = sorted(by_key.values(), key=_place)
        write_json(path, {"rows": [{key: row[key] for key in ROW_KEYS} for row in ordered]})


def _turn() -> Any:
    """A lock among the commands that write the table."""
    from filelock import FileLock

    guard = outputs_root() / ".real-table.lock"
    guard.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(guard, timeout=60)


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Where a row or run stands in its file."""
    collections, stages = [*COLLECTIONS], [*FirstStageName]
    place = (collections.index(row["collection"]), stages.index(row["first_stage"]), [*SystemName].index(row["system"]))
    sizes = (row.get(name, 0) for name in ("window", "stride", "fused"))
    changed = str(sorted(row.get("changed", {}).items()))
    return (*place, row["profile"], row["seed"], row.get("metric", ""), *sizes, changed)


# --- runs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RealRun:
    """One run behind the rows: the headline metric of every query, and what was spent.

    values: of the first n queries of the qrels, in their order. depth: candidates a query. window, stride: passages (0:
    not by windows). own: they are the profile's and nothing is changed, so that the run is the row of its name. fused:
    the order is fused with the first stage's, and the run is no row. windows: answers a query.
    verdicts: share of the answers by verdict, `ok` being valid. tokens_in, tokens_out: of one answer. seconds: of a
    query. chosen: what was chosen on the dev split. changed: option -> value, of those that are not as in the row.
    """

    system: str
    collection: str
    first_stage: str
    seed: int
    profile: str
    depth: int
    values: list[float]
    window: int = 0
    stride: int = 0
    own: bool = True
    fused: bool = False
    windows: float = 0.0
    verdicts: dict[str, float] = field(default_factory=dict)
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    seconds: float | None = None
    device: str = ""
    date: str = ""
    command: str = ""
    chosen: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes it another run; of two with the same key the later counts."""
        what = self.system, self.profile, self.collection, self.first_stage, self.seed
        return *what, self.window, self.stride, self.fused, *sorted(self.changed.items())


def costs_of(result: ExperimentResult, system: str, data: BenchmarkData) -> dict[str, Any]:
    """What a run of a model cost and how its answers were read, for its RealRun."""
    if result.costs.empty or system not in set(result.costs["system"]):
        return {}
    costs = result.costs[result.costs["system"] == system].to_dict("records")[0]
    audit = result.audit[result.audit["system"] == system].to_dict("records")[0]
    calls = max(costs["calls_all"], 1.0)
    shares = {str(k): round(v, 4) for k, v in audit.items() if k not in ("benchmark", "system") and v == v and v > 0}
    n = len(data.qrels)
    return {
        "windows": round(costs["calls_all"] / n, 3),
        "tokens_in": round(costs["tokens_in"] * n / calls, 1),
        "tokens_out": round(costs["tokens_out"] * n / calls, 1),
        "seconds": None if costs["seconds"] != costs["seconds"] else round(costs["seconds"], 4),
        "verdicts": shares,
    }


def read_runs(path: Path) -> list[RealRun]:
    """The runs of the file; [] where there is no file. Raises InputError for a line that is no run."""
    if not path.is_file():
        return []
    runs = []
    for line, row in read_jsonl(path):
        try:
            runs.append(RealRun(**row))
        except TypeError as error:
            raise InputError(f"no run: {error}", path=path, line=line, remedy="restore the file from git") from error
    return runs


def put_run(path: Path, run: RealRun) -> None:
    """Add a run, or put it in the place of the one with the same key."""
    with _turn():
        by_key = {other.key: asdict(other) for other in [*read_runs(path), run]}
        for row in by_key.values():
            if not row["changed"]:
                del row["changed"]  # of most runs
        write_jsonl(path, sorted(by_key.values(), key=_place))


def table_path(given: str | Path | None = None) -> Path:
    """The table: the argument, else docs/results/real.json of the repository."""
    return Path(given) if given else repository() / "docs" / "results" / "real.json"


def runs_path(table: Path) -> Path:
    """The runs behind a table."""
    return table.with_name(f"{table.stem}-runs.jsonl")


def merge(other: Path, target: Path) -> None:
    """Take the rows of another table, and the runs beside it, into this one, but for those that this one has from a
    later day. Raises InputError where there is none."""
    if not other.is_file():
        raise MissingFileError("no such table", path=other, remedy="name the real.json of another machine")
    dates = {tuple(row[name] for name in _KEY): row["date"] for row in read_rows(target)}
    rows = read_rows(other)
    put_rows(target, [row for row in rows if row["date"] >= dates.get(tuple(row[name] for name in _KEY), "")])
    days = {run.key: run.date for run in read_runs(runs_path(target))}
    for run in read_runs(runs_path(other)):
        if run.date >= days.get(run.key, ""):
            put_run(runs_path(target), run)
