"""Faults that others met, at the Python door and at the checkpoint: each kind in a table of inputs.

What a person hands over by mistake is understood or refused in one sentence; several threads may share a reranker; a
run that failed is not taken for one that finished; a checkpoint that cannot be loaded says why.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rrlib.cli import main
from rrlib.engines import Decoding, Reply, Request, checkpoints
from rrlib.engines.trained import trained_settings, write_trained
from rrlib.errors import EngineError, InputError, MissingFileError
from rrlib.prompts import format_response
from rrlib.records import read_records
from rrlib.rerank import Reranker
from rrlib.resources import resolve
from rrlib.types import Candidates, Passage, Query


class ByNumber:
    """An engine that ranks by the last number in a passage's text. fault: raised by `collect` as long as it is set."""

    name, model, capacity = "by-number", "by-number", 4

    def __init__(self) -> None:
        self.waiting: list[Request] = []
        self.asked = 0
        self.fault: BaseException | None = None
        self.reply: Any = None

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        self.waiting += requests
        self.asked += len(requests)

    def collect(self) -> list[tuple[int, Reply]]:
        if self.fault is not None:
            raise self.fault
        request = self.waiting.pop(random.randrange(len(self.waiting)))
        if self.reply is not None:
            return [(request.id, self.reply(request) if callable(self.reply) else self.reply)]
        lines = [
            line for line in request.messages[1]["content"].splitlines() if line.startswith("[") and "] n " in line
        ]
        numbers = [int(line.rpartition(" ")[2]) for line in lines]
        order = sorted(range(len(numbers)), key=lambda i: -numbers[i])
        return [(request.id, Reply(format_response("by number", order), tokens_in=1, tokens_out=1))]

    def close(self) -> None:
        """Nothing to free."""


def texts(n: int, seed: int = 0) -> list[str]:
    numbers = list(range(n))
    random.Random(seed).shuffle(numbers)
    return [f"n {number}" for number in numbers]


# --- Python doors -----------------------------------------------------------------------------------------------------
class Rows(dict):  # type: ignore[type-arg]
    """A dict of one's own class is a dict."""


def frame(**columns: list[Any]) -> Any:
    import pandas as pd

    return pd.DataFrame(columns)


def array(values: list[Any]) -> Any:
    import numpy as np

    return np.array(values)


def series(values: list[Any]) -> Any:
    import pandas as pd

    return pd.Series(values, index=range(7, 7 + len(values)))


T = ["n 1", "n 3", "n 2"]

