"""The window log of a server: a line for every window that was finished, of all clients, in the form of `rrlib rerank`.

`rrlib audit` and rrlib.records.read_records read it. It is no resume point: a request that comes again is asked again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rrlib.disk import JsonLines, Lock
from rrlib.errors import InputError, StageError
from rrlib.records import WindowRecord

_LOGGER = logging.getLogger("rrlib.serve")


class ServedWindows:
    """An append-only JSONL of window records, held by one process; safe to use from several threads.

    settings: what stands in every line; set it before the first window. Raises InputError where path is no place for a
    file, and StageError where another process writes it.
    """

    def __init__(self, path: Path) -> None:
        self.settings: Mapping[str, Any] = {}
        self._guard, self._failing = threading.Lock(), False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(path, f"{path}: another process is writing this log -> name another")
        except OSError as error:
            raise InputError(f"no log can be written: {error}", path=path, remedy="name a file") from error
        self._lines = JsonLines(path, what="window log")

    def append(self, request: str, record: WindowRecord) -> None:
        """Write a finished window. request: the id of its request, which becomes the `qid` of the line.

        A line that cannot be written (a full disk) is lost, and the server's own log says so once: no client is to
        lose an answer for it.
        """
        row = {**replace(record, qid=request).to_json(), "settings": self.settings}
        with self._guard:
            try:
                self._lines.append(row)
                self._failing = False
            except StageError as error:
                if not self._failing:
                    _LOGGER.error("windows are not logged: %s", error)
                self._failing = True

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._lines.close()
        self._lock.release()
