"""What the self-consistency filter drops of a trained judge's lists, under labels of people (section 4.1, step 4).

    python -m rrlib.studies.filtered --collection argkp --first-stage stem --limit 300 \\
        --checkpoint outputs/pointwise-lora/checkpoint --output outputs/filtered-argkp

One round of the paper's synthesis: windows of positives, hard and random negatives of the train split's candidates,
labels of people, lists of the judge (rrlib.synthesis.judge), without a chain. Beside the judge's order of a window
stand the first stage's and random ones, under the same labels. Killed and run again, it goes on; what is stored is
reported without a model by `--stored`. The report is printed as Markdown and kept as `report.json` in the folder.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rrlib.disk import read_json, write_json
from rrlib.engines import Decoding
from rrlib.engines.options import read_value
from rrlib.errors import InputError
from rrlib.evaluation.significance import bootstrap_interval, paired_test
from rrlib.formats import Collection, read_collection, read_jsonl
from rrlib.studies.command import exit_code
from rrlib.studies.real import DEPTH, collections_folder
from rrlib.studies.real_rows import COLLECTIONS, FirstStageName
from rrlib.synthesis.filter import ALPHA, keeps, self_consistency
from rrlib.synthesis.judge import JudgeTeacher
from rrlib.synthesis.pipeline import synthesize
from rrlib.synthesis.rank import read_ranking
from rrlib.synthesis.teacher.progress import ProgressBar

ALPHAS = (0.2, 0.4, 0.6)
STYLE = "nothink"
"""Of the examples: a judge gives no chain."""
FIRST_STAGE = "first-stage.json"
"""In the folder: the first stage that its windows are of."""
SHUFFLES = 20
"""Random orders of a window; what they are worth is their mean."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One list of the teacher. judge, retrieved: NDCG@k of its order and of the first stage's, same window, same
    labels. shuffled: of SHUFFLES random orders. first_right: whether the list begins with a relevant passage.
    undecided: whether a pair that the crowd left undecided stands above the first relevant passage. topic: empty where
    the collection does not say."""

    qid: str
    topic: str
    judge: float
    retrieved: float
    shuffled: tuple[float, ...]
    first_right: bool
    undecided: bool


def keep_first_stage(output: Path, first_stage: str, *, stored: bool) -> None:
    """Note the first stage in a folder that has no windows yet. Raises InputError where its windows are of another;
    folders from before it was noted are taken as they are. stored: nothing is made, so nothing is noted."""
    kept, begun = read_json(output / FIRST_STAGE), (output / "store.json").exists()
    if begun and kept not in (None, first_stage):
        remedy = f"use --first-stage {kept}, or another folder"
        raise InputError(f"its windows are of the first stage {kept}, not {first_stage}", path=output, remedy=remedy)
    if not begun and not stored:
        write_json(output / FIRST_STAGE, first_stage)


def make(args: argparse.Namespace, collection: Collection, folder: Path) -> None:
    """Ask the teacher for what is not stored in the folder `args.output` yet, and filter by the paper's alpha."""
    options = {name: read_value(text) for name, _, text in (change.partition("=") for change in args.engine_option)}
    teacher = JudgeTeacher(folder, checkpoint=args.checkpoint, seed=args.seed, engine=args.engine, **options)
    synthesize(
        collection,
        teacher,
        args.output,
        window=args.window,
        depth=args.depth,
        seed=args.seed,
        limit=args.limit or None,
        alpha=ALPHA,
        decoding=Decoding(max_new_tokens=1),
        style=STYLE,
        progress=ProgressBar(),
    )


def read_lists(output: Path, collection: Collection, seed: int, k: int = 10) -> list[Listed]:
    """The stored lists that can be read, in the order of fates.jsonl. k: cut-off of NDCG. seed: of the random orders.

    Raises InputError where the folder holds no finished synthesis.
    """
    if not (output / "fates.jsonl").exists():
        raise InputError("no finished synthesis here", path=output, remedy="run without --stored")
    stored = {row["qid"]: row for _, row in read_jsonl(output / "rank.jsonl")}
    asked = [row["qid"] for _, row in read_jsonl(output / "fates.jsonl") if "consistency" in row]
    groups = _groups(collection)
    return [_listed(stored[qid], collection, groups.get(_group(collection, qid), set()), seed, k) for qid in asked]


