"""What the evaluation notebooks call: the data and the systems that a profile names, and the tables they show.

With no benchmark named, the test split of notebook 01's collection is evaluated with the checkpoints of the chain; with
benchmarks, those, with the checkpoints that the profile names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rrlib.chain.manifest import Stage
from rrlib.chain.stages import collection_of
from rrlib.errors import InputError
from rrlib.evaluation.benchmarks import BenchmarkData, from_collection, load_benchmark
from rrlib.evaluation.paired import in_words, paired_rows, sets_of
from rrlib.evaluation.registry import expand
from rrlib.evaluation.results import ExperimentResult
from rrlib.records import WindowRecord
from rrlib.types import Qrels

if TYPE_CHECKING:
    import pandas as pd


def evaluation_data(
    stage: Stage, benchmarks: Sequence[str], sizes: Mapping[str, Any], queries: int = 0, **loading: Any
) -> list[BenchmarkData]:
    """The benchmarks named, or the test split of the chain's collection (its validation split beside it).

    sizes: fields of Benchmark (window, stride, depth, max_passage_tokens); 0 keeps the benchmark's own. queries: only
    the first so many of each (0 = all). loading: root, first_stage, fetch of load_benchmark.
    """
    given = {key: value for key, value in sizes.items() if value}
    if benchmarks:
        named = [load_benchmark(name, **loading, **given).limited(queries) for name in expand(list(benchmarks))]
        kinds = {one.data_kind for one in named}
        # a stage that reads no other has no kind to inherit; a mixture is called by what is least real in it
        stage.data_kind = next(kind for kind in ("simulated", "synthetic", "real") if kind in kinds)
        return named
    test = collection_of(stage, "test")
    try:
        validation = collection_of(stage, "validation")
    except InputError:
        validation = None
    return [from_collection(test, validation, **given).limited(queries)]


def chain_checkpoints(stage: Stage, backbone: str, given: Mapping[str, str]) -> dict[str, str]:
    """name -> checkpoint: those of the profile, or the chain's three (before training, after SFT, after SFT and RL)."""
    if given:
        return dict(given)
    return {
        "backbone": backbone,
        "sft": str(stage.input("02_sft", "sft", "checkpoint")),
        "sft+rl": str(stage.input("03_rl", "grpo", "checkpoint")),
    }


def result_rows(result: ExperimentResult, profile: str, systems: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Measured rows in the shape of results.json; of `systems` alone, where they are named."""
    rows = []
    for row in result.rows():
        if row["benchmark"] not in result.qrels or (systems and row["system"] not in systems):
            continue
        kept = {key: row[key] for key in ("system", "metric", "mean", "low", "high", "n", "seed", "data_kind")}
        rows.append({**kept, "collection": row["benchmark"], "n": int(row["n"]), "profile": profile})
    return rows


def against(result: ExperimentResult, baseline: str, systems: Sequence[str], metric: str | None = None) -> pd.DataFrame:
    """Another comparison of the same values: systems against another baseline, paired by query."""
    import pandas as pd

    name = metric or str(result.per_query["metric"].iloc[0])
    seed = int(result.table["seed"].dropna().iloc[0])
    rows: list[dict[str, Any]] = []
    for benchmark, part in result.per_query.groupby("benchmark", sort=False):
        values = sets_of(part, name)
        for row in paired_rows({s: values[s] for s in (baseline, *systems)}, baseline, seed=seed)[1:]:
            tally = f"{row['wins']}/{row['ties']}/{row['losses']}"
            shown = {f"{name} less {baseline}": in_words(row), "w/t/l": tally, "p (Holm)": row["p_holm"]}
            rows.append({"benchmark": benchmark, "system": row["system"], **shown})
    return pd.DataFrame(rows).set_index("system").round(4)


def window_traces(
    records: Sequence[WindowRecord], before: Mapping[str, Sequence[str]], qrels: Qrels
) -> list[list[int]]:
    """The rank (1-based) of each relevant candidate before the first window and after every window of its query.

    records: of one system and collection. before: query -> document ids in the order shown, best first.
    """
    windows: dict[str, list[WindowRecord]] = {}
    for record in records:
        windows.setdefault(record.qid, []).append(record)
    traces: list[list[int]] = []
    for qid, mine in windows.items():
        order = list(before.get(qid, ()))
        good = [docid for docid in order if qrels.get(qid, {}).get(docid, 0) > 0]
        ranks = {docid: [order.index(docid) + 1] for docid in good}
        mine.sort(key=lambda record: (record.pass_no, -record.end))
        for record in mine:
            record.replay_onto(order)
            for docid in good:
                ranks[docid].append(order.index(docid) + 1)
        traces += list(ranks.values())
    return traces


def length_table(result: ExperimentResult, systems: Sequence[str], metric: str | None = None) -> pd.DataFrame:
    """One row a query and system: tokens written for it (all windows), and its value."""
    import pandas as pd

    name = metric or str(result.per_query["metric"].iloc[0])
    values = result.per_query[result.per_query["metric"] == name]
    rows = []
    for (system, benchmark), outcome in result.outcomes.items():
        if system not in systems:
            continue
        written: dict[str, int] = {}
        for record in outcome.records:
            written[record.qid] = written.get(record.qid, 0) + record.tokens_out
        mine = values[(values["system"] == system) & (values["benchmark"] == benchmark)]
        for qid, value in zip(mine["qid"], mine["value"], strict=True):
            rows.append({"system": system, "qid": qid, "tokens": written.get(qid, 0), "value": value})
    return pd.DataFrame(rows)


def mode_of(system: Any, style: str, **changes: Any) -> Any:
    """The same checkpoint in another mode or with another limit: a changed copy of a Listwise system."""
    return replace(system, style=style, **changes)
