"""One call: systems x benchmarks x metrics, checked before any model is loaded, with everything a sceptic asks for.

    from rrlib.evaluation import Experiment, Listwise

    result = Experiment(
        {"first stage": "first-stage", "sft": Listwise("outputs/.../checkpoint", budget=256), "oracle": "oracle"},
        benchmarks=["miniature"], metrics=["nDCG@10", "R@5"], baseline="first stage", output="outputs/mine",
    )
    result.table          # a DataFrame: one row a benchmark, system and metric
    print(result.to_markdown())

With `output`, every window and every finished ranking is kept: the same call again goes on where it stopped, and does
not load a model whose rankings are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.errors import InputError
from rrlib.evaluation.benchmarks import BenchmarkData, from_collection, load_benchmark
from rrlib.evaluation.latency import Prices, audit_row, cost_row
from rrlib.evaluation.metrics import parse_metrics, per_query
from rrlib.evaluation.registry import Benchmark, expand
from rrlib.evaluation.results import ExperimentResult, assemble
from rrlib.evaluation.store import OutcomeStore
from rrlib.evaluation.systems import Cost, Outcome, System, as_system, bare_candidates
from rrlib.formats import Collection
from rrlib.formats.fields import few
from rrlib.types import Candidates

if TYPE_CHECKING:
    import pandas as pd

Benchmarks = str | Benchmark | BenchmarkData | Collection


def Experiment(
    systems: Mapping[str, Any],
    benchmarks: Benchmarks | Sequence[Benchmarks],
    metrics: str | Sequence[str] = (),
    *,
    baseline: str | None = None,
    test: str = "randomisation",
    seed: int = 0,
    resamples: int = 10_000,
    output: str | Path | None = None,
    fresh: bool = False,
    prices: Mapping[str, Prices] | Prices | None = None,
    queries: int = 0,
    reported: bool = True,
    profile: str = "",
    echo: Callable[[str], None] | None = None,
    **loading: Any,
) -> ExperimentResult:
    """Run systems on benchmarks and compare them.

    Parameters
    ----------
    systems: name -> `first-stage`, `random`, `oracle`, a TREC run or ranking, Listwise(...), Pointwise(...),
        Interpolated(name), Routed(easy, hard), or anything with their three methods.
    benchmarks: names (a suite such as `bright` stands for its sets), benchmark data, or collections already read.
    metrics: names of ir-measures, the headline first; empty takes each benchmark's own.
    baseline: the system that the others are compared with, paired by query (default: the first).
    test: `randomisation` (paired, 10,000 sign flips) or `t` (paired t test); p values are Holm-corrected over the
        systems of a benchmark and metric.
    seed, resamples: of bootstrap and randomisation. queries: only the first so many of each benchmark (0 = all).
    output: a folder that keeps runs, windows and tables; fresh: begin it anew. prices: of all systems, or by name.
    reported: add the paper's rows, marked as such, where they exist. echo: called with a line of progress.
    loading: arguments of load_benchmark for benchmarks given by name (root, first_stage, fetch, ...).

    Returns an ExperimentResult: `table`, `per_query`, `costs`, `audit`, `notes`, exports, figures' data.
    Raises InputError, before any model is loaded, that lists all that is wrong: texts that are missing, qrels whose
    queries have no text, runs without judgements, prompts that are too long, unknown names.
    """
    chosen, data, names = _prepare(systems, benchmarks, metrics, baseline, test, queries, loading)
    check_experiment(chosen, data)
    store = OutcomeStore(output, fresh)
    outcomes: dict[tuple[str, str], Outcome] = {}
    held: dict[tuple[str, str, str], Outcome] = {}

    def peer(name: str, other: BenchmarkData) -> Outcome:
        if any(other is one for one in data):
            return outcomes[name, other.name]
        key = (name, other.name, other.split)
        if key not in held:
            (held[key],) = store.rank(name, chosen[name], [other], peer, f".{other.name}.{other.split}")
        return held[key]

    for name in _in_order(chosen):
        if echo is not None:
            echo(f"{name}: {', '.join(one.name for one in data)}")
        for one, outcome in zip(data, store.rank(name, chosen[name], data, peer), strict=True):
            outcomes[name, one.name] = outcome
    result = _evaluate(chosen, data, outcomes, names, baseline, test, seed, resamples, prices, reported, profile)
    if store.folder is not None:
        result.save(store.folder)
    return result


def plan_experiment(
    systems: Mapping[str, Any],
    benchmarks: Benchmarks | Sequence[Benchmarks],
    *,
    queries: int = 0,
    **loading: Any,
) -> pd.DataFrame:
    """What an experiment would cost, after all of its checks: a row a system and benchmark with queries, calls
    (exact), tokens in and out (upper bounds), the longest prompt, and the model's limit. Loads no model."""
    import pandas as pd

    chosen, data, _ = _prepare(systems, benchmarks, (), None, "randomisation", queries, loading)
    costs = check_experiment(chosen, data)
    rows = [
        {
            "benchmark": one.name,
            "system": name,
            "queries": len(one.qrels),
            "calls": costs[name, one.name].calls,
            "tokens_in_bound": costs[name, one.name].tokens_in,
            "tokens_out_bound": costs[name, one.name].tokens_out,
            "longest_prompt": costs[name, one.name].longest,
            "limit": costs[name, one.name].limit,
        }
        for one in data
        for name in chosen
    ]
    return pd.DataFrame(rows)


