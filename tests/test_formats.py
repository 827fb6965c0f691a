"""Files in and out: what is read as what, what is mended and counted, and that everything written comes back."""

from __future__ import annotations

import gzip
import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrlib import formats
from rrlib.errors import InputError
from rrlib.formats.texts import queries_with_metadata
from rrlib.types import Candidates, Hit, Passage, Qrels, Query, RankingExample, Run


def put(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8"))
    return path


# --- text ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("packed", [False, True])
def test_text_is_read_plain_or_gzip_whatever_the_name(tmp_path: Path, packed: bool) -> None:
    body = "\ufeffone\r\ntwo\u2028still two\n\nfour\x85 and the last line has no end".encode()
    path = tmp_path / "a.txt"
    path.write_bytes(gzip.compress(body) if packed else body)
    lines = formats.open_text(path)
    assert list(lines) == ["one", "two\u2028still two", "", "four\x85 and the last line has no end"]
    assert lines.lineno == 4
    assert lines.repairs == ["a byte order mark was removed"]


def test_lines_may_be_left_half_read(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt", "1\n2\n3\n")
    with formats.open_text(path) as lines:
        assert next(iter(lines)) == "1"
    lines.close()  # a second time


def test_a_cut_gzip_file_gives_its_whole_lines_and_then_the_error(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"".join(b"line %d\n" % i for i in range(50_000)))[:-2000])
    got = 0
    with pytest.raises(InputError, match="cut off") as caught:
        for _ in formats.open_text(path):
            got += 1
    assert got > 1000
    assert caught.value.line == got + 1


def test_written_files_are_whole_reproducible_and_leave_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "rows.jsonl.gz"
    formats.write_jsonl(target, [{"a": 1}])
    first = target.read_bytes()
    formats.write_jsonl(target, [{"a": 1}])
    assert target.read_bytes() == first
    assert first[4:8] == bytes(4), "no time stamp in the gzip header"

    def failing() -> Any:
        yield {"a": 2}
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        formats.write_jsonl(target, failing())
    assert list(formats.read_jsonl(target)) == [(1, {"a": 1})]
    assert [path.name for path in target.parent.iterdir()] == ["rows.jsonl.gz"]


def test_jsonl_keeps_lone_surrogates_and_refuses_nan(tmp_path: Path) -> None:
    rows = [{"text": "\ud800 and é"}, {"text": "日本"}]
    path = formats.write_jsonl(tmp_path / "a.jsonl", rows)
    assert [row for _, row in formats.read_jsonl(path)] == rows
    assert "日本" in path.read_text(encoding="utf-8")
    with pytest.raises(InputError, match="JSON"):
        formats.write_jsonl(tmp_path / "b.jsonl", [{"score": float("nan")}])
    assert not (tmp_path / "b.jsonl").exists()


# --- runs ------------------------------------------------------------------------------------------------------------
def test_a_run_is_read_in_rank_order_with_ids_that_contain_blanks(tmp_path: Path) -> None:
    path = put(
        tmp_path / "run.trec",
        "q1 Q0 b 10 1.5 t\n"
        "q2\tQ0\ta b\t1\t2\tt\n"
        "q1 Q0 so/Memory Management_2_0.txt 2 1.5 t\n"
        "\n"
        "q1  Q0  two  blanks  9  -1e-3  t  \n"
        "q1 Q0 c 10 9 t\r\n"
        "q 3\tQ0\td\t1\t0\tt\n",
    )
    run = formats.read_run(path)
    assert [hit.docid for hit in run["q1"]] == ["so/Memory Management_2_0.txt", "two  blanks", "b", "c"]
    assert run["q1"][1] == Hit("two  blanks", -1e-3, 9)
    assert run["q2"] == [Hit("a b", 2.0, 1)]
    assert list(run) == ["q1", "q2", "q 3"]


def test_white_space_beyond_ascii_belongs_to_the_id(tmp_path: Path) -> None:
    path = put(tmp_path / "run.trec", "q\u00a01 Q0 a\u3000b 1 1 t\n")
    assert formats.read_run(path) == {"q\u00a01": [Hit("a\u3000b", 1.0, 1)]}


def test_a_written_ranking_has_strictly_decreasing_scores(tmp_path: Path) -> None:
    path = formats.write_run(tmp_path / "run.trec.gz", {"q": ["b", "a", "c d"], "empty": []}, "tag")
    assert gzip.decompress(path.read_bytes()).decode() == "q Q0 b 1 3 tag\nq Q0 a 2 2 tag\nq Q0 c d 3 1 tag\n"
    assert formats.read_run(path) == formats.ranking_to_run({"q": ["b", "a", "c d"]})


@pytest.mark.parametrize(
    ("qid", "docid", "tag", "named"),
    [
        ("a\tb", "d", "t", "query id"),
        ("", "d", "t", "query id"),
        ("q", "a\tb", "t", "document id"),
        ("q", "a\nb", "t", "document id"),
        ("q", " a", "t", "document id"),
        ("q", "\ud800", "t", "document id"),
        ("q", "d", "a b", "tag"),
    ],
)
def test_ids_that_would_not_come_back_are_not_written(
    tmp_path: Path, qid: str, docid: str, tag: str, named: str
) -> None:
    with pytest.raises(InputError, match=named):
        formats.write_run(tmp_path / "run.trec", {qid: [docid]}, tag)
    assert list(tmp_path.iterdir()) == []


def test_a_ranking_with_repeats_is_refused() -> None:
    with pytest.raises(InputError, match="twice: 'a'"):
        formats.ranking_to_run({"q": ["a", "b", "a"]})


def test_query_ids_with_blanks_make_tabs_the_separator(tmp_path: Path) -> None:
    path = formats.write_run(tmp_path / "run.trec", {"q 1": ["a b"], "r": ["c"]}, "t")
    assert path.read_text() == "q 1\tQ0\ta b\t1\t1\tt\nr\tQ0\tc\t1\t1\tt\n"
    path = formats.write_qrels(tmp_path / "qrels.txt", {"q 1": {"a b": 1}})
    assert path.read_text() == "q 1\t0\ta b\t1\n"


def test_a_pipe_can_be_read(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, gzip.compress(b"q Q0 a 1 1 t\n"))
    os.close(write_end)
    try:
        assert formats.read_run(f"/dev/fd/{read_end}") == {"q": [Hit("a", 1.0, 1)]}
    finally:
        os.close(read_end)


def test_long_lines_cost_no_more_than_their_length(tmp_path: Path) -> None:
    path = put(tmp_path / "run.trec", "q Q0 a" + " " * 1_000_000 + "b c d 1 1 t\n")
    start = time.perf_counter()
    assert len(formats.read_run(path)["q"][0].docid) == 1_000_006
    assert time.perf_counter() - start < 1.0


def test_excluded_documents_leave_the_run() -> None:
    run = formats.ranking_to_run({"q": ["a", "b"], "r": ["a"]})
    kept, removed = formats.without_excluded(run, {"q": {"a", "x"}, "r": {"a"}, "z": {"b"}})
    assert removed == 2
    assert kept == {"q": [Hit("b", 1.0, 2)], "r": []}


# --- qrels -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        "q 0 a b 1\nq 0 c 0\nr 0 d -2\n",
        "q\t0\ta b\t1\nq\t0\tc\t0\nr\t0\td\t-2\n",
        "query-id\tcorpus-id\tscore\nq\ta b\t1\nq\tc\t0\nr\td\t-2\n",
        "query-id corpus-id score\nq a b 1\nq c 0.0\nr d -2\n",
        "\ufeffquery_id\titeration\tdoc_id\trelevance\r\nq\t0\ta b\t1\r\nq\t0\tc\t0\r\nr\t0\td\t-2\r\n",
    ],
    ids=["trec-blanks", "trec-tabs", "beir-tabs", "beir-blanks", "header-bom-crlf"],
)
def test_qrels_in_all_their_forms(tmp_path: Path, text: str) -> None:
    assert formats.read_qrels(put(tmp_path / "q", text)) == {"q": {"a b": 1, "c": 0}, "r": {"d": -2}}


