"""One way to keep: JSON that is never half written, append-only JSONL, a lock, hashes, and which settings differ.

Stage folders, training folders, teachers' stores, window logs, outcomes and ablation rows are all kept by these. What a
kill can leave behind is treated once: `write_json` leaves the file as it was, and a row that was being appended lies
behind the last newline, where the next opening cuts it off.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from rrlib.errors import InputError, StageError

HASHED_TO_THE_END = 64 * 2**20
"""Bytes; files above this size are hashed by size and both ends."""


# --- JSON ------------------------------------------------------------------------------------------------------------
@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to be written that takes the place of `path` when the block ends well; a reader sees old or new.

    A link stays one: what it points to is replaced. Pipes and devices are written to as they are.
    """
    if path.is_symlink():
        path = path.resolve()
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb") as out:
            yield out
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_json(path: Path, data: Any, *, sort_keys: bool = False, default: Callable[[Any], Any] | None = None) -> None:
    """Write JSON atomically. default: makes something of what JSON does not know, else that is a TypeError."""
    options: dict[str, Any] = {"indent": 1, "sort_keys": sort_keys, "default": default}
    text = json.dumps(data, ensure_ascii=False, **options)
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate survives as an escape
        encoded = json.dumps(data, ensure_ascii=True, **options).encode("ascii")
    with replacing(path) as out:
        out.write(encoded + b"\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None when it is missing or cut off."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def check_output(path: Path, what: str, *, appended: bool = False) -> None:
    """Refuse a file that could not be written in the end, before anything is paid for; makes its folder.

    what: the file in messages. appended: it will be read again and locked, so no pipe and no device will do.
    Raises InputError for a folder, a place that cannot be written, a full disk, or a device where `appended`.
    """
    target = path.resolve()
    if target.is_dir():
        raise InputError(f"the {what} is a folder", path=path, remedy="name a file in it")
    special = path.exists() and not path.is_file()  # the path as given: that of a shell's `>(...)` leads nowhere
    if special and appended:
        raise InputError(f"the {what} is a pipe or a device", path=path, remedy="name a file: it is read on resume")
    try:
        if special:
            full = path.stat().st_rdev == Path("/dev/full").stat().st_rdev if path.is_char_device() else False
            if full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent) as probe:
            probe.write(b"\0" * 4096)
        if target.exists() and not target.stat().st_mode & 0o222:  # meant to stay, though a folder's owner could
            raise PermissionError(errno.EACCES, "it is read-only")
        if target.exists():
            target.open("ab").close()
    except OSError as error:
        raise InputError(
            f"the {what} cannot be written: {error.strerror or error}", path=path, remedy="name another place"
        ) from None


OF_COLLECTIONS = ("corpus", "queries", "qrels", "excluded", "SOURCE")
"""Names, without endings, of what is read of a collection's folder (rrlib.formats.collection)."""


def check_apart(read: Mapping[str, Path | None], written: Mapping[str, Path | None], *, outside: bool = False) -> None:
    """Refuse a file that is to be written and is also read, written twice, or a part of a collection that is read.

    Flag -> file, or for what is read a folder. outside: nothing at all is to be written below such a folder.
    """
    folders = {path.resolve(): flag for flag, path in read.items() if path is not None and path.is_dir()}
    taken: dict[Path, str] = {path.resolve(): flag for flag, path in read.items() if path is not None}
    for flag, path in written.items():
        if path is not None and (other := taken.get(path.resolve())):
            raise InputError(f"{flag} and {other} are the same file", path=path, remedy=f"name another {flag}")
        if path is not None and (above := next((p for p in path.resolve().parents if p in folders), None)):
            first = path.resolve().relative_to(above).parts[0].split(".")[0]
            if outside or first in OF_COLLECTIONS:
                remedy = f"name another {flag}" + (", outside of it" if outside else "")
                raise InputError(f"{flag} lies in the folder {folders[above]}, which is read", path=path, remedy=remedy)
        if path is not None:
            taken[path.resolve()] = flag


