"""What does a run cost outside its engine? An engine that answers at once takes the windows of a real run's size.

Queries with 100 candidates each, in windows of 20 with stride 10: nine windows a query, as on BRIGHT (12,456 windows of
1,384 queries). The texts are made here of words of 2 to 9 letters, with a curly quote or an accent in some lines, and a
third of them is longer than the limit of a passage; queries have 160 words on average, log-normal. Everything but the
answers is real: the length check, fixing, cutting, tokenizing, the prompts, the schedule, the log. Processor seconds
are counted, all threads of this process.

- before: the prompts of rrlib.prompts alone, each window fixed and tokenized as a whole (as the released code does).
- now: rrlib.pieces, each passage fixed and tokenized once.

- resume: the same run again over its complete log, in which no window is asked.

All in turn on the same queries, `--repeats` times. The share of an engine's time is for one that gives `--rate`
windows a second: vLLM with a 7B on one H100 does about two, with 300 in flight.

    python benchmarks/overhead.py                        # a minute or two; the tokenizer of the embedded world
    python benchmarks/overhead.py --model Qwen/Qwen2.5-7B-Instruct
    python benchmarks/overhead.py --max-model-len 23552  # where the limits do not settle that a window fits
    python benchmarks/overhead.py --memory --queries 240 --capacity 8    # resident memory instead (Linux)

The engine takes prompts and answers of `--max-model-len` tokens together, as params/bright-7b.yaml has it.

The value is processor seconds for BRIGHT's windows, by the measured seconds a query. It holds where that is at most
160, the first request goes out within 5 s, and the share of the engine's time is under 3%, with `--capacity` in flight.
With --memory it is the megabytes that a stream grows by a query, behind the first twelfth of them.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import yaml

from rrlib.engines import Decoding, Reply, Request
from rrlib.engines.hf import load_tokenizer
from rrlib.evaluation.registry import BENCHMARKS, expand
from rrlib.evaluation.tables import align
from rrlib.pieces import PreparedPrompts
from rrlib.prompts import PromptBuilder, format_response
from rrlib.rerank import Reranker
from rrlib.types import Candidates, Passage, Query

GOAL = 160.0
FIRST, SHARE = 5.0, 0.03
"""Seconds until the first request, and the share of an engine's time: at most."""
MEGABYTES = 0.05
"""Of resident memory for each further query, at most: 1 was too much."""
PROFILE = Path(__file__).resolve().parents[1] / "params" / "bright-7b.yaml"


class Instant:
    """Takes requests as an engine of its kind would, tokenizing what is not tokenized, and answers at once."""

    name, model, asks_model = "instant", "instant", True

    def __init__(self, tokenizer: Any, given: argparse.Namespace) -> None:
        self.tokenizer, self.capacity, self.max_model_len = tokenizer, given.capacity, given.max_model_len
        self.waiting: list[int] = []
        self.first: float | None = None
        self.tokens = 0

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        self.first = self.first or time.perf_counter()
        for request in requests:
            ids = request.ids
            if ids is None:
                ids = self.tokenizer(request.prompt, add_special_tokens=False, verbose=False)["input_ids"]
            self.tokens += len(ids)
            self.waiting.append(request.id)

    def collect(self) -> list[tuple[int, Reply]]:
        done, self.waiting = self.waiting, []
        order = [*range(10, 20), *range(10)]
        return [(number, Reply(format_response("by place", order))) for number in done]

    def close(self) -> None:
        pass


class Whole(PreparedPrompts):
    """Windows as the builder alone makes them."""

    def window(self, query: str, passages: Sequence[Passage]) -> tuple[str, list[int] | None]:
        return self.builder.render(query, passages), None


