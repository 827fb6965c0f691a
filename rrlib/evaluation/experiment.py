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
from rrlib.evaluation.latency import Prices
from rrlib.evaluation.measured import Comparison, assemble, measure
from rrlib.evaluation.metrics import parse_metrics
from rrlib.evaluation.orders import as_system, bare_candidates
from rrlib.evaluation.paired import SignificanceTest
from rrlib.evaluation.registry import Benchmark, expand
from rrlib.evaluation.results import ExperimentResult
from rrlib.evaluation.store import OutcomeStore, digest
from rrlib.evaluation.systems import Cost, Listwise, Outcome, System
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
    test: str = SignificanceTest.RANDOMISATION.value,
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
    check_experiment(chosen, data, priced=False)
    store = OutcomeStore(output, fresh)
    outcomes = _outcomes(chosen, data, store, echo)
    comparison = Comparison(baseline or next(iter(chosen)), test, seed, resamples)
    measured = measure(list(chosen), data, outcomes, names, prices)
    result = assemble(measured, list(chosen), data, outcomes, comparison, reported, profile)
    if store.folder is not None:
        result.save(store.folder)
    return result


def _outcomes(
    systems: Mapping[str, System],
    data: Sequence[BenchmarkData],
    store: OutcomeStore,
    echo: Callable[[str], None] | None,
) -> dict[tuple[str, str], Outcome]:
    """(system, benchmark) -> what it did; each system behind those that it builds on."""
    outcomes: dict[tuple[str, str], Outcome] = {}
    other_outcomes: dict[tuple[str, str, str], Outcome] = {}  # on validation queries, for those that choose by them

    def peer(name: str, other: BenchmarkData) -> Outcome:
        if any(other is benchmark for benchmark in data):
            return outcomes[name, other.name]
        key = (name, other.name, other.split)
        if key not in other_outcomes:
            suffix = f".{other.name}.{other.split}"
            (other_outcomes[key],) = store.rank(name, systems[name], [other], peer, suffix)
        return other_outcomes[key]

    for name in _in_order(systems):
        if echo is not None:
            echo(f"{name}: {', '.join(benchmark.name for benchmark in data)}")
        for benchmark, outcome in zip(data, store.rank(name, systems[name], data, peer), strict=True):
            outcomes[name, benchmark.name] = outcome
    return outcomes


