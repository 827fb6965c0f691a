"""The window log: one JSON line for every finished window. It is the resume point, the audit, the latency record and,
through the replay engine, a regression test.

Beside `LOG.jsonl` a small file `LOG.jsonl.asked` lists the windows that were sent out, so that after a kill the calls
that were in flight (asked, never answered) can be counted; it is removed when a run ends.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rrlib.engines.replay import Key, record_key
from rrlib.errors import InputError, StageError


def repair_tail(path: Path) -> int:
    """Cut a torn last line off (a process was killed while it wrote); returns the number of bytes removed."""
    size = path.stat().st_size
    with path.open("rb+") as handle:
        end = size
        while end > 0:
            start = max(0, end - 65536)
            handle.seek(start)
            cut = handle.read(end - start).rfind(b"\n")
            if cut >= 0:
                end = start + cut + 1
                break
            end = start
        if end < size:
            handle.truncate(end)
    return size - end


class WindowLog:
    """An append-only JSONL of window records, held by one process at a time.

    settings: what must be equal for a resume (model, style, decoding, strategy, ...). With `weights`, a hash of the
    checkpoint, its path (`model`) may be another: outputs may be moved. Raises InputError where the log
    was made with others, naming the key, and StageError where another process holds the log.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.path, self.settings = Path(path), dict(settings)
        self.asked_path = self.path.with_name(self.path.name + ".asked")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = self.path.open("a", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise StageError(
                f"{self.path}: another process is writing this log -> wait for it, or use another"
            ) from error
        if fresh:
            self._file.truncate(0)
            self.asked_path.unlink(missing_ok=True)
        self.torn_bytes = repair_tail(self.path)
        self.records: dict[Key, dict[str, Any]] = {}
        try:
            self._load()
        except BaseException:
            self._file.close()
            raise
        self.in_flight = self._count_in_flight()
        self._asked: IO[str] = self.asked_path.open("w", encoding="utf-8")

    def _load(self) -> None:
        with self.path.open("rb") as handle:
            for line, raw in enumerate(handle, 1):
                try:
                    row = json.loads(raw)
                    key = record_key(row)
                except (ValueError, KeyError, TypeError) as error:
                    remedy = "use another --log, or --fresh to begin anew"
                    raise InputError(
                        f"not a window record ({error})", path=self.path, line=line, remedy=remedy
                    ) from error
                self._same_settings(row.get("settings") or {}, line)
                self.records[key] = row

    def _same_settings(self, logged: Mapping[str, Any], line: int) -> None:
        # A checkpoint is known by what is in it, wherever it lies; in a log from before that was recorded, by its path.
        same = {"model" if "weights" in logged and "weights" in self.settings else "weights"}
        for key in sorted((set(logged) | set(self.settings)) - same):
            was, now = logged.get(key), self.settings.get(key)
            if was != now:
                raise InputError(
                    f"this log was made with {key}={was!r}, now it is {now!r}",
                    path=self.path,
                    line=line,
                    remedy="resume with the same settings, name another --log, or begin anew with --fresh",
                )

    def _count_in_flight(self) -> int:
        if not self.asked_path.exists():
            return 0
        repair_tail(self.asked_path)
        logged = {_name(key) for key in self.records}
        return len(set(self.asked_path.read_text(encoding="utf-8").splitlines()) - logged)

    def asked(self, key: Key) -> None:
        """Note that a window has been sent out."""
        self._asked.write(_name(key) + "\n")
        self._asked.flush()

    def append(self, key: Key, record: dict[str, Any]) -> None:
        """Write one finished window; it is on its way to the disk before the next is asked."""
        self.records[key] = record
        self._file.write(json.dumps({**record, "settings": self.settings}, ensure_ascii=True) + "\n")
        self._file.flush()

    def close(self, *, finished: bool) -> None:
        """Close the log; the list of asked windows goes when the run has finished."""
        if self._file.closed:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._asked.close()
        if finished:
            self.asked_path.unlink(missing_ok=True)
        self._file.close()


def _name(key: Key) -> str:
    return json.dumps([key[0], key[1], key[2], key[3][0], key[3][-1], len(key[3])])