UNDERSTOOD: dict[str, tuple[Any, Any, list[str]]] = {
    "list": (T, None, ["2", "3", "1"]),
    "tuple": (tuple(T), None, ["2", "3", "1"]),
    "generator": ((t for t in T), None, ["2", "3", "1"]),
    "map": (map(str.strip, T), None, ["2", "3", "1"]),
    "values of a dict": (dict(enumerate(T)).values(), None, ["2", "3", "1"]),
    "array": (array(T), None, ["2", "3", "1"]),
    "series": (series(T), None, ["2", "3", "1"]),
    "dict": (dict(zip("abc", T, strict=True)), None, ["b", "c", "a"]),
    "dict by numbers": (dict(zip((7, 8, 9), T, strict=True)), None, ["8", "9", "7"]),
    "dict of passages": ({"x": Passage("x", "n 1"), "y": Passage("y", "n 2")}, None, ["y", "x"]),
    "frame": (frame(docno=["a", "b", "c"], text=T, rank=[1, 2, 3]), None, ["b", "c", "a"]),
    "frame without ids": (frame(contents=T), None, ["2", "3", "1"]),
    "frame, ids given": (frame(passage=T), array([4, 5, 6]), ["5", "6", "4"]),
    "dicts": ([{"id": 5, "text": "n 1"}, {"id": 6, "text": "n 2"}], None, ["6", "5"]),
    "dicts without ids": ([Rows(contents="n 1"), Rows(contents="n 2")], None, ["2", "1"]),
    "passages": ([Passage("p", "n 1"), Passage("q", "n 2")], None, ["q", "p"]),
    "passages, ids given": ([Passage("p", "n 1"), Passage("q", "n 2")], ["r", "s"], ["s", "r"]),
    "mixed": ([Passage("1", "n 1"), {"docid": "2", "body": "n 2"}], None, ["2", "1"]),
    "ids are numbers": (T, [0, 1, 2], ["1", "2", "0"]),
    "ids are a range": (T, range(10, 13), ["11", "12", "10"]),
    "ids are numpy's": (T, array([3, 4, 5]), ["4", "5", "3"]),
    "ids are generated": (T, (f"d{i}" for i in range(3)), ["d1", "d2", "d0"]),
    "none": ([], None, []),
    "no rows": (iter(()), None, []),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_documents_are_read_as_they_are_meant(name: str) -> None:
    docs, ids, order = UNDERSTOOD[name]
    ranking = Reranker(ByNumber()).rank("which is more?", docs, ids)
    assert [passage.docid for passage in ranking] == order
    assert all(passage.text.startswith("n ") for passage in ranking)


REFUSED: dict[str, tuple[Any, Any, Any, str]] = {
    "docs is a text": ("q", "n 1", None, "docs is one text -> give a list of texts"),
    "docs is empty text": ("q", "", None, "docs is one text"),
    "docs is bytes": ("q", b"n 1", None, "docs is bytes"),
    "docs is None": ("q", None, None, "docs is None"),
    "docs is a number": ("q", 7, None, "docs is a number"),
    "docs is a path": ("q", Path("docs.txt"), None, "docs is a PosixPath"),
    "docs is a passage": ("q", Passage("1", "n 1"), None, "docs is one Passage"),
    "docs is a candidate list": ("q", Candidates(Query("1", "q"), ()), None, "docs is a Candidates"),
    "docs is a set": ("q", {"n 1", "n 2"}, None, "docs is a set, which has no order"),
    "docs is one dict of fields": ("q", {"id": "1", "text": "n 1"}, None, "one document -> give a list"),
    "a dict of numbers": ("q", {"a": 0.5, "b": 0.25}, None, r"docs\['a'\] is a number"),
    "a dict of lists": ("q", {"a": ["n 1"], "b": ["n 2"]}, None, r"docs\['a'\] is a list"),
    "a frame of other columns": ("q", frame(a=["n 1"], b=["n 2"]), None, "no column of texts, but a, b"),
    "a frame of numbers": ("q", frame(text=[1, 2]), None, "document 1 of 2 has a 'text' that is a number"),
    "a frame with a gap": ("q", frame(text=["n 1", None]), None, "document 2 of 2 has a 'text' that is (None|missing)"),
    "None among them": ("q", ["n 1", None, "n 2"], None, "document 2 of 3 is None"),
    "a number among them": ("q", ["n 1", float("nan")], None, "document 2 of 2 is missing"),
    "pairs": ("q", [("n 1", 0.5), ("n 2", 0.25)], None, "document 1 of 2 is a tuple"),
    "lists of lists": ("q", [["n 1", "n 2"]], None, "document 1 of 1 is a list"),
    "bytes among them": ("q", [b"n 1"], None, "document 1 of 1 is bytes"),
    "dicts of other keys": ("q", [{"a": "n 1"}], None, "document 1 of 1 has the keys 'a'"),
    "dicts with some ids": ("q", [{"id": "a", "text": "x"}, {"text": "y"}], None, "document 2 has no id"),
    "passages without text": ("q", [Passage("some text"), Passage("more text")], None, "no document has a text"),
    "blank texts": ("q", [" ", "\n"], None, "no document has a text"),
    "swapped": (T, "which is more?", None, "the query stands where the docs should"),
    "swapped, a Query": (T, Query("1", "q"), None, "the query stands where the docs should"),
    "query is None": (None, T, None, "the query is None"),
    "query is a list": (["q"], T, None, "the query is a list"),
    "query is a number": (3, T, None, "the query is a number"),
    "query is a dict": ({"text": "q"}, T, None, "the query is a dict"),
    "query is empty": ("", T, None, "the query is empty"),
    "query is blank": (" \n", T, None, "the query is empty"),
    "Query without text": (Query("why is the sky blue?"), T, None, "no text -> write Query"),
    "Query with blank text": (Query("7", "  "), T, None, "no text -> write Query"),
    "ids are a text": ("q", T, "abc", "doc_ids is one text"),
    "ids are a dict": ("q", T, {"a": 1}, "doc_ids is a dict"),
    "ids are a number": ("q", T, 3, "doc_ids is a number"),
    "too few ids": ("q", T, ["a"], "1 doc_ids for 3 docs"),
    "too many ids": ("q", T, range(4), "4 doc_ids for 3 docs"),
    "ids twice": ("q", T, ["a", "b", "a"], "two documents have the id 'a'"),
    "ids twice, as numbers": ("q", T, [1, "1", 2], "two documents have the id '1'"),
    "ids are None": ("q", T, ["a", None, "b"], "the id of document 2 is None"),
    "ids are fractions": ("q", T, [0.5, 1.5, 2.5], "the id of document 1 is a number"),
    "ids are true": ("q", T, [True, False, True], "the id of document 1 is True or False"),
    "ids are empty": ("q", T, ["a", "", "b"], "the id of document 2 is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused_in_one_sentence(name: str) -> None:
    query, docs, ids, words = REFUSED[name]
    engine = ByNumber()
    with pytest.raises(InputError, match=words) as caught:
        Reranker(engine).rank(query, docs, ids)
    assert engine.asked == 0 and "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize(("top_k", "n"), [(None, 3), (1, 1), (2, 2), (3, 3), (50, 3)])
def test_the_best_alone(top_k: int | None, n: int) -> None:
    best = Reranker(ByNumber()).rank("q", T, top_k=top_k)
    assert [(passage.docid, passage.score) for passage in best] == [("2", 3.0), ("3", 2.0), ("1", 1.0)][:n]


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "3", True])
def test_a_top_k_that_is_none(top_k: Any) -> None:
    with pytest.raises(InputError, match="top_k is"):
        Reranker(ByNumber()).rank("q", T, top_k=top_k)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: Candidates("q", ()), r"Candidates\(Query"),
        (lambda: Candidates(Query("1", "q"), ("n 1", "n 2")), "a candidate is 'n 1'"),
        (lambda: Candidates(Query("1", "q"), [None]), "a candidate is None"),
        (lambda: Query("1", None), "the text of query '1' is None"),
        (lambda: Query(None, "q"), "empty id"),
        (lambda: Query(1.5, "q"), "the id of a query is 1.5"),
        (lambda: Passage("1", 7), "the text of passage '1' is 7"),
        (lambda: Passage(b"1", "n"), "the id of a passage is b'1'"),
        (lambda: Reranker(ByNumber()).rerank("q"), "rerank was given one text"),
        (lambda: Reranker(ByNumber()).rerank(["q", "r"]), "candidates 1 of 2 is one text"),
        (lambda: Reranker(ByNumber()).rerank({"q": T}), "rerank was given a dict"),
        (lambda: Reranker(ByNumber()).rerank(None), "rerank was given None"),
    ],
)
def test_nouns_hold_what_they_say(made: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        made()


def test_numbers_as_ids_are_written_out_and_any_row_of_candidates_will_do() -> None:
    item = Candidates(Query(0, "q"), [Passage(i, f"n {i}") for i in range(3)])  # type: ignore[arg-type]
    reranker = Reranker(ByNumber())
    assert reranker.rerank(item).run() == {"0": ["2", "1", "0"]}  # type: ignore[arg-type]
    assert reranker.rerank(item for _ in range(1)).run() == {"0": ["2", "1", "0"]}


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("m", {"windows": 10}, "no option 'windows' -> write 'window'"),
        ("m", {"strides": 5}, "write 'stride'"),
        ("m", {"batchsize": 5}, "write 'batch_size'"),
        ("m", {"engine": "openai", "url": "http://127.0.0.1:1/v1"}, "no option 'url'"),
        ("m", {"engine": "replay", "response": "x"}, "write 'responses'"),
        ("m", {"engine": "jax", "windows": 3}, "unknown engine 'jax'"),
        (ByNumber(), {"windows": 10}, "write 'window'"),
        (ByNumber(), {"batch_size": 4}, "options of an engine go to make_engine"),
        (None, {}, "the model is None"),
        (object(), {}, "the model is <object"),
        ({"model": "m"}, {}, "the model is {"),
        ("", {}, "the model's name is empty"),
    ],
)
def test_options_and_models_that_are_none(model: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Reranker(model, **options)


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), RuntimeError("out of memory"), EngineError("no server")])
def test_a_reranker_survives_what_breaks_a_call_off(fault: BaseException) -> None:
    engine = ByNumber()
    reranker = Reranker(engine, window=4, stride=2)
    right = [passage.text for passage in reranker.rank("q", texts(9))]
    for _ in range(3):
        engine.fault = fault
        with pytest.raises(type(fault)):
            reranker.rank("another", texts(30, seed=1))
        engine.fault = None
        assert [passage.text for passage in reranker.rank("q", texts(9))] == right  # stale answers are passed over
    assert right[:2] == ["n 8", "n 7"]


