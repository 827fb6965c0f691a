"""A study whose finished rows are lines of a file, so that a killed one goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from rrlib.disk import append_jsonl, cut_torn_tail
from rrlib.formats import read_jsonl
from rrlib.studies.ablations import Table
from rrlib.studies.setting import Setting

R = TypeVar("R")


class KeptStudy(Generic[R]):
    """A study in a folder. kind: its row, a dataclass with a field `setting`, the key of the settings it was made
    with. table: makes worlds, examples and trainings of a seed."""

    kind: ClassVar[Any]

    def __init__(self, folder: str | Path, setting: Setting, say: Callable[[str], None] = print) -> None:
        self.table, self.say = Table(folder, setting, say), say
        self.folder, self.setting, self.path = Path(folder), setting, Path(folder) / "rows.jsonl"

    def rows(self) -> list[R]:
        """The finished rows that were made with these settings."""
        if not self.path.is_file():
            return []
        rows = [self.kind(**row) for _, row in read_jsonl(self.path)]
        return [row for row in rows if row.setting == self.table.key]

    def begin(self) -> None:
        """Make the folder ready to write to; a row that was torn by a kill goes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.path.is_file():
            cut_torn_tail(self.path)

    def keep(self, row: R) -> None:
        """Write a finished row."""
        append_jsonl(self.path, asdict(row), sort_keys=True)  # type: ignore[call-overload]
