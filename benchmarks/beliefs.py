"""What does the backbone know before it is trained, and what do the trainings change: form, belief or verdicts?

The embedded world, greedy, sliding windows of 10 with stride 5, the same candidates for all. Rows: the backbone; the
backbone with the answer tag added to what it wrote and nothing else changed, which separates form from content; the
simulated teacher itself as a reranker, by windows and with the full list; the committed reranker (SFT, then GRPO); and
every checkpoint that is named. Beside nDCG@10 stand, counted in windows that hold a belief: whether the belief is
right, whether a relevant passage gets `yes` where it is, and how many passages that are of another concept do. The
value is what the tag adds to the backbone; no goal.

    python benchmarks/beliefs.py                                          # small: 24 queries
    python benchmarks/beliefs.py --queries 200 --keep docs/results/beliefs.json    # the table of docs/world.md

With `--checkpoint sft=FOLDER`, the checkpoint of a run's 02_sft is a row as well.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from measure import device

from rrlib.chain.manifest import outputs_root
from rrlib.disk import read_json, write_json
from rrlib.engines import Decoding, Engine, Reply, Request, make_engine
from rrlib.evaluation.audition import add_answer_tag
from rrlib.evaluation.metrics import per_query
from rrlib.evaluation.significance import bootstrap_interval
from rrlib.formats import Collection, ranking_to_run, read_collection
from rrlib.miniature import SimulatedTeacher, build
from rrlib.records import WindowRecord
from rrlib.rerank import Reranker
from rrlib.responses import valid_share
from rrlib.studies.teacher import teacher_ranking
from rrlib.types import Candidates

METRIC, WINDOW, STRIDE = "nDCG@10", 10, 5
BACKBONE, TAGGED, TRAINED = "backbone", "backbone, tag added", "SFT, then GRPO (committed)"
MODEL, RERANKER = "package:rrlib.miniature/backbone", "package:rrlib.miniature/reranker"
COUNTED = ("valid", "belief right", "relevant gets yes", "false yes a window")
COLUMNS = (METRIC, *COUNTED)
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


def said_by(
    name: str, model: str, test: Collection, asked: Sequence[Candidates], teacher: SimulatedTeacher, tokens: int
) -> tuple[Mapping[str, Sequence[str]], list[str]]:
    """(rankings of a model, the cells of COUNTED)."""
    engine = make_engine("transformers", model, batch_size=64)
    answering = TagAdded(engine) if name == TAGGED else engine
    outcome = Reranker(answering, window=WINDOW, stride=STRIDE, depth=30, decoding=Decoding(tokens)).rerank(asked)
    engine.close()
    numbers = believed(outcome.records, test, teacher)
    return outcome.run(test.name), [f"{valid_share(outcome.records):.1%}", *(f"{v:.3f}" for v in numbers.values())]


def table(queries: int, seed: int, checkpoints: Mapping[str, str], tokens: int) -> dict[str, list[str]]:
    """System -> its cells, printed as they come."""
    folder = outputs_root() / "data" / f"beliefs-{seed}"
    if not (folder / "SOURCE.json").is_file():  # the test split of params/miniature.yaml
        build(folder, seed=seed, train=20, validation=64, test=600, pool=30)
    test, teacher = read_collection(folder, "test"), SimulatedTeacher(folder, seed=seed)
    qrels = {qid: test.qrels[qid] for qid in list(test.qrels)[:queries]}
    asked = [c for c in test.candidates() if c.query.qid in qrels]
    rows: dict[str, list[str]] = {}

    def show(name: str, orders: Mapping[str, Sequence[str]], counted: Sequence[str]) -> None:
        values = per_query(qrels, ranking_to_run({qid: orders[qid] for qid in qrels}), METRIC)[METRIC]
        spread = bootstrap_interval([values[qid] for qid in qrels], seed)
        rows[name] = [f"{spread.mean:.3f} [{spread.low:.3f}, {spread.high:.3f}]", *counted]
        print(f"| {name} | " + " | ".join(rows[name]) + " |", flush=True)

    print(f"| system | {' | '.join(COLUMNS)} |\n" + "|---" * (len(COLUMNS) + 1) + "|")
    show("first stage", {c.query.qid: [p.docid for p in c.passages] for c in asked}, [""] * len(COUNTED))
    kept = replace(test, run={qid: hits for qid, hits in (test.run or {}).items() if qid in qrels})
    for name, full in (("teacher, windows", False), ("teacher, full list", True)):
        sizes = {"window": WINDOW, "stride": STRIDE, "depth": 30}
        made = teacher_ranking(teacher, kept, Decoding(4096), **sizes, full=full)
        show(name, {qid: [hit.docid for hit in hits] for qid, hits in made.run.items()}, [""] * len(COUNTED))
    for name, model in {BACKBONE: MODEL, TAGGED: MODEL, **checkpoints, TRAINED: RERANKER}.items():
        show(name, *said_by(name, model, test, asked, teacher, tokens))
    return rows


def main(argv: list[str] | None = None) -> None:
    """Rerank, count, and print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=24, help="test queries, from the first on")
    parser.add_argument("--seed", type=int, default=7, help="of the world, the teacher and the bootstrap")
    parser.add_argument("--checkpoint", action="append", default=[], help="another row: name=folder")
    parser.add_argument("--keep", default="", help="also write the rows, JSON, into this file")
    parser.add_argument("--tokens", type=int, default=160, help="new tokens of an answer")
    given = parser.parse_args(argv)
    rows = table(given.queries, given.seed, dict(item.split("=", 1) for item in given.checkpoint), given.tokens)
    if given.keep:  # what is there under "read" was measured without a command, and stays
        before = read_json(Path(given.keep)) or {}
        made = {"queries": given.queries, "seed": given.seed, "columns": COLUMNS, "rows": rows}
        write_json(Path(given.keep), {**before, **made})
    means = {name: float(cells[0].split()[0]) for name, cells in rows.items()}
    last = {
        "name": "beliefs",
        "value": round(means[TAGGED] - means[BACKBONE], 3),
        "unit": f"{METRIC} that the answer tag adds to the backbone",
        "goal": None,
        "holds": True,
        "n": given.queries,
        "device": device()[1],
    }
    print(json.dumps(last))


if __name__ == "__main__":
    main()
