"""Faults that others met, part: files. Each table holds one kind of input; each row says what must come of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rrlib import cli, formats
from rrlib.chain.from_profile import config_of
from rrlib.chain.manifest import edited_hash, identity, open_stage, references, stage_state
from rrlib.chain.params import collect, declared_parameters, load_profile, notebook_path
from rrlib.errors import InputError
from rrlib.evaluation.benchmarks import load_benchmark, make_first_stage
from rrlib.evaluation.fetch import fetch
from rrlib.evaluation.registry import expand, get_benchmark
from rrlib.resources import repository, resolve
from rrlib.types import Hit, Run

ROOT = repository()


# --- relative paths mean the folder where the command was given ------------------------------------------------------


def one_cell(path: Path, *lines: str) -> Path:
    """A notebook of a parameters cell (`profile`, a path) and one cell of these lines."""
    sources = (("parameters",), 'profile = ""  # a profile (path)'), ((), "\n".join(lines))
    cells = [
        {
            "cell_type": "code",
            "metadata": {"tags": list(tags)},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for tags, source in sources
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}))
    return path


def execute(notebook: Path, profile: Path) -> str:
    """What the notebook's last cell prints, run as `rrlib run` runs it: far from the folder of the command."""
    from rrlib.chain.papermill_engine import execute as run_notebook

    output = notebook.parent / "outputs" / "x" / "notebooks" / notebook.name
    run_notebook(notebook, output, {"profile": str(profile)}, echo=lambda line: None, live=False)
    outputs = json.loads(output.read_text())["cells"][-1]["outputs"]
    return "".join(text for one in outputs for text in one.get("text", []))


