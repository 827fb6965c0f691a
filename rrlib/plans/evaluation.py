"""An evaluation on paper, before a GPU is rented: windows exactly, tokens as bounds, memory and hours by arithmetic.

Nothing here looks at texts or weights: queries are counted in the registry or in a folder's judgements, windows by the
strategy itself, and a model is its shape (paper section 3). Hours come from a stated speed, by default the paper's own
measurement of its 7B model, for other models in proportion to their parameters: that many operations and bytes a token
take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rrlib.errors import InputError
from rrlib.evaluation.registry import BENCHMARKS, Benchmark, expand, get_benchmark
from rrlib.plans.shapes import Shape, kv_bytes, parameters, shape_of
from rrlib.prompts import LAST_THINK, PREFIX, SUFFIX, SYSTEM_THINK
from rrlib.strategies import StrategySpec, plan

PAPER_SECONDS = 1.8
"""Seconds a query of ReasonRank-7B on BRIGHT's Earth Science with 4 x A800 (paper, efficiency)."""
PAPER_GPUS = 4
PAPER_WINDOWS = 9
"""Windows of such a query: 20 of 100 candidates, stride 10."""
PAPER_MODEL = "qwen2.5-7b"
PAPER_CHAIN = (626, 928)
"""Mean length of its chains over the sets, tokens, least and most (paper, efficiency)."""
FRAME = (len(SYSTEM_THINK) + len(PREFIX) + len(SUFFIX) + len(LAST_THINK)) // 3 + 32
"""Bound on the tokens of the fixed text: a token is at least one character, four are usual, so a third is too many."""


@dataclass(frozen=True)
class PaperPlan:
    """What an evaluation will take. rows: a benchmark each (name, queries, windows, windows_query: of its longest
    list), or one query alone.

    prompt_bound: tokens of the longest prompt a window can have; tokens_in, tokens_out: bounds over all windows;
    tokens_out_expected: with the paper's mean chain lengths, least and most. weights_gb, kv_gb_sequence: memory of the
    weights, and of the cache of one window at the bound; sequences: how many windows fit at once. seconds_query:
    GPU-seconds a query; hours: of all of them on `gpus`.
    """

    model: str
    rows: tuple[dict[str, Any], ...]
    windows: int
    prompt_bound: int
    tokens_in: int
    tokens_out: int
    tokens_out_expected: tuple[int, int]
    weights_gb: float
    kv_gb_sequence: float
    sequences: int
    seconds_query: float
    hours: float
    gpus: int


def paper_plan(
    benchmarks: Sequence[str],
    *,
    model: str = PAPER_MODEL,
    window: int = 0,
    stride: int = 0,
    depth: int = 0,
    max_passage_tokens: int = 0,
    max_new_tokens: int = 3172,
    query_tokens: int = 2048,
    queries: int = 0,
    gpus: int = 1,
    gpu_gb: float = 80.0,
    memory_share: float = 0.9,
    seconds_query: float = 0.0,
) -> PaperPlan:
    """Plan an evaluation of named benchmarks or folders; where none is named, of one query with `depth` candidates.

    window, stride, depth, max_passage_tokens: 0 takes each benchmark's own. query_tokens: bound on a query (it stands
    in the prompt twice). queries: only the first so many of each (0 = all). gpu_gb: memory of one GPU, of which
    memory_share may be used. seconds_query: GPU-seconds a query; 0 is the paper's, of a 7B model on 4 x A800 and nine
    windows, times the model's parameters over those of that model, and in proportion to the windows.
    Raises InputError for an unknown model, benchmarks of unknown size, a GPU without memory, or a model that does not
    fit.
    """
    if not 0 < gpu_gb < math.inf:
        raise InputError(f"a GPU of {gpu_gb} GB", remedy="give the memory of one GPU in GB, above 0")
    shape, rows, bound, tokens_in = shape_of(model), list[dict[str, Any]](), 0, 0
    for spec, lengths in map(_spec_of, expand(list(benchmarks))) if benchmarks else [(ONE_QUERY, ())]:
        row, size = _windows(spec, lengths, window, stride, depth, queries)
        prompt = FRAME + 2 * query_tokens + size * ((max_passage_tokens or spec.max_passage_tokens) + 8)
        tokens_in, bound = tokens_in + row["windows"] * prompt, max(bound, prompt)
        rows.append(row)
    windows, total = (sum(row[key] for row in rows) for key in ("windows", "queries"))
    weights, sequence = 2 * _total(shape) / 1e9, kv_bytes(shape) * (bound + max_new_tokens) / 1e9
    window_seconds = PAPER_SECONDS * PAPER_GPUS / PAPER_WINDOWS * _total(shape) / _total(shape_of(PAPER_MODEL))
    seconds = seconds_query or window_seconds * windows / max(total, 1)
    room = gpus * gpu_gb * memory_share - weights
    if room < sequence:
        raise InputError(
            f"{model} takes {weights:.0f} GB of {gpus} x {gpu_gb:.0f} GB, and a window {sequence:.1f} GB more",
            remedy="use more GPUs, a smaller window or shorter passages",
        )
    return PaperPlan(
        model=model,
        rows=tuple(rows),
        windows=windows,
        prompt_bound=bound,
        tokens_in=tokens_in,
        tokens_out=windows * max_new_tokens,
        tokens_out_expected=(
            windows * min(PAPER_CHAIN[0], max_new_tokens),
            windows * min(PAPER_CHAIN[1], max_new_tokens),
        ),
        weights_gb=round(weights, 1),
        kv_gb_sequence=round(sequence, 2),
        sequences=int(room / sequence),
        seconds_query=float(f"{seconds:.3g}"),
        hours=round(total * seconds / gpus / 3600, 2),
        gpus=gpus,
    )


