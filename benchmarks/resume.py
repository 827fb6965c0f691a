"""What does it take to go on with a run of 200,000 logged windows?

A log is drawn as `rrlib rerank` writes it (windows of 20, a chain of thought of 2.5 kB in each answer). A process of
its own opens it and looks every window up; in a second, bare process nothing but the imports is done. Goal: under 8 CPU
seconds to open it, and under 300 MB of resident memory at most, imports included.

    python benchmarks/resume.py [--windows 200000] [--read]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from rrlib.records import WindowLog, WindowRecord
from rrlib.strategies import sliding_spans

GOAL_SECONDS, GOAL_MEGABYTES = 8.0, 300.0
SETTINGS = {
    "engine": "vllm", "model": "outputs/qwen2.5-7b/03_rl/checkpoint", "weights": "0" * 16, "dtype": "bfloat16",
    "style": "reasonrank", "strategy": "sliding_window", "window": 20, "stride": 10, "passes": 1, "depth": 100,
    "max_passage_tokens": 512,
    "decoding": {"max_new_tokens": 3172, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": None},
}  # fmt: skip
CHAIN = 'The query asks how water moves in a plant, so "xylem" in [3] is central.\nThen [7] adds detail on it. ' * 25
CHILD = """
import json, resource, sys, time
from rrlib.records import WindowLog
path, settings, keys, read = json.loads(sys.stdin.read())
began = time.process_time()
log = WindowLog(path, settings) if path else None
opened = time.process_time() - began
found = 0
for collection, qid, start, end in keys:
    key = collection, qid, 0, tuple(range(start, end)), 0
    found += (log.get(key) if read else log.place(key)) is not None
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"found": found, "opened": opened, "all": time.process_time() - began, "megabytes": peak}))
"""


def draw(path: Path, windows: int) -> list[tuple[str, str, int, int]]:
    """Write the log; returns (collection, qid, start, end) of its windows."""
    spans, keys = sliding_spans(100, 20, 10), []
    text = f"<think> {CHAIN} </think> <answer> " + " > ".join(f"[{i}]" for i in range(20, 0, -1)) + " </answer>"
    log = WindowLog(path, SETTINGS)
    for number in range(windows):
        qid, (start, end) = f"q{number // len(spans)}", spans[number % len(spans)]
        docids = tuple(f"biology/{qid}_{place}.txt" for place in range(start, end))
        record = WindowRecord(
            qid, tuple(range(start, end)), docids, tuple(range(19, -1, -1)), "biology", prompt_hash=f"{number:016x}",
            text=text, reasoning=CHAIN, tokens_in=9000, tokens_out=700, finish_reason="stop", seconds=1.5,
        )  # fmt: skip
        log.append(record)
        keys.append(("biology", qid, start, end))
    log.close(finished=True)
    return keys


def child(*given: object) -> dict[str, float]:
    """What a process of its own took."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(given), stdout=subprocess.PIPE, text=True, check=True
    )
    row: dict[str, float] = json.loads(done.stdout)
    return row


def main() -> None:
    """Draw the log, resume it, a table, and the last line as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--windows", type=int, default=200_000)
    parser.add_argument("--read", action="store_true", help="also read every record back, as an engine's run would")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        keys = draw(path, given.windows)
        size = path.stat().st_size / 1e6
        bare = child("", SETTINGS, [], False)
        resumed = child(str(path), SETTINGS, keys, given.read)
    assert resumed["found"] == given.windows
    print(f"{given.windows:,} windows, {size:,.0f} MB of log")
    print(f"opened in {resumed['opened']:.2f} CPU seconds; with every window looked up {resumed['all']:.2f}")
    print(f"{resumed['megabytes']:.0f} MB at most, of which {bare['megabytes']:.0f} MB are imports")
    row = {
        "name": "resume",
        "value": round(resumed["opened"], 2),
        "unit": "CPU seconds",
        "goal": GOAL_SECONDS,
        "holds": resumed["opened"] < GOAL_SECONDS and resumed["megabytes"] < GOAL_MEGABYTES,
        "n": given.windows,
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "megabytes": round(resumed["megabytes"]),
        "log_megabytes": round(size),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
