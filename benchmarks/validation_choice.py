"""Do the miniature's settings stand at their validation optimum? Trainings that differ in one setting, each judged by
reranking validation queries with sliding windows.

`epochs`: SFT with fewer and with more passes over the data (each schedule ends with its training). `alpha`: the
threshold of the filter, after SFT and, with --rl, after SFT and GRPO: what the filter is for. Validation queries are
more than the profile has, so that differences can be seen; test queries are not looked at. The value is the best
validation mean less the profile's; the goal is that its interval holds zero.

    python benchmarks/validation_choice.py epochs 3 5 8               # about half an hour of one core; resumes
    python benchmarks/validation_choice.py alpha 0 0.4 0.7 --rl       # about forty minutes
    python benchmarks/validation_choice.py epochs 1 2 --profile smoke --validation 24
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from measure import device

from rrlib.chain.from_profile import listwise_of
from rrlib.chain.manifest import outputs_root
from rrlib.evaluation import Experiment
from rrlib.evaluation.paired import in_words, paired_rows
from rrlib.responses import valid_share
from rrlib.studies.ablations import Table
from rrlib.studies.recipes import RECIPES
from rrlib.studies.setting import setting_of

METRIC = "nDCG@10"


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("epochs", "alpha"), help="the setting that is varied")
    parser.add_argument("values", type=float, nargs="+", help="its values; the profile's is added")
    parser.add_argument("--profile", default="miniature", help="sizes and trainings: a name in params/, or a path")
    parser.add_argument("--rl", action="store_true", help="go on with GRPO; otherwise SFT alone is judged")
    parser.add_argument("--validation", type=int, default=300, help="validation queries")
    parser.add_argument("--seed", type=int, default=7, help="of world, teacher and trainings")
    parser.add_argument("--output", default="", help="folder; default: validation-<profile> below the outputs folder")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train, rerank, print the table and the result."""
    given = arguments().parse_args(argv)
    setting = setting_of(given.profile)
    setting = setting.changed("01_synthesis", validation_queries=given.validation)
    name = given.profile.replace("/", "-").removesuffix(".yaml")
    folder = Path(given.output or outputs_root() / f"validation-{name}")
    epochs, alpha = setting.config("02_sft").epochs, setting.config("01_synthesis").alpha
    chosen = epochs if given.what == "epochs" else alpha
    lists, values_of, valid = {}, {}, {}
    for value in dict.fromkeys([chosen, *given.values]):
        recipe, varied = replace(RECIPES["full"], name=f"{given.what} {value:g}"), setting
        if given.what == "epochs":
            varied = setting.changed("02_sft", epochs=value)
        else:
            recipe = replace(recipe, alpha=value)
        table, seconds = Table(folder, varied, equal_updates=False), dict[str, float]()
        data = table.data(given.seed, "validation")
        stages = {"SFT": replace(recipe, rl=False), **({"SFT+RL": recipe} if given.rl else {})}
        trained = {stage: table.checkpoint(given.seed, part, seconds) for stage, part in stages.items()}
        lists[value] = trained["SFT"][1]
        config = setting.config("04_evaluation", style=recipe.style)
        systems = {stage: listwise_of(config, model) for stage, (model, _) in trained.items()}
        result = Experiment(systems, data, METRIC, resamples=1, reported=False, output=folder / "judged" / recipe.name)
        for stage in systems:
            rows = result.per_query[result.per_query["system"] == stage].sort_values("qid")
            values_of[stage, value] = rows["value"].to_numpy(dtype=float)
            valid[stage, value] = valid_share(result.records(stage))
            print(f"{given.what} {value:g}: {stage}: {METRIC} {values_of[stage, value].mean():.4f}", flush=True)
    head = f"{METRIC}, {len(data.qrels)} validation queries"
    print(f"\n| {given.what} | lists | judged | valid answers | {head} | less {chosen:g} | p |")
    print("|---:|---:|---|---:|---|---|---:|")
    last = {}
    for stage in dict.fromkeys(stage for stage, _ in values_of):
        values = {
            f"{v:g}": {"validation": values_of[s, v]}
            for s, v in sorted(values_of, key=lambda key: key[1])
            if s == stage
        }
        last = {row["system"]: row for row in paired_rows(values, f"{chosen:g}", seed=given.seed)}
        for label, row in last.items():
            cells = f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}] | {in_words(row)}"
            p = f"{row['p_holm']:.3f}" if "p_holm" in row else ""
            share = f"{valid[stage, float(label)]:.1%}"
            print(f"| {label} | {lists[float(label)]} | {stage} | {share} | {cells} | {p} |")
    best = max(last, key=lambda label: last[label]["mean"])
    gap, low = (last[best].get(key, 0.0) for key in ("difference", "difference_low"))
    answer = {
        "name": "validation_choice",
        "value": round(gap, 4),
        "unit": f"{METRIC}, best {given.what} less profile's",
    }
    answer |= {"goal": 0.0, "holds": low <= 0.0, "n": len(data.qrels), "device": device()[1], "best": float(best)}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
