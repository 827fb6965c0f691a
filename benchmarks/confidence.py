"""Is agreement of samples worth its price, which fusion is better, and does it say where the model is wrong?

The committed reranker of the embedded world: greedy, and with `--samples` samples of each window, fused by reciprocal
ranks and by places. Differences are paired by query. Then the samples of `rrf` are calibrated (each fifth of the
queries by the others): how far probabilities are off, beside those that know the rank alone; what a cut by probability
keeps, beside the best fixed depth; the risk of answering the surest queries alone. The value is the share of the way
from knowing nothing to knowing all that agreement goes, in the area under that curve; no goal.

    python benchmarks/confidence.py                          # small: 20 queries, four minutes
    python benchmarks/confidence.py --queries 200            # the figures of docs/confidence.md

Killed and started again, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
from measure import device

from rrlib.chain.manifest import outputs_root
from rrlib.engines import Decoding, make_engine
from rrlib.evaluation.confidence import (
    Confidence,
    RiskCoverage,
    cross_fitted,
    reliability,
    risk_coverage,
    set_quality,
    values_of,
)
from rrlib.evaluation.metrics import per_query
from rrlib.evaluation.paired import paired_rows
from rrlib.evaluation.significance import bootstrap_interval, paired_test
from rrlib.evaluation.votes import Votes, votes_of
from rrlib.formats import Collection, ranking_to_run, read_collection
from rrlib.miniature.generate import build
from rrlib.rerank import Reranker
from rrlib.sampling import Fusion
from rrlib.types import Qrels

METRIC = "nDCG@10"
SEED = 7
"""That of the profile `miniature`, whose test queries these are."""


def main(argv: list[str] | None = None) -> None:
    """Rerank, and print the tables and the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:rrlib.miniature/reranker", help="checkpoint: folder or hub name")
    parser.add_argument("--queries", type=int, default=20, help="test queries, from the first on")
    parser.add_argument("--samples", type=int, default=4, help="of each window")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the samples; GRPO's rollouts have 1.0")
    parser.add_argument("--pool", type=int, default=30, help="candidates a query, as the profile has them")
    parser.add_argument("--tokens", type=int, default=160, help="new tokens of an answer")
    parser.add_argument("--output", default="", help="folder; default: confidence-<queries> below the outputs folder")
    given = parser.parse_args(argv)
    folder = Path(given.output or outputs_root() / f"confidence-{given.queries}")
    build(folder / "data", seed=SEED, train=0, validation=0, test=given.queries, pool=given.pool)
    collection = read_collection(folder / "data", "test")
    engine = make_engine("transformers", given.model, batch_size=64, max_batch_tokens=60_000)
    sampling = Decoding(given.tokens, temperature=given.temperature, seed=SEED)
    systems: dict[str, Any] = {"greedy": {"decoding": Decoding(given.tokens, seed=SEED)}}
    systems |= {fuse: {"decoding": sampling, "samples": given.samples, "fuse": fuse} for fuse in Fusion}
    values, votes = {}, []
    for name, options in systems.items():
        reranker = Reranker(engine, log=folder / f"{name}.jsonl", **options)
        result = reranker.rerank(collection.candidates())
        run = ranking_to_run(result.run(collection.name))
        values[name] = list(per_query(collection.qrels, run, METRIC)[METRIC].values())
        if name == Fusion.RRF:
            votes, settings = votes_of(result.records, reranker.settings()), reranker.settings()
    engine.close()
    print(
        f"miniature, seed {SEED}, {collection.data_kind} data, {given.queries} test queries; {given.samples} samples at"
    )
    print(f"temperature {given.temperature}; intervals: 95%, bootstrap over queries\n")
    show_systems(values)
    last = {"name": "confidence", "value": round(show_worth(votes, collection, settings), 4)}
    last |= {"unit": "share of the way from knowing nothing to knowing all", "goal": None, "holds": True}
    print(json.dumps({**last, "n": given.queries, "device": device()[1]}))


def show_systems(values: Mapping[str, Sequence[float]]) -> None:
    """The means, and the differences to one greedy answer and between the fusions."""
    for baseline, systems in (("greedy", values), (Fusion.RRF, {name: values[name] for name in Fusion})):
        for row in paired_rows({name: {"miniature": v} for name, v in systems.items()}, baseline, seed=SEED):
            line = f"{row['system']:<8} {METRIC} {row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
            if row["system"] != baseline:
                line += f"; less {baseline}: {row['difference']:+.4f} "
                line += f"[{row['difference_low']:+.4f}, {row['difference_high']:+.4f}], p {row['p']:.3f}"
            print(line)