def _listed(row: Mapping[str, Any], collection: Collection, group: set[str], seed: int, k: int) -> Listed:
    qid, docids, relevance = row["qid"], row["docids"], row["relevance"]
    order = read_ranking(row["text"], len(docids), style=STYLE).gold
    places = {hit.docid: hit.rank for hit in (collection.run or {})[qid]}
    retrieved = sorted(range(len(docids)), key=lambda i: places.get(docids[i], len(places) + 1))
    rng, shuffled = random.Random(f"{seed}/{qid}/shuffled"), []
    for _ in range(SHUFFLES):
        shuffled.append(self_consistency(rng.sample(range(len(docids)), len(docids)), relevance, k))
    first = next(place for place, i in enumerate(order) if relevance[i])
    unjudged = group - set(collection.qrels[qid])
    return Listed(
        qid,
        _group(collection, qid)[0],
        self_consistency(order, relevance, k),
        self_consistency(retrieved, relevance, k),
        tuple(shuffled),
        first == 0,
        any(docids[i] in unjudged for i in order[:first]),
    )


def _group(collection: Collection, qid: str) -> tuple[str, str]:
    metadata = collection.metadata[qid]
    return str(metadata.get("topic") or ""), str(metadata.get("stance") or "")


def _groups(collection: Collection) -> dict[tuple[str, str], set[str]]:
    """(topic, stance) -> the passages that were judged for any of its queries: what was asked about each of them."""
    groups: dict[tuple[str, str], set[str]] = {}
    for qid in collection.queries:
        groups.setdefault(_group(collection, qid), set()).update(collection.qrels.get(qid, {}))
    groups.pop(("", ""), None)  # a collection that does not say
    return groups


# --- the report ------------------------------------------------------------------------------------------------------


def at_alpha(lists: Sequence[Listed], alpha: float, seed: int) -> dict[str, Any]:
    """What one alpha does to the lists (one or more).

    kept, dropped: lists. share: kept, with its 95% interval (bootstrap over queries). precision: share of the kept that
    begin with a relevant passage; recall: share of such lists that are kept. ndcg kept, dropped: means of the judge's
    lists; retrieved kept, dropped: of the first stage's order in the same windows. better: share of the dropped lists
    that the first stage orders worse, and worse: better. undecided kept, dropped: share with an undecided pair above
    the first relevant passage. by retrieval, by chance: share kept of the first stage's orders and of random ones. A
    mean over no list is None.
    """
    kept = [row for row in lists if keeps(row.judge, alpha)]
    dropped = [row for row in lists if not keeps(row.judge, alpha)]
    interval = bootstrap_interval([float(keeps(row.judge, alpha)) for row in lists], seed)
    right = sum(row.first_right for row in lists)
    return {
        "alpha": alpha,
        "kept": len(kept),
        "dropped": len(dropped),
        "share": [interval.mean, interval.low, interval.high],
        "precision": _mean([row.first_right for row in kept]),
        "recall": sum(row.first_right for row in kept) / right if right else None,
        "ndcg kept": _mean([row.judge for row in kept]),
        "ndcg dropped": _mean([row.judge for row in dropped]),
        "retrieved kept": _mean([row.retrieved for row in kept]),
        "retrieved dropped": _mean([row.retrieved for row in dropped]),
        "better": _mean([row.judge > row.retrieved for row in dropped]),
        "worse": _mean([row.judge < row.retrieved for row in dropped]),
        "undecided kept": _mean([row.undecided for row in kept]),
        "undecided dropped": _mean([row.undecided for row in dropped]),
        "by retrieval": _mean([keeps(row.retrieved, alpha) for row in lists]),
        "by chance": _mean([keeps(value, alpha) for row in lists for value in row.shuffled]),
    }


def report(lists: Sequence[Listed], alphas: Sequence[float], seed: int) -> dict[str, Any]:
    """Figures of all lists, of those kept and dropped by the paper's alpha (also by topic), and of each alpha. Raises
    InputError for no list."""
    if not lists:
        raise InputError("no list can be read", remedy="see fates.jsonl in the folder")
    judge, retrieved = [row.judge for row in lists], [row.retrieved for row in lists]
    gain = bootstrap_interval(np.subtract(judge, retrieved), seed)
    return {
        "lists": len(lists),
        "judge": _mean(judge),
        "retrieved": _mean(retrieved),
        "shuffled": _mean([value for row in lists for value in row.shuffled]),
        "gain": [gain.mean, gain.low, gain.high],
        "p": paired_test(judge, retrieved, seed),
        "first right": _mean([row.first_right for row in lists]),
        "distribution": {
            name: _spread([row.judge for row in lists if keeps(row.judge, ALPHA) == stays])
            for name, stays in (("kept", True), ("dropped", False))
        },
        "topics": _topics(lists),
        "alphas": [at_alpha(lists, alpha, seed) for alpha in alphas],
    }