def test_equal_judgements_that_repeat_are_counted(tmp_path: Path) -> None:
    notes: list[str] = []
    path = put(tmp_path / "q", "q 0 a 1\nq 0 a 1\nq 0 b 0\nq 0 b 0\n")
    assert formats.read_qrels(path, notes) == {"q": {"a": 1, "b": 0}}
    assert notes == [f"{path}: 2 judgements stand there twice with the same grade"]


def test_excluded_lists_in_their_forms(tmp_path: Path) -> None:
    text = 'query-id\tcorpus-id\nq\ta b\nq c\n{"id": 7, "excluded_ids": ["x", 3]}\n'
    assert formats.read_excluded(put(tmp_path / "e", text)) == {"q": {"a b", "c"}, "7": {"x", "3"}}
    assert formats.read_excluded(put(tmp_path / "none", "")) == {}


# --- queries and corpora ---------------------------------------------------------------------------------------------
def test_queries_as_tsv(tmp_path: Path) -> None:
    notes: list[str] = []
    path = put(tmp_path / "q.tsv", "qid\ttext\nq 1\twhat?\ta tab stays\r\n2\t\n")
    assert formats.read_queries(path, notes) == {"q 1": Query("q 1", "what?\ta tab stays"), "2": Query("2", "")}
    assert notes == [f"{path}: 1 of 2 queries have an empty text"]


