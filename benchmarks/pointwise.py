"""Is one chain for a window cheaper than one for each passage? Listwise against pointwise reasoning (Rank1's form).

Both models are trained by SFT from the same backbone on the same lists of the same teacher; both rerank the same
candidates on the same engine, in one run. The paper measures 2 to 2.7 times less time a query for the listwise model.
The goal is a ratio of 2 in seconds a query; calls, tokens and quality stand beside it, with intervals.

    python benchmarks/pointwise.py                                   # small: a minute of training, 24 queries
    python benchmarks/pointwise.py --profile miniature --seeds 7 8 9 --queries 0    # the figures of the documentation

Killed and started again, it goes on where it stopped. With `--output` the folder of an ablation table (`05_ablations/
rows` of a run, or one such folder for each seed), it takes the table's listwise checkpoints and trains only the rest.
"""

from __future__ import annotations

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from measure import device
from trials import NOTHINK, arguments, markdown, opened, pooled

METRIC, GOAL = "nDCG@10", 2.0


def main(argv: list[str] | None = None) -> None:
    """Train, rerank, and print a table and the result."""
    parser = arguments(__doc__, "pointwise")
    parser.add_argument("--per-list", type=int, default=0, help="passages of a list the pointwise model learns from")
    parser.add_argument("--chains", action="store_true", help="only the two models that reason: half of the training")
    given = parser.parse_args(argv)
    seeds, _ = opened(given, "pointwise", per_list=given.per_list)
    results = {}
    for seed, trials in seeds.items():
        systems = {
            "first stage": "first-stage",
            "pointwise": trials.pointwise(trials.checkpoint("pointwise", seed)),
            "listwise": trials.listwise(trials.checkpoint("think", seed)),
        }
        if not given.chains:
            plain = trials.checkpoint("pointwise, no chain", seed)
            systems["pointwise, no chain"] = trials.pointwise(plain, "pointwise_nothink")
            systems["listwise, no chain"] = trials.listwise(trials.checkpoint("no-think", seed), NOTHINK)
        data = trials.data(seed, given.queries)
        results[seed] = trials.experiment(f"pointwise-{given.queries}", seed, systems, data, METRIC, "pointwise")
    table = pooled(results, "pointwise", METRIC)
    print(markdown(table))
    keys = ("calls", "requests", "tokens_in", "tokens_out", "seconds")
    ratios = {key: table.loc["pointwise", key] / table.loc["listwise", key] for key in keys}
    print("pointwise over listwise, a query:", {key: round(float(value), 2) for key, value in ratios.items()})
    print("the paper: 2 to 2.7 times in seconds (Earth Science: 4.8 s against 1.8 s, 4 x A800)")
    result = {
        "name": "pointwise",
        "value": round(float(ratios["seconds"]), 2),
        "unit": "times the seconds a query of the listwise model",
        "goal": GOAL,
        "holds": bool(ratios["seconds"] >= GOAL),
        "n": int(table["n"].iloc[0]),
        "device": device()[1],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
