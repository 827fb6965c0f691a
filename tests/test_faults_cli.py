"""Faults that others met, part: the command line. Bad input ends with exit code 2 and leaves what is there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rrlib import cli
from rrlib.disk import JsonLines, check_apart
from rrlib.errors import InputError, MissingFileError
from rrlib.formats import example_to_json, read_collection, read_jsonl, write_jsonl, write_lines
from rrlib.formats.requests import make_candidates, read_requests, write_requests, write_reranked
from rrlib.miniature import build
from rrlib.miniature.pretrain import pretrain_all
from rrlib.plans.evaluation import paper_plan
from rrlib.synthesis.export import data_card, import_examples, write_released
from rrlib.synthesis.sources.released import read_released
from rrlib.synthesis.teacher.ledger import Ledger
from rrlib.synthesis.teacher.prices import Price
from rrlib.types import Passage, Query, RankingExample

MODEL = ["--engine", "numpy", "--model", "package:rrlib.miniature/reranker", "--window", "6", "--stride", "3"]
SIMULATED = "rrlib.miniature:SimulatedTeacher"
EXAMPLE = RankingExample(Query("q", "why"), (Passage("a", "a"), Passage("b", "b")), (1, 0), (0, 1), "since", {})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("world"), seed=1, train=6, validation=4, test=4, pool=8)


@pytest.fixture(scope="module")
def requests(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = read_collection(world, "test")
    assert data.run is not None
    candidates = make_candidates(data.run, data.queries, data.corpus)
    return write_requests(tmp_path_factory.mktemp("requests") / "in.jsonl", candidates[:1])


@contextmanager
def piped(path: Path) -> Iterator[Path]:
    """A file as a shell's `<(cat FILE)` gives it: it can be read once, then it is empty."""
    reads, writes = os.pipe()
    os.write(writes, path.read_bytes())
    os.close(writes)
    yield Path(f"/dev/fd/{reads}")
    os.close(reads)


