"""Is one chain for a window cheaper than one for each passage? Listwise against pointwise reasoning (Rank1's form).

Both models are trained by SFT from the same backbone on the same lists of the same teacher; both rerank the same
candidates on the same engine, in one run. The paper measures 2 to 2.7 times less time a query for the listwise model.
The goal is a ratio of 2 in seconds a query; calls, tokens and quality stand beside it, with intervals.

    python benchmarks/pointwise.py                                   # small: a minute of training, 24 queries
    python benchmarks/pointwise.py --profile miniature --seeds 7 8 9 --queries 0    # the figures of the documentation

Killed and started again, it goes on where it stopped (outputs/pointwise).
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rrlib.ablations import setting_of
from rrlib.manifest import outputs_root
from rrlib.trials import FORMS, NOTHINK, Trials, markdown, pooled

METRIC, GOAL = "nDCG@10", 2.0


def main(arguments: list[str] | None = None) -> None:
    """Train, rerank, and print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="smoke", help="sizes and trainings: a name in params/, or a path")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7], help="a world, a teacher and trainings each")
    parser.add_argument("--queries", type=int, default=24, help="test queries of each seed (0 = all)")
    parser.add_argument("--per-list", type=int, default=0, help="passages of a list the pointwise model learns from")
    parser.add_argument("--epochs", type=float, default=0.0, help="passes over the data (0 = the profile's)")
    parser.add_argument("--output", default="", help="folder; default: pointwise-<profile> below the outputs folder")
    given = parser.parse_args(arguments)
    setting = setting_of(given.profile)
    if given.epochs:
        setting = replace(setting, sft=replace(setting.sft, epochs=given.epochs))
    name = given.profile.replace("/", "-").removesuffix(".yaml")
    trials = Trials(given.output or outputs_root() / f"pointwise-{name}", setting, per_list=given.per_list)
    results = {}
    for seed in given.seeds:
        forms = {form: trials.checkpoint(form, seed) for form in FORMS if form != "mixed"}
        systems = {
            "first stage": "first-stage",
            "pointwise": trials.pointwise(forms["pointwise"]),
            "pointwise, no chain": trials.pointwise(forms["pointwise, no chain"], "pointwise_nothink"),
            "listwise": trials.listwise(forms["think"]),
            "listwise, no chain": trials.listwise(forms["no-think"], NOTHINK),
        }
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
        "device": "cpu, 1 thread",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
