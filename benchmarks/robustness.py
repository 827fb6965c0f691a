"""Does the order of the input matter, and what does a context cost that is too small for the window?

The committed reranker of the embedded world, greedy, on the same candidates: as the first stage orders them, shuffled,
and in a context that holds only `--share` of the room that the longest window needs: once with fewer passages a window
(so more windows), once with passages cut shorter. Differences are paired by query. The value is the difference that
shuffling makes; no goal.

    python benchmarks/robustness.py                                  # small: 12 queries, a minute
    python benchmarks/robustness.py --queries 200                    # the figures of docs/experiments.md

Killed and started again, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

from measure import device

from rrlib.chain.manifest import outputs_root
from rrlib.engines import Decoding
from rrlib.evaluation import Experiment, Listwise, load_benchmark, plan_experiment

METRIC = "nDCG@10"


def main(argv: list[str] | None = None) -> None:
    """Rerank, and print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:rrlib.miniature/reranker", help="checkpoint: folder or hub name")
    parser.add_argument("--benchmark", default="miniature", help="name or folder of a benchmark")
    parser.add_argument("--root", default="", help="folder of benchmarks; default: data below the outputs folder")
    parser.add_argument("--queries", type=int, default=12, help="test queries, from the first on (0 = all)")
    parser.add_argument("--share", type=float, default=0.8, help="of the longest window's room that the context has")
    parser.add_argument("--tokens", type=int, default=160, help="new tokens of an answer")
    parser.add_argument("--seed", type=int, default=7, help="of the shuffles, the bootstrap and the test")
    parser.add_argument("--output", default="", help="folder; default: robustness-<queries> below the outputs folder")
    given = parser.parse_args(argv)
    data = load_benchmark(given.benchmark, root=given.root or outputs_root() / "data").limited(given.queries)
    options = {"batch_size": 64, "max_batch_tokens": 60_000}
    plain = Listwise(given.model, decoding=Decoding(given.tokens), engine_options=options)
    longest = int(plan_experiment({"plain": plain}, data)["longest_prompt"].max())
    context = int(given.share * longest) + given.tokens
    systems = {
        "first stage": "first-stage",
        "as retrieved": plain,
        "shuffled": replace(plain, shuffle=given.seed),
        "smaller windows": replace(plain, context=context, fit="window"),
        "shorter passages": replace(plain, context=context, fit="passages"),
    }
    output = given.output or outputs_root() / f"robustness-{given.queries}"
    result = Experiment(systems, data, METRIC, baseline="as retrieved", seed=given.seed, output=output, echo=print)
    print(f"longest prompt {longest} tokens; context {context}, of which {given.tokens} for the answer")
    print({name: result.outcomes[name, data.name].info for name in systems if name != "first stage"})
    print(result.to_markdown())
    row = next(row for row in result.rows(METRIC) if row["system"] == "shuffled")
    last = {
        "name": "robustness",
        "value": round(float(row["difference"]), 4),
        "unit": f"{METRIC}, shuffled less as retrieved",
        "goal": None,
        "holds": True,
        "n": int(row["n"]),
        "device": device()[1],
    }
    print(json.dumps(last))


if __name__ == "__main__":
    main()