@pytest.mark.parametrize("id_key", ["_id", "id", "qid"])
@pytest.mark.parametrize("text_key", ["text", "contents", "segment", "body", "passage", "query"])
def test_queries_as_json_lines(tmp_path: Path, id_key: str, text_key: str) -> None:
    rows = [{id_key: 1, text_key: "one"}, {id_key: "b", text_key: "two", "metadata": {"split": "test"}}]
    path = formats.write_jsonl(tmp_path / "q.jsonl.gz", rows)
    assert formats.read_queries(path) == {"1": Query("1", "one"), "b": Query("b", "two")}
    assert queries_with_metadata(path)[1] == {"1": {}, "b": {"split": "test"}}


@pytest.mark.parametrize("id_key", ["_id", "id", "docid"])
@pytest.mark.parametrize("text_key", ["text", "contents", "segment", "body", "passage"])
def test_corpora(tmp_path: Path, id_key: str, text_key: str) -> None:
    rows = [{id_key: 5, text_key: "five", "title": "T"}, {id_key: "6", text_key: "", "title": None}]
    path = formats.write_jsonl(tmp_path / "c.jsonl", rows)
    notes: list[str] = []
    assert formats.read_corpus(path, notes=notes) == {"5": Passage("5", "five", "T"), "6": Passage("6", "", "")}
    assert notes == [f"{path}: 1 of 2 documents have an empty text"]
    assert formats.read_corpus(path, only={"5", "nowhere"}) == {"5": Passage("5", "five", "T")}


def test_a_corpus_folder_is_one_file_or_shards(tmp_path: Path) -> None:
    formats.write_jsonl(tmp_path / "part1.jsonl.gz", [{"_id": "b", "text": "2"}])
    formats.write_jsonl(tmp_path / "part0.jsonl", [{"_id": "a", "text": "1"}])
    formats.write_jsonl(tmp_path / "queries.jsonl", [{"_id": "q", "text": "not a passage"}])
    assert list(formats.read_corpus(tmp_path)) == ["a", "b"]
    formats.write_jsonl(tmp_path / "corpus.jsonl.gz", [{"_id": "c", "text": "3"}])
    assert list(formats.read_corpus(tmp_path)) == ["c"]


def test_a_large_corpus_is_streamed(tmp_path: Path) -> None:
    count = 50_000
    path = formats.write_jsonl(tmp_path / "c.jsonl", ({"id": i, "contents": "x" * 200} for i in range(count)))
    wanted = {str(i) for i in range(0, count, 5000)}
    tracemalloc.start()
    corpus = formats.read_corpus(path, only=wanted)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert corpus.keys() == wanted
    assert peak < 1_000_000 < path.stat().st_size