def refused(words: list[Any], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says so, prints no result, and ends with exit code 2."""
    assert cli.main([str(word) for word in words]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.out == ""


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- pipes ------------------------------------------------------------------------------------------------------------
def test_a_pipe_of_requests_that_would_be_read_again_is_refused_and_the_old_result_stays(
    requests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = write_lines(tmp_path / "keepme.jsonl", ["old"])
    with piped(requests) as pipe:
        refused(["rerank", "--requests", pipe, *MODEL, "--quiet", "--output", old], "--requests is a pipe", capsys)
    assert old.read_text() == "old\n"


def test_a_pipe_of_requests_goes_where_a_run_is_written(requests: Path, tmp_path: Path) -> None:
    with piped(requests) as pipe:
        words = ["rerank", "--requests", str(pipe), *MODEL, "--quiet", "--output", str(tmp_path / "out.trec")]
        assert cli.main(words) == 0
    assert len((tmp_path / "out.trec").read_text().splitlines()) == 8


def test_rankings_of_a_query_that_the_source_lacks_are_not_dropped(requests: Path, tmp_path: Path) -> None:
    old = write_lines(tmp_path / "out.jsonl", ["old"])
    (request,) = read_requests(requests)
    qid, ids = request.query.qid, [passage.docid for passage in request.passages]
    with pytest.raises(InputError, match="1 of 2 queries that were ranked are not in it: 'other'"):
        write_reranked(old, requests, {qid: ids, "other": ["d"]})
    with pytest.raises(InputError, match="1 of 1 queries"):
        write_reranked(old, "/dev/null", {qid: ids})
    assert old.read_text() == "old\n"


def test_only_retrieved_reads_a_piped_run_once(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_lines(tmp_path / "part.trec", (world / "runs" / "test.trec").read_text().splitlines()[:8])
    words = ["evaluate", "--qrels", str(world / "qrels" / "test.tsv"), "--only-retrieved", "--json", "--run"]
    assert cli.main([*words, str(run)]) == 0
    expected = json.loads(capsys.readouterr().out)["runs"][0]
    with piped(run) as pipe:
        assert cli.main([*words, str(pipe)]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0] == {**expected, "run": str(pipe)}


# --- what is there stays ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("content", ["a,b\n1,2\n", '{"a": 1}\n', "{\n 1\n}\n", '{"a": 1}', "text without end", "\n"])
def test_fresh_empties_no_file_but_a_window_log(
    content: str, requests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "mine.csv"
    log.write_text(content)
    words = ["rerank", "--requests", requests, *MODEL, "--quiet", "--output", tmp_path / "o.trec", "--log", log]
    refused([*words, "--fresh"], f"{log}:1: not a window log -> name another --log", capsys)
    assert log.read_text() == content
    assert cli.main([str(word) for word in words]) == 2
    assert "--fresh" not in capsys.readouterr().err
    assert log.read_text() == content


def test_fresh_empties_a_log_also_where_its_first_line_is_torn(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    for content in ("", '{"ours": 1}\n{"oth', '{"ou', "\0\0\0"):
        log.write_text(content)
        JsonLines(log, fresh=True, ours=lambda row: "ours" in row).close()
        assert log.read_text() == ""


def test_no_part_of_a_collection_that_is_read_is_written_over(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(world, tmp_path / "world")
    before = files_of(tmp_path / "world")
    texts = ["--queries", tmp_path / "world" / "queries.jsonl", "--corpus", tmp_path / "world"]
    words = ["rerank", "--run", tmp_path / "world" / "runs" / "test.trec", *texts, *MODEL]
    output = tmp_path / "world" / "qrels" / "test.tsv"
    refused([*words, "--output", output], "--output lies in the folder --corpus, which is read", capsys)
    assert files_of(tmp_path / "world") == before
    check_apart({"--corpus": tmp_path / "world"}, {"--output": tmp_path / "world.trec"})
    check_apart({"--corpus": tmp_path / "world"}, {"--output": tmp_path / "world" / "runs" / "mine.trec"})


def examples_in(folder: Path, **meta: Any) -> Path:
    """A file of examples of our own."""
    return write_jsonl(folder / "examples.jsonl", [example_to_json(replace(EXAMPLE, meta=meta))])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["import", "{0}/examples.jsonl", "{0}"], "OUTPUT/examples.jsonl and SOURCE are the same file"),
        (["import", "{0}", "{0}"], "OUTPUT/examples.jsonl lies in the folder SOURCE"),
        (["export", "{0}/examples.jsonl", "{0}/examples.jsonl", "--format", "jsonl"], "and EXAMPLES are the same file"),
        (["export", "{0}/rl.jsonl", "{0}", "--format", "released"], "OUTPUT (rl.jsonl) and EXAMPLES are the same file"),
    ],
)
def test_data_is_not_written_over_its_source(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(examples_in(tmp_path), tmp_path / "rl.jsonl")
    before = files_of(tmp_path)
    refused(["data", *(word.format(tmp_path) for word in words)], says, capsys)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("name", ["store.json", "calls.jsonl"])
def test_nothing_is_imported_into_the_folder_of_a_synthesis(name: str, tmp_path: Path) -> None:
    out = write_lines(tmp_path / "out" / name, ["{}"]).parent
    with pytest.raises(InputError, match=r"this folder holds a teacher's answers -> name a folder of its own"):
        import_examples(examples_in(tmp_path / "mine"), out)
    assert files_of(out) == {name: b"{}\n"}


def test_two_notebooks_of_one_name_are_no_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (write_lines(tmp_path / name / "x.ipynb", ["{}"]) for name in "ab")
    refused(["html", one, two, "--output", tmp_path / "html"], "would be one page, x.html", capsys)


SIZES = {"train": 0, "validation": 0, "test": 2, "pool": 6}


def test_no_world_is_built_in_a_folder_of_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(tmp_path / "beir" / "corpus.jsonl", ["mine"])
    refused(["miniature", "build", tmp_path / "beir"], "this folder holds other files", capsys)
    write_lines(tmp_path / "beir" / "SOURCE.json", ['{"name": "mine"}'])
    with pytest.raises(InputError, match="name a new or an empty folder"):
        build(tmp_path / "beir", seed=1, **SIZES)
    assert (tmp_path / "beir" / "corpus.jsonl").read_text() == "mine\n"


def test_a_world_whose_build_was_broken_off_is_built_again_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rrlib.miniature.generate.write_jsonl", broken)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "a", seed=1, **SIZES)
    build(tmp_path / "a", seed=1, **SIZES)
    assert files_of(tmp_path / "a") == files_of(build(tmp_path / "b", seed=1, **SIZES))


def test_pretraining_looks_at_its_output_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rrlib.miniature.pretrain.train_tokenizer", lambda *_: pytest.fail("it trains"))
    (tmp_path / "afile").write_text("mine")
    with pytest.raises(InputError, match=r"afile: this is a file, and a checkpoint is a folder"):
        pretrain_all(tmp_path / "afile")
    assert (tmp_path / "afile").read_text() == "mine"


# --- data -------------------------------------------------------------------------------------------------------------
SAID = {"teacher": "simulated", "teacher_kind": "simulated", "data_kind": "simulated", "licence": "CC0"}


@pytest.mark.parametrize("name", ["", "rl.jsonl", "sft.json"])
def test_simulated_data_is_simulated_after_a_way_round(name: str, tmp_path: Path) -> None:
    released = write_released([replace(EXAMPLE, meta=SAID)], tmp_path / "released")
    (back,) = read_released(released / name if name else released)
    assert {key: back.meta[key] for key in SAID} == SAID
    result = import_examples(released / name if name else released, tmp_path / "in")
    assert result.summary["data_kind"] == "simulated"
    assert "| simulated (simulated) | 1 |" in data_card(tmp_path / "in")


def test_examples_that_do_not_say_who_taught_them_are_not_called_the_authors(tmp_path: Path) -> None:
    (back,) = read_released(write_released([EXAMPLE], tmp_path / "released"))
    assert back.meta["teacher"] == back.meta["licence"] == "unknown"


POST = '<row Id="{}" PostTypeId="{}" {} Score="5" Title="T" Body="{}" Tags="&lt;x&gt;" />'


LINK = "&lt;p&gt;See &lt;a href=&quot;http://a.example/x&quot;&gt;this&lt;/a&gt;.&lt;/p&gt;"
POSTS = ["<posts>", POST.format(1, 1, 'AcceptedAnswerId="2"', "why"), POST.format(2, 2, "", LINK), "</posts>"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--pages", "typo.jsonl"], "typo.jsonl: no such file of pages"),
        (["--pages", "Posts.jsonl", "--limit", "0"], "--limit"),
        (["--pages", "Posts.jsonl", "--theorems", "t.json"], "--theorems does nothing for stackexchange"),
        (["--pages", "Posts.jsonl", "--encoder", "m:f"], "--encoder does nothing for stackexchange"),
        (["--pages", "Posts.jsonl", "--qrels", "q.tsv"], "--qrels does nothing for stackexchange"),
        (["--pages", "Posts.jsonl"], "no items came of it"),
    ],
)
def test_items_are_not_replaced_by_none(
    more: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "Posts.xml", POSTS)
    for name, lines in (("Posts.jsonl", []), ("items/items.jsonl", ["good"]), ("items/SOURCE.json", ["good"])):
        write_lines(tmp_path / name, lines)
    refused(["data", "prepare", "stackexchange", "Posts.xml", "items", "--domain", "biology", *more], says, capsys)
    assert not (tmp_path / "typo.jsonl").exists()
    kept = files_of(tmp_path / "items")
    assert kept["items.jsonl"] == kept["SOURCE.json"] == b"good\n"


def test_a_missing_file_is_named_where_lines_come_from_it(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="theirs: no such file"):
        write_lines(tmp_path / "mine", map(str, read_jsonl(tmp_path / "theirs")))


# --- money and figures ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("budget", [float("nan"), float("inf"), -1.0])
def test_a_budget_is_a_sum_of_dollars(budget: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a budget of .* -> give dollars, 0 or more"):
        Ledger(tmp_path / "calls.jsonl", Price(1.0, 1.0), budget)


@pytest.mark.parametrize("memory", ["nan", "inf", "0"])
def test_a_gpu_has_some_memory(memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["bench", "plan", "--benchmark", "bright", "--gpu-gb", memory], "give at least one GPU", capsys)
    with pytest.raises(InputError, match="give the memory of one GPU"):
        paper_plan([], depth=100, gpu_gb=float(memory))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--style", "pointwise"], "judges one passage, and an example is a list -> use one of reasonrank,"),
        (["--style", "rank1"], "judges one passage"),
        (["--style", "nope"], "unknown prompt style"),
        (["--alpha", "2"], "alpha"),
        (["--concurrency", "0"], "concurrency is 0"),
        (["--limit", "0"], "limit is 0"),
        (["--budget", "nan", "--price-in", "1", "--price-out", "1"], "a budget of nan"),
        (["--budget", "5"], "no price of this model is known"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["asks", "dry"])
def test_what_would_spoil_a_synthesis_is_refused_before_it_and_before_its_dry_run(
    dry: list[str], more: list[str], says: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    refused(["synthesize", world, "--teacher", SIMULATED, "--output", out, "--quiet", *more, *dry], says, capsys)
    assert not out.exists()


# --- flags that would do nothing --------------------------------------------------------------------------------------
def test_a_server_that_could_not_answer_does_not_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvicorn")
    monkeypatch.setattr("rrlib.serve.server.Server", lambda *_, **__: pytest.fail("it listens"))
    model = ["--engine", "numpy", "--model", "package:rrlib.miniature/reranker"]
    refused(["serve", *model, "--temperature", "1"], "the numpy engine is greedy, and --temperature is 1", capsys)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--qrels", "q", "--run", "r"], "--run goes with --calibration"),
        (["--qrels", "q", "--keep", "0.5"], "--keep goes with --calibration"),
        (["--qrels", "q", "--abstain-below", "0"], "--abstain-below goes with --calibration"),
        (["--calibration", "c", "--metric", "nDCG@10"], "--metric goes with --qrels"),
        (["--qrels", "q", "--metric", "nDCG@10 R@100"], "2 metrics: nDCG@10, R@100 -> name one"),
    ],
)
def test_confidence_takes_no_flag_that_does_nothing(
    more: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["confidence", tmp_path / "no.jsonl", "--output", tmp_path / "o", *more], says, capsys)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--dtype", "float16"], "--dtype does nothing with --engine numpy -> it is for transformers or vllm"),
        (["--base-url", "http://x/v1"], "--base-url does nothing with --engine numpy"),
        (["--max-model-len", "100"], "--max-model-len does nothing with --engine numpy"),
        (["--responses", "r.jsonl"], "--responses does nothing with --engine numpy"),
        (["--concurrency", "4"], "--concurrency does nothing"),
        (["--provider", "no_system"], "--provider does nothing"),
        (["--queries", "q.tsv"], "--queries does nothing with --requests"),
        (["--corpus", "c.jsonl"], "--corpus does nothing with --requests"),
        (["--batch-size", "0"], "batch_size 0"),
    ],
)
def test_rerank_takes_no_flag_that_does_nothing(
    more: list[str], says: str, requests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["rerank", "--requests", requests, *MODEL, "--output", tmp_path / "o.trec", *more], says, capsys)
    assert not (tmp_path / "o.trec").exists()


def test_a_style_goes_with_the_released_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "export", examples_in(tmp_path), tmp_path / "o.jsonl", "--format", "jsonl", "--style", "nope"]
    refused(words, "--style does nothing with --format jsonl", capsys)


# --- damaged logs -----------------------------------------------------------------------------------------------------
GOOD = {"qid": "q", "start": 0, "end": 3, "docids": ["a", "b", "c"], "order": [2, 0, 1], "verdict": "ok", "text": "x"}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"order": 5}, "order"),
        ({"order": "abc"}, "order"),
        ({"order": [0, "x", 2]}, "order"),
        ({"order": [0, 0, 1]}, "order"),
        ({"order": [1, 2, 3]}, "order"),
        ({"order": [[0]]}, "order"),
        ({"repairs": 7}, "repairs"),
        ({"repairs": [7]}, "repairs"),
        ({"tokens_out": "abc"}, "tokens_out"),
        ({"tokens_out": float("nan")}, "tokens_out"),
        ({"tokens_out": -1}, "tokens_out"),
        ({"seconds": "x"}, "seconds"),
        ({"seconds": float("inf")}, "seconds"),
        ({"num_passages": 1e300, "order": None}, "num_passages"),
        ({"num_passages": -4, "order": None}, "num_passages"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--json"], ["--prompt", "reasonrank"]], ids=["", "json", "prompt"])
def test_a_damaged_row_is_named_before_anything_is_said(
    more: list[str], change: dict[str, Any], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_lines(tmp_path / "log.jsonl", [json.dumps(GOOD), json.dumps(GOOD | change)])
    refused(["audit", log, *more], f"{log}:2: {name} is ", capsys)


def test_a_row_may_lack_its_figures(tmp_path: Path) -> None:
    assert cli.main(["audit", str(write_jsonl(tmp_path / "log.jsonl", [{**GOOD, "tokens_out": None}]))]) == 0