def test_with_a_log_further_queries_are_welcome_and_none_is_asked_twice(tmp_path: Path) -> None:
    log, engine = tmp_path / "log.jsonl", ByNumber()
    reranker = Reranker(engine, log=log, fresh=True)
    questions = [("q", texts(5)), ("r", texts(5)), ("q", texts(6)), (Query("7", "q"), texts(4)), (Query("7", "r"), T)]
    first = [[p.text for p in reranker.rank(*question)] for question in questions]
    asked = engine.asked
    assert [[p.text for p in reranker.rank(*question)] for question in questions] == first
    assert [[p.text for p in Reranker(engine, log=log).rank(*question)] for question in questions] == first
    assert engine.asked == asked == len(questions) == len(log.read_text().splitlines())


# --- threads ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shared", ["reranker", "engine"])
def test_threads_may_share_a_reranker_or_an_engine(shared: str) -> None:
    """8 threads x 50 calls: every one of them gets the order of its own passages."""
    engine = ByNumber()
    reranker, wrong, begin = Reranker(engine), [], threading.Barrier(8)

    def work(number: int) -> None:
        own = reranker if shared == "reranker" else Reranker(engine)
        begin.wait()
        for call in range(50):
            docs = texts(5, seed=100 * number + call)
            try:
                ranked = [passage.text for passage in own.rank(f"q{number}", docs)]
            except Exception as error:
                ranked = [repr(error)]
            if ranked != ["n 4", "n 3", "n 2", "n 1", "n 0"]:
                wrong.append((number, call, ranked))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == [] and engine.asked == 400


