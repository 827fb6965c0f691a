"""What does `rrlib evaluate` add to ir_measures, on a run of 7 million lines?

A run and its judgements are drawn (seed 7); ir_measures reads and measures them in a process of its own, then
`rrlib evaluate` does (which also draws its intervals, 10,000 resamples a metric). Each is timed from its start to its
end, in seconds of CPU (the machine may be shared) and of the clock, with its peak of resident memory. The means must be
equal to the twelfth digit: ir_measures adds them up in another order. Goal: at most 1.3 times the CPU seconds, and less
memory.

    python benchmarks/evaluate.py [--queries 7000] [--documents 1000] [--repeats 1]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

GOAL = 1.3
METRICS = ("nDCG@10", "R@100")
THEIRS = """
import json, sys, ir_measures
qrels, run = ir_measures.read_trec_qrels(sys.argv[1]), ir_measures.read_trec_run(sys.argv[2])
measures = [ir_measures.parse_measure(name) for name in sys.argv[3:]]
print(json.dumps({str(m): value for m, value in ir_measures.calc_aggregate(measures, qrels, run).items()}))
"""


class Side(NamedTuple):
    """What one process took: CPU seconds, seconds by the clock, megabytes at most, and what it printed."""

    cpu: float
    clock: float
    megabytes: float
    printed: str


def draw(folder: Path, queries: int, documents: int) -> tuple[Path, Path]:
    """Judgements (24 a query) and a run as first stages write them; returns both files."""
    rng, qrels, run = random.Random(7), folder / "qrels.txt", folder / "run.trec"
    with qrels.open("w", encoding="ascii") as judged, run.open("w", encoding="ascii") as listed:
        for query in range(1_000_000, 1_000_000 + queries):
            docids, score = rng.sample(range(8_800_000), documents), 30.0
            for rank, docid in enumerate(docids, 1):
                score -= rng.random() * 0.02 + 1e-5
                listed.write(f"{query} Q0 {docid} {rank} {score:.6f} bm25\n")
            relevant = {*rng.sample(docids[:200], min(4, documents)), *rng.sample(range(8_800_000), 20)}
            judged.writelines(f"{query} 0 {docid} {rng.randint(0, 3)}\n" for docid in sorted(relevant))
    return qrels, run


def process(*words: object) -> Side:
    """Run Python with these words to its end."""
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        printed = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"exit code {child.returncode} of {words}")
    scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return Side(used.ru_utime + used.ru_stime, time.perf_counter() - began, used.ru_maxrss / scale, printed)


def main() -> None:
    """Both sides in turn, a table, and the last line as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--queries", type=int, default=7000)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    rows: list[tuple[Side, Side]] = []
    with tempfile.TemporaryDirectory() as folder:
        qrels, run = draw(Path(folder), given.queries, given.documents)
        for _ in range(given.repeats):
            theirs = process("-c", THEIRS, qrels, run, *METRICS)
            asked = ("--qrels", qrels, "--run", run, "--metrics", " ".join(METRICS), "--json")
            rows.append((theirs, process("-m", "rrlib", "evaluate", *asked)))
    theirs, ours = rows[-1]
    means = {name: value["mean"] for name, value in json.loads(ours.printed)["runs"][0]["metrics"].items()}
    gap = max(abs(means[name] - value) for name, value in json.loads(theirs.printed).items())
    print(f"{given.queries:,} queries of {given.documents:,} documents; largest gap of a mean {gap:.1e}")
    print(f"{'side':<18}{'CPU seconds':>14}{'seconds':>10}{'MB at most':>13}")
    for name, side in (("ir_measures", theirs), ("rrlib evaluate", ours)):
        print(f"{name:<18}{side.cpu:>14.1f}{side.clock:>10.1f}{side.megabytes:>13.0f}")
    ratio = statistics.median(ours.cpu / theirs.cpu for theirs, ours in rows)
    row = {
        "name": "evaluate",
        "value": round(ratio, 3),
        "unit": "times the CPU seconds of ir_measures",
        "goal": GOAL,
        "holds": ratio <= GOAL and ours.megabytes < theirs.megabytes and gap < 1e-12,
        "n": given.repeats,
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "megabytes": [round(ours.megabytes), round(theirs.megabytes)],
        "seconds": [round(ours.clock, 1), round(theirs.clock, 1)],
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
