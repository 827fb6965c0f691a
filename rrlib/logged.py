"""Window records that stay in their log: of each its place is kept, and it is read when it is asked for."""

from __future__ import annotations

import os
import weakref
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from rrlib.disk import row_at
from rrlib.errors import InputError
from rrlib.records import WindowRecord


class LoggedRecords(Sequence[WindowRecord]):
    """Window records in the order they finished, as a list holds them; each is read anew whenever it is asked for.

    The log may be removed meanwhile. Raises InputError where it was begun anew: its records are others then.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._places = array("q")  # of a record that an earlier run wrote: -1 - place
        self._marks = array("q")  # by which a record is known again
        self._file = -1

    def take(self, record: WindowRecord, place: int) -> None:
        """Add a record that stands at a place of the log."""
        if self._file < 0:
            self._file = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
        self._places.append(place if record.settings is None else -1 - place)
        self._marks.append(hash(record.key))

    def at(self, indices: Sequence[int]) -> LoggedRecords:
        """Those at some places of the list."""
        part = LoggedRecords(self.path)
        part._places = array("q", (self._places[i] for i in indices))
        part._marks = array("q", (self._marks[i] for i in indices))
        if self._file >= 0:
            part._file = os.dup(self._file)
            weakref.finalize(part, os.close, part._file)
        return part

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> WindowRecord: ...
    @overload
    def __getitem__(self, index: slice) -> LoggedRecords: ...
    def __getitem__(self, index: int | slice) -> WindowRecord | LoggedRecords:
        if isinstance(index, slice):
            return self.at(range(len(self))[index])
        place = self._places[index]
        try:
            row = row_at(self._file, place if place >= 0 else -1 - place)
            if place >= 0:
                row.pop("settings")
            record = WindowRecord.from_json(row)
        except (KeyError, TypeError, ValueError, AttributeError):
            record = None
        if record is None or hash(record.key) != self._marks[index]:
            remedy = "use the records before, or name another log"
            raise InputError("the log was begun anew, and these records are gone", path=self.path, remedy=remedy)
        return record

    def __iter__(self) -> Iterator[WindowRecord]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LoggedRecords | list) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} window records of {self.path}>"
