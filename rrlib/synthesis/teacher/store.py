"""Append-only JSONL: what a teacher said is written down at once and never asked for again.

A line is written in one piece and unbuffered, so a process killed at any byte leaves at most one torn last line, which
the next opening cuts off (and counts). A torn or strange line elsewhere is not ours to mend: it is refused by file
and line. Ids are indexed in a temporary SQLite file, so memory does not grow with the records. One process at a time:
`StoreLock` holds the folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rrlib.errors import InputError, StageError


class StoreLock:
    """An exclusive lock on a folder, held by the open file: it goes with the process, however that ends."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "store.lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 - held open on purpose
        except OSError as error:
            raise StageError(f"{folder}: cannot write the store: {error.strerror or error}") from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._handle.seek(0)
            owner = self._handle.read().strip() or "unknown"
            self._handle.close()
            raise StageError(
                f"{folder}: another process (pid {owner}) writes to this store -> wait for it, or use another folder"
            ) from None
        self._handle.truncate(0)
        self._handle.write(str(os.getpid()))
        self._handle.flush()

    def release(self) -> None:
        """Let go; safe to call twice."""
        self._handle.close()

    def __enter__(self) -> StoreLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


class Log:
    """One append-only file of JSON objects. Open it under a StoreLock.

    seen: called at opening with every (offset in bytes, record) of the file, in its order; it may raise ValueError,
    KeyError or TypeError for a record that does not belong here. torn: 1 if a torn last line was cut off, else 0.
    """

    def __init__(self, path: Path, seen: Callable[[int, dict[str, Any]], None]) -> None:
        self.path = path
        self.torn = 0
        try:
            self._out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise StageError(f"{path}: cannot write the store: {error.strerror or error}") from error
        try:
            self._end = self._read(seen)
        except BaseException:
            os.close(self._out)
            raise

    def _read(self, seen: Callable[[int, dict[str, Any]], None]) -> int:
        """Show every record to `seen`; cut off a torn last line. Returns the length of the good part."""
        offset = 0
        size = os.fstat(self._out).st_size
        with open(self.path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    if not line.endswith(b"\n"):
                        raise ValueError("no newline")
                    seen(offset, json.loads(line))
                except (ValueError, KeyError, TypeError) as error:
                    if offset + len(line) < size:
                        raise InputError(
                            f"not a store record: {error}",
                            path=self.path,
                            line=number,
                            remedy="restore the file, or move it away to ask the teacher again",
                        ) from None
                    self.torn = 1
                    break
                offset += len(line)
        if self.torn:
            os.truncate(self.path, offset)
        return offset

    def append(self, record: Mapping[str, Any]) -> int:
        """Write one record, unbuffered; returns its offset. Raises StageError if it cannot, and leaves no half line."""
        line = json.dumps(record, ensure_ascii=True, sort_keys=True).encode() + b"\n"
        try:
            written = 0
            while written < len(line):  # a write may be cut short, by a signal or by a full disk
                written += os.write(self._out, line[written:])
        except OSError as error:
            os.truncate(self.path, self._end)
            raise StageError(f"{self.path}: cannot write the store: {error.strerror or error}") from error
        start, self._end = self._end, self._end + len(line)
        return start

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._out >= 0:
            os.close(self._out)
            self._out = -1


class Store:
    """A Log of records with a unique string `id` each, found again by it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ids = sqlite3.connect("", check_same_thread=False, isolation_level=None)  # "": a file of its own, unnamed
        self._ids.execute("PRAGMA journal_mode = OFF")
        self._ids.execute("PRAGMA synchronous = OFF")
        self._ids.execute("CREATE TABLE ids (id TEXT PRIMARY KEY, offset INTEGER) WITHOUT ROWID")
        self._ids.execute("BEGIN")
        self._log = Log(path, self._seen)
        self._ids.execute("COMMIT")
        self._count = int(self._ids.execute("SELECT COUNT(*) FROM ids").fetchone()[0])
        self._in = open(path, "rb")  # noqa: SIM115 - closed by close()

    def _seen(self, offset: int, record: dict[str, Any]) -> None:
        key = record["id"]
        if not isinstance(key, str):
            raise ValueError("the id is no string")
        self._ids.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (key, offset))

    @property
    def torn(self) -> int:
        """1 if a torn last line was cut off at opening, else 0."""
        return self._log.torn

    def _offset(self, key: str) -> int | None:
        row = self._ids.execute("SELECT offset FROM ids WHERE id = ?", (key,)).fetchone()
        return None if row is None else int(row[0])

    def __contains__(self, key: str) -> bool:
        return self._offset(key) is not None

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every record, in the order of the file."""
        with open(self.path, "rb") as lines:
            for line in lines:
                yield json.loads(line)

    def get(self, key: str) -> dict[str, Any] | None:
        """The stored record, read back from the file, or None."""
        offset = self._offset(key)
        if offset is None:
            return None
        self._in.seek(offset)
        record: dict[str, Any] = json.loads(self._in.readline())
        return record

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record, unbuffered. Raises InputError if its id is there already, StageError if it cannot."""
        key = record["id"]
        if key in self:
            raise InputError(f"record {key!r} is in the store already", path=self.path)
        offset = self._log.append(record)
        self._ids.execute("INSERT INTO ids VALUES (?, ?)", (key, offset))
        self._count += 1

    def close(self) -> None:
        """Close the files; safe to call twice."""
        self._in.close()
        self._ids.close()
        self._log.close()


def check_header(path: Path, settings: Mapping[str, Any]) -> None:
    """Write what the stored answers depend on, or compare with what is there. Raises StageError naming the keys."""
    wanted = json.loads(json.dumps(settings))
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            known = None  # torn at the very first start: nothing was asked before it was whole
        if isinstance(known, dict):
            changed = sorted(k for k in known.keys() | wanted.keys() if known.get(k) != wanted.get(k))
            if changed:
                told = "; ".join(f"{k}: stored {known.get(k)!r}, now {wanted.get(k)!r}" for k in changed)
                raise StageError(
                    f"{path.parent}: the stored answers were made with other settings ({told}) -> "
                    "use another folder, or start it afresh"
                )
            return
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(wanted, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(scratch, path)