ONE_QUERY = Benchmark("one query", queries=1)
"""What is planned where no benchmark is named."""


def _total(shape: Shape) -> int:
    return parameters(shape)["total"]


def _spec_of(name: str) -> tuple[Benchmark, Sequence[int]]:
    """A benchmark by its name; of a folder, the queries that it judges, and the candidates of each."""
    if name in BENCHMARKS or not (name.startswith("folder:") or Path(name).expanduser().is_dir()):
        return get_benchmark(name), ()
    from rrlib.evaluation.benchmarks import load_benchmark

    data = load_benchmark(name)
    lengths = [] if data.run is None else [len(data.run.get(qid, ())) for qid in data.qrels]
    longest = max(lengths, default=data.spec.depth)
    spec = replace(data.spec, queries=len(data.qrels), depth=min(data.spec.depth or longest, longest))
    return spec, lengths


def _windows(
    spec: Benchmark, lengths: Sequence[int], window: int, stride: int, depth: int, queries: int
) -> tuple[dict[str, Any], int]:
    """The row of a benchmark, and its window size. lengths: candidates of each query, where they are known; empty: each
    has as many as are ranked. Raises InputError where the number of queries is unknown."""
    if not spec.queries:
        raise InputError(f"how many queries {spec.name} has is not known", remedy="load it, and use plan_experiment")
    size = window or spec.window
    strategy = StrategySpec("sliding_window", size, stride or min(spec.stride, size))
    ranked = depth or spec.depth
    count = min(spec.queries, queries) if queries else spec.queries
    longest = plan(strategy.start, ranked).calls
    each = [plan(strategy.start, min(ranked, n)).calls for n in lengths[:count]]
    windows = sum(each) if each else count * longest
    return {"benchmark": spec.name, "queries": count, "windows_query": longest, "windows": windows}, size


def render_plan(planned: PaperPlan) -> str:
    """The plan as text: a line a benchmark, then what it adds up to."""
    from rrlib.evaluation.tables import align

    lines = [["benchmark", "queries", "windows a query", "windows"]]
    lines += [[r["benchmark"], str(r["queries"]), str(r["windows_query"]), f"{r['windows']:,}"] for r in planned.rows]
    lines.append(["all", f"{sum(r['queries'] for r in planned.rows):,}", "", f"{planned.windows:,}"])
    low, high = planned.tokens_out_expected
    return "\n".join(
        [
            align(lines),
            "",
            f"longest prompt    at most {planned.prompt_bound:,} tokens",
            f"tokens read       at most {planned.tokens_in:,}",
            f"tokens written    at most {planned.tokens_out:,}; {low:,} to {high:,} with the paper's mean chains",
            f"weights           {planned.weights_gb} GB in bfloat16 ({planned.model})",
            f"cache             {planned.kv_gb_sequence} GB a window at the bound; {planned.sequences} windows at once",
            f"speed             {planned.seconds_query} GPU-seconds a query: the paper's of its 7B model on A800, in "
            "proportion to the parameters",
            f"hours             {planned.hours} on {planned.gpus} GPU(s)",
        ]
    )
