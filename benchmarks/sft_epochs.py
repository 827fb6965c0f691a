"""Is SFT of the miniature trained to its validation optimum? The profile's SFT with fewer and with more passes over
the data, each judged by reranking the validation queries with sliding windows.

Trainings differ in the number of epochs alone (the schedule ends with each). Validation queries are more than the
profile has, so that the differences can be seen; test queries are not looked at. The value is the best validation mean
less that of the profile's epochs; the goal is that its interval holds zero.

    python benchmarks/sft_epochs.py --epochs 3 5 8          # about half an hour of one core; resumes where it stopped
    python benchmarks/sft_epochs.py --profile smoke --epochs 1 2 --validation 24
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rrlib.ablations import RECIPES, Table, setting_of
from rrlib.engines import Decoding
from rrlib.evaluation import bootstrap_interval
from rrlib.evaluation.metrics import per_query
from rrlib.formats import ranking_to_run, read_collection
from rrlib.manifest import outputs_root
from rrlib.rerank import Reranker
from rrlib.training.sft import train_sft

METRIC = "nDCG@10"


def main(argv: list[str] | None = None) -> int:
    """Train, rerank, print the table and the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="miniature", help="sizes and trainings: a name in params/, or a path")
    parser.add_argument("--epochs", type=float, nargs="+", default=[3.0, 5.0, 8.0], help="trainings to compare")
    parser.add_argument("--validation", type=int, default=300, help="validation queries")
    parser.add_argument("--seed", type=int, default=7, help="of world, teacher and training")
    parser.add_argument("--output", default="", help="folder; default: sft-epochs-<profile> below the outputs folder")
    given = parser.parse_args(argv)
    setting = setting_of(given.profile)
    setting = replace(setting, sizes={**setting.sizes, "validation": given.validation})
    name = given.profile.replace("/", "-").removesuffix(".yaml")
    table = Table(given.output or outputs_root() / f"sft-epochs-{name}", setting)
    examples = table.examples(given.seed, RECIPES["full"])
    validation = read_collection(table.collection(given.seed), "validation")
    chosen, scores, losses = setting.sft.epochs, {}, {}
    for epochs in dict.fromkeys([chosen, *given.epochs]):
        sft = replace(setting.sft, epochs=epochs, seed=given.seed)
        home = table.folder / f"seed-{given.seed}-{epochs:g}"
        trained = train_sft(examples, setting.model, home / "sft", sft)
        reranker = Reranker(
            str(trained.checkpoint), "transformers", log=home / "windows.jsonl", window=setting.window,
            stride=setting.stride, depth=setting.depth, decoding=Decoding(max_new_tokens=setting.max_new_tokens),
            **dict(setting.engine_options),
        )  # fmt: skip
        run = ranking_to_run(reranker.rerank(validation.candidates()).run(validation.name))
        reranker.engine.close()
        scores[epochs] = per_query(validation.qrels, run, [METRIC])[METRIC]
        losses[epochs] = trained.log[-1]["loss"]
        print(f"{epochs:g} epochs: {METRIC} {sum(scores[epochs].values()) / len(validation.qrels):.4f}", flush=True)
    queries = sorted(scores[chosen])
    print(f"\n| epochs | {METRIC} on {len(queries)} validation queries | less the profile's {chosen:g} | last loss |")
    print("|---:|---|---|---:|")
    gaps = {}
    for epochs in sorted(scores):
        mean = bootstrap_interval([scores[epochs][q] for q in queries], seed=given.seed)
        gaps[epochs] = bootstrap_interval([scores[epochs][q] - scores[chosen][q] for q in queries], seed=given.seed)
        gap = gaps[epochs]
        print(
            f"| {epochs:g} | {mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}] "
            f"| {gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}] | {losses[epochs]:.3f} |"
        )
    best = max(gaps, key=lambda epochs: gaps[epochs].mean)
    result = {"name": "sft_epochs", "value": round(gaps[best].mean, 4), "unit": f"{METRIC}, best less profile"}
    result |= {"goal": 0.0, "holds": gaps[best].low <= 0.0, "n": len(queries), "device": "cpu", "best": best}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
