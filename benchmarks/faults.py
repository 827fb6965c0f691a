"""Is the final run the same, whatever goes wrong? `rrlib rerank` as a process, against servers on loopback.

The servers rank by the number at the end of each text, after `--step` seconds. First a run in peace; then each fault,
the same command being given again until it ends well:

- killed: kill -9 at random moments, `--kills` times.
- dies: the server drops every connection from some answer on, and is well when the command is given again.
- ill: the server answers 500 for `--ill` seconds.
- one of three: one of three servers closes its port for good.
- full: the window log cannot grow any more (a limit on the size of files), and later can.

Each time the run file must be that of peace, byte for byte, and no window that stands in the log may be asked again.

    python benchmarks/faults.py                      # some minutes, 60 s of them the illness
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rrlib.evaluation.tables import align
from rrlib.prompts import format_response
from rrlib.records import read_records

ROOT = Path(__file__).resolve().parents[1]
CANDIDATES, WINDOW, STRIDE = 40, 10, 5
CLEAR = "error: "


class Ranker(ThreadingHTTPServer):
    """A server of the chat protocol that knows every answer. asked: the hash of each prompt that came, as it came."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, step: float) -> None:
        super().__init__(("127.0.0.1", port), Answer)
        self.step, self.ill_until, self.dies_after = step, 0.0, -1
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def end(self) -> None:
        """Close the port; connections that stand are answered no more."""
        self.dies_after = 0
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


class Answer(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Ranker

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        contents = [message["content"] for message in body["messages"]]
        if self.server.dies_after == 0:
            self.close_connection = True
            return
        self.server.dies_after -= 1
        if time.monotonic() < self.server.ill_until:
            self._send(500, {"error": {"message": "ill"}})
            return
        self.server.asked.append(hashlib.sha256("\n".join(contents).encode()).hexdigest()[:16])
        time.sleep(self.server.step)
        lines = [line for line in contents[-1].splitlines() if line.startswith("[") and " gain " in line]
        gains = [int(line.rpartition(" ")[2]) for line in lines]
        text = format_response("by gain", sorted(range(len(gains)), key=lambda i: -gains[i]))
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        self._send(
            200,
            {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage},
        )

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Trial:
    """The command with a run file and log of its own, given again and again. servers: whom it asks. retries: of a
    call; None: as the engine has it."""

    def __init__(self, folder: Path, servers: list[Ranker], name: str, retries: int | None = None) -> None:
        self.servers, self.out = servers, folder / f"{name}.trec"
        self.log = Path(f"{self.out}.log.jsonl")
        self.lives, self.again = 0, 0
        ends = [word for server in servers for word in ("--base-url", f"http://127.0.0.1:{server.port}/v1")]
        files = [
            word for option in ("run", "queries", "corpus") for word in (f"--{option}", str(folder / FILES[option]))
        ]
        sizes = ["--window", str(WINDOW), "--stride", str(STRIDE), "--concurrency", "8"]
        output = ["--output", str(self.out), "--quiet", "--engine", "openai", "--model", "m"]
        more = [] if retries is None else ["--engine-option", f"max_retries={retries}"]
        self.command = [sys.executable, "-m", "rrlib", "rerank", *files, *output, *sizes, *ends, *more]

    def life(
        self, end: Callable[[subprocess.Popen[str]], None] | None = None, limit: int | None = None
    ) -> tuple[int, str]:
        """One run of the command: its exit code and what it said. end: called while it runs; limit: bytes of a file."""
        logged = self.logged()
        before = [len(server.asked) for server in self.servers]

        def small() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "none"}
        with subprocess.Popen(
            self.command, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=small
        ) as process:
            if end is not None:
                end(process)
            _, said = process.communicate()
        self.lives += 1
        asked = [one for server, place in zip(self.servers, before, strict=True) for one in server.asked[place:]]
        self.again += sum(one in logged for one in asked)
        return process.returncode, said

    def logged(self) -> set[str]:
        """The prompts whose answers stand in the log: whole lines alone."""
        if not self.log.exists():
            return set()
        whole = self.log.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        rows = [json.loads(line) for line in whole.splitlines()]
        return {row["prompt_hash"] for row in rows if row.get("prompt_hash") and not row.get("error")}


FILES = {"run": "run.trec", "queries": "queries.tsv", "corpus": "corpus.jsonl"}


