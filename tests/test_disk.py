"""What is kept on disk: whole JSON, rows that outlive a kill, one process at a time, changes by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rrlib import disk
from rrlib.disk import (
    JsonLines,
    Lock,
    append_jsonl,
    cut_torn_tail,
    differences,
    hash_file,
    hash_text,
    hash_tree,
    read_json,
    replacing,
    write_json,
)
from rrlib.errors import InputError, StageError


def test_json_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"text": "ä", "a": 1})
    assert path.read_text(encoding="utf-8") == '{\n "text": "ä",\n "a": 1\n}\n'
    with pytest.raises(TypeError):
        write_json(path, {"text": object()})
    assert read_json(path) == {"text": "ä", "a": 1} and read_json(tmp_path / "none.json") is None
    write_json(path, {"lone": "\udc80", "a": Path("x")}, sort_keys=True, default=str)
    assert path.read_text() == '{\n "a": "x",\n "lone": "\\udc80"\n}\n' and read_json(path)["lone"] == "\udc80"
    path.write_text(path.read_text()[:9])
    assert read_json(path) is None
    with pytest.raises(KeyError), replacing(path) as out:
        out.write(b"half")
        raise KeyError
    assert len(path.read_text()) == 9 and [p.name for p in path.parent.iterdir()] == ["a.json"]


ROWS = [{"id": f"r{i}", "text": "ünïcode \u2028 \n line"} for i in range(3)]


def test_a_row_cut_at_any_byte_is_cut_off_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for row in ROWS:
        append_jsonl(path, row)
    rows = path.read_bytes()
    last = rows.rindex(b"\n", 0, -1) + 1
    for cut in range(len(rows) + 1):
        path.write_bytes(rows[:cut])
        seen: list[tuple[int, Any]] = []
        lines = JsonLines(path, lambda offset, row: seen.append((offset, row)))  # noqa: B023
        lines.close()
        assert lines.torn == cut - (rows.rfind(b"\n", 0, cut) + 1) and path.read_bytes() == rows[: cut - lines.torn]
        assert [row for _, row in seen] == ROWS[: rows[:cut].count(b"\n")]
    path.write_bytes(rows[: last + 5])
    append_jsonl(path, ROWS[2])
    assert path.read_bytes() == rows
    path.write_bytes(rows + b"x" * 200_000)
    assert cut_torn_tail(path) == 200_000 and path.read_bytes() == rows
    path.write_bytes(b"x" * 200_000)
    assert cut_torn_tail(path) == 200_000 and path.read_bytes() == b""


def test_a_whole_line_that_is_no_row_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for text, number in (('{"id": 1}\nnot json\n{"id": 2}\n', 2), ('{"id": 1}\n{"name": 2}\n', 2), ('{"id"\n', 1)):
        path.write_text(text)
        with pytest.raises(InputError, match=rf"rows\.jsonl:{number}: not a book record: .* -> mend it") as caught:
            JsonLines(path, lambda offset, row: row["id"], what="book", remedy="mend it")
        assert caught.value.line == number and path.read_text() == text
    JsonLines(path, fresh=True).close()
    assert path.read_bytes() == b""


def test_a_full_disk_leaves_whole_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, real = JsonLines(tmp_path / "rows.jsonl", what="book"), os.write
    assert lines.append({"b": 1, "a": 2}) == 0

    def full(handle: int, data: bytes) -> int:
        if len(data) > 5:
            return real(handle, data[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StageError, match="cannot write the book: No space left on device"):
        lines.append({"a": 1})
    monkeypatch.undo()
    assert lines.append({"a": 3}) == len(b'{"b": 1, "a": 2}\n')
    assert (tmp_path / "rows.jsonl").read_text() == '{"b": 1, "a": 2}\n{"a": 3}\n'
    lines.close()
    lines.close()
    with pytest.raises(StageError, match="cannot write the log"):
        JsonLines(tmp_path / "no" / "such.jsonl")


def test_a_lock_holds_between_processes_and_inside_one(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("data\n")
    code = (
        "import sys, pathlib; from rrlib.disk import Lock; Lock(pathlib.Path(sys.argv[1]), 'held by {pid}', sign=True)"
    )
    other = [sys.executable, "-c", code, str(path)]
    with Lock(path, "held"):
        with pytest.raises(StageError, match="held"):
            Lock(path, "held")
        assert "held by data" in subprocess.run(other, capture_output=True, text=True).stderr
    assert path.read_text() == "data\n" and subprocess.run(other).returncode == 0
    lock = Lock(path, "held", sign=True)
    with pytest.raises(StageError, match=f"held by {os.getpid()}"):
        Lock(path, "held by {pid}", sign=True)
    lock.release()
    lock.release()
    Lock(path, "held").release()
    assert path.exists()
    with pytest.raises(OSError):
        Lock(path / "lock", "held")


def test_hashes_depend_on_content_and_names_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        (tmp_path / name / "__pycache__").mkdir(parents=True)
        (tmp_path / name / "a.txt").write_text("same")
        (tmp_path / name / "__pycache__" / "a.pyc").write_text(name)
    assert hash_tree(tmp_path / "first") == hash_tree(tmp_path / "second")
    (tmp_path / "second" / "a.txt").rename(tmp_path / "second" / "b.txt")
    assert hash_tree(tmp_path / "first") != hash_tree(tmp_path / "second")
    assert hash_text("ab", "c") != hash_text("a", "bc")
    monkeypatch.setattr(disk, "HASHED_TO_THE_END", 10)
    big = tmp_path / "big.bin"
    big.write_bytes(b"0" * 3 * 2**20)
    before = hash_file(big)
    big.write_bytes(b"0" * 3 * 2**20 + b"1")
    assert hash_file(big) != before


def test_differences_name_keys_on_both_sides_and_inside() -> None:
    old = {"parameters": {"a": 1, "b": 2, "deep": {"x": 1, "y": 2}}, "library": "x", "gone": 1}
    new = {"parameters": {"a": 1, "c": 3, "deep": {"x": 1, "y": 3}}, "library": "y"}
    assert [str(change) for change in differences(old, new)] == [
        "parameters.c: None -> 3",
        "parameters.deep.y: 2 -> 3",
        "parameters.b: 2 -> None",
        "library: 'x' -> 'y'",
        "gone: 1 -> None",
    ]
    assert differences(new, json.loads(json.dumps(new))) == []