# --- append-only JSONL -----------------------------------------------------------------------------------------------
class JsonLines:
    """An append-only file of JSON rows, held open. One process at a time: take a `Lock` first.

    Opening cuts off what stands behind the last newline (`torn`: how many bytes): a process was killed while it wrote.
    Where no rows are read (`seen` is None), a whole one there gets its newline and stays. A whole line that is no row
    of this file is not ours to mend: it is refused by file and line, before anything is changed.

    seen: called at opening with (offset in bytes, row) of every row, in their order; it may raise ValueError, KeyError
    or TypeError for a row that does not belong here, or an InputError, to which file and line are added. what: the
    file and its rows in messages. remedy: for a strange row. fresh: begin with an empty file; with `ours`, only where
    the first row that is there is one of this file. sort_keys: of the rows that are appended. ours: whether what was
    read from behind the last newline is a row of this file; without it all there is cut. read: makes a row of a line,
    for one who needs less than all of it; it may raise as `seen` may.
    Raises StageError where the file cannot be written, InputError for a strange row.
    """

    def __init__(
        self,
        path: Path,
        seen: Callable[[int, Any], None] | None = None,
        *,
        what: str = "log",
        remedy: str = "restore the file, or move it away",
        fresh: bool = False,
        sort_keys: bool = False,
        read: Callable[[bytes], Any] = json.loads,
        ours: Callable[[Any], bool] | None = None,
    ) -> None:
        self.path, self._what, self._sort_keys, self._read = path, what, sort_keys, read
        if fresh and ours is not None:
            self._refuse_strange(ours, remedy)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | (os.O_TRUNC if fresh else 0)
        try:
            self._file = os.open(path, flags, 0o644)
        except OSError as error:
            raise self._cannot_write(error) from error
        try:
            size, self._end = os.fstat(self._file).st_size, self._end_of_rows()
            if seen is not None:
                self._show(seen, remedy)
            self.torn = self._mend_tail(size, seen is None, ours, remedy) if size > self._end else 0
        except OSError as error:
            self.close()
            raise self._cannot_write(error) from error
        except BaseException:
            self.close()
            raise

    def _refuse_strange(self, ours: Callable[[Any], bool], remedy: str) -> None:
        """Raise InputError for a file with another first row than ours: it would be emptied. A torn one may be ours."""
        try:
            with self.path.open("rb") as lines:
                first = lines.readline()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._cannot_write(error) from error
        try:
            known = ours(json.loads(first))
        except ValueError:
            known = first[:1] in b"{\0" and not first.endswith(b"\n")
        if not known:
            raise InputError(f"not a {self._what}", path=self.path, line=1, remedy=remedy)

    def _cannot_write(self, error: OSError) -> StageError:
        return StageError(f"{self.path}: cannot write the {self._what}: {error.strerror or error}")

    def _end_of_rows(self) -> int:
        """Where the last whole line ends."""
        end = os.fstat(self._file).st_size
        while end > 0:
            start = max(0, end - 65536)
            newline = os.pread(self._file, end - start, start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
        return 0

    def _mend_tail(self, size: int, end_whole: bool, ours: Callable[[Any], bool] | None, remedy: str) -> int:
        """Cut off what stands behind the last newline, or end a whole row; how many bytes were cut.

        Raises InputError for what `ours` says is no row, and for no beginning of one.
        """
        tail = os.pread(self._file, size - self._end, self._end)
        try:
            row, whole = json.loads(tail), True
        except ValueError:
            row, whole = None, False
        begins = tail[:1] in b"{\0"  # a row, or a block that a power cut left empty
        if ours is not None and not (ours(row) if whole else begins):
            number = self.path.read_bytes()[: self._end].count(b"\n") + 1
            message = f"not a {self._what} record: the last line is none, and has no end"
            raise InputError(message, path=self.path, line=number, remedy=remedy)
        if whole and end_whole:
            os.write(self._file, b"\n")
            self._end = size + 1
            return 0
        os.ftruncate(self._file, self._end)
        return size - self._end

    def _show(self, seen: Callable[[int, Any], None], remedy: str) -> None:
        offset = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if offset >= self._end:
                    break  # behind the last newline
                try:
                    seen(offset, self._read(line))
                except InputError as error:
                    raise InputError(error.message, path=self.path, line=number, remedy=error.remedy) from None
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    message = f"not a {self._what} record: {error}"
                    raise InputError(message, path=self.path, line=number, remedy=remedy) from error
                offset += len(line)

    def row(self, offset: int) -> Any:
        """The whole row at an offset that `seen` or `append` told. Raises ValueError where there is none."""
        return row_at(self._file, offset)

    def append(self, row: Any) -> int:
        """Write one row, in one piece and unbuffered; returns its offset.

        Raises StageError if it cannot be written, and leaves no half line.
        """
        line = json.dumps(row, ensure_ascii=True, sort_keys=self._sort_keys).encode() + b"\n"
        try:
            written = 0
            while written < len(line):  # a write may be cut short, by a signal or by a full disk
                written += os.write(self._file, line[written:])
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise self._cannot_write(error) from error
        start, self._end = self._end, self._end + len(line)
        return start

    def sync(self) -> None:
        """Wait until all rows are on the disk itself, so that they outlive a power cut."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def row_at(file: int, offset: int) -> Any:
    """The whole row at an offset of an open file of JSON lines. Raises ValueError where there is none."""
    line = b""
    while b"\n" not in line:
        block = os.pread(file, 1 << 15, offset + len(line))
        if not block:
            raise ValueError("the row ends too early")
        line += block
    return json.loads(line[: line.index(b"\n")])


def append_jsonl(path: Path, row: Any, *, sort_keys: bool = False) -> None:
    """Add one row to a JSONL file and wait until it is on the disk; a torn last line is cut off before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = JsonLines(path, sort_keys=sort_keys)
    try:
        lines.append(row)
        lines.sync()
    finally:
        lines.close()


def cut_torn_tail(path: Path) -> int:
    """Cut a torn last line off a JSONL file that is there; returns how many bytes that were."""
    lines = JsonLines(path)
    lines.close()
    return lines.torn


# --- one process at a time -------------------------------------------------------------------------------------------
class Lock:
    """An exclusive lock on a file, which is made where it is missing. It goes with the process, however that ends.

    refusal: the message of the StageError where another process holds it; `{pid}` stands for what that wrote there.
    sign: write this process's number into the file. Raises OSError where there can be no such file.
    """

    def __init__(self, path: Path, refusal: str, *, sign: bool = False) -> None:
        from filelock import FileLock, Timeout

        # The file may be data (a window log): it is never removed, and nothing but a true lock will do.
        self._lock = FileLock(
            path.resolve(), timeout=0, thread_local=False, fallback_to_soft=False, preserve_lock_file=True
        )
        try:
            self._lock.acquire()
        except Timeout:
            pid = path.read_text(encoding="utf-8").strip() or "unknown" if sign else ""
            raise StageError(refusal.replace("{pid}", pid)) from None
        if sign:
            path.write_text(str(os.getpid()), encoding="utf-8")

    def release(self) -> None:
        """Let go; safe to call twice."""
        self._lock.release()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


# --- hashes ----------------------------------------------------------------------------------------------------------
def hash_text(*parts: str) -> str:
    """16 hexadecimal digits of SHA-256 over the parts, with their bounds."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()[:16]


def hash_file(path: Path) -> str:
    """Content hash of a file; of very large files size and both ends only."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as data:
        if size <= HASHED_TO_THE_END:
            while block := data.read(2**20):
                digest.update(block)
        else:
            digest.update(f"{size}:".encode() + data.read(2**20))
            data.seek(-(2**20), os.SEEK_END)
            digest.update(data.read())
    return digest.hexdigest()[:16]


def files_below(folder: Path) -> list[Path]:
    """All plain files of a folder in name order, without caches."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def hash_tree(path: Path) -> str:
    """Hash of a file, or of all files of a folder with their relative names."""
    if path.is_file():
        return hash_file(path)
    return hash_text(*(f"{p.relative_to(path).as_posix()}={hash_file(p)}" for p in files_below(path)))


# --- which settings differ -------------------------------------------------------------------------------------------
class Difference(NamedTuple):
    """A setting that changed. key: with dots where settings stand inside settings. A missing one is None."""

    key: str
    previous: Any
    current: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.previous!r} -> {self.current!r}"


def differences(previous: Mapping[str, Any], current: Mapping[str, Any]) -> list[Difference]:
    """The settings in which two records differ: those of `current` in its order, then what only `previous` has."""
    changed: list[Difference] = []
    for key in [*current, *(k for k in previous if k not in current)]:
        before, after = previous.get(key), current.get(key)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changed += [Difference(f"{key}.{d.key}", d.previous, d.current) for d in differences(before, after)]
        else:
            changed.append(Difference(key, before, after))
    return changed
