"""The window record, and its log: one JSON line for every finished window. It is the resume point, the audit, the
latency record and, through the replay engine, a regression test. And what a reranking gives, with its records.

Beside `LOG.jsonl` a small file `LOG.jsonl.asked` lists the windows that were sent out, so that after a kill the calls
that were in flight (asked, never answered) can be counted; it is removed when a run ends.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rrlib.disk import JsonLines, Lock, cut_torn_tail, differences
from rrlib.errors import InputError
from rrlib.formats import read_jsonl
from rrlib.responses import Verdict

Key = tuple[str, str, int, tuple[int, ...], int]
"""Where a window belongs: (collection, qid, pass, positions in the candidates, sample), all numbers 0-based."""


WIDEST = 100_000
"""Places of a window, at most: more are a slip in a file, and would fill the memory."""


def record_key(row: Mapping[str, Any]) -> Key:
    """The key of a row of a log or a replay file. Raises KeyError, TypeError or ValueError."""
    try:
        if row.get("positions") is not None:
            positions = tuple(int(p) for p in row["positions"])
        else:
            start, end = row["start"], row["end"]
            if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= start + WIDEST):
                raise ValueError(f"start {start!r} and end {end!r} are not a window of 1 to {WIDEST:,} places")
            positions = tuple(range(start, end))
        collection, pass_no, sample = row.get("collection") or "", row.get("pass") or 0, row.get("sample") or 0
        return str(collection), str(row["qid"]), int(pass_no), positions, int(sample)
    except OverflowError as error:  # JSON may hold Infinity
        raise ValueError(str(error)) from error


@dataclass(frozen=True, slots=True)
class WindowRecord:
    """One finished window.

    qid, collection, pass_no, positions, sample: where it belongs (see Key). seed: the sample was drawn with, None for a
    window that is asked once. round: of its query, 0-based; windows of one round may be asked at once. docids: as
    shown. order: 0-based permutation of docids, best first. prompt_hash: None where no prompt was made (replay).
    source_hash: of all that the prompt was made of (PreparedPrompts.source_hash), in logs; None where that is not told.
    text: the raw answer, None where none came. verdict, repairs: of rrlib.responses. finish_reason: the engine's.
    tokens_in, tokens_out: of all calls for this window. seconds: as the window waited. retries: tries after the first.
    error: why the call failed. score, logprobs: of a window that was scored, where logprobs is not None (natural
    logarithms). requests: engine calls, of an answer that was continued. closed: the chain was cut off at its budget.
    settings: of the run that wrote it, where it was read back from a log.
    """

    qid: str
    positions: tuple[int, ...]
    docids: tuple[str, ...] = ()
    order: tuple[int, ...] = ()
    collection: str = ""
    pass_no: int = 0
    round: int = 0
    prompt_hash: str | None = None
    text: str | None = None
    reasoning: str = ""
    verdict: str = "ok"
    repairs: tuple[str, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    finish_reason: str = ""
    seconds: float = 0.0
    retries: int = 0
    error: str | None = None
    score: float | None = None
    logprobs: Mapping[str, float] | None = None
    requests: int | None = None
    closed: bool = False
    settings: Mapping[str, Any] | None = None
    sample: int = 0
    seed: int | None = None
    source_hash: str | None = None

    @property
    def key(self) -> Key:
        """Where the window belongs."""
        return self.collection, self.qid, self.pass_no, self.positions, self.sample

    @property
    def unread(self) -> bool:
        """Whether the window keeps the order it had: its call failed, or no list and no score is in the answer."""
        return self.verdict not in (Verdict.OK, Verdict.REPAIRED) and self.score is None

    @property
    def start(self) -> int:
        """The first position."""
        return self.positions[0]

    @property
    def end(self) -> int:
        """One behind the last position."""
        return self.positions[-1] + 1

    @property
    def ranked_docids(self) -> tuple[str, ...]:
        """The window's documents, best first."""
        return tuple(self.docids[i] for i in self.order)

    def replay_onto(self, docids: list[str]) -> None:
        """Put the window's documents, best first, at its places of a query's list."""
        for position, docid in zip(self.positions, self.ranked_docids, strict=True):
            docids[position] = docid

    def to_json(self) -> dict[str, Any]:
        """The row of a log. Names and order of the fields are a file format; what says nothing is left out."""
        row: dict[str, Any] = {"qid": self.qid, "pass": self.pass_no}
        if self.collection:
            row["collection"] = self.collection
        row |= {"start": self.start, "end": self.end}
        if self.positions != tuple(range(self.start, self.end)):
            row["positions"] = list(self.positions)
        if self.sample or self.seed is not None:
            row |= {"sample": self.sample, "seed": self.seed}
        row |= {"docids": list(self.docids)} | {name: getattr(self, name) for name in _ALWAYS}
        if self.logprobs is not None:
            row |= {"score": self.score, "logprobs": dict(self.logprobs)}
        row |= {name: value for name in _WHERE_SAID if (value := getattr(self, name))}
        return row if self.settings is None else {**row, "settings": dict(self.settings)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> WindowRecord:
        """Read a row of a log. Raises KeyError, TypeError or ValueError for what is none."""
        collection, qid, pass_no, positions, sample = record_key(row)
        given = {name: row[name] for name in (*_ALWAYS, *_SOMETIMES) if row.get(name) is not None}
        given |= {"order": tuple(row["order"]), "repairs": tuple(row.get("repairs") or ()), "verdict": row["verdict"]}
        place: dict[str, Any] = {"collection": collection, "pass_no": pass_no, "sample": sample}
        return cls(qid, positions, tuple(row["docids"]), **place, **given)


_ALWAYS = (
    "prompt_hash", "text", "reasoning", "verdict", "repairs", "order", "tokens_in", "tokens_out", "finish_reason",
    "seconds", "retries", "error",
)  # fmt: skip
_WHERE_SAID = ("round", "requests", "closed", "source_hash")
_SOMETIMES = (*_WHERE_SAID, "score", "logprobs", "settings", "seed")


class Retries:
    """Which windows may stand in a log again: one whose call had failed, and those of its query that were asked before
    it was made again, since they may see other passages then."""

    def __init__(self) -> None:
        self._failed: set[Key] = set()
        self._made_again: Counter[tuple[str, str]] = Counter()  # (collection, qid) -> failed calls that were made again
        self._when: dict[Key, int] = {}  # that count at a window's last line

    def may_be(self, key: Key, failed: bool) -> bool:
        """Take the next line of a log; whether its window is new, or rightly there again."""
        query, again = key[:2], key in self._failed
        self._made_again[query] += again
        right = again or self._made_again[query] > self._when.get(key, -1)
        self._when[key] = self._made_again[query]
        (self._failed.add if failed else self._failed.discard)(key)
        return right


def of_each_window(rows: Iterable[tuple[int, dict[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
    """(line, row) of each window of a log, in order: of one that was asked again, the last row.

    A window is asked again where its call had failed, and so are the windows of that query behind it. A row without
    `settings` is no line of a log of ours, and stays as it is.
    """
    kept: dict[Any, tuple[int, dict[str, Any]]] = {}
    lines = Retries()
    for line, row in rows:
        name: Any = line
        if row.get("settings") is not None:
            with suppress(KeyError, TypeError, ValueError):  # for the reader to refuse
                key = record_key(row)
                name = key if lines.may_be(key, row.get("error") is not None) else line
        kept[name] = line, row
    return list(kept.values())


def read_records(path: str | Path) -> list[WindowRecord]:
    """The records of a finished log, one a window. Raises InputError with the line for what is no window record."""
    records: list[WindowRecord] = []
    for line, row in of_each_window(read_jsonl(path)):
        try:
            records.append(WindowRecord.from_json(row))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"not a window record: {error}", path=path, line=line, remedy="give the log of a reranking"
            ) from error
    return records


@dataclass
class Tally:
    """What the windows of a run were, in counts that do not grow with them.

    windows: how many. unread: those that keep the order they had (see RerankResult.unread), by verdict. failed: of
    these, the windows whose call failed. last_error: the reason of the last of them.
    """

    windows: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    last_error: str | None = None

    def take(self, record: WindowRecord) -> None:
        """Count one finished window."""
        self.windows += 1
        if record.unread:
            self.unread[record.verdict] += 1
            if record.error is not None:
                self.failed += 1
                self.last_error = record.error


@dataclass
class RerankResult:
    """What a run gave.

    rankings: (collection, qid) -> document ids, best first: every candidate once. records: the window records in the
    order they finished; with a log they are read from it whenever they are asked for (rrlib.logged). counts: windows
    asked, reused, failed, missing, verdicts, in_flight at the last kill, ...
    """

    rankings: dict[tuple[str, str], list[str]]
    records: list[WindowRecord]
    counts: dict[str, int]

    @property
    def unread(self) -> list[WindowRecord]:
        """The windows that keep the order they had: their call failed, or no list and no score is in the answer."""
        return [record for record in self.records if record.unread]

    def run(self, collection: str = "") -> dict[str, list[str]]:
        """The rankings of one collection: qid -> document ids, as `rrlib.formats.write_run` takes them."""
        return {qid: docs for (name, qid), docs in self.rankings.items() if name == collection}


_REMEDY = "name another --log"


def _is_row(row: Any) -> bool:
    try:
        record_key(row)
        return {"order", "verdict", "docids"} <= row.keys()
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


class WindowLog:
    """An append-only JSONL of window records, held by one process at a time.

    Nothing of a window is kept but where its line begins: what an earlier run logged is read back when it is asked for.
    settings: what must be equal for a resume (model, style, decoding, strategy, ...). With `weights`, a hash of the
    checkpoint, its path (`model`) may be another: outputs may be moved. Raises InputError where the log
    was made with others, naming the key, and StageError where another process holds the log.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.path, self.settings = Path(path), dict(settings)
        self.asked_path = self.path.with_name(self.path.name + ".asked")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and not self.path.is_file():
            raise InputError("a window log is a file: it is read again on resume", path=path, remedy="name a file")
        self._closed = False
        self._lock = Lock(self.path, f"{path}: another process is writing this log -> wait for it, or use another")
        self._places: dict[Key, int] = {}  # the offset of the last line of each window that an earlier run logged
        self._failed: set[Key] = set()  # of these, the windows whose call failed
        self._same: dict[tuple[int, ...], tuple[int, ...]] = {}  # equal positions are kept once
        self._suffix = b', "settings": ' + json.dumps(self.settings).encode() + b"}\n"
        self.tells_source = True  # no window of it is without a source_hash: a log goes on as it was begun
        self.retried: set[tuple[str, str]] = set()  # (collection, qid) of which a failed window was asked again
        if fresh:
            self.asked_path.unlink(missing_ok=True)
        try:
            self._lines = JsonLines(
                self.path, self._seen, what="window log", remedy=_REMEDY, fresh=fresh, read=self._head, ours=_is_row
            )
            self.in_flight = self._count_in_flight()
            self._asked = JsonLines(self.asked_path, fresh=True)
        except BaseException:
            self._lock.release()
            raise

    def _head(self, line: bytes) -> Any:
        """The row of a line without what a resume need not parse at once: both texts, and settings equal to ours."""
        # Quotes inside of a string are escaped, so these are the names of the fields, in the order of `to_json`.
        first = line.find(b'"text": ')
        last = line.find(b'"verdict": ', first) if first >= 0 else -1
        ours = line.endswith(self._suffix)
        end = len(line) - len(self._suffix) if ours else len(line)
        short = line[:first] + line[last:end] if 0 < last < end else line[:end]
        row = json.loads(short + b"}" if ours else short)
        if ours:
            row["settings"] = self.settings
        return row

    def _seen(self, offset: int, row: Mapping[str, Any]) -> None:
        parts = record_key(row)
        _ = tuple(row["order"]), tuple(row.get("repairs") or ()), row["verdict"], tuple(row["docids"])
        settings = row.get("settings") or {}
        if settings is not self.settings:
            self._check_settings(settings)
        self.tells_source &= row.get("source_hash") is not None
        collection, qid, pass_no, positions, sample = parts
        if (same := self._same.get(positions)) is None:
            same = self._same[positions] = positions
        key = sys.intern(collection), sys.intern(qid), pass_no, same, sample
        if key in self._failed:
            self.retried.add((collection, qid))
            self._failed.discard(key)
        if row.get("error") is not None:
            self._failed.add(key)
        self._places[key] = offset

    def get(self, key: Key) -> WindowRecord | None:
        """The record of a window that an earlier run logged, read back from the file; None where there is none."""
        place = self._places.get(key)
        return None if place is None else self.read(place)

    def had_failed(self, key: Key) -> bool:
        """Whether an earlier run logged this window, and its call had failed."""
        return key in self._failed

    def place(self, key: Key) -> int | None:
        """The place of such a record, for `read`."""
        return self._places.get(key)

    def read(self, place: int) -> WindowRecord:
        """The record at a place that `append` or `place` told. Raises InputError where the line is none."""
        try:
            return WindowRecord.from_json(self._lines.row(place))
        except (KeyError, TypeError, ValueError) as error:
            with self.path.open("rb") as data:
                line = data.read(place).count(b"\n") + 1
            message = f"not a window log record: {error}"
            raise InputError(message, path=self.path, line=line, remedy=_REMEDY) from error

    def _check_settings(self, logged: Mapping[str, Any]) -> None:
        # A checkpoint is known by what is in it, wherever it lies; in a log from before that was recorded, by its path.
        ignored = "model" if "weights" in logged and "weights" in self.settings else "weights"
        changed = [d for d in differences(logged, self.settings) if d.key != ignored]
        if changed:
            listed = "; ".join(f"{d.key}={d.previous!r}, now it is {d.current!r}" for d in changed)
            raise InputError(
                f"this log was made with {listed}",
                remedy="resume with the same settings, name another --log, or begin anew with --fresh",
            )

    def _count_in_flight(self) -> int:
        if not self.asked_path.exists():
            return 0
        cut_torn_tail(self.asked_path)
        with self.asked_path.open(encoding="utf-8") as lines:
            asked = {line.rstrip("\n") for line in lines}
        for key in self._places:
            asked.discard(json.dumps(_short(key)))
        return len(asked)

    def asked(self, key: Key) -> None:
        """Note that a window has been sent out."""
        self._asked.append(_short(key))

    def append(self, record: WindowRecord) -> int:
        """Write one finished window; it is on its way to the disk before the next is asked. Returns its place."""
        if record.key in self._failed:
            self.retried.add((record.collection, record.qid))
        return self._lines.append({**record.to_json(), "settings": self.settings})

    def close(self, *, finished: bool) -> None:
        """Close the log; the list of asked windows goes when the run has finished. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._lines.sync()
        self._lines.close()
        self._asked.close()
        if finished:
            self.asked_path.unlink(missing_ok=True)
        self._lock.release()


def _short(key: Key) -> list[Any]:
    """A key by the ends and the number of its positions: what stands in a line of the list of asked windows."""
    collection, qid, pass_no, positions, sample = key
    return [collection, qid, pass_no, positions[0], positions[-1], len(positions), *([sample] if sample else [])]