def show_worth(votes: Sequence[Votes], collection: Collection, settings: Mapping[str, Any]) -> float:
    """What the calibrated agreement is worth, on queries that it was not fitted on; the share of the way it goes."""
    confidences = cross_fitted(votes, collection.qrels, settings, METRIC)
    show_cuts(votes, confidences, collection.qrels, settings)
    values = list(values_of(votes, collection.qrels, METRIC).values())
    agreement = [confidence.expected for confidence in confidences]
    for name, sureness in (("agreement", agreement), ("likeliest passage", likeliest(confidences))):
        curve = risk_coverage(sureness, values)
        at = [f"{share:.0%} {curve.risk[round(share * len(values)) - 1]:.4f}" for share in (0.25, 0.5, 0.75, 1.0)]
        limits = f"knowing nothing {curve.all_answered:.4f}, knowing all {curve.ideal_area:.4f}"
        low, high = way_interval(sureness, values)
        print(f"1 - {METRIC} of the surest by {name}: {', '.join(at)}; area {curve.area:.4f} ({limits}), "
              f"{way(curve):.3f} [{low:.3f}, {high:.3f}] of the way")  # fmt: skip
    return way(risk_coverage(agreement, values))


def show_cuts(
    votes: Sequence[Votes], confidences: Sequence[Confidence], qrels: Qrels, settings: Mapping[str, Any]
) -> None:
    """Probabilities and the cut by them, beside those of the rank alone and the best fixed depth, paired by query."""
    ranks = [replace(v, places={docid: float(i) for i, docid in enumerate(v.places, 1)}, agreement=1.0) for v in votes]
    rank_alone = cross_fitted(ranks, qrels, settings, METRIC)
    depths = {k: [(v.qid, list(v.places)[:k]) for v in votes] for k in range(1, 16)}
    best = max(depths, key=lambda k: set_quality(depths[k], qrels)[2].mean())
    cut = set_quality([(each.qid, each.relevant_docids()) for each in confidences], qrels)[2]
    rows = {"mean place": (confidences, votes), "rank alone": (rank_alone, ranks)}
    for name, (group, lists) in rows.items():
        table, kept = reliability(group, lists, qrels), [(each.qid, each.relevant_docids()) for each in group]
        print(f"probabilities by {name}: off by {table.error:.4f}, squared error {table.brier:.4f}; "
              f"cut at 0.5: {f1(kept, qrels, cut)}")  # fmt: skip
    print(f"the best fixed depth ({best}, chosen on these queries): {f1(depths[best], qrels, cut)}")


def way(curve: RiskCoverage) -> float:
    """The share of the way from knowing nothing to knowing all."""
    return (curve.all_answered - curve.area) / (curve.all_answered - curve.ideal_area)


def way_interval(sureness: Sequence[float], values: Sequence[float], resamples: int = 2000) -> tuple[float, float]:
    """The 95% bootstrap interval of that share, over queries."""
    rng, pairs = np.random.default_rng(SEED), np.array([sureness, values])  # (2, Q)
    drawn = (pairs[:, rng.integers(0, len(values), len(values))] for _ in range(resamples))
    shares = [way(risk_coverage(x.tolist(), y.tolist())) for x, y in drawn if len(set(y)) > 1]
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)


def likeliest(confidences: Sequence[Confidence]) -> list[float]:
    """The probability of the passage that is most likely relevant, of each query."""
    return [max(confidence.probabilities.values()) for confidence in confidences]


def f1(kept: Sequence[tuple[str, Sequence[str]]], qrels: Qrels, cut: npt.NDArray[np.float64]) -> str:
    """The mean F1 of what is kept, with its interval, how many passages that are, and p of the difference to `cut`."""
    values = set_quality(kept, qrels)[2]
    interval, p = bootstrap_interval(values, SEED), paired_test(cut, values, SEED)
    size = np.mean([len(docids) for _, docids in kept])
    shown = f"F1 {interval.mean:.4f} [{interval.low:.4f}, {interval.high:.4f}], {size:.2f} passages a query"
    return shown if np.array_equal(cut, values) else f"{shown}; p {p:.4f} against the cut by mean place"


if __name__ == "__main__":
    main()
