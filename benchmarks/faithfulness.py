"""Does the list of the reranker follow from its reasoning?

The committed reranker of the embedded world, greedy. First what its reasoning says is held against its lists, then each
window is asked again behind its own reasoning (the control), none, its own words shuffled, and that of another query.
Means are over queries, intervals 95%, bootstrap. The value is Kendall's tau of the lists behind another query's
reasoning with the original ones: 1 would say that the reasoning changes nothing. No goal.

    python benchmarks/faithfulness.py                        # small: 4 queries, 20 windows, a minute
    python benchmarks/faithfulness.py --queries 40           # 200 windows: docs/faithfulness.md (--rows keeps them)
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from measure import device

from rrlib.chain.manifest import outputs_root
from rrlib.disk import write_json
from rrlib.engines import Decoding, make_engine
from rrlib.evaluation.faithfulness import compare, faithfulness
from rrlib.evaluation.interventions import Chain, intervene, table
from rrlib.formats import read_collection
from rrlib.miniature.generate import build
from rrlib.rerank import Reranker
from rrlib.types import Interval

SEED = 7
"""That of the profile `miniature`, whose test queries these are."""


def rounded(interval: Interval | None) -> list[float] | None:
    """Mean, low and high."""
    return None if interval is None else [round(value, 4) for value in (interval.mean, interval.low, interval.high)]


def main(argv: list[str] | None = None) -> None:
    """Rerank, ask again, and print the tables and the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:rrlib.miniature/reranker", help="checkpoint: folder or hub name")
    parser.add_argument("--queries", type=int, default=4, help="test queries, from the first on")
    parser.add_argument("--pool", type=int, default=30, help="candidates a query, as the profile has them")
    parser.add_argument("--tokens", type=int, default=160, help="new tokens of an answer")
    parser.add_argument("--output", default="", help="folder; default: faithfulness-<queries> below the outputs folder")
    parser.add_argument("--rows", default="", help="a JSON file for the tables (docs/results/faithfulness.json)")
    given = parser.parse_args(argv)
    folder = Path(given.output or outputs_root() / f"faithfulness-{given.queries}")
    build(folder / "data", seed=SEED, train=0, validation=0, test=given.queries, pool=given.pool)
    collection = read_collection(folder / "data", "test")
    engine = make_engine("transformers", given.model, batch_size=64, max_batch_tokens=60_000)
    reranker = Reranker(engine, decoding=Decoding(given.tokens, seed=SEED), log=folder / "greedy.jsonl")
    candidates = collection.candidates()
    # In the order of their keys: whose reasoning a window gets depends on it, and they come as they finish.
    records = sorted(reranker.rerank(candidates).records, key=lambda record: repr(record.key))
    rows = intervene(reranker, candidates, records, seed=SEED)
    engine.close()
    summed = faithfulness((compare(r.qid, r.reasoning, None if r.unread else r.order) for r in records), SEED)
    print(f"miniature, seed {SEED}, {collection.data_kind} data, {given.queries} test queries, {len(records)} windows")
    print(f"the reasoning says: {', '.join(f'{said} {count}' for said, count in summed.counts.items())}")
    print(f"lists agree with it by {summed.agreement}; contradict it nowhere: {summed.follows}\n")
    frame = table(rows, SEED)
    print(frame.round(4).to_string(index=False))
    if given.rows:
        said = {"counts": {str(name): count for name, count in summed.counts.items()}}
        said |= {"agreement": rounded(summed.agreement), "follows": rounded(summed.follows)}
        rows = [
            {name: None if value != value else value for name, value in row.items()}
            for row in frame.round(4).to_dict("records")
        ]
        setting = {"model": given.model, "seed": SEED, "queries": given.queries, "data_kind": collection.data_kind}
        write_json(Path(given.rows), {**setting, **said, "rows": rows}, default=str)
    other = frame.set_index("chain").loc[str(Chain.OTHER)]
    last = {"name": "faithfulness", "value": round(float(other["tau"]), 4)}
    last |= {"unit": "Kendall's tau with the original lists, behind another query's reasoning", "goal": None}
    print(json.dumps({**last, "holds": True, "n": int(other["windows"]), "device": device()[1]}))


if __name__ == "__main__":
    main()