def texts(count: int, limit: int, seed: int) -> list[str]:
    """Passages of 0.1 to 1.5 times the limit, about; a line in five has a letter that is not ASCII."""
    dice = random.Random(seed)
    words = ["".join(dice.choices("etaoinshrdlu", k=dice.randint(2, 6))) for _ in range(4000)]
    odd = ["caf\u00e9", "isn\u2019t", "(so)", "3.5", "x,", "<i>", "a-b", "No.", "it", "is"]
    out = []
    for _ in range(count):
        left, lines = int(limit * dice.uniform(0.1, 1.5) / 2), []
        while left > 0:
            line = dice.choices(words, k=min(left, dice.randint(30, 90)))
            line[0] = dice.choice(odd)
            lines.append(" ".join(line) + ".")
            left -= len(line)
        out.append("\n".join(lines))
    return out


Took = tuple[float, float, int]
"""Processor seconds, seconds until the first request, tokens of all prompts."""


def run(queries: list[Candidates], tokenizer: Any, given: argparse.Namespace, log: Path, before: bool) -> Took:
    """What one run takes; over a log that is complete, a resume."""
    engine = Instant(tokenizer, given)
    gc.collect()  # what other modules left behind is not this run's: with many of them it took a third of a second
    began, cpu = time.perf_counter(), time.process_time()
    options = {"max_passage_tokens": given.limit, "style": "reasonrank", "window": 20, "stride": 10}
    reranker = Reranker(engine, log=log, **options)
    if before:
        reranker.prepared = Whole(reranker.prompts)
    for _ in reranker.stream(queries, windows=False):
        pass
    return time.process_time() - cpu, (engine.first or began) - began, engine.tokens


def resident() -> float:
    """Megabytes of this process that are in memory now."""
    gc.collect()
    rows = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(row for row in rows if row.startswith("VmRSS")).split()[1]) / 1024


