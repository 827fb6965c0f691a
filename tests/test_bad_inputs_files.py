"""Bad files, each with the error it must give: the file, the line, what is wrong and what to do about it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rrlib import formats
from rrlib.errors import InputError, MissingFileError

Reader = Callable[[Path], Any]


def rows(*objects: object) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in objects).encode()


def request(**candidate: Any) -> bytes:
    body = {"docid": "a", "score": 1.0, "doc": {"text": "t"}, **candidate}
    return rows({"query": {"qid": "q", "text": "t"}, "candidates": [{k: v for k, v in body.items() if v != "-"}]})


def example(**changes: Any) -> bytes:
    body = {
        "qid": "q",
        "query": "t",
        "passages": [{"docid": "a", "text": "A"}, {"docid": "b", "text": "B"}],
        "relevance": [1, 0],
        "gold": [0, 1],
        **changes,
    }
    return rows({key: value for key, value in body.items() if value != "-"})


RUN, QRELS, QUERIES, CORPUS = formats.read_run, formats.read_qrels, formats.read_queries, formats.read_corpus
REQUESTS, EXAMPLES, EXCLUDED = formats.read_requests, formats.read_examples, formats.read_excluded
OK_RUN = b"q Q0 a 1 2.0 t\n"
OK_DOC = rows({"_id": "a", "text": "A"})

# name: reader, content (None = no file), line (None = the whole file), what the message says, what the remedy says
TABLE: dict[str, tuple[Reader, bytes | None, int | None, str, str]] = {
    # any file
    "no file": (RUN, None, None, "no such file", "check the path"),
    "zip": (RUN, b"PK\x03\x04xxxx", None, "a zip archive", "unzip"),
    "bzip2": (QRELS, b"BZh91AY", None, "bzip2", "bunzip2"),
    "xz": (CORPUS, b"\xfd7zXZ\x00\x00", None, "xz data", "unxz"),
    "zstd": (CORPUS, b"\x28\xb5\x2f\xfd\x00", None, "Zstandard", "unzstd"),
    "parquet": (CORPUS, b"PAR1\x15\x04", None, "Parquet", "JSON lines"),
    "pdf": (QUERIES, b"%PDF-1.7\n", None, "PDF", "text file"),
    "utf-16": (QUERIES, "1\twhat?\n".encode("utf-16"), None, "UTF-16", "iconv"),
    "utf-16 without mark": (QUERIES, "1\twhat?\n".encode("utf-16-le"), 1, "NUL", "UTF-8"),
    "latin-1": (QUERIES, "1\tfine\n2\tcaf\xe9\n".encode("latin-1"), 2, "not UTF-8: byte 0xe9 at column 6", "iconv"),
    "nul": (CORPUS, OK_DOC + b'{"_id": "b", "text": "\x00"}\n', 2, "NUL", "UTF-8"),
    "cut gzip": (RUN, gzip.compress(OK_RUN)[:-6], None, "cut off", "again"),
    "cut gzip header": (RUN, b"\x1f\x8b\x08", 1, "cut off", "again"),
    "bad gzip": (RUN, gzip.compress(OK_RUN)[:10] + b"\xff" * 20, 1, "damaged", "again"),
    "bad gzip sum": (RUN, gzip.compress(OK_RUN)[:-8] + bytes(8), None, "damaged", "again"),
    # runs
    "run: empty": (RUN, b"", None, "the run is empty", "query Q0 document rank score tag"),
    "run: short line": (RUN, OK_RUN + b"q Q0 b 2 1.0\n", 2, "5 fields, 6 are expected", "query Q0 document"),
    "run: one word": (RUN, b"word\n", 1, "1 fields", "query Q0 document"),
    "run: score": (RUN, b"q Q0 a 1 x t\n", 1, "the score 'x' is not a finite number", "rank score tag"),
    "run: infinite": (RUN, OK_RUN + b"\nq Q0 b 2 Infinity t\n", 3, "'Infinity'", "rank score tag"),
    "run: rank": (RUN, b"q Q0 a 1.5 1 t\n", 1, "the rank '1.5' is not an integer", "rank score tag"),
    "run: no Q0": (RUN, b"q document 1 0.5 t\n", 1, "5 fields", "query Q0 document"),
    "run: no Q0 and blanks": (RUN, b"q my long document 1 0.5 t\n", 1, "'my' where Q0 is expected", "query Q0"),
    "run: repeat": (RUN, OK_RUN + b"r Q0 a 1 1 t\nq Q0 a 2 1 t\n", 3, "second time (first on line 1)", "one line"),
    "run: qrels given": (RUN, b"q 0 a 1\n", 1, "4 fields", "query Q0 document"),
    # qrels
    "qrels: empty": (QRELS, b"", None, "no judgements", "query 0 document grade"),
    "qrels: header only": (QRELS, b"query-id\tcorpus-id\tscore\n", None, "no judgements", "query 0 document grade"),
    "qrels: no header": (QRELS, b"q\ta\t1\n", 1, "3 fields, 4 are expected", "query 0 document grade"),
    "qrels: short": (QRELS, b"query-id\tcorpus-id\tscore\nq\ta\t1\nq\t1\n", 3, "2 fields, 3 are", "under this header"),
    "qrels: grade": (QRELS, b"q 0 a 1\nq 0 b yes\n", 2, "the grade 'yes' is not an integer", "last column"),
    "qrels: half grade": (QRELS, b"q 0 a 0.5\n", 1, "the grade '0.5'", "last column"),
    "qrels: id as grade": (QRELS, b"q 0 1 5611210\n", 1, "the grade '5611210'", "header"),
    "qrels: two grades": (QRELS, b"q 0 a 1\nq 0 a 2\n", 2, "has the grades 1 and 2", "one judgement"),
    "qrels: run given": (QRELS, OK_RUN, 1, "the grade 't'", "last column"),
    # excluded
    "excluded: one field": (EXCLUDED, b"q\ta\nq\n", 2, "1 field, 2 are expected", "query document"),
    "excluded: no list": (EXCLUDED, rows({"id": "q", "excluded_ids": "a"}), 1, "no list", "document ids"),
    # queries
    "queries: empty": (QUERIES, b"\n", None, "no queries", "id<TAB>text"),
    "queries: no tab": (QUERIES, b"1\tfine\n2 not fine\n", 2, "no tab", "id<TAB>text"),
    "queries: no id": (QUERIES, b"\twhat?\n", 1, "an empty query id", "id<TAB>text"),
    "queries: blank id": (QUERIES, b"1\tone\n \ttwo\tthree\n", 2, "an empty query id", "id<TAB>text"),
    "queries: repeat": (QUERIES, b"1\ta\n2\tb\n1\tc\n", 3, "'1' a second time", "of its own"),
    "queries: no key": (
        QUERIES,
        rows({"_id": 1, "words": "x"}),
        1,
        "without a text; its keys are '_id', 'words'",
        "text",
    ),
    "queries: array": (QUERIES, b'[\n{"_id": 1}\n]\n', 1, "not JSON", "jq"),
    "queries: metadata": (QUERIES, rows({"_id": 1, "text": "x", "metadata": 3}), 1, "metadata", "leave it out"),
    "queries: broken later": (QUERIES, rows({"_id": 1, "text": "x"}) + b"2\tplain\n", 2, "not JSON", "mend"),
    # corpora
    "corpus: empty": (CORPUS, b"", None, "the corpus is empty", "one JSON object a line"),
    "corpus: not JSON": (CORPUS, OK_DOC + b"{'_id': 1}\n", 2, "not JSON", "mend or remove"),
    "corpus: cut line": (CORPUS, OK_DOC + b'{"_id": "b", "te', 2, "not JSON", "mend or remove"),
    "corpus: one array": (CORPUS, rows([{"_id": 1, "text": "x"}]), 1, "this is an array", "jq"),
    "corpus: no table": (CORPUS, b"some text\n", 1, "neither JSON nor a document id", "docid,title,text"),
    "corpus: a tab too few": (
        CORPUS,
        b"1\tsome text\n2 more\n",
        2,
        "neither JSON nor a document id",
        "docid,title,text",
    ),
    "corpus: a field too few": (CORPUS, b"id,text\n1,a\n2\n", 3, "1 fields under a header of 2", "quote texts"),
    "corpus: a field too many": (CORPUS, b"id,text\n1,a, b\n", 2, "3 fields under a header of 2", "quote texts"),
    "corpus: a cell too long": (CORPUS, b"id,text\n1," + b"a" * 140_000 + b"\n", 2, "field", "JSON lines"),
    "corpus: empty id in a table": (CORPUS, b"id,text\n ,a\n", 2, "the document id (_id) is ''", "non-empty"),
    "corpus: a number": (CORPUS, OK_DOC + b"\n7\n", 3, "a JSON object is expected, this is a number", "object a line"),
    "corpus: no id": (CORPUS, rows({"text": "x"}), 1, "without an id; its keys are 'text'", "_id, id, qid, docid"),
    "corpus: empty id": (CORPUS, rows({"_id": "", "text": "x"}), 1, "the document id (_id) is ''", "non-empty"),
    "corpus: id is null": (CORPUS, rows({"id": None, "text": "x"}), 1, "is None", "strings or integers"),
    "corpus: id is a float": (CORPUS, rows({"id": 1.5, "text": "x"}), 1, "is 1.5", "strings or integers"),
    "corpus: no text": (CORPUS, rows({"_id": "a", "text": None}), 1, "document ('a') without a text", "contents"),
    "corpus: text is a list": (CORPUS, rows({"_id": "a", "text": ["x"]}), 1, "not a string but list", "JSON strings"),
    "corpus: title": (CORPUS, rows({"_id": "a", "text": "x", "title": 3}), 1, "title is not a string", "JSON strings"),
    "corpus: repeat": (CORPUS, OK_DOC * 2, 2, "'a' a second time", "of its own"),
    "corpus: 1 is '1'": (CORPUS, rows({"_id": 1, "text": "x"}, {"_id": "1", "text": "y"}), 2, "second time", "own"),
    "corpus: deep": (CORPUS, b'{"a":' + b"[" * 100_000 + b"\n", 1, "not JSON", "mend or remove"),
    # requests
    "requests: empty": (REQUESTS, b"", None, "no requests", '"candidates"'),
    "requests: no query": (REQUESTS, rows({"candidates": []}), 1, "without 'query'", '"qid"'),
    "requests: no list": (REQUESTS, rows({"query": {"qid": 1, "text": "x"}}), 1, "without 'candidates'", '"docid"'),
    "requests: no qid": (REQUESTS, rows({"query": {"text": "x"}, "candidates": []}), 1, "is None", "non-empty"),
    "requests: id of two lines": (
        REQUESTS,
        request(docid="a\nb"),
        1,
        "contains a control character",
        "another document",
    ),
    "requests: id with blanks": (
        REQUESTS,
        request(docid="a "),
        1,
        "begins or ends with a blank",
        "another document id",
    ),
    "requests: no doc": (REQUESTS, request(doc="-"), 1, "document 'a' has no `doc`", '"doc"'),
    "requests: empty doc": (REQUESTS, request(doc={}), 1, "without a text", "contents"),
    "requests: score": (REQUESTS, request(score="high"), 1, "has the score 'high'", "finite"),
    "requests: nan": (REQUESTS, request(score=float("nan")), 1, "has the score nan", "finite"),
    "requests: string": (
        REQUESTS,
        rows({"query": {"qid": 1, "text": "x"}, "candidates": ["a"]}),
        1,
        "a candidate is not an object",
        '"docid"',
    ),
    "requests: repeat": (
        REQUESTS,
        rows({"query": {"qid": 1, "text": "x"}, "candidates": [{"docid": "a", "doc": "x"}] * 2}),
        1,
        "document 'a' is a candidate twice",
        "one line",
    ),
    "requests: query twice": (REQUESTS, request() * 2, 2, "'q' a second time", "one line a query"),
    # examples
    "examples: empty": (EXAMPLES, b"", None, "no examples", "stage"),
    "examples: gold": (EXAMPLES, example() + example(gold=[0, 0]), 2, "not a permutation", "0-based"),
    "examples: gold from 1": (EXAMPLES, example(gold=[1, 2]), 1, "not a permutation", "0-based"),
    "examples: labels": (EXAMPLES, example(relevance=[1]), 1, "1 pointwise labels for 2 passages", ""),
    "examples: label type": (
        EXAMPLES,
        example(relevance=[True, 0]),
        1,
        "`relevance` is not a list of integers",
        "mend",
    ),
    "examples: no gold": (EXAMPLES, example(gold="-"), 1, "`gold` is not a list of integers", "mend"),
    "examples: query": (EXAMPLES, example(query="-"), 1, "`query` is not a string", "mend"),
    "examples: passages": (EXAMPLES, example(passages=["A", "B"]), 1, "`passages` is not a list of objects", "mend"),
    "examples: reasoning": (EXAMPLES, example(reasoning=None), 1, "`reasoning` is not a string", "mend"),
    "examples: qid": (EXAMPLES, example(qid="-"), 1, "the query id (qid) is None", "non-empty"),
}


@pytest.mark.parametrize("name", TABLE)
def test_bad_files(tmp_path: Path, name: str) -> None:
    reader, content, line, message, remedy = TABLE[name]
    path = tmp_path / "input"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        reader(path)
    error = caught.value
    assert message in error.message
    assert remedy in error.remedy
    assert error.path is not None and Path(error.path) == path
    if line is not None:
        assert error.line == line
        assert str(error).startswith(f"{path}:{line}: ")
    else:
        assert str(error).startswith(f"{path}:")
    assert isinstance(error, FileNotFoundError) == (content is None)


def test_the_table_is_long_enough() -> None:
    assert len(TABLE) > 60


@pytest.mark.parametrize("reader", [RUN, QRELS, QUERIES, REQUESTS, EXAMPLES, EXCLUDED])
def test_folders_are_not_files(tmp_path: Path, reader: Reader) -> None:
    with pytest.raises(InputError, match="this is a folder") as caught:
        reader(tmp_path)
    assert caught.value.path == tmp_path


@pytest.mark.parametrize("reader", [RUN, CORPUS])
def test_names_that_no_file_can_have(reader: Reader) -> None:
    with pytest.raises((InputError, ValueError)):
        reader(Path("a\x00b"))


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no corpus in this folder"):
        formats.read_corpus(tmp_path)
    with pytest.raises(MissingFileError, match="no such corpus"):
        formats.read_corpus(tmp_path / "none")
    with pytest.raises(MissingFileError, match="no such collection folder"):
        formats.read_collection(tmp_path / "none")
    with pytest.raises(MissingFileError, match=r"no queries\.jsonl"):
        formats.read_collection(tmp_path)


def test_repeats_across_shards_name_the_second_shard(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(OK_DOC)
    (tmp_path / "b.jsonl").write_bytes(rows({"_id": "b", "text": "B"}) + OK_DOC)
    with pytest.raises(InputError, match="'a' a second time") as caught:
        formats.read_corpus(tmp_path)
    assert (caught.value.path, caught.value.line) == (tmp_path / "b.jsonl", 2)


@pytest.mark.parametrize(
    ("source", "part"),
    [("{", "not JSON"), ("[]", "a JSON object is expected"), ('{"data_kind": "made up"}', "data_kind is 'made up'")],
)
def test_bad_sources(tmp_path: Path, source: str, part: str) -> None:
    (tmp_path / "corpus.jsonl").write_bytes(OK_DOC)
    (tmp_path / "queries.jsonl").write_bytes(rows({"_id": "q", "text": "Q"}))
    (tmp_path / "SOURCE.json").write_text(source)
    with pytest.raises(InputError, match=part) as caught:
        formats.read_collection(tmp_path)
    assert caught.value.path == tmp_path / "SOURCE.json"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for target in (tmp_path, tmp_path / "file" / "below"):
        with pytest.raises(InputError) as caught:
            formats.write_run(target, {"q": ["a"]}, "t")
        assert caught.value.path == target
    with pytest.raises(InputError, match="finite"):
        formats.write_scored_run(tmp_path / "r", {"q": [formats_hit(float("inf"))]}, "t")


def formats_hit(score: float) -> Any:
    from rrlib.types import Hit

    return Hit("d", score, 1)


def test_what_is_mended_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "q.tsv"
    path.write_bytes(b"\xef\xbb\xbf1\twhat?\r\n")
    notes: list[str] = []
    assert formats.read_queries(path, notes)["1"].text == "what?"
    assert notes == [f"{path}: a byte order mark was removed"]