def profile_of(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(f"name: mine\nseed: 1\n{text}")
    return path


def test_a_notebook_sees_the_relative_paths_of_its_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collection, model and root of the benchmarks in one kernel: it begins in the folder of the command, and what the
    runner would compare (`references`) is what the notebook's stage compares."""
    (tmp_path / "work" / "mydata" / "coll").mkdir(parents=True)
    (tmp_path / "work" / "mydata" / "model").mkdir()
    (tmp_path / "work" / "mydata" / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("RRLIB_DATA", "mydata")
    profile = profile_of(tmp_path, "01_synthesis:\n  corpus: mydata/coll\n02_sft:\n  model: mydata/model\n")
    notebook = one_cell(
        tmp_path / "a.ipynb",
        "import json",
        "from pathlib import Path",
        "from rrlib.chain.from_profile import config_of, corpus_folder",
        "from rrlib.chain.manifest import edited_hash, identity, open_stage, references, stage_state",
        "from rrlib.chain.params import load_profile",
        "from rrlib.evaluation.benchmarks import data_root",
        "loaded = load_profile(profile)",
        "corpus = corpus_folder(config_of(loaded, '01_synthesis').corpus, Path('own'), seed=1)",
        "model = config_of(loaded, '02_sft').model",
        "print(json.dumps([str(corpus), references(model), str(data_root().resolve())]))",
    )
    corpus, seen, root = json.loads(execute(notebook, profile))
    assert corpus == str(tmp_path / "work" / "mydata" / "coll") and root == str(tmp_path / "work" / "mydata")
    assert seen == references("mydata/model") and list(seen) == ["mydata/model"]


@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [
        ("01_synthesis", "corpus", "~/coll"),
        ("01_synthesis", "import_from", "~/released/data.jsonl"),
        ("02_sft", "model", "~/models/qwen"),
        ("04_evaluation", "data_root", "~/data"),
        ("04_evaluation", "checkpoints", {"ours": "~/a", "hub": "org/name"}),
        ("04_evaluation", "benchmarks", ["~/sets/one", "beir/scifact"]),
        ("05_ablations", "take_from", ["~/runs/one"]),
    ],
)
def test_home_is_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, name: str, value: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    text = json.dumps(value)
    expected = json.loads(text.replace("~", str(tmp_path)))
    profile = profile_of(tmp_path, f"stages: [{stage}]\n{stage}:\n  {name}: {text}\n")
    assert load_profile(profile).parameters(stage)[name] == expected
    defaults = {key: parameter.default for key, parameter in declared_parameters(notebook_path(stage)).items()}
    assert getattr(collect(stage, {**defaults, name: value}), name) == expected  # the same by hand, in Jupyter


@pytest.mark.parametrize("name", ["~/model", "~/deep/er/model", "~"])
def test_home_is_written_out_wherever_a_model_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(name) == name.replace("~", str(tmp_path))
    assert resolve("org/~name") == "org/~name" and resolve("a~b") == "a~b"


def hub(path: str, configuration: str) -> Any:
    """BRIGHT as the hub has it, two documents and one query a set."""
    rows = {
        "examples": [{"id": "0", "query": "why", "gold_ids": ["d/1.txt"], "excluded_ids": ["N/A"]}],
        "documents": [{"id": "d/1.txt", "content": "because"}, {"id": "d/2.txt", "content": "so"}],
        "gpt4_reason": [{"id": "0", "query": "why, at length"}],
    }[configuration]

    class EverySet(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            return rows

    return EverySet()


def bright_below(root: Path) -> None:
    """What `rrlib bench fetch bright --root ROOT` leaves, and the first stage as the recipe says."""
    for name in expand(["bright"]):
        folder = fetch(get_benchmark(name), root / name, load_dataset=hub)
        formats.write_run(folder / "runs" / "reasonir.trec.gz", {"0": ["d/2.txt", "d/1.txt"]}, "t")


@pytest.mark.parametrize("variable", [None, "data", "elsewhere/copies"])
def test_the_recipe_of_bright_works_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    """The folder `data` where the command is given, or what RRLIB_DATA names from there: all 12 sets, in a kernel."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RRLIB_DATA", raising=False)
    if variable:
        monkeypatch.setenv("RRLIB_DATA", variable)
    bright_below(Path(variable or "data"))
    notebook = one_cell(
        tmp_path / "b.ipynb",
        "from types import SimpleNamespace",
        "from rrlib.chain.from_profile import config_of",
        "from rrlib.chain.params import load_profile",
        "from rrlib.chain.stages import evaluation_data",
        "data = evaluation_data(SimpleNamespace(), config_of(load_profile(profile), '04_evaluation'))",
        "print(len(data), *{(*[p.text for p in d.candidates()[0].passages], d.first_stage) for d in data})",
    )
    assert execute(notebook, ROOT / "params" / "bright-7b.yaml") == "12 ('so', 'because', 'reasonir')\n"


def test_what_the_large_profile_says_of_its_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rrlib.chain.from_profile import corpus_folder

    monkeypatch.chdir(tmp_path)
    config = config_of(load_profile(ROOT / "params" / "qwen2.5-7b.yaml"), "01_synthesis")
    assert corpus_folder(config.corpus, Path("own"), seed=1) == tmp_path / "data" / "reasonrank"


# --- runs and judgements as others write them ------------------------------------------------------------------------

JUDGED = {"q1": {"d1": 1, "d 2": 0}, "q2": {"d3": 2}}

QRELS = {
    "columns the other way round": "corpus-id\tquery-id\tscore\nd1\tq1\t1\nd 2\tq1\t0\nd3\tq2\t2\n",
    "commas": "query_id,doc_id,relevance\nq1,d1,1\nq1,d 2,0\nq2,d3,2\n",
    "quoted": '"qid","docno","label"\n"q1","d1","1"\n"q1","d 2","0"\n"q2","d3","2"\n',
    "semicolons": "topic;document;grade\nq1;d1;1\nq1;d 2;0.0\nq2;d3;2\n",
    "iteration named": "qid iteration docid rel\nq1 0 d1 1\nq1 0 d 2 0\nq2 0 d3 2\n",
    "index column": ",query,passage-id,judgement\n0,q1,d1,1\n1,q1,d 2,0\n2,q2,d3,2\n",
    "title case": "Topic ID\tDoc ID\tRelevance\nq1\td1\t1\nq1\td 2\t0\nq2\td3\t2\n",
    "comments": "# judged in May\nq1 0 d1 1\n  # the next was disputed\nq1 0 d 2 0\n#q2 0 d1 1\nq2 0 d3 2\n",
    "comment above a header": "# judged in May\nquery-id corpus-id score\nq1 d1 1\nq1 d 2 0\nq2 d3 2\n",
    "JSON": json.dumps(JUDGED),
    "JSON on many lines": json.dumps(JUDGED, indent=1),
    "JSON with whole floats": json.dumps({q: {d: float(g) for d, g in r.items()} for q, r in JUDGED.items()}),
}


@pytest.mark.parametrize("name", QRELS)
def test_judgements_are_read_by_the_names_of_their_columns(tmp_path: Path, name: str) -> None:
    path = tmp_path / "qrels"
    path.write_text(QRELS[name])
    notes: list[str] = []
    assert formats.read_qrels(path, notes) == JUDGED
    assert bool(notes) == ("comment" in name)


LISTED: Run = {"q1": [Hit("d 2", 3.5, 1), Hit("d1", 2.0, 2)], "q2": [Hit("d3", -1.0, 1)]}

RUNS = {
    "commas": "qid,docno,rank,score\nq1,d 2,1,3.5\nq1,d1,2,2\nq2,d3,1,-1\n",
    "columns in another order": "score\tdoc_id\tquery_id\trank\n3.5\td 2\tq1\t1\n2\td1\tq1\t2\n-1\td3\tq2\t1\n",
    "no ranks": "query-id,corpus-id,score\nq1,d1,2\nq2,d3,-1\nq1,d 2,3.5\n",
    "a data frame of PyTerrier": "qid,docid,docno,rank,score,query\nq1,7,d 2,1,3.5,a\nq1,8,d1,2,2,\nq2,9,d3,1,-1,x\n",
    "TREC's names above": "qid Q0 docid rank score tag\nq1 Q0 d 2 1 3.5 t\nq1 Q0 d1 2 2 t\nq2 Q0 d3 1 -1 t\n",
    "comments": "# bm25, k1 0.9\nq1 Q0 d 2 1 3.5 t\n\t# tuned\nq1 Q0 d1 2 2 t\n#q1 Q0 d9 3 1 t\nq2 Q0 d3 1 -1 t\n",
    "JSON": '{"q1": {"d1": 2, "d 2": 3.5}, "q2": {"d3": -1.0}}',
    "JSON on many lines": '{\n "q1": {\n  "d1": 2, "d 2": 3.5},\n "q2": {"d3": -1}\n}\n',
}


@pytest.mark.parametrize("name", RUNS)
def test_runs_are_read_by_the_names_of_their_columns(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run"
    path.write_text(RUNS[name])
    assert formats.read_run(path) == LISTED


def test_a_run_of_ranks_alone_falls(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("qid\tpid\trank\nq\tb\t1\nq\ta\t2\n")
    hits = formats.read_run(path)["q"]
    assert [hit.docid for hit in hits] == ["b", "a"] and hits[0].score > hits[1].score


READERS: dict[str, Callable[[Path], Any]] = {
    "run": formats.read_run,
    "qrels": formats.read_qrels,
    "queries": formats.read_queries,
    "corpus": formats.read_corpus,
    "excluded": formats.read_excluded,
    "requests": formats.read_requests,
}
LONG = "".join(f"q{i} Q0 d{i} 1 1.5 t\r" for i in range(9999))

NAMED = {
    # a header with a name that nobody knows: refused with the names that are known
    "qrels: unknown column": ("qrels", "query-id\tcorpus-id\tstars\nq\td\t1\n", "'stars'", "relevance"),
    "qrels: no document column": ("qrels", "qid,iteration,relevance\nq,0,1\n", "corpus-id", "docno"),
    "qrels: twice": ("qrels", "qid qid docno rel\nq q d 1\n", "'qid' twice", "docno"),
    "run: unknown column": ("run", "qid,docno,rank,points\nq,d,1,2\n", "'points'", "similarity"),
    "run: neither rank nor score": ("run", "qid,docno\nq,d\n", "without rank or score", "name one"),
    # JSON of other forms is called by its name
    "run: RankGPT": ("run", '[{"query": "x", "hits": [{"docid": "d"}]}]', "RankGPT's results", "--requests"),
    "run: requests": ("run", '{"query": {"qid": "q"}, "candidates": []}\n' * 2, "rank_llm's requests", "--requests"),
    "run: lines of objects": ("run", '{"qid": "q", "docid": "d"}\n' * 2, "'docid', 'qid'", "{query id:"),
    "run: scores as words": ("run", '{"q": {"d": "2.0"}}', "the score '2.0'", "finite numbers"),
    "run: too large": ("run", '{"q": {"d": 1' + "0" * 400 + "}}", "score", "finite numbers"),
    "run: not JSON": ("run", '{"q": {"d": 2', "not JSON", "{query id:"),
    "run: key twice": ("run", '{"q": {"d": 2, "d": 1}}', "'d' stands twice", "{query id:"),
    "qrels: a list": ("qrels", '[["q", "d", 1]]', "JSON of another form", "{query id:"),
    "qrels: half": ("qrels", '{"q": {"d": 0.5}}', "0.5 is not an integer", "integers"),
    # marks and spaces of other countries
    "run: decimal comma": ("run", "q Q0 d 1 12,75 t\n", "'12,75'", "decimal comma"),
    "run: small decimal comma": ("run", "q\tQ0\td\t1\t-,5\tt\n", "'-,5'", "decimal comma"),
    "run: decimal comma in a table": ("run", "qid;docno;score\nq;d;0,5e-3\n", "'0,5e-3'", "decimal comma"),
    "qrels: decimal comma": ("qrels", "q 0 d 1,0\n", "'1,0'", "decimal comma"),
    "run: no-break spaces": ("run", "q\u00a0Q0\u00a0d\u00a01\u00a02\u00a0t\n", "fields", "no-break"),
    "qrels: narrow spaces": ("qrels", "q 0 d\u202f1\n", "fields", "no-break"),
    "excluded: wide spaces": ("excluded", "q\u3000d\n", "1 field", "no-break"),
    # tables without a header
    "run: commas": ("run", "q,Q0,d,1,2.0,t\n", "fields", "query-id,corpus-id"),
    "qrels: semicolons": ("qrels", "q;0;d;1\n", "fields", "query-id;corpus-id"),
    "qrels: three columns": ("qrels", "q1,d1,1\n", "fields", "query-id,corpus-id"),
    # control characters in ids, and a file of one line
    "run: old Mac": ("run", LONG, "of 227,742 characters", "old Mac"),
    "qrels: old Mac": ("qrels", "q1 0 a 1\rq1 0 b 0\rq2 0 a 1\r", "control character", "old Mac"),
    "queries: old Mac": ("queries", "q1\twhat\rq2\twhy\r", "several lines in one", "old Mac"),
    "run: escape": ("run", "q Q0 d\x1b[1m 1 2 t\n", "control character", "another document id"),
    "qrels: next line": ("qrels", "q 0 d\u0085 1\n", "control character", "another document id"),
    "excluded: bell": ("excluded", "q\td\x07\n", "control character", "another"),
    "queries: delete": ("queries", "q\x7f\twhat\n", "control character", "another query id"),
    "queries: JSON": ("queries", '{"_id": "a\\tb", "text": "x"}\n', "control character", "another query id"),
    "corpus: JSON": ("corpus", '{"_id": "a\\u0000", "text": "x"}\n', "control character", "another document id"),
    "requests: comment": (
        "requests",
        '{"query": {"qid": "#1", "text": "x"}, "candidates": []}\n',
        "begins with #",
        "another query id",
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_cannot_be_read_is_named_as_what_it_is(tmp_path: Path, name: str) -> None:
    reader, content, message, remedy = NAMED[name]
    path = tmp_path / "input"
    path.write_bytes(content.encode())
    with pytest.raises(InputError) as caught:
        READERS[reader](path)
    assert message in caught.value.message and remedy in caught.value.remedy and caught.value.path == path
    assert len(str(caught.value)) < 900


@pytest.mark.parametrize(
    "text",
    [
        "qid\tquery\nq1\twhat?\nq2\ta\tb\n",
        "text\tqid\nwhat?\tq1\na\tb\tq2\n".replace("a\tb", "a b"),
        'query_id,title,query\nq1,T,what?\nq2,T,"a, b"\n',
        "id;question\nq1;what?\nq2;a b\n",
        "q1\twhat?\nq2\ta b\n",
    ],
)
def test_queries_are_read_by_the_names_of_their_columns(tmp_path: Path, text: str) -> None:
    path = tmp_path / "queries"
    path.write_text(text)
    queries = formats.read_queries(path)
    assert list(queries) == ["q1", "q2"] and queries["q1"].text == "what?" and queries["q2"].text[0] == "a"


@pytest.mark.parametrize(
    "row",
    [
        {"query": "why", "hits": [{"content": "A", "qid": 7, "docid": "a", "rank": 1, "score": 2.0}]},
        {"query": {"qid": "7", "text": "why"}, "hits": [{"text": "A", "docid": "a", "score": 2.0}]},
        {"query": "why", "qid": "7", "hits": [{"contents": "A", "docid": "a", "score": 2.0}]},
        {"query": "why", "hits": [{"doc": {"text": "A"}, "query_id": "7", "docid": "a", "score": 2.0}]},
    ],
)
def test_results_of_rankgpt_are_requests(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (request,) = formats.read_requests(path)
    assert (request.query.qid, request.query.text, request.scores) == ("7", "why", (2.0,))
    assert [(passage.docid, passage.text) for passage in request.passages] == [("a", "A")]


# --- collections that cannot be judged -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("qrels", "run", "part"),
    [
        ("1 0 doc-7 1\n", "1 Q0 7 1 2 t\n", "none of its 1 documents is judged"),
        ("1 0 d7.txt 1\n2 0 d8.txt 2\n", "1 Q0 d7 1 2 t\n2 Q0 d8 1 2 t\n", "'d7.txt', 'd8.txt'"),
        ("1 0 MED-10 1\n", "1 Q0 med-10 1 2 t\n", "documents is judged"),
        ("1 0 a 1\n", "PLAIN-1 Q0 a 1 2 t\n", "none of its 1 queries is judged"),
        ("query-id\tcorpus-id\tscore\n001\ta\t1\n", "1 Q0 a 1 2 t\n", "'001'"),
        ("1 0 a 0\n1 0 b 0\n", "1 Q0 a 1 2 t\n", "no document is judged relevant"),
        ("1 0 a -1\n2 0 b 0\n", "1 Q0 a 1 2 t\n", "no document is judged relevant in 2 queries"),
    ],
)
def test_what_cannot_be_judged_ends_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], qrels: str, run: str, part: str
) -> None:
    (tmp_path / "qrels").write_text(qrels)
    (tmp_path / "run").write_text(run)
    code = cli.main(["evaluate", "--qrels", str(tmp_path / "qrels"), "--run", str(tmp_path / "run"), "--json"])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and part in err and " -> " in err


def test_a_bad_run_among_good_ones_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "qrels").write_text("1 0 a 1\n2 0 b 1\n")
    (tmp_path / "good").write_text("1 Q0 x 1 2 t\n1 Q0 b 2 1 t\n")  # shares a document, though not for its query: bad
    (tmp_path / "other").write_text("1 Q0 x 1 2 t\n")
    words = ["evaluate", "--qrels", str(tmp_path / "qrels"), "--run", str(tmp_path / "good"), "--metrics", "RR"]
    assert cli.main(words) == 0
    assert cli.main([*words, "--run", str(tmp_path / "other")]) == 2
    assert str(tmp_path / "other") in capsys.readouterr().err


# --- depth, and first stages that were made before -------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "code"), [(1, 0), (2, 0), (3, 2)])
def test_texts_are_asked_for_to_the_depth_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int, code: int
) -> None:
    """The corpus lacks the third document that is left when the excluded one is gone; it stays in the run, last."""
    (tmp_path / "run").write_text("".join(f"q Q0 {docid} {i} {9 - i} t\n" for i, docid in enumerate("xabc", 1)))
    (tmp_path / "queries").write_text("q\twhat\n")
    (tmp_path / "corpus").write_text("".join(json.dumps({"_id": i, "text": i}) + "\n" for i in "ab"))
    (tmp_path / "excluded").write_text("q\tx\n")
    monkeypatch.chdir(tmp_path)
    from rrlib.cli.rerank import _candidates

    if code:
        with pytest.raises(InputError, match="1 of 3 documents of the run are not in the corpus: 'c'"):
            _candidates(Path("run"), Path("queries"), Path("corpus"), Path("excluded"), False, depth, [])
        return
    (candidates,) = _candidates(Path("run"), Path("queries"), Path("corpus"), Path("excluded"), False, depth, [])
    assert [passage.text for passage in candidates.passages] == ["a", "b", ""][:depth] + [""] * (3 - depth)
    assert [passage.docid for passage in candidates.passages] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "change",
    ["nothing", "depth", "corpus", "query", "excluded", "by hand", "no corpus"],
)
def test_a_first_stage_is_made_anew_when_what_it_was_made_of_changes(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "mine"
    (folder / "qrels").mkdir(parents=True)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n")
    texts = {"a": "red fox", "b": "red dog", "c": "a red red fox", "d": "green tree", "e": "blue sky"}
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in texts.items()))
    (folder / "queries.tsv").write_text("1\tred fox\n")

    def order(depth: int = 3) -> list[str]:
        return [hit.docid for hit in make_first_stage(load_benchmark(str(folder)), depth=depth)["1"]]

    first = order()
    assert sorted(first) == ["a", "b", "c"]
    if change == "nothing":
        (folder / "runs" / "bm25s.trec").touch()
        assert order() == first
    elif change == "depth":
        assert order(2) == first[:2] and order(1) == first[:1] and order() == first
    elif change == "corpus":
        with (folder / "corpus.jsonl").open("a") as corpus:
            corpus.write('{"_id": "z", "text": "red fox fox"}\n')
        assert "z" in order()
        assert "z" in [hit.docid for hit in load_benchmark(str(folder), first_stage="bm25s").need_run()["1"]]
    elif change == "query":
        (folder / "queries.tsv").write_text("1\tgreen tree\n")
        assert order() == ["d"]
        assert [hit.docid for hit in load_benchmark(str(folder)).need_run()["1"]] == ["d"]
    elif change == "excluded":
        (folder / "excluded.tsv").write_text(f"1\t{first[0]}\n")
        assert order() == first[1:]
    elif change == "by hand":
        (folder / "runs" / "bm25s.trec").write_text("1 Q0 a 1 9 mine\n")
        assert order(2) == ["a"]
    else:
        (folder / "corpus.jsonl").unlink()
        assert order() == first


# --- papermill sees what the notebooks declare -----------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_papermill_sees_every_parameter(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`papermill --help-notebook` reads lines, not Python: a comment with `=` hides its parameter, and then papermill
    calls the true name unknown."""
    from papermill.inspection import inspect_notebook

    declared = declared_parameters(path)
    seen = inspect_notebook(str(path))
    assert list(seen) == list(declared)
    assert {name: entry["help"] for name, entry in seen.items()} == {n: p.comment for n, p in declared.items()}
    assert not [record.message for record in caplog.records if "Unable to parse" in record.message]


CELLS = ["x = 1", "y = x + 1\n", "def solve():\n    ...", "check_exercise(solve, y)", "stage.finish()"]


@pytest.mark.parametrize(
    ("ran", "edited"),
    [
        (["x = 1  # count", *CELLS[1:]], True),
        ([*CELLS[:4], "stage.finish(y=y)"], True),
        (CELLS[1:], True),
        (CELLS, False),
        (["# Parameters\nx = 3", *CELLS, "print(y)"], False),
        ([*CELLS[:2], "def solve():\n    return 2", "check_exercise(solve, 2)", CELLS[4]], False),
        ([source.strip() + "\n" for source in CELLS], False),
    ],
)
def test_an_edited_copy_is_told_from_the_notebook(tmp_path: Path, ran: list[str], edited: bool) -> None:
    tags = [[], [], ["exercise"], [], []]
    cells = [{"cell_type": "code", "metadata": {"tags": t}, "source": c} for t, c in zip(tags, CELLS, strict=True)]
    notebook = tmp_path / "n.ipynb"
    notebook.write_text(json.dumps({"cells": cells}))
    assert bool(edited_hash(notebook, ran)) == edited


def test_an_edited_copy_is_recorded_as_what_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage of an edited copy has another identity than the notebook, so `rrlib run` would not skip it."""
    monkeypatch.setattr("rrlib.chain.manifest._cells_that_ran", lambda: ["import rrlib", "another = 1"])
    notebook = one_cell(tmp_path / "n.ipynb", "stage.finish()")
    with open_stage(tmp_path / "run", "a", {"seed": 1}, notebook=notebook) as stage:
        stage.data_kind = "real"
    match = identity(tmp_path / "run", "a", {"seed": 1}, (), notebook)
    assert stage_state(tmp_path / "run", "a", match) == ("changed", ["notebook"])


def test_a_kernel_says_what_it_ran(tmp_path: Path) -> None:
    """Sources as they are written, magics included; none in the kernels of `rrlib run`."""
    lines = ["import os, json", "from rrlib.chain.manifest import _cells_that_ran", "inside = _cells_that_ran()"]
    lines += ["mark = os.environ.pop('RRLIB_CHAIN')", "%precision 3", "print(json.dumps([inside, _cells_that_ran()]))"]
    printed = execute(one_cell(tmp_path / "n.ipynb", *lines), tmp_path)
    inside, ran = json.loads(printed[printed.index("[[]") :])
    assert inside == [] and ran[-1] == "\n".join(lines) and ran[0].startswith("profile = ")


# --- corpora as tables ------------------------------------------------------------------------------------------------
CORPORA = {
    "MS MARCO: no header, quotes are text": ('d1\tsay "a"\nd2\tx\ty\n', {"d1": ("", 'say "a"'), "d2": ("", "x\ty")}),
    "ids that are numbers": ("7\tone\n8\ttwo\n", {"7": ("", "one"), "8": ("", "two")}),
    "DPR: tabs under a header": ('id\ttext\ttitle\n1\t"a ""b"" c"\tT\n', {"1": ("T", 'a "b" c')}),
    "a data frame that was saved": (",docno,text\n0,d1,a\n1,d2,b\n", {"d1": ("", "a"), "d2": ("", "b")}),
    "quoted commas and paragraphs": ('id,text\nd1,"a, b\n\nc"\n\nd2,x\n', {"d1": ("", "a, b\n\nc"), "d2": ("", "x")}),
    "semicolons": ("doc_id;title;text\nd1;T;a, b\n", {"d1": ("T", "a, b")}),
    "other names, other columns": ("pid,year,passage\np1,1999,a\n", {"p1": ("", "a")}),
    "a byte order mark, carriage returns": ("\ufeffid,text\r\nd1,a\r\n", {"d1": ("", "a")}),
    "blank lines first": ("\n\nd1\ta\n", {"d1": ("", "a")}),
}


@pytest.mark.parametrize("name", CORPORA)
def test_corpora_as_tables(tmp_path: Path, name: str) -> None:
    content, wanted = CORPORA[name]
    path = tmp_path / "corpus.any"
    path.write_bytes(content.encode())
    assert {p.docid: (p.title, p.text) for p in formats.read_corpus(path).values()} == wanted
    first = next(iter(wanted))
    assert list(formats.read_corpus(path, only=[first])) == [first]
