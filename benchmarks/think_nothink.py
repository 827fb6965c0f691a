"""What does the chain add? No-think, mixed and think models on the same data, with intervals and over seeds.

`think` and `no-think` are trained on the same lists with and without the teacher's chain; `mixed` on the same lists, a
share of them without (told apart by the prompt), and is asked in both modes. A router answers without a chain and
thinks where that answer disagrees with the first stage (threshold from validation queries). With --budgets, a curve of
quality against the reasoning budget of the think model. The value is the difference think less no-think; no goal.

    python benchmarks/think_nothink.py                               # small: a minute of training, 24 queries
    python benchmarks/think_nothink.py --profile miniature --seeds 7 8 9 --queries 0 --budgets 0 8 16 32 48 64 96 128

Killed and started again, it goes on where it stopped. With `--output` the folder of an ablation table (`05_ablations/
rows` of a run, or one such folder for each seed, in their order), the think and no-think checkpoints are the table's.
Figure: <output>/budget.png; tables: <output>/*.md (with several folders: in the default one).
"""

from __future__ import annotations

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from measure import device
from trials import NOTHINK, arguments, markdown, opened, pooled

from rrlib.evaluation import Routed
from rrlib.lesson.plots.evaluation import budget_curve

METRIC = "nDCG@10"


def main(argv: list[str] | None = None) -> None:
    """Train, rerank, and print tables and the result."""
    parser = arguments(__doc__, "think")
    parser.add_argument("--share", type=float, default=0.5, help="no-think examples in the mixed data, between 0 and 1")
    parser.add_argument("--budgets", type=int, nargs="*", default=[], help="reasoning budgets of the curve, tokens")
    given = parser.parse_args(argv)
    seeds, home = opened(given, "think", share=given.share)
    modes, curves, chosen = {}, {}, {}
    for seed, trials in seeds.items():
        data = trials.data(seed, given.queries)
        mixed = trials.checkpoint("mixed", seed)
        think = trials.listwise(trials.checkpoint("think", seed))
        systems = {
            "first stage": "first-stage",
            "no-think": trials.listwise(trials.checkpoint("no-think", seed), NOTHINK),
            "mixed: no-think": trials.listwise(mixed, NOTHINK),
            "mixed: think": trials.listwise(mixed),
            "think": think,
            "mixed: router": Routed(
                "mixed: no-think", "mixed: think", k=data.spec.window - data.spec.stride, metric=METRIC
            ),
        }
        modes[seed] = trials.experiment(f"modes-{given.queries}", seed, systems, data, METRIC, "no-think")
        chosen[seed] = modes[seed].outcomes["mixed: router", data.name].info
        if given.budgets:
            capped = {f"budget {n}": trials.listwise(think.model, budget=n) for n in given.budgets}
            every = {"no limit": think, **capped}
            curves[seed] = trials.experiment(f"budgets-{given.queries}", seed, every, data, METRIC, "no limit")
    table = pooled(modes, "no-think", METRIC)
    print(markdown(table))
    print("router, by seed:", json.dumps(chosen))
    (home / "modes.md").write_text(markdown(table) + "\n", encoding="utf-8")
    if curves:
        curve = pooled(curves, "no limit", METRIC)
        print("\n" + markdown(curve))
        (home / "budgets.md").write_text(markdown(curve) + "\n", encoding="utf-8")
        points = [{"budget": n, **curve.loc[f"budget {n}"].to_dict()} for n in given.budgets]
        levels = {"no limit": float(curve.loc["no limit", "mean"]), "no-think": float(table.loc["no-think", "mean"])}
        budget_curve(points, METRIC, levels).savefig(home / "budget.png")
    value = float(table.loc["think", "mean"] - table.loc["no-think", "mean"])
    result = {
        "name": "think_nothink",
        "value": round(value, 4),
        "unit": f"{METRIC}, think less no-think",
        "goal": None,
        "holds": True,
        "n": int(table["n"].iloc[0]),
        "device": device()[1],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
