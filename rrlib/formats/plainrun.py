"""TREC runs in their plainest form, query by query: what most programs write, read without an object a line.

`plain_queries` knows one form and no mending. What is anything else (a header, a comment, a blank too many, a letter
beyond ASCII, a document twice, a query in two places) is `NotPlain`, and `rrlib.formats.read_run` reads that file with
its notes and its errors. What is plain here, that reader reads to the same ids and scores.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_COLUMNS = ("qid", "constant", "docid", "rank", "score", "tag")
_PRINTABLE = bytes(range(0x20, 0x7F)) + b"\n"
_BLOCK = 1 << 22  # bytes read at once
_LONGEST_RANK = 18  # digits, as in rrlib.formats.trec


class NotPlain(Exception):
    """The file is not in the plainest form; no error, only the work of another reader."""


def plain_queries(path: str | Path) -> Iterator[tuple[str, list[str], NDArray[np.float64]]]:
    """Yield (query id, document ids, scores of shape (documents,)) of a run, plain or gzip, in the order of the file.

    Raises `NotPlain` where pyarrow is not installed, and (also after some queries have come) for a file that is no
    regular one or not of the form: six cells a line, all separated by one blank, or all by one tab; ASCII; ranks of
    digits; finite scores; the lines of a query together and its documents once.
    """
    import numpy as np

    try:
        import pyarrow
    except ImportError as error:  # a light install reads with care alone
        raise NotPlain(str(error)) from error
    try:
        separator = _separator(Path(path))
        qid, finished = "", set[str]()
        docids: list[str] = []
        scores: list[NDArray[np.float64]] = []
        for part_qid, part_docids, part_scores in _parts(Path(path), separator):
            if part_qid != qid:
                if qid:
                    yield _query(qid, docids, np.concatenate(scores), finished)
                qid, docids, scores = part_qid, [], []
            docids += part_docids
            scores.append(part_scores)
        if not qid:
            raise NotPlain("no lines")
        yield _query(qid, docids, np.concatenate(scores), finished)
    except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
        raise NotPlain(str(error)) from error


def _query(
    qid: str, docids: list[str], scores: NDArray[np.float64], finished: set[str]
) -> tuple[str, list[str], NDArray[np.float64]]:
    if qid in finished or qid.startswith("#") or len(set(docids)) < len(docids):
        raise NotPlain(f"query {qid}")
    finished.add(qid)
    return qid, docids, scores


def _opened(path: Path) -> BinaryIO:
    raw = path.open("rb")
    return cast(BinaryIO, gzip.GzipFile(fileobj=raw, mode="rb")) if raw.peek(2)[:2] == b"\x1f\x8b" else raw


def _separator(path: Path) -> str:
    """The sign between all cells; the whole file is looked at, and holds no other white space."""
    if not path.is_file():  # a pipe can be read only once
        raise NotPlain("no regular file")
    blanks = tabs = False
    with _opened(path) as data:
        while block := data.read(_BLOCK):
            odd = block.translate(None, _PRINTABLE)
            blanks, tabs = blanks or b" " in block, tabs or bool(odd)
            if odd.strip(b"\t") or (blanks and tabs):
                raise NotPlain("signs that are not plain")
    return "\t" if tabs else " "


def _parts(path: Path, separator: str) -> Iterator[tuple[str, list[str], NDArray[np.float64]]]:
    """Lines that follow each other with one query id, from one block of the file: their documents and scores."""
    import numpy as np
    import pyarrow
    import pyarrow.compute as compute
    from pyarrow import csv

    types = dict.fromkeys(_COLUMNS, pyarrow.string()) | {"score": pyarrow.float64()}
    with _opened(path) as data:
        blocks = csv.open_csv(
            data,
            csv.ReadOptions(column_names=list(_COLUMNS), block_size=_BLOCK),
            csv.ParseOptions(delimiter=separator, quote_char=False),
            csv.ConvertOptions(column_types=types, null_values=[], strings_can_be_null=False),
        )
        for block in blocks:
            if not len(block):
                continue
            lengths = {name: compute.min_max(compute.binary_length(block[name])) for name in types if name != "score"}
            digits = compute.all(compute.ascii_is_decimal(block["rank"])).as_py()
            scores = cast("NDArray[np.float64]", np.from_dlpack(block["score"]))  # to_numpy would import pandas
            shortest = min(found["min"].as_py() for found in lengths.values())
            if shortest < 1 or lengths["rank"]["max"].as_py() > _LONGEST_RANK or not digits:
                raise NotPlain("a cell that is not plain")
            if not np.isfinite(scores).all():
                raise NotPlain("a score that is not finite")
            coded = block["qid"].dictionary_encode()
            ends = [*(np.flatnonzero(np.diff(np.from_dlpack(coded.indices))) + 1).tolist(), len(block)]
            for start, end in zip([0, *ends], ends, strict=False):
                docids = block["docid"].slice(start, end - start).to_pylist()
                yield str(block["qid"][start].as_py()), docids, scores[start:end]