def _prepare(
    systems: Mapping[str, Any],
    benchmarks: Benchmarks | Sequence[Benchmarks],
    metrics: str | Sequence[str],
    baseline: str | None,
    test: str,
    queries: int,
    loading: Mapping[str, Any],
) -> tuple[dict[str, System], list[BenchmarkData], list[str]]:
    if not systems:
        raise InputError("there are no systems", remedy="give at least one, such as {'first stage': 'first-stage'}")
    chosen = {name: as_system(given) for name, given in systems.items()}
    for name, system in chosen.items():
        if "/" in name or not name.strip():
            raise InputError(f"system name {name!r}", remedy="use a name that can be a file's name")
        for other in system.needs():
            if other not in chosen or other == name:
                raise InputError(f"{name!r} builds on {other!r}, which is no other system here", remedy="add it")
    if baseline is not None and baseline not in chosen:
        raise InputError(f"the baseline {baseline!r} is none of the systems", remedy=f"use one of {', '.join(chosen)}")
    if test not in ("randomisation", "t"):
        raise InputError(f"test {test!r}", remedy="use randomisation or t")
    given = [benchmarks] if isinstance(benchmarks, str | Benchmark | BenchmarkData | Collection) else list(benchmarks)
    data: list[BenchmarkData] = []
    for one in given:
        if isinstance(one, BenchmarkData):
            data.append(one)
        elif isinstance(one, Collection):
            data.append(from_collection(one))
        elif isinstance(one, Benchmark):
            data.append(load_benchmark(one, **loading))
        else:
            data += [load_benchmark(name, **loading) for name in expand(one)]
    if not data:
        raise InputError("there are no benchmarks", remedy="name at least one, such as miniature")
    twice = [name for name in dict.fromkeys(d.name for d in data) if sum(d.name == name for d in data) > 1]
    if twice:
        raise InputError(f"benchmarks twice: {few(twice)}", remedy="give each a name of its own")
    data = [one.limited(queries) for one in data]
    return chosen, data, [str(measure) for measure in parse_metrics(metrics)] if metrics else []