def plan_experiment(
    systems: Mapping[str, Any],
    benchmarks: Benchmarks | Sequence[Benchmarks],
    *,
    queries: int = 0,
    **loading: Any,
) -> pd.DataFrame:
    """What an experiment would cost, after all of its checks: a row a system and benchmark with queries, calls
    (exact), tokens in and out (upper bounds), the longest prompt, and the model's limit. With more than
    rrlib.prompts.MOST_KEPT passages the bounds are those of a passage's limit, and no text that fits by it is
    tokenized. What a system asks of others on validation queries stands in its own row, or in that of the first that
    asks it. Loads no model."""
    import pandas as pd

    chosen, data, _ = _prepare(systems, benchmarks, (), None, SignificanceTest.RANDOMISATION, queries, loading)
    costs = check_experiment(chosen, data)
    rows = [
        {
            "benchmark": benchmark.name,
            "system": name,
            "queries": len(benchmark.qrels),
            "calls": costs[name, benchmark.name].calls,
            "tokens_in_bound": costs[name, benchmark.name].tokens_in,
            "tokens_out_bound": costs[name, benchmark.name].tokens_out,
            "longest_prompt": costs[name, benchmark.name].longest,
            "limit": costs[name, benchmark.name].limit,
        }
        for benchmark in data
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
        if "/" in name or not name.strip(" ."):
            raise InputError(f"system name {name!r}", remedy="use a name that can be a file's name")
        for other in system.needs():
            if other not in chosen or other == name:
                raise InputError(f"{name!r} builds on {other!r}, which is no other system here", remedy="add it")
    if baseline is not None and baseline not in chosen:
        raise InputError(f"the baseline {baseline!r} is none of the systems", remedy=f"use one of {', '.join(chosen)}")
    if test not in tuple(SignificanceTest):
        raise InputError(f"test {test!r}", remedy="use randomisation or t")
    given = [benchmarks] if isinstance(benchmarks, str | Benchmark | BenchmarkData | Collection) else list(benchmarks)
    data: list[BenchmarkData] = []
    for benchmark in given:
        if isinstance(benchmark, BenchmarkData):
            data.append(benchmark)
        elif isinstance(benchmark, Collection):
            data.append(from_collection(benchmark))
        elif isinstance(benchmark, Benchmark):
            data.append(load_benchmark(benchmark, **loading))
        else:
            data += [load_benchmark(name, **loading) for name in expand(benchmark)]
    if not data:
        raise InputError("there are no benchmarks", remedy="name at least one, such as miniature")
    twice = [name for name in dict.fromkeys(d.name for d in data) if sum(d.name == name for d in data) > 1]
    if twice:
        raise InputError(f"benchmarks twice: {few(twice)}", remedy="give each a name of its own")
    data = [benchmark.limited(queries) for benchmark in data]
    return chosen, data, [str(measure) for measure in parse_metrics(metrics)] if metrics else []


def check_experiment(
    systems: Mapping[str, System], data: Sequence[BenchmarkData], *, priced: bool = True
) -> dict[tuple[str, str], Cost]:
    """Everything that can go wrong, before any model is loaded: costs by system and benchmark.

    priced: False leaves the costs of models out, so that texts are tokenized only where their limits do not settle
    whether they fit.
    Raises one InputError that lists every problem found.
    """

    def check(system: System, benchmark: BenchmarkData, candidates: Sequence[Candidates]) -> Cost:
        if priced or not isinstance(system, Listwise) or type(system).check is not Listwise.check:
            return system.check(benchmark, candidates)
        system.refuse(benchmark, candidates)
        return Cost()

    problems: list[str] = []
    costs: dict[tuple[str, str], Cost] = {}
    asked: dict[tuple[str, str], tuple[BenchmarkData, set[str]]] = {}  # validation queries -> systems that answer them
    for benchmark in data:
        try:
            candidates = _candidates(benchmark, systems)
        except InputError as error:
            problems.append(str(error))
            continue
        for name, system in systems.items():
            try:
                cost = check(system, benchmark, candidates)
                for need, other in _held_out(system, benchmark, asked):
                    cost = _together(cost, check(systems[need], other, _candidates(other, systems)))
                costs[name, benchmark.name] = cost
            except InputError as error:
                problems.append(f"{name}: {error}")
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        raise InputError(f"{len(problems)} problems:\n- " + "\n- ".join(problems))
    return costs


def _held_out(
    system: System, data: BenchmarkData, asked: dict[tuple[str, str], tuple[BenchmarkData, set[str]]]
) -> list[tuple[str, BenchmarkData]]:
    """(system, validation queries) that a system which chooses will ask, of those that nobody has asked before."""
    other: BenchmarkData | None = getattr(system, "held_out", lambda _: None)(data)
    if other is None:
        return []
    known, by = asked.setdefault((other.name, other.split), (other, set()))
    if known is not other and digest(known) != digest(other):
        raise InputError(f"two sets of validation queries are called {other.name}", remedy="give each its own name")
    new = [name for name in system.needs() if name not in by]
    by.update(new)
    return [(name, other) for name in new]


def _together(first: Cost, second: Cost) -> Cost:
    """Both: calls and tokens add up, the longer prompt counts and the smaller limit."""
    limits = [limit for limit in (first.limit, second.limit) if limit is not None]
    return Cost(
        first.calls + second.calls,
        first.tokens_in + second.tokens_in,
        first.tokens_out + second.tokens_out,
        max(first.longest, second.longest),
        min(limits, default=None),
    )


def _candidates(data: BenchmarkData, systems: Mapping[str, System]) -> list[Candidates]:
    """The candidates, with texts where some system reads them. Raises InputError for what is missing."""
    run = data.need_run()
    if not data.qrels:
        raise InputError(f"{data.name} has no judgements", remedy="add qrels/test.tsv")
    if data.queries and (lost := [qid for qid in data.qrels if qid not in data.queries]):
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