def test_an_engine_asked_for_from_inside_its_own_reranking_says_so() -> None:
    engine = ByNumber()
    reranker = Reranker(engine)
    engine.reply = lambda request: reranker.rank("q", T) and Reply("")
    with pytest.raises(EngineError, match="in the middle"):
        reranker.rank("q", T)
    engine.reply = None
    assert [passage.docid for passage in reranker.rank("q", T)] == ["2", "3", "1"]


def test_an_engine_that_takes_no_attributes_is_shared_too() -> None:
    class Fixed(ByNumber):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "_turn":
                raise AttributeError(name)
            super().__setattr__(name, value)

    engine = Fixed()
    assert len(Reranker(engine).rank("q", T)) == len(Reranker(engine).rank("r", T)) == 3


# --- a failed run never becomes a finished one ------------------------------------------------------------------------
def candidates(n: int, qid: str = "q1") -> Candidates:
    return Candidates(Query(qid, f"query {qid}"), tuple(Passage(f"d{i}", t) for i, t in enumerate(texts(n))))


def failing(*starts: int) -> Any:
    """A reply of `ByNumber` that fails for the windows that begin at these positions, and is right for the others."""
    right = ByNumber()

    def reply(request: Request) -> Reply:
        if request.key is not None and request.key[3][0] in starts:
            return Reply(error="refused")
        right.waiting = [request]
        return right.collect()[0][1]

    return reply