def _topics(lists: Sequence[Listed]) -> list[list[int]]:
    """[lists kept by the paper's alpha, lists] of each topic, the lowest share first."""
    counts: dict[str, list[int]] = {}
    for row in lists:
        count = counts.setdefault(row.topic, [0, 0])
        count[0], count[1] = count[0] + keeps(row.judge, ALPHA), count[1] + 1
    return sorted(counts.values(), key=lambda count: (count[0] / count[1], count[1]))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Count, mean, quartiles and both ends; the shares of values that are 0 and 1."""
    if not values:
        return {"n": 0}
    low, first, median, third, high = (float(value) for value in np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))
    spread = {"n": len(values), "mean": float(np.mean(values)), "min": low, "25%": first, "median": median}
    ends = {"zero": float(np.mean(np.equal(values, 0))), "one": float(np.mean(np.isclose(values, 1)))}
    return spread | {"75%": third, "max": high} | ends


def as_markdown(found: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """The report as text. summary: of the synthesis (summary.json)."""
    low, high = found["gain"][1:]
    lost = ", ".join(f"{n} {why}" for why, n in summary["dropped"].items()) or "none"
    lines = [
        f"{summary['queries']} queries of {summary['collection']} ({summary['data_kind']}), seed {summary['seed']}, "
        f"teacher {summary['model']}: {summary['examples']} examples at alpha {summary['alpha']:g}; lost: {lost}.",
        "",
        f"NDCG@{summary['k']} of {found['lists']} lists: judge {found['judge']:.3f}, first stage "
        f"{found['retrieved']:.3f}, random {found['shuffled']:.3f}; judge - first stage {found['gain'][0]:+.3f} "
        f"[{low:+.3f}, {high:+.3f}], p {found['p']:.4f}; {found['first right']:.1%} begin with a relevant passage.",
        "",
        f"Kept by alpha {ALPHA:g}, topic by topic: " + ", ".join(f"{kept} of {n}" for kept, n in found["topics"]) + ".",
        "",
        *_table({name: {"": name, **spread} for name, spread in found["distribution"].items()}.values()),
        "",
        *_table(found["alphas"]),
    ]
    return "\n".join(lines)


def _table(rows: Any) -> list[str]:
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in (names, ["---"] * len(names), *cells)]


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def parser() -> argparse.ArgumentParser:
    """The options."""
    out = argparse.ArgumentParser(prog="python -m rrlib.studies.filtered", description="What the filter drops.")
    out.add_argument("--collection", default="argkp", choices=[*COLLECTIONS])
    out.add_argument("--first-stage", default="stem", choices=[*FirstStageName])
    out.add_argument("--checkpoint", required=True, help="a judge of single passages, not trained on this collection")
    out.add_argument("--engine", default="transformers")
    out.add_argument("--engine-option", action="append", default=[], metavar="NAME=VALUE")
    out.add_argument("--window", type=int, default=20, help="passages in a list")
    out.add_argument("--depth", type=int, default=DEPTH, help="candidates of a query that a window is made of")
    out.add_argument("--limit", type=int, default=300, help="queries, in the order of the seed (0: all)")
    out.add_argument("--alpha", type=float, action="append", help=f"to compare; repeatable (default: {ALPHAS})")
    out.add_argument("--seed", type=int, default=7)
    out.add_argument("--stored", action="store_true", help="report what is stored, ask nothing")
    out.add_argument("--data", help="folder of the collections ($RRLIB_REALDATA/collections)")
    out.add_argument("--output", required=True, type=Path, help="folder of stores and results")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, filter, report; the exit code: 0, 1 (it failed), 2 (bad input)."""
    args = parser().parse_args(argv)

    def work() -> None:
        folder = collections_folder(args.data) / args.collection
        collection = read_collection(folder, "train", first_stage=args.first_stage)
        keep_first_stage(args.output, args.first_stage, stored=args.stored)
        if not args.stored:
            make(args, collection, folder)
        found = report(read_lists(args.output, collection, args.seed), args.alpha or ALPHAS, args.seed)
        write_json(args.output / "report.json", found)
        summary = json.loads((args.output / "summary.json").read_text(encoding="utf-8"))
        print(as_markdown(found, summary))

    return exit_code(work)


if __name__ == "__main__":
    raise SystemExit(main())
