"""Faults that a reader of the core met: files that are not ours, resumes, threads, numbers that are none."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rrlib.cli import main
from rrlib.continuation import Continuation
from rrlib.disk import JsonLines, append_jsonl
from rrlib.engines import Decoding, Reply
from rrlib.engines.replay import ReplayEngine
from rrlib.errors import EngineError, InputError
from rrlib.evaluation import Listwise, load_benchmark
from rrlib.evaluation.store import OutcomeStore
from rrlib.formats import read_corpus, read_qrels, read_requests, read_run, write_qrels, write_run
from rrlib.prompts import get_style
from rrlib.reading import split_reasoning
from rrlib.records import read_records
from rrlib.rerank import Reranker
from rrlib.responses import Verdict, parse_lenient
from tests.test_rerank import Oracle, make


# --- a file that is not ours ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "content",
    ['{"seeds": [1, 2, 3]}', "name: mine\nseed: 7", "one line", "[1, 2]\n", "12\n", '{"qid": "q1"}\n', "[1, 2]"],
)
def test_a_log_that_is_another_file_is_refused_and_stays_as_it_is(content: str, tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_text(content)
    with pytest.raises(InputError, match="not a window log record"):
        Reranker(Oracle(), log=path).rerank([make(5)])  # type: ignore[arg-type]
    assert path.read_text() == content


def test_half_a_row_is_cut_off_and_a_whole_one_without_its_newline_is_kept(tmp_path: Path) -> None:
    path, rows = tmp_path / "rows.jsonl", []
    path.write_text('{"a": 1}\n{"a": 2}')
    append_jsonl(path, {"a": 3})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 1}, {"a": 2}, {"a": 3}]
    path.write_text('{"a": 1}\n{"a": 2')
    lines = JsonLines(path, lambda offset, row: rows.append((offset, row["a"])))
    lines.append({"a": 4})
    lines.close()
    assert lines.torn == 7 and rows == [(0, 1)] and path.read_text() == '{"a": 1}\n{"a": 4}\n'
    path.write_bytes(b'{"a": 1}\n' + b"\0" * 100)  # a block that a power cut left empty
    append_jsonl(path, {"a": 5})
    assert path.read_text() == '{"a": 1}\n{"a": 5}\n'


def test_a_log_whose_last_row_lacks_its_newline_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    first = Reranker(Oracle(), log=path).rerank([make(5, "a"), make(5, "b")])  # type: ignore[arg-type]
    path.write_text(path.read_text().rstrip("\n"))
    again = Reranker(Oracle(), log=path).rerank([make(5, "a"), make(5, "b")])  # type: ignore[arg-type]
    assert again.rankings == first.rankings and again.counts["reused"] == 1 and path.read_text().endswith("\n")


def test_what_confidence_reads_it_does_not_write_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, qrels = tmp_path / "log.jsonl", tmp_path / "q.tsv"
    Reranker(Oracle(), log=log).rerank([make(5)])  # type: ignore[arg-type]
    write_qrels(qrels, {"q1": {"d1": 1}})
    before = log.read_text()
    assert main(["confidence", str(log), "--qrels", str(qrels), "--output", str(log)]) == 2
    assert "the same file" in capsys.readouterr().err and log.read_text() == before


# --- resumes ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bad", [1, 12])
def test_a_resume_whose_failures_persist_ends_as_the_run_did(bad: int, tmp_path: Path) -> None:
    """Only what is new says whether the engine is down: the others failed before, among many that did not."""
    queries = [make(20, f"g{i}") for i in range(88)] + [make(20, f"bad{i}") for i in range(bad)]
    engines = [Oracle(fail=lambda request: str(request.key[1]).startswith("bad")) for _ in range(2)]
    first, again = (Reranker(engine, log=tmp_path / "log").rerank(queries) for engine in engines)  # type: ignore[arg-type]
    assert again.rankings == first.rankings and again.counts["failed"] == bad and again.counts["reused"] == 88


def test_a_resume_of_nothing_but_failures_fails(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(EngineError, match="every call failed"):
            Reranker(Oracle(fail=lambda _: True), log=tmp_path / "log").rerank([make(20)])  # type: ignore[arg-type]


def test_a_failure_without_words_is_a_failure_and_is_asked_again(tmp_path: Path) -> None:
    class Silent(Oracle):
        def collect(self) -> list[tuple[int, Reply]]:
            done = super().collect()
            return [(number, Reply(error="") if len(self.asked) == 2 else reply) for number, reply in done]

    first = Reranker(Silent(capacity=1), log=tmp_path / "log").rerank([make(5, "a"), make(5, "b")])  # type: ignore[arg-type]
    again = Reranker(Oracle(), log=tmp_path / "log").rerank([make(5, "a"), make(5, "b")])  # type: ignore[arg-type]
    assert first.counts["failed"] == 1 and again.counts["asked"] == 1 and again.counts["reused"] == 1


def test_a_log_with_a_window_asked_again_is_read_once_a_window(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, queries = tmp_path / "log.jsonl", [make(30, f"q{i}") for i in range(3)]
    Reranker(Oracle(fail=lambda request: request.key[1] == "q1"), log=log).rerank(queries)  # type: ignore[arg-type]
    whole = Reranker(Oracle(), log=log).rerank(queries)  # type: ignore[arg-type]
    assert len(log.read_text().splitlines()) == 8 and len(read_records(log)) == 6
    assert Reranker(ReplayEngine(log)).rerank(queries).rankings == whole.rankings
    assert main(["audit", str(log)]) == 0
    assert capsys.readouterr().out.startswith("6 windows of ")
    twice = tmp_path / "twice.jsonl"
    twice.write_text(log.read_text() + log.read_text().splitlines()[-1] + "\n")
    with pytest.raises(InputError, match="is there twice"):
        ReplayEngine(twice)


def test_results_of_other_texts_are_not_handed_back(tmp_path: Path) -> None:
    """The same ids with other passages: nothing of it may come from the folder."""

    class Gains(Listwise):
        def _open(self) -> Any:
            return Oracle()

    def folder(gains: dict[str, int]) -> Any:
        name = tmp_path / "data"
        name.mkdir(exist_ok=True)
        rows = [{"_id": docid, "text": f"gain {gain}"} for docid, gain in gains.items()]
        (name / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (name / "queries.jsonl").write_text('{"_id": "q", "text": "why"}\n')
        (name / "qrels").mkdir(exist_ok=True)
        write_qrels(name / "qrels" / "test.tsv", {"q": {"a": 1}})
        write_run(name / "runs" / "bm25.trec", {"q": ["a", "b"]}, "bm25")
        return load_benchmark(str(name))

    first = folder({"a": 1, "b": 9})
    store, system = OutcomeStore(tmp_path / "out"), Gains("package:rrlib.miniature/reranker")
    (one,) = store.rank("o", system, [first], lambda *_: None)  # type: ignore[arg-type,return-value]
    assert [hit.docid for hit in one.run["q"]] == ["b", "a"]
    other = folder({"a": 9, "b": 1})
    with pytest.raises(InputError, match="logged for another prompt"):
        OutcomeStore(tmp_path / "out").rank("o", system, [other], lambda *_: None)  # type: ignore[arg-type,return-value]


# --- threads ----------------------------------------------------------------------------------------------------------
def test_a_stream_may_be_gone_on_with_and_ended_by_other_threads() -> None:
    reranker = Reranker(Oracle())  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        stream = reranker.stream([make(5, f"q{i}") for i in range(20)])
        one.submit(next, stream).result(10)
        other.submit(next, stream).result(10)
        other.submit(stream.close).result(10)
        assert other.submit(reranker.rank, "q", ["gain 1", "gain 2"]).result(10)[0].text == "gain 2"
        assert one.submit(reranker.rank, "q", ["gain 1", "gain 2"]).result(10)[0].text == "gain 2"


def test_the_thread_that_began_a_stream_is_refused_a_second_and_others_wait() -> None:
    reranker, done = Reranker(Oracle()), threading.Event()  # type: ignore[arg-type]
    stream = reranker.stream([make(5, f"q{i}") for i in range(20)])
    next(stream)
    with pytest.raises(EngineError, match="same thread"):
        reranker.rank("q", ["gain 1", "gain 2"])
    waits = threading.Thread(target=lambda: (reranker.rank("q", ["gain 1", "gain 2"]), done.set()))
    waits.start()
    assert not done.wait(0.2)
    stream.close()
    assert done.wait(10)
    waits.join()


# --- what is no number, no quote, no id -------------------------------------------------------------------------------
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("no", "yes", "expected"),
    [(NAN, 0.0, None), (0.0, NAN, None), (-INF, -INF, None), (-INF, -1.0, 1.0), (-1.0, -INF, 0.0), (-1.0, -1.0, 0.5)],
)
def test_a_score_is_a_number_or_none(no: float, yes: float, expected: float | None) -> None:
    style = get_style("pointwise_nothink")
    yes_word, no_word = style.words  # type: ignore[misc]
    found = Continuation(style, None, Decoding()).score(Reply(logprobs={yes_word: yes, no_word: no}))
    assert found is None if expected is None else found == pytest.approx(expected, abs=1e-9)


def test_blanks_behind_a_bracket_take_no_time() -> None:
    """The tag of a chain was looked for in every way to share the blanks out: 20,000 of them took 22 seconds."""
    began = time.process_time()
    for start in ("[", "<", "&lt;"):
        assert parse_lenient(f"<answer>\n{start}\n" + " \n" * 20000, 20, finish_reason="stop").verdict != Verdict.OK
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize("tag", ["</think>", "< / think >", "<|/think|>", "&lt;/think&gt;", "[/think]", "</ think>"])
def test_the_spellings_of_a_closing_tag_are_read_as_before(tag: str) -> None:
    assert split_reasoning(f"<think> because {tag} [1] > [2]").rest.strip() == "[1] > [2]"


@pytest.mark.parametrize("text", ['"Unbalanced start\nd3\tnormal', '"Yes" he said\nd3\tnormal'])
def test_a_quote_in_a_table_of_passages_swallows_no_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "corpus.tsv"
    path.write_text(f"docid\ttext\nd1\tfine\nd2\t{text}\nd4\tlast\n")
    with pytest.raises(InputError, match=r"corpus\.tsv:3: quotes that do not fit.*double those inside"):
        read_corpus(path)
    path.write_text('docid\ttext\nd1\t"He said ""yes"",\nand left"\nd2\tlast\n')
    assert read_corpus(path)["d1"].text == 'He said "yes",\nand left'


@pytest.mark.parametrize("qid", ["q\ud800", "#1", " q", ""])
def test_an_id_of_a_json_run_that_no_run_file_could_hold_is_refused_when_it_is_read(qid: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({qid: {"d": 1}}))
    for read in (read_run, read_qrels):
        with pytest.raises(InputError):
            read(path)


def test_ranks_below_zero_make_scores(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    path.write_text("qid,docno,rank\nq,a,-1\nq,b,0\nq,c,1\n")
    assert [(hit.docid, hit.score) for hit in read_run(path)["q"]] == [("a", 1.0), ("b", 0.0), ("c", -1.0)]


def test_a_score_with_four_hundred_digits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    candidate = {"docid": "d", "score": 0, "doc": {"text": "t"}}
    row = json.dumps({"query": {"qid": "q", "text": "why"}, "candidates": [candidate]})
    path.write_text(row.replace('"score": 0', '"score": 1' + "0" * 400) + "\n")
    with pytest.raises(InputError, match="scores are finite numbers"):
        read_requests(path)


def test_excluded_documents_beside_requests_are_not_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests, excluded = tmp_path / "in.jsonl", tmp_path / "excluded.tsv"
    candidate = {"docid": "d", "doc": {"text": "t"}}
    requests.write_text(json.dumps({"query": {"qid": "q", "text": "why"}, "candidates": [candidate]}) + "\n")
    excluded.write_text("q\td\n")
    asked = ["rerank", "--requests", str(requests), "--excluded", str(excluded), "--engine", "numpy"]
    asked += ["--model", "package:rrlib.miniature/reranker", "--output", str(tmp_path / "out.jsonl")]
    assert main(asked) == 2
    assert "--excluded does nothing with --requests" in capsys.readouterr().err