@pytest.mark.parametrize("starts", [(0,), (2,), (6,), (4, 2), (0, 6)], ids=str)
def test_failed_windows_are_asked_again_on_resume(starts: tuple[int, ...], tmp_path: Path) -> None:
    """And what stands behind them in the log, where it was asked about other passages; until the end is the right one,
    even where the resuming run is killed after each of its windows."""
    engine, log = ByNumber(), tmp_path / "log.jsonl"

    def rerank(**options: Any) -> Any:
        return Reranker(engine, window=4, stride=2, log=log, **options).rerank([candidates(10)])

    right = Reranker(engine, window=4, stride=2).rerank([candidates(10)]).rankings
    engine.reply = failing(*starts)
    first = rerank()
    assert len(first.unread) == len(starts)
    engine.reply, engine.asked = None, 0
    left = rerank(retry_failed=False)
    assert left.rankings == first.rankings and engine.asked == 0 and len(left.unread) == len(starts)
    for _ in range(4):
        engine.reply = once(ByNumber())
        with contextlib.suppress(KeyboardInterrupt):
            rerank()
        if not [record for record in rerank_of(log) if record.error]:
            break
    engine.reply = None
    assert rerank().rankings == right
    asked = engine.asked
    assert rerank().rankings == right and engine.asked == asked


def once(right: ByNumber) -> Any:
    """A right reply, and then the stop button."""
    replies = 0

    def reply(request: Request) -> Reply:
        nonlocal replies
        replies += 1
        if replies > 1:
            raise KeyboardInterrupt
        right.waiting = [request]
        return right.collect()[0][1]

    return reply


def rerank_of(log: Path) -> list[Any]:
    """The last record of every window of a log."""
    return list({record.key: record for record in read_records(log)}.values())