def write(folder: Path, queries: int, seed: int) -> None:
    """A run, queries and texts that end in a number."""
    dice = random.Random(seed)
    gains = [dice.sample(range(100_000), CANDIDATES) for _ in range(queries)]
    rows = [f"q{q} Q0 d{q}-{i} {i + 1} {CANDIDATES - i} bm25\n" for q in range(queries) for i in range(CANDIDATES)]
    texts = [{"_id": f"d{q}-{i}", "text": f"a gain {gains[q][i]}"} for q in range(queries) for i in range(CANDIDATES)]
    (folder / FILES["run"]).write_text("".join(rows))
    (folder / FILES["queries"]).write_text("".join(f"q{q}\tquestion {q}\n" for q in range(queries)))
    (folder / FILES["corpus"]).write_text("".join(json.dumps(text) + "\n" for text in texts))


def killed(trial: Trial, given: argparse.Namespace) -> int:
    """kill -9 at random moments of the run. Returns how many there were."""
    dice, count = random.Random(given.seed), 0

    def end(process: subprocess.Popen[str]) -> None:
        wanted = len(trial.logged()) + dice.randint(0, max(1, given.queries * 7 // given.kills))
        deadline = time.monotonic() + 60
        while process.poll() is None and len(trial.logged()) < wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(dice.uniform(0.0, 2 * given.step))
        process.send_signal(signal.SIGKILL)

    while count < given.kills:
        code, _ = trial.life(end)
        if code != -signal.SIGKILL:
            break
        count += 1
    return count


def dies(trial: Trial, given: argparse.Namespace) -> int:
    trial.servers[0].dies_after = given.queries * 3
    trial.life()
    trial.servers[0].dies_after = -1
    return 1


def ill(trial: Trial, given: argparse.Namespace) -> int:
    def end(process: subprocess.Popen[str]) -> None:
        while process.poll() is None and len(trial.servers[0].asked) < given.queries:
            time.sleep(0.01)
        trial.servers[0].ill_until = time.monotonic() + given.ill

    trial.life(end)
    return 1


def one_of_three(trial: Trial, given: argparse.Namespace) -> int:
    def end(process: subprocess.Popen[str]) -> None:
        while process.poll() is None and len(trial.servers[0].asked) < given.queries:
            time.sleep(0.01)
        trial.servers[0].end()

    trial.life(end)
    return 1


def full(trial: Trial, given: argparse.Namespace) -> int:
    code, said = trial.life(limit=60_000)
    assert code not in (0, None) and CLEAR in said, f"a full disk ended with {code}: {said[-300:]}"
    return 1


FAULTS: dict[str, tuple[int, Callable[[Trial, argparse.Namespace], int]]] = {
    "killed": (1, killed),
    "dies": (1, dies),
    "ill": (1, ill),
    "one of three": (3, one_of_three),
    "full": (1, full),
}


def main(argv: list[str] | None = None) -> None:
    """A table, and the last line as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--ill", type=float, default=60.0, help="seconds")
    parser.add_argument("--step", type=float, default=0.02, help="seconds of an answer")
    parser.add_argument("--retries", type=int, help="of a call, before it counts as failed; default: the engine's own")
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args(argv)
    lines = [["fault", "times", "runs of the command", "windows", "failed", "asked again", "the same run"]]
    good, times = True, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, given.queries, given.seed)
        peace = Trial(folder, [Ranker(0, given.step)], "peace")
        code, said = peace.life()
        assert code == 0, said
        windows = len(read_records(peace.log))
        for fault in given.only:
            count, happen = FAULTS[fault]
            trial = Trial(folder, [Ranker(0, given.step) for _ in range(count)], fault.replace(" ", "-"), given.retries)
            happened = happen(trial, given)
            for _ in range(5):
                code, said = trial.life()
                if code == 0:
                    break
            records = {record.key: record for record in read_records(trial.log)}
            failed = sum(record.error is not None for record in records.values())
            same = code == 0 and trial.out.read_bytes() == peace.out.read_bytes()
            fine = same and not failed and not trial.again and len(records) == windows
            good, times = good and fine, times + happened
            row = [
                fault,
                str(happened),
                str(trial.lives),
                f"{len(records):,}",
                str(failed),
                str(trial.again),
                "yes" if same else f"no ({code}): {said[-200:]}",
            ]
            lines.append(row)
            print(f"{fault}: {'as in peace' if fine else 'NOT as in peace'}", flush=True)
    print(f"{given.queries} queries, {windows} windows, 8 calls in flight, {given.step} s each")
    print(align(lines))
    result = {
        "name": "faults",
        "value": times,
        "unit": "faults, after each of which the run is the same and nothing logged is asked again",
        "goal": None,
        "holds": good,
        "n": times,
        "device": f"cpu, {os.cpu_count()} cores",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