def test_a_run_of_a_hundred_queries_reads_in_a_moment(tmp_path: Path) -> None:
    rankings = {str(q): [f"doc/{q} {d}" for d in range(100)] for q in range(100)}
    path = formats.write_run(tmp_path / "run.trec", rankings, "t")
    start = time.perf_counter()
    run = formats.read_run(path)
    assert time.perf_counter() - start < 1.0
    assert {qid: [hit.docid for hit in hits] for qid, hits in run.items()} == rankings


# --- candidates ------------------------------------------------------------------------------------------------------
RUN: Run = formats.ranking_to_run({"q": ["a", "b", "c"], "r": ["b"]})
QUERIES = {"q": Query("q", "Q?"), "r": Query("r", "R?")}
CORPUS = {docid: Passage(docid, docid.upper()) for docid in "abc"}


def test_candidates_are_cut_after_the_excluded_ones_are_gone() -> None:
    notes: list[str] = []
    got = formats.make_candidates(RUN, QUERIES, CORPUS, 2, {"q": {"a"}, "r": {"b"}}, collection="C", notes=notes)
    assert got == [
        Candidates(QUERIES["q"], (CORPUS["b"], CORPUS["c"]), (2.0, 1.0), "C"),
        Candidates(QUERIES["r"], (), (), "C"),
    ]
    assert notes == ["2 excluded documents removed from the candidates"]


def test_candidates_without_texts_where_none_are_needed() -> None:
    got = formats.make_candidates(RUN, None, {"b": CORPUS["b"]}, texts_required=False)
    assert got[0].query == Query("q", "")
    assert [passage.text for passage in got[0].passages] == ["", "B", ""]


def test_missing_texts_are_named_and_counted() -> None:
    with pytest.raises(InputError, match="2 of 3 documents of the run are not in the corpus: 'a', 'c'"):
        formats.make_candidates(RUN, QUERIES, {"b": CORPUS["b"]})
    with pytest.raises(InputError, match="1 of 2 queries of the run are not in the queries file: 'r'"):
        formats.make_candidates(RUN, {"q": QUERIES["q"]}, CORPUS)
    many = formats.ranking_to_run({"q": [str(i) for i in range(9)]})
    with pytest.raises(InputError, match="'0', '1', '2' and 6 more"):
        formats.make_candidates(many, QUERIES, CORPUS)
    # only what is kept needs a text
    assert formats.make_candidates(RUN, QUERIES, {"a": CORPUS["a"], "b": CORPUS["b"]}, depth=2)


def test_requests_as_rank_llm_writes_them(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "query": {"qid": 3, "text": "why?"},
            "candidates": [
                {"docid": "a", "score": 1.5, "doc": {"segment": "S", "title": "T", "url": "u", "docid": "other"}},
                {"docid": 4, "score": 1, "doc": "plain"},
                {"docid": "c", "score": 0.5, "doc": {"contents": "C"}},
            ],
        },
        {"query": {"qid": "x", "text": ""}, "candidates": []},
        {"query": {"qid": "y", "text": "t"}, "candidates": [{"docid": "a", "score": None, "doc": {"text": ""}}]},
    ]
    rows.append({"query": {"qid": "z", "text": "t"}, "candidates": [{"docid": "a", "doc": "A"}]})
    rows[-1]["candidates"].append({"docid": "b", "score": 1, "doc": "B"})  # some scores are as good as none
    notes: list[str] = []
    path = formats.write_jsonl(tmp_path / "r.jsonl.gz", rows)
    got = formats.read_requests(path, collection="C", notes=notes)
    assert got == [
        Candidates(
            Query("3", "why?"),
            (Passage("a", "S", "T"), Passage("4", "plain"), Passage("c", "C")),
            (1.5, 1, 0.5),
            "C",
        ),
        Candidates(Query("x", ""), (), (), "C"),
        Candidates(Query("y", "t"), (Passage("a", ""),), (), "C"),
        Candidates(Query("z", "t"), (Passage("a", "A"), Passage("b", "B")), (), "C"),
    ]
    assert notes == [f"{path}: 1 candidates have an empty text"]


