"""What does each strategy make of a ranker that errs, and for how many calls? Simulated; with --queries, measured too.

Simulated: a query has 100 candidates of quality q ~ N(0, 1); the ten best are relevant (labels 3, 2 and 1 for the best
three, the next three, the next four). The first stage orders them by q + N(0, --first-stage). The ranker reads a
passage as q + N(0, --noise): `anew` in each window; or `half lasting`, where half of the variance is the passage's own
and the same in all windows, so that asking again helps less. In the last row the noise also grows by the root of the
window's length over 20. All of it is assumed: this says how strategies spread errors, not how a model ranks.

Measured: the committed reranker of the embedded world on its first test queries, in the windows it was trained with.

    python benchmarks/strategies.py                                  # simulated: seconds
    python benchmarks/strategies.py --queries 40                     # and measured: minutes

Intervals are 95% bootstrap over queries; differences are paired by query, against the sliding window. The value is
nDCG@10 of top_down less the sliding window's, simulated, read anew; no goal.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from rrlib.evaluation.significance import bootstrap_interval
from rrlib.evaluation.tables import align
from rrlib.metrics import ndcg
from rrlib.plans.strategies import compared
from rrlib.strategies import Answer, StrategySpec, Window, counted, plan
from rrlib.types import Interval

N, LABELS = 100, (3, 3, 3, 2, 2, 2, 1, 1, 1, 1)
METRIC = "nDCG@10"
KINDS = ("anew", "half lasting")


def noisy(quality: np.ndarray, noise: float, kind: str, dice: np.random.Generator) -> Callable[[Window], Answer]:
    """A ranker that reads each passage of a window as its quality (N,) plus noise of one of KINDS. noise: its deviation
    for windows of 20."""
    lasting = math.sqrt(0.5) * noise if kind == "half lasting" else 0.0
    seen = quality + dice.normal(0.0, 1.0, N) * lasting

    def ask(window: Window) -> Answer:
        length = len(window.items)
        spread = math.sqrt(noise**2 - lasting**2)
        read = seen[list(window.items)] + dice.normal(0.0, spread, length)
        return float(read[0]) if window.score else [int(i) for i in np.argsort(-read)]

    return ask


def simulate(spec: StrategySpec, given: argparse.Namespace, kind: str, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """nDCG@10 of each query, (Q,), and its calls, rounds and passages shown, (Q, 3). All strategies see the same
    queries."""
    values, costs = [], []
    for query in range(given.simulated):
        dice = np.random.default_rng([given.seed, query])
        true = dice.normal(0.0, 1.0, N)
        quality = true[np.argsort(-(true + dice.normal(0.0, given.first_stage, N)))]  # in first-stage order
        labels = np.zeros(N, dtype=np.int64)
        labels[np.argsort(-quality)[: len(LABELS)]] = LABELS
        order, cost = counted(spec.start(N), noisy(quality, noise, kind, dice))
        values.append(float(ndcg(order, labels)))
        costs.append((cost.calls, cost.depth, cost.shown))
    return np.array(values), np.array(costs)


def told(interval: Interval) -> str:
    """A mean with its interval."""
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def simulated(given: argparse.Namespace) -> float:
    """Print the table of the simulation; returns the difference that is the value."""
    specs, differences = compared(), {}
    lines = [["strategy", "calls", "rounds", "shown", *(cell for kind in KINDS for cell in (kind, "less the window"))]]
    base = {kind: simulate(next(iter(specs.values())), given, kind, given.noise)[0] for kind in KINDS}
    rows = {name: (spec, given.noise) for name, spec in specs.items()}
    rows["full_list, noise grows"] = (specs["full_list"], given.noise * math.sqrt(N / 20))
    for name, (spec, noise) in rows.items():
        results = {kind: simulate(spec, given, kind, noise) for kind in KINDS}
        costs = [f"{value:.4g}" for value in results[KINDS[0]][1].mean(axis=0)]
        cells = []
        for kind, (values, _) in results.items():
            difference = bootstrap_interval(values - base[kind], given.seed)
            cells += [told(bootstrap_interval(values, given.seed)), told(difference)]
            differences[name, kind] = difference.mean
        lines.append([name, *costs, *cells])
    print(
        f"data kind: simulated; {given.simulated} queries of {N} candidates, seed {given.seed}, noise of the ranker "
        f"{given.noise}, of the first stage {given.first_stage}; {METRIC}, with each kind of noise"
    )
    print(align(lines))
    return differences["top_down 20", KINDS[0]]


def measured(given: argparse.Namespace) -> None:
    """Print the table of the packaged reranker in its own windows. Rounds are counted, not measured: those of answers
    that change nothing; setwise takes more where they do, and so may top_down."""
    from measure import device

    from rrlib.chain.manifest import outputs_root
    from rrlib.disk import write_json
    from rrlib.engines import Decoding
    from rrlib.evaluation import Experiment, Listwise, load_benchmark

    data = load_benchmark(given.benchmark, root=given.root or outputs_root() / "data").limited(given.queries)
    size, stride = data.spec.window, data.spec.stride

    def listwise(strategy: str, window: int = size, stride: int = stride, passes: int = 1, times: int = 1) -> Listwise:
        options = {"batch_size": 64, "max_batch_tokens": 60_000}
        decoding = Decoding(given.tokens * times)
        return Listwise(
            given.model, strategy=strategy, window=window, stride=stride, passes=passes, decoding=decoding,
            engine_options=options,
        )  # fmt: skip

    base = f"sliding_window {size}-{stride}"  # a name here is a file's name too
    systems = {
        "first stage": "first-stage",
        base: listwise("sliding_window"),
        f"{base}, 2 passes": listwise("sliding_window", passes=2),
        f"sliding_window {size // 2}-{stride // 2}": listwise("sliding_window", size // 2, stride // 2),
        f"top_down {size}": listwise("top_down"),
        f"tournament {size}": listwise("tournament"),
        f"tournament {size}, 3 passes": listwise("tournament", passes=3),
        f"setwise {size}": listwise("setwise"),
        "full_list": listwise("full_list", times=3),  # a list three times as long
    }
    output = given.output or outputs_root() / f"strategies-{given.queries}"
    result = Experiment(systems, data, METRIC, baseline=base, seed=given.seed, output=output, echo=print)
    print(f"measured: {given.model} on {data.name}, first {given.queries} test queries, {device()[1]}")
    frame, lengths = result.summary(), [len(item.passages) for item in data.candidates()]
    rounds = {name: f"{depth_of(system, lengths):.4g}" for name, system in systems.items() if system != "first-stage"}
    frame.insert(list(frame.columns).index("calls") + 1, "rounds", [rounds.get(name, "") for name in frame["system"]])
    if given.rows:
        of = {"queries": given.queries, "seed": given.seed, "model": given.model, "benchmark": data.name}
        write_json(Path(given.rows), {**of, "rows": frame.drop(columns=["gap closed", "s/query"]).to_dict("records")})
    lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    print("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))


def depth_of(system: Any, lengths: Sequence[int]) -> float:
    """Rounds of a query, on average over lists so long, for answers that change nothing."""
    spec = StrategySpec(system.strategy, system.window, system.stride, system.passes)
    return float(np.mean([plan(spec.start, length).depth for length in lengths]))


def main(argv: list[str] | None = None) -> None:
    """Simulate, measure where that is asked for, and print tables and the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulated", type=int, default=300, help="simulated queries")
    parser.add_argument("--noise", type=float, default=0.5, help="of the ranker, in standard deviations of the quality")
    parser.add_argument("--first-stage", type=float, default=1.5, help="noise of the first stage, likewise")
    parser.add_argument("--queries", type=int, default=0, help="measured: test queries, from the first on (0: none)")
    parser.add_argument("--model", default="package:rrlib.miniature/reranker", help="measured: checkpoint")
    parser.add_argument("--benchmark", default="miniature", help="measured: name or folder of a benchmark")
    parser.add_argument("--root", default="", help="measured: folder of benchmarks")
    parser.add_argument("--tokens", type=int, default=160, help="measured: new tokens of an answer")
    parser.add_argument("--output", default="", help="measured: folder, from which a killed run goes on")
    parser.add_argument("--rows", default="", help="measured: a JSON file for the table (docs/results/strategies.json)")
    parser.add_argument("--seed", type=int, default=7, help="of the simulation and the bootstrap")
    given = parser.parse_args(argv)
    value = simulated(given)
    if given.queries:
        measured(given)
    result = {
        "name": "strategies",
        "value": round(float(value), 4),
        "unit": f"{METRIC}, top_down less sliding_window, simulated",
        "goal": None,
        "holds": True,
        "n": given.simulated,
        "device": "none (simulated)",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
