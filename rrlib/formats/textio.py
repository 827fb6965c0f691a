"""Text files as they come: gzip or not, byte order mark or not, and one clear error when they are neither.

Everything above reads through `open_text`, so that each complaint names the file and the line. Lines end at a line
feed only: texts may hold U+2028 and friends, which `str.splitlines` would take for line ends.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from rrlib.disk import replacing
from rrlib.errors import InputError, MissingFileError

BLANKS = " \t\r\n\f\v"
"""White space of the line formats. Other white space (no-break, ideographic) is part of an id."""

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_FOREIGN = {
    b"PK\x03\x04": ("a zip archive", "unzip it first"),
    b"BZh": ("bzip2 data", "decompress it with bunzip2, or compress it with gzip"),
    b"\xfd7zXZ\x00": ("xz data", "decompress it with unxz, or compress it with gzip"),
    b"\x28\xb5\x2f\xfd": ("Zstandard data", "decompress it with unzstd, or compress it with gzip"),
    b"PAR1": ("a Parquet file", "export it as JSON lines"),
    b"%PDF": ("a PDF document", "give a text file"),
    b"\xff\xfe": ("UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
}


class TextLines:
    """Lines of a text file without their line ends; iterate once, or use it in a `with` statement.

    `lineno` is the 1-based number of the line yielded last (0 before the first), `repairs` names what was mended.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.lineno = 0
        self.repairs: list[str] = []
        self._raw = _open_binary(self.path)
        try:
            self._file = self._unpacked()
        except BaseException:
            self._raw.close()
            raise

    def _unpacked(self) -> BinaryIO:
        head = self._raw.peek(8)  # not read and sought back: a pipe cannot go back
        for magic, (what, remedy) in _FOREIGN.items():
            if head.startswith(magic):
                raise InputError(f"this is {what}, not text", path=self.path, remedy=remedy)
        if head.startswith(_GZIP):
            return cast(BinaryIO, gzip.GzipFile(fileobj=self._raw, mode="rb"))
        return self._raw

    def __enter__(self) -> TextLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file (again is harmless)."""
        self._file.close()
        self._raw.close()

    def __iter__(self) -> Iterator[str]:
        try:
            while raw := self._next_bytes():
                self.lineno += 1
                yield self._decoded(raw)
        finally:
            self.close()

    def _next_bytes(self) -> bytes:
        try:
            return self._file.readline()
        except EOFError:
            raise InputError(
                "the gzip data ends too early: the file was cut off",
                path=self.path,
                line=self.lineno + 1,
                remedy="fetch or write the file again",
            ) from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise InputError(
                f"the gzip data is damaged ({error})",
                path=self.path,
                line=self.lineno + 1,
                remedy="fetch or write the file again",
            ) from None
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror or error}", path=self.path) from None

    def _decoded(self, raw: bytes) -> str:
        if self.lineno == 1 and raw.startswith(_BOM):
            raw = raw[len(_BOM) :]
            self.repairs.append("a byte order mark was removed")
        if b"\x00" in raw:
            raise InputError(
                "binary data (a NUL byte) where text is expected",
                path=self.path,
                line=self.lineno,
                remedy="give a UTF-8 text file, plain or gzip",
            )
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"not UTF-8: byte 0x{raw[error.start]:02x} at column {error.start + 1}",
                path=self.path,
                line=self.lineno,
                remedy="convert it, for example: iconv -f WINDOWS-1252 -t UTF-8",
            ) from None
        return line.removesuffix("\n").removesuffix("\r")


USUAL_FILES = ("queries.jsonl", "corpus.jsonl", "qrels/test.tsv")
"""What a folder of a collection (BEIR's layout) holds: named where the folder is given for one of its files."""


def _open_binary(path: Path) -> BufferedReader:
    if path.is_dir():
        there = [found.relative_to(path).as_posix() for name in USUAL_FILES if (found := find_file(path, name))]
        remedy = f"name a file in it ({', '.join(there)})" if there else "name a file in it"
        raise InputError("this is a folder, a file is expected", path=path, remedy=remedy)
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise MissingFileError("no such file", path=path, remedy="check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"cannot be opened: {getattr(error, 'strerror', None) or error}", path=path) from None


def open_text(path: str | Path) -> TextLines:
    """Open a UTF-8 text file, plain or gzip (by its first bytes, whatever its name says).

    A byte order mark is removed and carriage returns before line feeds are dropped. Raises `MissingFileError` where
    there is no such file, and `InputError` (file, line, remedy) for folders, other encodings, binary data and
    damaged gzip data, the last three when the line is reached.
    """
    return TextLines(path)


def find_file(root: Path, *names: str) -> Path | None:
    """The first of these files below a folder, each plain or with `.gz` behind its name; None where none is there."""
    paths = (root / f"{name}{end}" for name in names for end in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def add_note(notes: list[str] | None, path: str | Path, text: str) -> None:
    """Append `path: text` to `notes` (a list of counted repairs), if the caller keeps one."""
    if notes is not None:
        notes.append(f"{path}: {text}")


def read_jsonl(path: str | Path, notes: list[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (1-based line number, object) of a JSON-lines file; blank lines are skipped.

    Raises `InputError` for a line that is not a JSON object.
    """
    with open_text(path) as lines:
        for line in lines:
            if line.strip(BLANKS):
                yield lines.lineno, parse_object(line, path, lines.lineno)
        for repair in lines.repairs:
            add_note(notes, path, repair)


def parse_object(line: str, path: str | Path, lineno: int) -> dict[str, Any]:
    """The JSON object on one line, or `InputError` with the file and the line."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        message = error.msg if isinstance(error, json.JSONDecodeError) else f"{type(error).__name__}: {error}"
        column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        cut = line.strip(BLANKS) in ("[", "{")
        remedy = "write one object a line (jq -c '.[]' turns an array into lines)" if cut else "mend or remove the line"
        raise InputError(f"not JSON: {message}{column}", path=path, line=lineno, remedy=remedy) from None
    if not isinstance(value, dict):
        remedy = "write one object a line"
        if isinstance(value, list):
            remedy += " (jq -c '.[]' turns an array into lines)"
        raise InputError(f"a JSON object is expected, this is {_kind(value)}", path=path, line=lineno, remedy=remedy)
    return value


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def dump_line(row: Mapping[str, Any]) -> str:
    """One JSON object on one line, readable UTF-8 where possible (lone surrogates are escaped, so they survive)."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(row, ensure_ascii=True, allow_nan=False)
    return text


def write_lines(path: str | Path, lines: Iterable[str]) -> Path:
    """Write lines atomically: a reader sees the old file or the whole new one. gzip where the name ends in `.gz`.

    Parent folders are made. The gzip header holds no time stamp, so equal content gives equal bytes.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError("this is a folder, cannot write a file there", path=target, remedy="name a file in it")
    try:
        with replacing(target) as raw:
            if target.suffix == ".gz":
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
                    _write_all(packed.write, lines)
            else:
                _write_all(raw.write, lines)
    except InputError:  # of where the lines come from; a missing file is an OSError too
        raise
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", path=target) from None
    return target


def _write_all(write: Callable[[bytes], object], lines: Iterable[str]) -> None:
    for line in lines:
        write(line.encode("utf-8") + b"\n")


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write one JSON object a line, atomically; gzip where the name ends in `.gz`. NaN and infinity are refused."""
    try:
        return write_lines(path, (dump_line(row) for row in rows))
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"a row cannot be written as JSON: {error}", path=path) from error
