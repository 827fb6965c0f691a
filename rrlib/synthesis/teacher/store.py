"""What a teacher said is written down at once and never asked for again.

A store is an append-only JSONL (rrlib.disk.JsonLines); its ids are indexed in a temporary SQLite file, so memory does
not grow with the records. One process at a time: `StoreLock` holds the folder.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rrlib.disk import JsonLines, Lock, differences, read_json, write_json
from rrlib.errors import InputError, StageError


class StoreLock(Lock):
    """An exclusive lock on a folder, which is made where it is missing. It names its owner to whoever comes second."""

    def __init__(self, folder: Path) -> None:
        refusal = f"{folder}: another process (pid {{pid}}) writes to this store -> wait for it, or use another folder"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            super().__init__(folder / "store.lock", refusal, sign=True)
        except OSError as error:
            raise StageError(f"{folder}: cannot write the store: {error.strerror or error}") from error


def open_rows(path: Path, seen: Callable[[int, Any], None]) -> JsonLines:
    """An append-only file of the store. Open it under a StoreLock. seen: see JsonLines."""
    remedy = "restore the file, or move it away to ask the teacher again"
    return JsonLines(path, seen, what="store", remedy=remedy, sort_keys=True)


class Store:
    """Records with a unique string `id` each, found again by it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ids = sqlite3.connect("", check_same_thread=False, isolation_level=None)  # "": a file of its own, unnamed
        self._ids.execute("PRAGMA journal_mode = OFF")
        self._ids.execute("PRAGMA synchronous = OFF")
        self._ids.execute("CREATE TABLE ids (id TEXT PRIMARY KEY, offset INTEGER) WITHOUT ROWID")
        self._ids.execute("BEGIN")
        self._rows = open_rows(path, self._seen)
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
        return int(self._rows.torn > 0)

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
        offset = self._rows.append(record)
        self._ids.execute("INSERT INTO ids VALUES (?, ?)", (key, offset))
        self._count += 1

    def close(self) -> None:
        """Close the files; safe to call twice."""
        self._in.close()
        self._ids.close()
        self._rows.close()


def check_header(path: Path, settings: Mapping[str, Any]) -> None:
    """Write what the stored answers depend on, or compare with what is there. Raises StageError naming the keys."""
    current = json.loads(json.dumps(settings))
    previous = read_json(path)
    if not isinstance(previous, dict):  # torn at the very first start: nothing was asked before it was whole
        write_json(path, current, sort_keys=True)
    elif changed := differences(previous, current):
        listed = "; ".join(f"{d.key}: stored {d.previous!r}, now {d.current!r}" for d in changed)
        raise StageError(
            f"{path.parent}: the stored answers were made with other settings ({listed}) -> "
            "use another folder, or start it afresh"
        )