# --- collections -----------------------------------------------------------------------------------------------------
def make_collection(folder: Path, **source: Any) -> Path:
    formats.write_jsonl(folder / "corpus.jsonl.gz", [{"_id": d, "text": d.upper()} for d in "abc"])
    rows = [{"_id": "q1", "text": "1", "metadata": {"split": "train", "domain": "x"}}]
    rows += [{"_id": "q2", "text": "2", "metadata": {"split": "test"}}]
    formats.write_jsonl(folder / "queries.jsonl", rows)
    formats.write_qrels(folder / "qrels" / "test.tsv", {"q2": {"a": 1, "not in the corpus": 0}})
    formats.write_run(folder / "runs" / "test.trec", {"q2": ["b", "a"]}, "first")
    put(folder / "excluded.tsv", "q2\tb\n")
    put(folder / "SOURCE.json", json.dumps({"name": "small", "data_kind": "synthetic", **source}))
    return folder


def test_a_collection_folder(tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "c")
    test = formats.read_collection(folder)
    assert (test.name, test.data_kind, list(test.queries)) == ("small", "synthetic", ["q2"])
    assert test.qrels == {"q2": {"a": 1, "not in the corpus": 0}}
    assert [[p.docid for p in one.passages] for one in test.candidates()] == [["a"]]
    train = formats.read_collection(folder, "train")
    assert (list(train.queries), train.metadata["q1"]["domain"], train.qrels, train.run) == (["q1"], "x", {}, None)
    with pytest.raises(InputError, match=r"'dev'.*splits found: test, train"):
        formats.read_collection(folder, "dev")
    with pytest.raises(InputError, match="no first-stage run"):
        train.candidates()


def test_queries_of_the_qrels_need_texts(tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "c")
    formats.write_qrels(folder / "qrels" / "test.tsv", {"q2": {"a": 1}, "ghost": {"a": 1}})
    with pytest.raises(InputError, match=r"1 of 2 queries are not in queries\.jsonl: 'ghost'"):
        formats.read_collection(folder)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "queries", "documents", "hits", "empty"),
    [
        ("dl19-bm25-top100", 43, 4297, 4300, 0),
        ("noveleval", 21, 420, 420, 0),
        ("cranfield", 225, 1400, 0, 2),
        ("bright-theoremqa-questions-goldpool", 194, 231, 0, 0),
    ],
)
def test_real_collections(realdata: Path, name: str, queries: int, documents: int, hits: int, empty: int) -> None:
    notes: list[str] = []
    got = formats.read_collection(realdata / "collections" / name, notes=notes)
    assert (len(got.queries), len(got.corpus), sum(map(len, (got.run or {}).values()))) == (queries, documents, hits)
    assert got.data_kind == "real"
    assert sum("empty text" in note and f" {empty} of " in note for note in notes) == (empty > 0)
    assert got.queries.keys() == got.qrels.keys()


@pytest.mark.realdata
def test_real_runs_come_back_from_disk(realdata: Path, tmp_path: Path) -> None:
    paths = sorted((realdata / "bright").glob("*.txt.gz")) + sorted((realdata / "replay" / "runs").glob("*.trec.gz"))
    assert len(paths) == 18
    for path in paths:
        run = formats.read_run(path)
        assert formats.read_run(formats.write_scored_run(tmp_path / "run.trec.gz", run, "t")) == run


# --- everything written comes back -----------------------------------------------------------------------------------
TEXTS = st.text(st.characters(exclude_categories=()), max_size=30)  # surrogates and control characters included
IDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
    lambda text: text == text.strip(" ") and not text.startswith(("#", "\ufeff"))  # a comment, a byte order mark
)
SCORES = st.floats(allow_nan=False, allow_infinity=False)
PASSAGES = st.builds(Passage, IDS, TEXTS, TEXTS)
UNIQUE_PASSAGES = st.lists(PASSAGES, max_size=6, unique_by=lambda passage: passage.docid).map(tuple)