def memory(queries: list[Candidates], tokenizer: Any, given: argparse.Namespace) -> dict[str, Any]:
    """Print what is resident as the queries of one stream finish, behind 120 calls of `rank`, and behind `rerank` with
    a log."""
    options = {"max_passage_tokens": given.limit, "style": "reasonrank", "window": 20, "stride": 10}
    seen, step = [], max(1, len(queries) // 12)
    with tempfile.TemporaryDirectory() as folder:
        reranker = Reranker(Instant(tokenizer, given), log=Path(folder) / "windows.jsonl", **options)
        for number, _ in enumerate(reranker.stream(queries, windows=False), 1):
            seen += [resident()] if number % step == 0 else []
        reranker = Reranker(Instant(tokenizer, given), log=Path(folder) / "again.jsonl", **options)
        before = resident()
        result = reranker.rerank(queries)
        whole, logged = resident() - before, (Path(folder) / "again.jsonl").stat().st_size / 2**20
        del result
    reranker = Reranker(Instant(tokenizer, given), **options)
    texts = [passage.text for passage in queries[0].passages[:20]]
    marks = []
    for number in range(121):
        reranker.rank(f"why is number {number} so?", texts)
        marks += [resident()] if number in (0, 120) else []
    print("stream, MB at each twelfth of the queries:", *(f"{value:.1f}" for value in seen))
    print(f"120 calls of rank: {marks[1] - marks[0]:+.3f} MB")
    print(f"rerank of {len(queries)} queries: {whole:+.1f} MB beside {logged:.1f} MB of log")
    each = (seen[-1] - seen[0]) / max(1, len(queries) - step)
    return {
        "name": "overhead",
        "value": round(each, 4),
        "unit": "megabytes of resident memory for each further query of a stream",
        "goal": MEGABYTES,
        "holds": each <= MEGABYTES,
        "n": len(queries),
        "device": f"cpu, {os.cpu_count()} cores",
        "rank_120_mb": round(marks[1] - marks[0], 3),
        "rerank_mb": round(whole, 1),
        "log_mb": round(logged, 1),
        "in_flight": given.capacity,
        "model": given.model,
    }


def questions(count: int, seed: int) -> list[str]:
    """Queries of 160 words on average, log-normal: a few are many times as long, as posts of a forum are."""
    dice = random.Random(seed)
    sizes = [min(2_000, max(3, int(dice.lognormvariate(4.6, 0.95)))) for _ in range(count)]
    return [
        f"why is number {q} so? " + " ".join(["because", "then"][i % 2] for i in range(n)) for q, n in enumerate(sizes)
    ]


def main(argv: list[str] | None = None) -> None:
    """A table, and the last line as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:rrlib.miniature/reranker", help="whose tokenizer is used")
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--limit", type=int, default=512, help="tokens of a passage, at most")
    parser.add_argument("--capacity", type=int, default=300, help="windows in flight")
    length = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))["04_evaluation"]["engine_options"]["max_model_len"]
    parser.add_argument("--max-model-len", type=int, default=length, help="tokens of a prompt and its answer")
    parser.add_argument("--rate", type=float, default=2.0, help="windows a second of the engine that is thought of")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--memory", action="store_true", help="resident memory instead of seconds")
    given = parser.parse_args(argv)
    tokenizer = load_tokenizer(given.model)
    bodies = texts(100 * given.queries, given.limit, given.seed)
    asked = questions(given.queries, given.seed)
    queries = [
        Candidates(
            Query(str(q), asked[q]),
            tuple(Passage(f"{q}-{i}", bodies[100 * q + i]) for i in range(100)),
        )
        for q in range(given.queries)
    ]
    if given.memory:
        print(json.dumps(memory(queries, tokenizer, given)))
        return
    cut = PromptBuilder(tokenizer, max_passage_tokens=given.limit)
    shown = [cut.tokens(passage) for item in queries[:4] for passage in item.passages]
    results: dict[str, list[Took]] = {"before": [], "now": [], "resume": []}
    for _ in range(given.repeats):
        with tempfile.TemporaryDirectory() as folder:
            for name, runs in results.items():
                log = Path(folder) / ("now" if name == "resume" else name)
                runs.append(run(queries, tokenizer, given, log, name == "before"))
    read = {tokens for name in ("before", "now") for _, _, tokens in results[name]}
    assert len(read) == 1, "the same tokens in all runs"
    assert not any(tokens for _, _, tokens in results["resume"]), "a resume asks nothing"
    bright = sum(BENCHMARKS[name].queries for name in expand("bright"))
    lines = [
        [
            "",
            "ms a query",
            "least to most",
            "ms a window",
            "share of the engine's time",
            "first request, s",
            "BRIGHT, s",
        ]
    ]
    whole: dict[str, float] = {}
    first: dict[str, float] = {}
    shares: dict[str, float] = {}
    for name, runs in results.items():
        each = sorted(1000 * seconds / given.queries for seconds, _, _ in runs)
        middle, window = statistics.median(each), statistics.median(each) / 9
        whole[name] = bright * middle / 1000
        shares[name] = window / 1000 * given.rate
        first[name] = statistics.median(seconds for _, seconds, _ in runs)
        lines.append(
            [
                name,
                f"{middle:.0f}",
                f"{each[0]:.0f} to {each[-1]:.0f}",
                f"{window:.1f}",
                "" if name == "resume" else f"{shares[name]:.1%}",
                "" if name == "resume" else f"{first[name]:.2f}",
                f"{whole[name]:.0f}",
            ]
        )
    device = f"cpu, {os.cpu_count()} cores, {os.environ['OMP_NUM_THREADS']} thread"
    size = f"100 passages of {statistics.mean(shown):.0f} tokens (limit {given.limit})"
    print(f"{given.queries} queries x {size}, tokenizer of {given.model}, {given.capacity} in flight; {device}")
    print(align(lines))
    result = {
        "name": "overhead",
        "value": round(whole["now"], 1),
        "unit": "processor seconds of BRIGHT's windows, outside the engine",
        "goal": GOAL,
        "holds": whole["now"] <= GOAL and first["now"] <= FIRST and shares["now"] < SHARE,
        "n": given.queries * given.repeats,
        "device": device,
        "before": round(whole["before"], 1),
        "resume": round(whole["resume"], 1),
        "first_request_s": round(first["now"], 2),
        "share": round(shares["now"], 4),
        "in_flight": given.capacity,
        "max_model_len": given.max_model_len,
        "model": given.model,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
