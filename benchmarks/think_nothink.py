"""What does the chain add? No-think, mixed and think models on the same data, with intervals and over seeds.

`think` and `no-think` are trained on the same lists with and without the teacher's chain; `mixed` on the same lists, a
share of them without (told apart by the prompt), and is asked in both modes. A router answers without a chain and
thinks where that answer disagrees with the first stage (threshold from validation queries). With --budgets, a curve of
quality against the reasoning budget of the think model. The value is the difference think less no-think; no goal.

    python benchmarks/think_nothink.py                               # small: a minute of training, 24 queries
    python benchmarks/think_nothink.py --profile miniature --seeds 7 8 9 --queries 0 --budgets 0 8 16 32 48 64 96 128

Killed and started again, it goes on where it stopped. Figures: <output>/budget.png; tables: <output>/*.md.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rrlib.ablations import setting_of
from rrlib.evaluation import Routed
from rrlib.manifest import outputs_root
from rrlib.plots_evaluation import budget_curve
from rrlib.trials import NOTHINK, Trials, markdown, pooled

METRIC = "nDCG@10"


def main(arguments: list[str] | None = None) -> None:
    """Train, rerank, and print tables and the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="smoke", help="sizes and trainings: a name in params/, or a path")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7], help="a world, a teacher and trainings each")
    parser.add_argument("--queries", type=int, default=24, help="test queries of each seed (0 = all)")
    parser.add_argument("--share", type=float, default=0.5, help="no-think examples in the mixed data, between 0 and 1")
    parser.add_argument("--epochs", type=float, default=0.0, help="passes over the data (0 = the profile's)")
    parser.add_argument("--budgets", type=int, nargs="*", default=[], help="reasoning budgets of the curve, tokens")
    parser.add_argument("--output", default="", help="folder; default: think-<profile> below the outputs folder")
    given = parser.parse_args(arguments)
    setting = setting_of(given.profile)
    if given.epochs:
        setting = replace(setting, sft=replace(setting.sft, epochs=given.epochs))
    name = given.profile.replace("/", "-").removesuffix(".yaml")
    trials = Trials(given.output or outputs_root() / f"think-{name}", setting, share=given.share)
    modes, curves, chosen = {}, {}, {}
    for seed in given.seeds:
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
                "mixed: no-think", "mixed: think", k=setting.window - setting.stride, metric=METRIC
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
    (Path(trials.folder) / "modes.md").write_text(markdown(table) + "\n", encoding="utf-8")
    if curves:
        curve = pooled(curves, "no limit", METRIC)
        print("\n" + markdown(curve))
        (Path(trials.folder) / "budgets.md").write_text(markdown(curve) + "\n", encoding="utf-8")
        points = [{"budget": n, **curve.loc[f"budget {n}"].to_dict()} for n in given.budgets]
        levels = {"no limit": float(curve.loc["no limit", "mean"]), "no-think": float(table.loc["no-think", "mean"])}
        budget_curve(points, METRIC, levels).savefig(Path(trials.folder) / "budget.png")
    value = float(table.loc["think", "mean"] - table.loc["no-think", "mean"])
    result = {
        "name": "think_nothink",
        "value": round(value, 4),
        "unit": f"{METRIC}, think less no-think",
        "goal": None,
        "holds": True,
        "n": int(table["n"].iloc[0]),
        "device": "cpu, 1 thread",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
