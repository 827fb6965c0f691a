"""kill -9 at any moment, files cut at any byte, a full disk, Ctrl-C: what was answered stays, and is asked once."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_synthesis import Teacher, make_collection, run

from rrlib.errors import InputError, StageError
from rrlib.formats import read_jsonl

QUERIES, CALLS, CONCURRENCY = 20, 60, 4
FILES = ("select.jsonl", "rank.jsonl", "calls.jsonl")

FORK_SERVER = """
import os, sys
sys.path.insert(0, {tests!r})
import test_synthesis as t
from rrlib.synthesis.teacher.ask import request_hash
from pathlib import Path

class Logging(t.Teacher):
    async def chat(self, messages, decoding):
        os.write(self.log, (request_hash(messages) + "\\n").encode())
        return await super().chat(messages, decoding)

for line in sys.stdin:
    out = Path(line.strip())
    pid = os.fork()
    if pid == 0:
        teacher = Logging(delay=0.001)
        teacher.log = os.open(str(out) + ".asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        t.run(t.make_collection({queries}), teacher, out)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


def lines(path: Path) -> list[bytes]:
    return sorted(path.read_bytes().splitlines())


def size(out: Path) -> int:
    return sum((out / name).stat().st_size for name in FILES if (out / name).exists())


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was left in peace."""
    out = tmp_path_factory.mktemp("peace")
    run(make_collection(QUERIES), Teacher(), out)
    return out


@pytest.fixture(scope="module")
def forks() -> Iterator[subprocess.Popen[str]]:
    """A process that starts a run for every folder it is told: quicker than fifty interpreters."""
    code = FORK_SERVER.format(tests=str(Path(__file__).parent), queries=QUERIES)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as it:
        yield it
        assert it.stdin is not None
        it.stdin.close()


def kill_once(forks: subprocess.Popen[str], out: Path, target: int) -> int:
    """Start a run and kill it when its files have grown to `target` bytes; returns the wait status."""
    assert forks.stdin is not None and forks.stdout is not None
    print(out, file=forks.stdin, flush=True)
    pid = int(forks.stdout.readline())
    while size(out) < target and Path(f"/proc/{pid}").exists():
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        time.sleep(0.0002)
    os.kill(pid, signal.SIGKILL)  # a process that has ended waits for its parent: the number is still its own
    return int(forks.stdout.readline())


@pytest.mark.parametrize("seed", range(5))
def test_kill_at_ten_random_moments(peace: Path, forks: subprocess.Popen[str], tmp_path: Path, seed: int) -> None:
    """50 kills in all, each of a fresh run, at moments spread over its length (by bytes, so load does not matter)."""
    generator = random.Random(seed)
    whole, killed = size(peace), 0
    for trial in range(10):
        out = tmp_path / str(trial)
        killed += os.WIFSIGNALED(kill_once(forks, out, generator.randrange(1, whole)))
        before = Counter((tmp_path / f"{trial}.asked").read_text().split())
        last = Teacher()
        result = run(make_collection(QUERIES), last, out)
        for name in ("select.jsonl", "rank.jsonl"):
            assert lines(out / name) == lines(peace / name)
        for name in ("examples.jsonl", "dropped.jsonl", "fates.jsonl"):
            assert (out / name).read_bytes() == (peace / name).read_bytes()
        account = result.summary["account"]
        repeated = sum(before.values()) + len(last.asked) - CALLS
        assert max(before.values()) == 1
        assert 0 <= repeated <= account["lost"] <= CONCURRENCY, "at most what was in flight is asked again, and booked"
        assert account["calls"] == CALLS
        ends = Counter(row["id"] for _, row in read_jsonl(out / "calls.jsonl") if row["event"] == "end")
        assert len(ends) == CALLS and set(ends.values()) == {1}
    assert killed >= 8, "nearly every run was killed in its course"


def test_killed_again_and_again(peace: Path, forks: subprocess.Popen[str], tmp_path: Path) -> None:
    out, kills = tmp_path / "war", 0
    for step in range(1, 8):
        kills += os.WIFSIGNALED(kill_once(forks, out, step * size(peace) // 9))
    asked = Counter((tmp_path / "war.asked").read_text().split())
    result = run(make_collection(QUERIES), Teacher(), out)
    assert kills >= 6
    for name in ("select.jsonl", "rank.jsonl"):
        assert lines(out / name) == lines(peace / name)
    assert sum(asked.values()) - len(asked) <= result.summary["account"]["lost"] <= kills * CONCURRENCY


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_at_any_byte(tmp_path: Path, name: str) -> None:
    run(make_collection(2), Teacher(), tmp_path / "whole")
    data = (tmp_path / "whole" / name).read_bytes()
    last = data.rindex(b"\n", 0, len(data) - 1) + 1
    cuts = sorted({last - 1, last, last + 1, len(data) - 1, *range(last, len(data), 97)})
    for cut in cuts:
        out = tmp_path / f"cut-{cut}"
        shutil.copytree(tmp_path / "whole", out)
        (out / name).write_bytes(data[:cut])
        teacher = Teacher()
        result = run(make_collection(2), teacher, out)
        assert result.summary["torn_lines"] == int(data[cut - 1 : cut] != b"\n")
        assert len(teacher.asked) == (0 if name == "calls.jsonl" else 1 if cut >= last else 2)
        for store in FILES[:2]:
            assert lines(out / store) == lines(tmp_path / "whole" / store)
        assert (out / "examples.jsonl").read_bytes() == (tmp_path / "whole/examples.jsonl").read_bytes()


def test_a_full_disk_stops_the_run_and_loses_nothing(
    peace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.write, 40_000

    def write(handle: int, data: bytes) -> int:
        nonlocal left
        if left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(handle, data[:left])
        left -= written
        return written

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StageError, match=r"\.jsonl: cannot write the store: No space left on device"):
        run(make_collection(QUERIES), Teacher(), tmp_path)
    monkeypatch.undo()
    for name in FILES:
        assert (tmp_path / name).read_bytes()[-1:] in (b"\n", b""), "no half line stays behind"
    stored = sum(len(lines(tmp_path / name)) for name in FILES[:2])
    assert 5 < stored < CALLS
    teacher = Teacher()
    run(make_collection(QUERIES), teacher, tmp_path)
    assert len(teacher.asked) == CALLS - stored
    assert lines(tmp_path / "rank.jsonl") == lines(peace / "rank.jsonl")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    teacher = Teacher()
    with pytest.raises(StageError, match="cannot write the store: Not a directory"):
        run(make_collection(2), teacher, tmp_path / "file" / "store")
    assert teacher.asked == []


@pytest.mark.parametrize("name", ["examples.jsonl", "dropped.jsonl", "fates.jsonl", "summary.json", "account.json"])
def test_results_that_cannot_be_written_are_known_before_a_call_is_paid_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    teacher = Teacher()
    with pytest.raises(InputError, match=rf"{name}: the result is a folder"):
        run(make_collection(2), teacher, tmp_path / "out")
    assert teacher.asked == []


def test_a_cache_that_cannot_be_written_is_known_before_a_call_is_paid_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    teacher = Teacher()
    with pytest.raises(InputError, match="the cache of answers cannot be written"):
        run(make_collection(2), teacher, tmp_path / "out", cache=tmp_path / "file")
    assert teacher.asked == []


def test_ctrl_c_books_what_was_in_flight(peace: Path, tmp_path: Path) -> None:
    teacher = Teacher(delay=0.02)
    threading.Timer(0.15, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        run(make_collection(QUERIES), teacher, tmp_path)
    stored = sum(len(lines(tmp_path / name)) for name in FILES[:2])
    again = Teacher()
    result = run(make_collection(QUERIES), again, tmp_path)
    assert len(teacher.asked) + len(again.asked) - CALLS <= result.summary["account"]["lost"] <= CONCURRENCY
    assert len(again.asked) == CALLS - stored
    assert lines(tmp_path / "rank.jsonl") == lines(peace / "rank.jsonl")
