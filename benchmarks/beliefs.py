"""What does the backbone know before it is trained, and what do the trainings change: form, belief or verdicts?

The embedded world, greedy, sliding windows of 10 with stride 5, the same candidates for all. Rows: the backbone; the
backbone with the answer tag added to what it wrote and nothing else changed, which separates form from content; the
simulated teacher itself as a reranker, by windows and with the full list; the committed reranker (SFT, then GRPO); and
every checkpoint that is named. Beside nDCG@10 stand, counted in windows that hold a belief: whether the belief is
right, whether a relevant passage gets `yes` where it is, and how many passages that are of another concept do. The
value is what the tag adds to the backbone; no goal.

    python benchmarks/beliefs.py                                          # small: 24 queries
    python benchmarks/beliefs.py --queries 200 --checkpoint sft=FOLDER    # the figures of docs/world.md
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from measure import device

from rrlib.chain.manifest import outputs_root
from rrlib.engines import Decoding, Engine, Reply, Request, make_engine
from rrlib.evaluation.audition import add_answer_tag
from rrlib.evaluation.metrics import per_query
from rrlib.evaluation.significance import bootstrap_interval
from rrlib.formats import Collection, ranking_to_run, read_collection
from rrlib.miniature import SimulatedTeacher, build
from rrlib.records import WindowRecord
from rrlib.rerank import Reranker
from rrlib.responses import valid_share
from rrlib.strategies import drive, full_list, sliding_window
from rrlib.synthesis.domains import recipe_for
from rrlib.synthesis.prompts import rank_messages
from rrlib.synthesis.rank import read_ranking
from rrlib.types import Candidates

METRIC, WINDOW, STRIDE = "nDCG@10", 10, 5
BELIEF = re.compile(r"So yes ([^,.]+)[,.]")
JUDGED = re.compile(r"\[(\d+)\] (.+?) (yes|maybe|no)\b")


class TagAdded:
    """An engine whose answers get the tag that they lack (`add_answer_tag`). engine: the one that answers."""

    name, asks_model = "tag-added", True

    def __init__(self, engine: Engine) -> None:
        self.engine, self.model, self.capacity = engine, engine.model, engine.capacity
        self.tokenizer = getattr(engine, "tokenizer", None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        """Hand them on."""
        self.engine.submit(requests, decoding)

    def collect(self) -> list[tuple[int, Reply]]:
        """What the engine answered, with the tag."""
        return [(n, replace(reply, text=add_answer_tag(reply.text))) for n, reply in self.engine.collect()]

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


def teacher_orders(
    teacher: SimulatedTeacher, test: Collection, asked: Sequence[Candidates], full: bool
) -> dict[str, list[str]]:
    """query -> documents as the teacher ranks them. What cannot be read keeps its order, as at inference."""
    orders = {}
    for candidates in asked:
        recipe = recipe_for(str(test.metadata[candidates.query.qid]["domain"]))

        def ask(window: Any, candidates: Any = candidates, recipe: Any = recipe) -> tuple[int, ...]:
            passages = [candidates.passages[i] for i in window.items]
            reply = teacher.answer(rank_messages(recipe, candidates.query.text, passages), Decoding(4096))
            ranking = read_ranking(reply.text, len(passages), reasoning=reply.reasoning)
            return ranking.gold or tuple(range(len(passages)))

        n = len(candidates.passages)
        order = drive(full_list(n) if full else sliding_window(n, WINDOW, STRIDE), ask)
        orders[candidates.query.qid] = [candidates.passages[i].docid for i in order]
    return orders


def believed(records: Sequence[WindowRecord], test: Collection, teacher: SimulatedTeacher) -> dict[str, float]:
    """Shares over the windows that state a belief: see the head of this file."""
    right, relevant_yes, false_yes, windows = 0, [], 0, 0
    for record in records:
        belief = BELIEF.search(record.text or "")
        if belief is None:
            continue
        concepts = [teacher.concept_of(test.corpus[docid].text) for docid in record.docids]
        first, second = (set(cue.concepts) for cue in teacher.cues_of(test.queries[record.qid].text))
        (truth,) = first & second
        said = {int(i): verdict for i, _, verdict in JUDGED.findall((record.text or "")[belief.end() :])}
        windows, right = windows + 1, right + (belief[1] == truth)
        if belief[1] == truth:
            relevant_yes += [said.get(i) == "yes" for i, name in enumerate(concepts, 1) if name == truth]
        false_yes += sum(said.get(i) == "yes" for i, name in enumerate(concepts, 1) if name != belief[1])
    return {
        "belief right": right / max(1, windows),
        "relevant gets yes": float(np.mean(relevant_yes)) if relevant_yes else float("nan"),
        "false yes a window": false_yes / max(1, windows),
    }


def main(argv: list[str] | None = None) -> None:
    """Rerank, count, and print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=24, help="test queries, from the first on")
    parser.add_argument("--seed", type=int, default=7, help="of the world, the teacher and the bootstrap")
    parser.add_argument("--checkpoint", action="append", default=[], help="another row: name=folder")
    parser.add_argument("--tokens", type=int, default=160, help="new tokens of an answer")
    given = parser.parse_args(argv)
    folder = outputs_root() / "data" / f"beliefs-{given.seed}"
    if not (folder / "SOURCE.json").is_file():  # the collection of params/miniature.yaml
        build(folder, seed=given.seed, train=8000, validation=64, test=600, pool=30)
    test, teacher = read_collection(folder, "test"), SimulatedTeacher(folder, seed=given.seed)
    chosen = list(test.qrels)[: given.queries]
    candidates = [c for c in test.candidates() if c.query.qid in set(chosen)]
    qrels = {qid: test.qrels[qid] for qid in chosen}
    models = {
        "backbone": "package:rrlib.miniature/backbone",
        "backbone, tag added": "package:rrlib.miniature/backbone",
        **dict(item.split("=", 1) for item in given.checkpoint),
        "SFT, then GRPO (committed)": "package:rrlib.miniature/reranker",
    }
    print(f"| system | {METRIC} | valid | belief right | relevant gets yes | false yes a window |\n|---|---|---|---|---|---|")
    means: dict[str, float] = {}

    def show(name: str, orders: dict[str, list[str]], more: Sequence[str]) -> None:
        values = per_query(qrels, ranking_to_run({qid: orders[qid] for qid in qrels}), METRIC)[METRIC]
        spread = bootstrap_interval([values[qid] for qid in qrels], given.seed)
        means[name] = spread.mean
        cells = [f"{spread.mean:.3f} [{spread.low:.3f}, {spread.high:.3f}]", *more]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)

    show("first stage", {qid: [hit.docid for hit in test.run[qid]] for qid in chosen}, [""] * 4)
    for name, full in (("teacher, windows", False), ("teacher, full list", True)):
        show(name, teacher_orders(teacher, test, candidates, full), [""] * 4)
    for name, model in models.items():
        engine = make_engine("transformers", model, batch_size=64)
        asked = TagAdded(engine) if name == "backbone, tag added" else engine
        reranker = Reranker(asked, window=WINDOW, stride=STRIDE, depth=30, decoding=Decoding(given.tokens))
        outcome = reranker.rerank(candidates)
        engine.close()
        numbers = believed(outcome.records, test, teacher)
        cells = [f"{valid_share(outcome.records):.1%}", *(f"{value:.3f}" for value in numbers.values())]
        show(name, outcome.run(test.name), cells)
    last = {
        "name": "beliefs",
        "value": round(means["backbone, tag added"] - means["backbone"], 4),
        "unit": f"{METRIC} that the answer tag adds to the backbone",
        "goal": None,
        "holds": True,
        "n": len(chosen),
        "device": device()[1],
    }
    print(json.dumps(last))


if __name__ == "__main__":
    main()