@given(st.dictionaries(IDS, st.lists(IDS, min_size=1, max_size=6, unique=True), min_size=1, max_size=4), st.booleans())
def test_rankings_come_back(tmp_path_factory: pytest.TempPathFactory, rankings: dict[str, list[str]], gz: bool) -> None:
    path = tmp_path_factory.getbasetemp() / ("run.trec.gz" if gz else "run.trec")
    formats.write_run(path, rankings, "tag")
    run = formats.read_run(path)
    assert {qid: [hit.docid for hit in hits] for qid, hits in run.items()} == rankings
    assert run == formats.ranking_to_run(rankings)


@given(st.dictionaries(IDS, st.dictionaries(IDS, SCORES, min_size=1, max_size=6), min_size=1, max_size=4))
def test_scores_come_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, scores: dict[str, dict[str, float]]
) -> None:
    run = {q: [Hit(d, s, i - 2) for i, (d, s) in enumerate(hits.items())] for q, hits in scores.items()}
    path = formats.write_scored_run(tmp_path_factory.getbasetemp() / "scored.trec", run, "tag")
    assert formats.read_run(path) == run


@given(
    st.dictionaries(IDS, st.dictionaries(IDS, st.integers(-9999, 9999), min_size=1, max_size=6), min_size=1),
    st.sampled_from(["q.tsv", "q.tsv.gz", "q.trec", "q.txt.gz"]),
)
def test_qrels_come_back(tmp_path_factory: pytest.TempPathFactory, qrels: Qrels, name: str) -> None:
    path = formats.write_qrels(tmp_path_factory.getbasetemp() / name, qrels)
    assert formats.read_qrels(path) == qrels


@given(st.lists(st.dictionaries(TEXTS, TEXTS | st.integers() | st.lists(st.booleans())), max_size=5), st.booleans())
def test_json_lines_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], gz: bool) -> None:
    path = formats.write_jsonl(tmp_path_factory.getbasetemp() / ("a.jsonl.gz" if gz else "a.jsonl"), rows)
    assert list(formats.read_jsonl(path)) == list(enumerate(rows, start=1))


@st.composite
def candidate_lists(draw: st.DrawFn) -> list[Candidates]:
    requests = []
    for qid in draw(st.lists(IDS, min_size=1, max_size=3, unique=True)):
        passages = draw(UNIQUE_PASSAGES)
        scored = draw(st.booleans())
        scores = tuple(draw(SCORES) for _ in passages) if scored else ()
        requests.append(Candidates(Query(qid, draw(TEXTS)), passages, scores))
    return requests


@given(candidate_lists())
def test_requests_come_back(tmp_path_factory: pytest.TempPathFactory, requests: list[Candidates]) -> None:
    path = formats.write_requests(tmp_path_factory.getbasetemp() / "r.jsonl", requests)
    assert formats.read_requests(path) == requests


@st.composite
def examples(draw: st.DrawFn) -> RankingExample:
    passages = draw(UNIQUE_PASSAGES)
    return RankingExample(
        query=Query(draw(IDS), draw(TEXTS)),
        passages=passages,
        relevance=tuple(draw(st.integers(0, 3)) for _ in passages),
        gold=tuple(draw(st.permutations(range(len(passages))))),
        reasoning=draw(TEXTS),
        meta=draw(st.dictionaries(TEXTS, st.integers() | TEXTS | st.none(), max_size=3)),
    )


@given(st.lists(examples(), min_size=1, max_size=3))
def test_examples_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[RankingExample]) -> None:
    path = formats.write_examples(tmp_path_factory.getbasetemp() / "e.jsonl.gz", rows)
    assert formats.read_examples(path) == rows


@given(
    st.binary(max_size=200),
    st.sampled_from(
        ["read_run", "read_qrels", "read_queries", "read_corpus", "read_requests", "read_examples", "read_excluded"]
    ),
    st.booleans(),
)
def test_arbitrary_bytes_are_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, reader: str, packed: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(gzip.compress(data) if packed else data)
    try:
        getattr(formats, reader)(path)
    except InputError as error:
        assert str(path) in str(error)