class Teacher(BaseHTTPRequestHandler):
    """A server that answers with `server.say(number of the call)`: a text, or a status."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls += 1  # type: ignore[attr-defined]
        said = self.server.say(self.server.calls)  # type: ignore[attr-defined]
        status, text, finish = said if isinstance(said, tuple) else (200, said, "stop")
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        body = {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
        data = json.dumps(body if status == 200 else {"error": {"message": text}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Any]:
    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), Teacher)
    made.calls, made.say = 0, lambda call: ""
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def command(server: Any, folder: Path, *more: str) -> list[str]:
    (folder / "run.trec").write_text("".join(f"q1 Q0 d{i} {i} {9 - i} x\n" for i in range(1, 6)))
    (folder / "q.tsv").write_text("q1\twhich is more?\n")
    (folder / "c.jsonl").write_text("".join(json.dumps({"_id": f"d{i}", "text": f"n {i}"}) + "\n" for i in range(1, 6)))
    names = {"run": "run.trec", "queries": "q.tsv", "corpus": "c.jsonl", "output": "out.trec"}
    files = [part for name, file in names.items() for part in (f"--{name}", str(folder / file))]
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    sizes = ["--window", "3", "--stride", "2", "--concurrency", "1", "--quiet"]
    return ["rerank", *files, "--engine", "openai", "--model", "m", "--base-url", url, *sizes, *more]


GOOD = "<think> so </think> <answer> [3] > [2] > [1] </answer>"

NOTHING: dict[str, tuple[Any, str]] = {
    "cut off": (
        lambda call: (200, "<think> and then", "length"),
        "2 of 2 windows are truncated -> raise --max-new-tok",
    ),
    "cut off in the list": (lambda call: (200, "<think> a </think> <answer> [1", "length"), "raise --max-new-tokens"),
    "no answer": (lambda call: "The passages are all about numbers.", "2 of 2 windows are no_answer -> name a checkpo"),
    "refused by the model": (lambda call: "I am sorry, I cannot do that.", "2 of 2 windows are no_answer"),
    "empty": (lambda call: "", "2 of 2 windows are empty"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_run_that_reranked_nothing_says_so(
    name: str, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.say, words = NOTHING[name]
    for _ in range(2):  # and again, from its log
        assert main(command(server, tmp_path)) == 3
        last = capsys.readouterr().err.splitlines()[-1]
        assert words in last and last.startswith("nothing was reranked")
        assert not (tmp_path / "out.trec").exists()
    server.say = lambda call: GOOD
    assert main(command(server, tmp_path, "--fresh")) == 0
    assert (tmp_path / "out.trec").is_file()


@pytest.mark.parametrize("refused", [(1,), (2,)], ids=str)
@pytest.mark.parametrize("status", [422, 413, 451])
def test_the_share_that_failed_is_the_last_line(
    status: int, refused: tuple[int, ...], server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.say = lambda call: (status, "not this one", "") if call in refused else GOOD
    argv = command(server, tmp_path)
    assert main(argv) == 1
    assert "1 of 2 windows (50.0%) failed" in capsys.readouterr().err.splitlines()[-1]
    assert main([*argv, "--keep-failed"]) == 1
    assert "1 of 2 windows (50.0%) failed" in capsys.readouterr().err.splitlines()[-1]
    assert main(argv) == 0
    assert server.calls == (4 if refused == (1,) else 3)  # what stands behind a window depends on it
    assert capsys.readouterr().err.splitlines()[-1].startswith("wrote ")


def test_a_run_of_refused_calls_stays_one(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.say = lambda call: (422, "not today", "")
    for more, code in (([], 1), ([], 1), (["--keep-failed"], 3)):
        assert main(command(server, tmp_path, *more)) == code
        assert "not today" in capsys.readouterr().err.splitlines()[-1]
        assert not (tmp_path / "out.trec").exists()


@pytest.mark.parametrize(("failing_calls", "code"), [(range(1, 99), 3), ((1,), 1), ((2, 3), 1), ((), 0)])
def test_synthesis_says_which_share_of_its_calls_failed(
    failing_calls: Any, code: int, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rrlib.miniature import build

    build(tmp_path / "world", seed=1, train=3, validation=1, test=1, pool=5)
    server.say = lambda call: (422, "not this one", "") if call in failing_calls else "None"
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    argv = ["synthesize", str(tmp_path / "world"), "--output", str(tmp_path / "out"), "--base-url", url, "--model", "m"]
    argv += ["--quiet", "--concurrency", "1", "--window", "5"]
    assert main(argv) == code
    shown = capsys.readouterr().err.splitlines()[-1]
    share = {3: "3 of 3 calls (100.0%)", 1: f"{len(failing_calls)} of 3 calls", 0: "wrote"}
    assert shown.startswith(share[code])
    server.say = lambda call: "None"
    assert main(argv) == 0


# --- a checkpoint carries what it was trained with --------------------------------------------------------------------
def named(model: Path) -> ByNumber:
    engine = ByNumber()
    engine.model = str(model)  # type: ignore[misc]
    return engine


SAID: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None, dict[str, Any]]] = {
    "by its training": ({"style": "nothink_tags", "window": 6, "stride": 3, "max_passage_tokens": 64}, None, {}),
    "in part": ({"window": 8}, None, {"style": "reasonrank", "stride": 4, "max_passage_tokens": 512}),
    "by a pack": (None, {"use": {"style": "rankgpt", "window": 5, "stride": 2, "max_passage_tokens": 100}}, {}),
    "by the stages of a pack": (
        None,
        {"stages": {"02_sft": {"parameters": {"style": "nothink", "window": 10, "max_passage_tokens": 50}}}},
        {"style": "nothink", "window": 10, "stride": 5, "max_passage_tokens": 50},
    ),
    "nothing": (None, None, {"style": "reasonrank", "window": 20, "stride": 10, "max_passage_tokens": 512}),
    "what is none": (
        {"style": "sonnet", "window": "6", "stride": 0, "max_passage_tokens": True},
        None,
        {"style": "reasonrank", "window": 20, "stride": 10, "max_passage_tokens": 512},
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_a_checkpoint_says_how_it_is_asked(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own, source, added = SAID[name]
    for file, value in (("rrlib.json", own), ("SOURCE.json", source)):
        if value is not None:
            (tmp_path / file).write_text(json.dumps(value))
    expected = {**(own or (source or {}).get("use") or {}), **added}
    settings = Reranker(named(tmp_path)).settings()
    assert {key: settings[key] for key in expected} == expected and len(expected) == 4
    assert caplog.text == ""


def test_a_judge_of_one_passage_is_asked_about_one_passage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_trained(tmp_path, "pointwise_nothink", 1, 64)
    settings = Reranker(named(tmp_path)).settings()
    expected = {"strategy": "pointwise", "style": "pointwise_nothink", "max_passage_tokens": 64}
    assert {key: settings[key] for key in expected} == expected and caplog.text == ""
    with pytest.raises(InputError, match="the others a listwise one"):
        Reranker(named(tmp_path), strategy="sliding_window", style="pointwise_nothink")


@pytest.mark.parametrize(
    ("asked", "warned", "stride"),
    [
        ({}, "", 3),
        ({"window": 6}, "", 3),
        ({"window": 10}, "was trained with window 6, and is asked with window 10", 5),
        ({"window": 10, "stride": 2}, "with window 6, stride 3, and is asked with window 10, stride 2", 2),
        ({"style": "rankgpt"}, "with style reasonrank, and is asked with style rankgpt", 3),
        ({"max_passage_tokens": 100}, "with max_passage_tokens 64, and is asked with max_passage_tokens 100", 3),
    ],
)
def test_other_settings_than_it_was_trained_with_are_warned_of(
    asked: dict[str, Any], warned: str, stride: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_trained(tmp_path, "reasonrank", 6, 64)
    reranker = Reranker(named(tmp_path), **asked)
    assert (warned in caplog.text) if warned else caplog.text == ""
    assert reranker.strategy.stride == stride and reranker.strategy.size == asked.get("window", 6)


@pytest.mark.parametrize(("style", "window", "limit"), [("reasonrank", 20, 512), ("nothink", 7, 64), ("rankgpt", 2, 1)])
def test_a_training_leaves_it_beside_the_weights(style: str, window: int, limit: int, tmp_path: Path) -> None:
    from rrlib.training.trainer import save_checkpoint

    process = SimpleNamespace(
        wait_for_everyone=lambda: None, state=SimpleNamespace(fsdp_plugin=None), unwrap_model=lambda model: model
    )
    trainer: Any = SimpleNamespace(
        is_world_process_zero=lambda: True, accelerator=process, model=object(), save_model=lambda to: Path(to).mkdir()
    )
    tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
    save_checkpoint(trainer, tokenizer, tmp_path / "checkpoint", "a card", (style, window, limit))
    said = {"style": style, "window": window, "stride": max(window // 2, 1), "max_passage_tokens": limit}
    assert trained_settings(tmp_path / "checkpoint") == said


def test_the_packaged_reranker_says_its_window() -> None:
    said = trained_settings("package:rrlib.miniature/reranker")
    assert said == {"style": "reasonrank", "window": 10, "stride": 5, "max_passage_tokens": 512}
    assert trained_settings("package:no_such_package/x") == trained_settings("some/hub-name") == {}


# --- checkpoints that do not load -------------------------------------------------------------------------------------
def pointer(name: str) -> Any:
    def spoil(folder: Path) -> None:
        text = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123456\n"
        (folder / name).write_text(text)

    return spoil


def cut(name: str, size: int) -> Any:
    """The first bytes of a file; of a negative size, all but so many."""

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:size])

    return spoil


def without(*names: str) -> Any:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def configured(name: str = "config.json", **values: Any) -> Any:
    """A JSON file with other values; None takes one out."""

    def spoil(folder: Path) -> None:
        config = {**json.loads((folder / name).read_text()), **values}
        (folder / name).write_text(json.dumps({key: value for key, value in config.items() if value is not None}))

    return spoil


def in_parts(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    places = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def fewer_tensors(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def no_end(folder: Path) -> None:
    configured(eos_token_id=None)(folder)
    configured("generation_config.json", eos_token_id=None)(folder)
    configured("tokenizer_config.json", eos_token=None)(folder)


def own_code(folder: Path) -> None:
    configured(model_type="novel", auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"})(folder)


SPOILT: dict[str, tuple[Any, str]] = {
    "weights are a pointer": (pointer("model.safetensors"), "pointer of Git LFS.*git lfs pull"),
    "tokenizer is a pointer": (pointer("tokenizer.json"), "pointer of Git LFS"),
    "config is a pointer": (pointer("config.json"), "pointer of Git LFS"),
    "weights lack a byte": (cut("model.safetensors", -1), "cut off.*fetch it again"),
    "weights end in the header": (cut("model.safetensors", 100), "cut off"),
    "weights end at once": (cut("model.safetensors", 5), "cut off"),
    "weights are empty": (cut("model.safetensors", 0), "empty.*fetch it again"),
    "weights are not there": (without("model.safetensors"), "no weights"),
    "a part is not there": (in_parts, "1 of 2 parts of the weights are not there, such as model-00002"),
    "a tensor is not there": (fewer_tensors, "lack 1 of the model's tensors, such as model.layers.0.mlp.up_proj"),
    "weights of another shape": (configured(intermediate_size=96), "cannot load the model"),
    "no config": (without("config.json"), "no config.json"),
    "config is cut off": (cut("config.json", 40), "not JSON"),
    "tokenizer is cut off": (cut("tokenizer.json", 4000), "not JSON"),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), "no tokenizer files.*copy tokenizer.json"),
    "no template": (without("chat_template.jinja"), "no chat template.*instruct checkpoint"),
    "no end": (no_end, "names no end of an answer"),
    "gptq": (configured(quantization_config={"quant_method": "gptq", "bits": 4}), "gptq.*pip install gptqmodel"),
    "awq": (configured(quantization_config={"quant_method": "awq", "bits": 4}), "awq.*pip install"),
    "hqq": (configured(quantization_config={"quant_method": "hqq"}), "hqq.*pip install hqq"),
    "bitsandbytes": (configured(quantization_config={"quant_method": "bitsandbytes"}), "pip install bitsandbytes"),
    "code of its own": (own_code, "'novel' needs code of its own"),
    "a model nobody knows": (configured(model_type="novel"), "cannot load"),
    "no kind of model": (configured(model_type=None), "cannot load"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_checkpoint_that_does_not_load_says_why(
    name: str, backbone: Path, tmp_path: Path, server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, words = SPOILT[name]
    folder = tmp_path / "checkpoint"
    shutil.copytree(backbone, folder)
    spoil(folder)
    argv = command(server, tmp_path)
    argv[argv.index("openai")], argv[argv.index("m")] = "transformers", str(folder)
    for other in ("--base-url", "--concurrency"):  # flags of the other engine
        del argv[(at := argv.index(other)) : at + 2]
    assert main(argv) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and " -> " in last and re.search(words, last), last
    with pytest.raises(InputError):
        Reranker(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{here}/nowhere", "no folder"),
        ("{here}/nowhere/", "no folder"),
        ("./mdoel", "no folder './mdoel'"),
        ("../outputs/run/03_rl/grpo/checkpoint", "no folder"),
        ("~/no-such-model", "no folder"),
        ("a/b/c", "no folder 'a/b/c'"),
        ("some-owner/some-model", "the hub cannot be reached.*HF_HUB_OFFLINE"),
        ("some-model", "no folder 'some-model' here"),
        ("{file}", "this is a file"),
    ],
)
def test_a_missing_folder_is_called_one_at_once(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"w")
    began = time.monotonic()
    with pytest.raises(InputError, match=words):
        Reranker(name.format(here=tmp_path, file=tmp_path / "weights.bin"))
    assert time.monotonic() - began < 10  # importing torch, where no test has


def test_the_hub_is_tried_once_and_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hub that is not there, and without HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    checkpoints._hub_answers.cache_clear()
    for _ in range(3):
        with pytest.raises(MissingFileError, match="cannot be reached"):
            checkpoints.local_folder("some-owner/some-model")
    assert checkpoints._hub_answers.cache_info().misses == 1
    checkpoints._hub_answers.cache_clear()


def test_a_cached_name_is_read_at_once_where_the_hub_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a hub that is not there, and without HF_HUB_OFFLINE: its clients tried for two minutes."""
    from huggingface_hub import constants

    snapshot = tmp_path / "models--some-owner--small" / "snapshots" / "abc"
    shutil.copytree(resolve("package:rrlib.miniature/reranker"), snapshot)
    (tmp_path / "models--some-owner--small" / "refs").mkdir()
    (tmp_path / "models--some-owner--small" / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    checkpoints._hub_answers.cache_clear()
    began = time.monotonic()
    assert Reranker("some-owner/small", window=10, stride=5).engine.tokenizer.eos_token == "<|im_end|>"
    assert time.monotonic() - began < 60  # importing torch and loading on a busy core; the retries alone took 120
    assert "read from its cache, as with HF_HUB_OFFLINE=1" in caplog.text
    checkpoints._hub_answers.cache_clear()