def check_experiment(systems: Mapping[str, System], data: Sequence[BenchmarkData]) -> dict[tuple[str, str], Cost]:
    """Everything that can go wrong, before any model is loaded: costs by system and benchmark.

    Raises one InputError that lists every problem found.
    """
    problems: list[str] = []
    costs: dict[tuple[str, str], Cost] = {}
    for one in data:
        try:
            candidates = _candidates(one, systems)
        except InputError as error:
            problems.append(str(error))
            continue
        for name, system in systems.items():
            try:
                costs[name, one.name] = system.check(one, candidates)
            except InputError as error:
                problems.append(f"{name}: {error}")
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        raise InputError(f"{len(problems)} problems:\n- " + "\n- ".join(problems))
    return costs


def _candidates(data: BenchmarkData, systems: Mapping[str, System]) -> list[Candidates]:
    """The candidates, with texts where some system reads them. Raises InputError for what is missing."""
    run = data.need_run()
    if not data.qrels:
        raise InputError(f"{data.name} has no judgements", remedy="add qrels/test.tsv")
    if data.queries is not None and (lost := [qid for qid in data.qrels if qid not in data.queries]):
        raise InputError(f"{data.name}: {len(lost)} queries of the qrels have no text: {few(lost)}", remedy="add them")
    if not run.keys() & data.qrels.keys():
        raise InputError(f"{data.name}: no query of the run is judged", remedy="is it the run of another set?")
    if not any(hasattr(system, "decoding") for system in systems.values()):
        return bare_candidates(data)
    return data.candidates(None)


def _in_order(systems: Mapping[str, System]) -> list[str]:
    """Names so that each comes behind what it builds on. Raises InputError for a circle."""
    out: list[str] = []
    left = list(systems)
    while left:
        ready = [name for name in left if all(other in out for other in systems[name].needs())]
        if not ready:
            raise InputError(f"systems that build on each other in a circle: {few(left)}", remedy="break the circle")
        out += ready
        left = [name for name in left if name not in ready]
    return out


def _evaluate(
    systems: Mapping[str, System],
    data: Sequence[BenchmarkData],
    outcomes: Mapping[tuple[str, str], Outcome],
    metrics: Sequence[str],
    baseline: str | None,
    test: str,
    seed: int,
    resamples: int,
    prices: Mapping[str, Prices] | Prices | None,
    reported: bool,
    profile: str,
) -> ExperimentResult:
    from rrlib.evaluation.tables import oracle_run

    values: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    ends: dict[str, tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]] = {}
    costs: dict[tuple[str, str], dict[str, float]] = {}
    audits: dict[tuple[str, str], dict[str, float]] = {}
    notes: list[str] = []
    for one in data:
        wanted = list(metrics) or list(one.spec.metrics)
        notes += one.notes
        best = oracle_run(one.qrels, bare_candidates(one), one.spec.depth or None)
        first, ceiling = (per_query(one.qrels, run, wanted, one.spec.relevance_level) for run in (one.need_run(), best))
        ends[one.name] = first, ceiling
        for name in systems:
            outcome = outcomes[name, one.name]
            counted: list[str] = []
            values[name, one.name] = per_query(one.qrels, outcome.run, wanted, one.spec.relevance_level, counted)
            notes += [f"{name} on {one.name}: {note}" for note in counted]
            failed = list(dict.fromkeys(r.qid for r in outcome.records if r.error))
            if failed:
                notes.append(
                    f"{name} on {one.name}: calls of {len(failed)} queries failed, kept in order: {few(failed)}"
                )
            price = prices.get(name) if isinstance(prices, Mapping) else prices
            if outcome.records or outcome.seconds is not None:
                costs[name, one.name] = cost_row(outcome.records, len(one.qrels), outcome.seconds, price)
                audits[name, one.name] = audit_row(outcome.records)
    return assemble(
        systems=list(systems),
        data=data,
        outcomes=outcomes,
        values=values,
        ends=ends,
        costs=costs,
        audits=audits,
        notes=list(dict.fromkeys(notes)),
        baseline=baseline or next(iter(systems)),
        test=test,
        seed=seed,
        resamples=resamples,
        reported=reported,
        profile=profile,
    )
