"""Benchmarks by name: local copies, the hub's layouts through `datasets`, ir_datasets' interface, what is missing."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import types
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from rrlib.errors import EngineError, InputError, MissingFileError, MissingPackageError
from rrlib.evaluation import BENCHMARKS, REPORTED, Benchmark, expand, get_benchmark, load_benchmark
from rrlib.evaluation.benchmarks import make_first_stage
from rrlib.evaluation.fetch import fetch
from rrlib.evaluation.metrics import mean, per_query
from rrlib.evaluation.reference import ABLATIONS, reported_for

SIX = {
    "economics": (103, 32.65),
    "earth_science": (116, 43.00),
    "robotics": (101, 20.82),
    "psychology": (101, 39.57),
    "sustainable_living": (108, 27.34),
    "theoremqa_questions": (194, 33.93),
}


# --- the registry -----------------------------------------------------------------------------------------------------
def test_the_fields_benchmarks_are_there_with_what_is_easily_got_wrong() -> None:
    sizes = {suite: [b for b in BENCHMARKS.values() if b.suite == suite] for suite in ("bright", "r2med", "beir")}
    assert {suite: len(sets) for suite, sets in sizes.items()} == {"bright": 12, "r2med": 8, "beir": 7}
    assert sum(b.queries for b in sizes["bright"]) == 1384 and sum(b.queries for b in sizes["r2med"]) == 876
    assert [b.title for b in sizes["bright"]] == (
        ["Econ", "Earth", "Rob", "Bio", "Psy", "Stack", "Sus", "Leet", "Pony", "AoPS", "TheoQ", "TheoT"]
    )
    assert [b.title for b in sizes["beir"]] == (
        ["trec-covid", "dbpedia-entity", "scifact", "nfcorpus", "signal1m", "robust04", "trec-news"]
    )
    limits = {b.suite: b.max_passage_tokens for b in BENCHMARKS.values()}
    assert limits["bright"] == limits["r2med"] == 512 and limits["beir"] == limits["trec-dl"] == 100
    for year, queries in (("2019", 43), ("2020", 54)):
        dl = get_benchmark(f"trec-dl-{year}")
        assert dl.relevance_level == 2 and dl.queries == queries and "R@100" in dl.metrics and "RR" in dl.metrics
    assert all((b.window, b.stride, b.depth) == (20, 10, 100) for b in BENCHMARKS.values() if b.suite)


def test_names_suites_and_near_misses() -> None:
    assert expand(["bright", "dl19", "bright/pony"])[:2] == ["bright/economics", "bright/earth_science"]
    assert len(expand(["bright", "dl19", "bright/pony"])) == 13
    with pytest.raises(InputError, match="bright/biology"):
        get_benchmark("bright/bio")
    with pytest.raises(InputError, match="name a folder"):
        get_benchmark("zzzz")


def test_reported_rows_are_the_papers() -> None:
    table = {(row.system, row.benchmark): round(100 * row.value, 2) for row in REPORTED}
    assert len(table) == len(REPORTED) == 19 * 13 + 11 * 9 + 11 * 8
    assert table["ReasonRank-7B", "bright/biology"] == 56.70 and table["ReasonRank-7B", "r2med"] == 39.53
    assert table["Rearank-7B", "beir/robust04"] == 56.16 and table["RankT5-3B (pointwise)", "bright/pony"] == 38.05
    assert table["ReasonRank-32B", "r2med/PMC-Clinical"] == 46.11
    means = {round(100 * r.value, 2) for r in ABLATIONS if r.benchmark == "bright"}
    assert means == {35.74, 30.08, 34.2, 28.69, 33.15, 32.96, 33.6}
    some = reported_for(["bright/pony", "bright/aops"])
    assert {r.benchmark for r in some} == {"bright/pony", "bright/aops"}  # no mean of sets that are not all here
    bright = [b.name for b in BENCHMARKS.values() if b.suite == "bright"]
    assert "bright" in {r.benchmark for r in reported_for(bright)}


@pytest.mark.parametrize("suite", ["bright", "r2med", "beir"])
def test_a_printed_average_is_the_mean_of_its_row(suite: str) -> None:
    """So no figure was copied wrong."""
    sets = [b.name for b in BENCHMARKS.values() if b.suite == suite]
    values = {(r.system, r.benchmark): 100 * r.value for r in (*REPORTED, *ABLATIONS)}
    rows = {system for system, benchmark in values if benchmark == sets[0]}
    assert len(rows) == {"bright": 26, "r2med": 11, "beir": 11}[suite]
    for system in rows:
        found = sum(values[system, name] for name in sets) / len(sets)
        assert found == pytest.approx(values[system, suite], abs=0.011), system


# --- local copies -----------------------------------------------------------------------------------------------------
def lay_out(realdata: Path, root: Path, name: str) -> Path:
    """A local copy of a BRIGHT set without texts, as a user would lay it out."""
    folder, source = root / "bright" / name, realdata / "bright"
    (folder / "qrels").mkdir(parents=True)
    (folder / "runs").mkdir()
    shutil.copy(source / f"{name}.qrels.tsv", folder / "qrels" / "test.tsv")
    shutil.copy(source / f"{name}.reasonir_gpt4cot_top100.txt.gz", folder / "runs" / "reasonir.trec.gz")
    if (source / f"{name}.topics.tsv").is_file():
        shutil.copy(source / f"{name}.topics.tsv", folder / "queries.tsv")
    return folder


@pytest.mark.realdata
def test_bright_first_stages_through_the_named_loader(realdata: Path, tmp_path: Path) -> None:
    for name, (queries, expected) in SIX.items():
        lay_out(realdata, tmp_path, name)
        data = load_benchmark(f"bright/{name}", root=tmp_path)
        assert data.spec.queries == len(data.qrels) == queries and data.first_stage == "reasonir"
        values = per_query(data.qrels, data.need_run(), data.spec.metrics)["nDCG@10"]
        assert 100 * mean(values) == pytest.approx(expected, abs=0.005)
        reported = next(r for r in REPORTED if r.system == "ReasonIR-8B" and r.benchmark == data.name)
        assert mean(values) == pytest.approx(reported.value, abs=5e-5)
        with pytest.raises(MissingFileError, match=r"is not there .*xlangai/BRIGHT"):
            data.candidates(10)


@pytest.mark.realdata
def test_dl19_counts_recall_from_grade_two(realdata: Path, tmp_path: Path) -> None:
    shutil.copytree(realdata / "collections" / "dl19-bm25-top100", tmp_path / "trec-dl" / "2019")
    data = load_benchmark("trec-dl-2019", root=tmp_path)
    values = per_query(data.qrels, data.need_run(), data.spec.metrics, data.spec.relevance_level)
    assert list(values) == ["nDCG@10", "R(rel=2)@100", "RR(rel=2)", "AP(rel=2)@100"]
    assert 100 * mean(values["nDCG@10"]) == pytest.approx(50.58, abs=0.005)
    assert mean(values["R(rel=2)@100"]) > mean(per_query(data.qrels, data.need_run(), "R@100")["R@100"])
    candidates = data.candidates(5)
    assert len(candidates) == 43 and all(len(c.passages) == 5 and c.passages[0].text for c in candidates)


@pytest.mark.realdata
def test_excluded_documents_are_gone_from_every_run(realdata: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bright" / "theoremqa_questions"
    shutil.copytree(realdata / "collections" / "bright-theoremqa-questions-goldpool", folder)
    for path in (folder, folder / "qrels"):
        path.chmod(0o755)
    data = load_benchmark("bright/theoremqa_questions", root=tmp_path, first_stage="bm25s")
    banned = {(qid, docid) for qid, docids in data.excluded.items() for docid in docids}
    assert len(banned) > 150 and (folder / "runs" / "bm25s.trec").is_file()
    found = {(qid, hit.docid) for qid, hits in data.need_run().items() for hit in hits}
    assert not found & banned and len(data.need_run()) == 194
    assert all(not {(c.query.qid, p.docid) for p in c.passages} & banned for c in data.candidates(30))
    # a run that the user brings, with every excluded document on top
    qid = next(iter(data.excluded))
    mine = tmp_path / "mine.trec"
    lines = [f"{qid} Q0 {d} {i} {9 - i} t" for i, d in enumerate([*sorted(data.excluded[qid]), *data.qrels[qid]], 1)]
    mine.write_text("\n".join(lines) + "\n")
    brought = load_benchmark("bright/theoremqa_questions", root=tmp_path, run=mine)
    assert [h.docid for h in brought.need_run()[qid]] == list(data.qrels[qid])
    assert any("excluded documents removed" in note for note in brought.notes)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def small(folder: Path, **more: str) -> Path:
    """A collection of three queries, one with blanks in a document id, one of no known word."""
    corpus = [("a b", "red fox"), ("c", "red fox jumps"), ("d", "blue dog"), ("e", "green")]
    return write(
        folder,
        corpus_DOT_jsonl="".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in corpus),
        queries_DOT_jsonl="".join(
            json.dumps({"_id": i, "text": t}) + "\n" for i, t in [("1", "fox"), ("2", "blue dog"), ("3", "zebra")]
        ),
        qrels__test_DOT_tsv="query-id\tcorpus-id\tscore\n1\ta b\t1\n2\td\t1\n3\te\t1\n",
        **more,
    )


def test_any_folder_with_a_first_stage_made_here(tmp_path: Path) -> None:
    folder = small(tmp_path / "mine")
    data = load_benchmark(str(folder), first_stage="bm25s")
    run = data.need_run()
    assert [h.docid for h in run["1"]] == ["a b", "c"] and [h.docid for h in run["2"]] == ["d"] and run["3"] == []
    assert any("share no word" in note for note in data.notes) and data.name == "mine" and data.data_kind == "real"
    again = load_benchmark(f"folder:{folder}")  # now it is the folder's only run
    assert [h.docid for h in again.need_run()["1"]] == ["a b", "c"] and again.first_stage == "bm25s"
    assert [c.query.text for c in again.candidates()] == ["fox", "blue dog"]
    assert len(again.limited(1).qrels) == 1 and "first 1 of 3" in again.limited(1).notes[-1]


def test_ties_of_bm25_stand_in_trec_evals_order(tmp_path: Path) -> None:
    folder = small(tmp_path / "mine")
    rows = [{"_id": i, "text": "red fox"} for i in ("m", "z", "a", "k")]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*rows, {"_id": "q", "text": "dog"}]))
    run = make_first_stage(load_benchmark(str(folder)), depth=3, keep=False)
    assert [h.docid for h in run["1"]] == ["z", "m", "k"] and len({h.score for h in run["1"]}) == 1


def test_rewritten_queries_serve_retrieval_only(tmp_path: Path) -> None:
    folder = small(tmp_path / "mine")
    data = load_benchmark(str(folder), first_stage="bm25s")
    rewritten = [{"_id": "1", "text": "blue"}, {"_id": "2", "text": "red"}, {"_id": "3", "text": "green"}]
    (folder / "queries.rewritten.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rewritten))
    run = make_first_stage(data, form="rewritten")
    assert [h.docid for h in run["1"]] == ["d"] and [h.docid for h in run["3"]] == ["e"]
    chosen = load_benchmark(str(folder), first_stage="bm25s-rewritten")
    assert [c.query.text for c in chosen.candidates()] == ["fox", "blue dog", "zebra"]  # reranking sees the original
    (folder / "queries.rewritten.jsonl").write_text(json.dumps(rewritten[0]) + "\n")
    (folder / "runs" / "bm25s-rewritten.trec").unlink()
    with pytest.raises(InputError, match="no rewritten form"):
        make_first_stage(data, form="rewritten")
    with pytest.raises(InputError, match="query form"):
        make_first_stage(data, form="translated")


def test_validation_queries_are_kept_apart(tmp_path: Path) -> None:
    folder = small(tmp_path / "mine", qrels__validation_DOT_tsv="query-id\tcorpus-id\tscore\n2\td\t1\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta b\t1\n")
    data = load_benchmark(str(folder), first_stage="bm25s")
    assert data.validation is not None and list(data.validation.qrels) == ["2"] and list(data.qrels) == ["1"]
    assert [h.docid for h in data.validation.need_run()["2"]] == ["d"]
    assert not data.need_run().keys() & data.validation.need_run().keys()


@pytest.mark.parametrize(
    ("files", "options", "told"),
    [
        ({"qrels__test_DOT_tsv": "query-id\tcorpus-id\tscore\n9\ta b\t1\n"}, {}, "judged queries are not in"),
        ({"runs__x_DOT_trec": "9 Q0 c 1 1 t\n"}, {}, "run of another set"),
        ({"runs__x_DOT_trec": "1 Q0 c 1 1 t\n", "runs__y_DOT_trec": "1 Q0 c 1 1 t\n"}, {}, "x.trec, y.trec"),
        ({}, {"first_stage": "colbert"}, "no first stage 'colbert'"),
        ({}, {"split": "dev"}, "qrels/dev.tsv is not there"),
        ({"SOURCE_DOT_json": '{"data_kind": "dreamt"}'}, {}, "data_kind"),
    ],
)
def test_broken_copies_are_said(tmp_path: Path, files: dict[str, str], options: dict[str, str], told: str) -> None:
    folder = small(tmp_path / "mine")
    write(folder, **files)
    with pytest.raises(InputError, match=told):
        load_benchmark(str(folder), **options)  # type: ignore[arg-type]


def test_missing_texts_name_the_documents(tmp_path: Path) -> None:
    folder = small(tmp_path / "mine", runs__x_DOT_trec="1 Q0 d 1 2 t\n1 Q0 nowhere 2 1 t\n")
    data = load_benchmark(str(folder))
    with pytest.raises(InputError, match="nowhere"):
        data.candidates()
    assert [p.docid for p in data.candidates(1)[0].passages] == ["d"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("bright/pony", r"rrlib bench fetch bright/pony.*xlangai/BRIGHT.*bright/pony/ \(corpus.jsonl"),
        ("r2med/PMC-Clinical", r"R2MED/PMC-Clinical on the Hugging Face hub"),
        ("beir/scifact", r"BeIR/scifact and BeIR/scifact-qrels"),
        ("beir/robust04", r"under an agreement.*from its publisher.*beir/robust04/"),
        ("dl20", r"msmarco-passage/trec-dl-2020/judged. through the package ir_datasets"),
        ("ir_datasets:vaswani", r"vaswani"),
    ],
)
def test_a_missing_download_says_what_to_fetch_and_where_to_put_it(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(MissingFileError, match=told):
        load_benchmark(name, root=tmp_path)


def test_the_miniature_is_a_benchmark_like_any_other(tmp_path: Path) -> None:
    data = load_benchmark(
        "miniature", root=tmp_path, options={"seed": 3, "train": 0, "validation": 8, "test": 8}, depth=20
    )
    assert len(data.qrels) == 8 and data.data_kind == "synthetic" and data.spec.depth == 20
    assert data.validation is not None and len(data.validation.qrels) == 8
    assert len(data.candidates(20)[0].passages) == 20


# --- the hub, laid out as its repositories are ------------------------------------------------------------------------
def hub(root: Path) -> Any:
    """`datasets.load_dataset` for repositories that lie below a folder."""
    import datasets

    def load(repository: str, name: str | None = None) -> Any:
        folder = root / repository
        if not folder.is_dir():
            raise FileNotFoundError(f"{repository} cannot be reached")
        return datasets.load_dataset(str(folder), name, cache_dir=str(root / "cache"))

    return load


def repository(root: Path, name: str, configs: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    """A data set repository: a card with configurations, a JSONL file a split."""
    folder = root / name
    folder.mkdir(parents=True)
    card = ["---", "configs:"]
    for config, splits in configs.items():
        card += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            file = f"{config}-{split}.jsonl"
            (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
            card += [f"  - split: {split}", f"    path: {file}"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))


def test_bright_from_the_hub(tmp_path: Path) -> None:
    examples = [
        {"id": "0", "query": "how?", "gold_ids": ["x/1 2.txt"], "gold_ids_long": ["x"], "excluded_ids": ["N/A"]},
        {"id": "1", "query": "why?", "gold_ids": ["y/2.txt"], "gold_ids_long": ["y"], "excluded_ids": ["x/1 2.txt"]},
    ]
    documents = [{"id": "x/1 2.txt", "content": "one fox"}, {"id": "y/2.txt", "content": "two"}]
    reason = [{"id": "0", "query": "how, in detail"}, {"id": "1", "query": "why, in detail"}]
    repository(
        tmp_path / "hub",
        "xlangai/BRIGHT",
        {"examples": {"pony": examples}, "documents": {"pony": documents}, "gpt4_reason": {"pony": reason}},
    )
    root = tmp_path / "data"
    fetch(get_benchmark("bright/pony"), root / "bright" / "pony", load_dataset=hub(tmp_path / "hub"))
    data = load_benchmark("bright/pony", root=root)
    assert data.qrels == {"0": {"x/1 2.txt": 1}, "1": {"y/2.txt": 1}}  # the plain ones, not the long
    assert data.excluded == {"1": {"x/1 2.txt"}} and data.queries is not None and data.queries["1"].text == "why?"
    assert data.corpus["x/1 2.txt"].text == "one fox"
    assert make_first_stage(data, form="rewritten", keep=False) is not None
    before = (root / "bright" / "pony" / "SOURCE.json").read_text()
    fetch(get_benchmark("bright/pony"), root / "bright" / "pony", load_dataset=hub(tmp_path / "nowhere"))
    assert (root / "bright" / "pony" / "SOURCE.json").read_text() == before  # fetched once


def test_r2med_and_beir_from_the_hub(tmp_path: Path) -> None:
    repository(
        tmp_path / "hub",
        "R2MED/Biology",
        {
            "query": {"query": [{"id": "q1", "text": "how?"}]},
            "corpus": {"corpus": [{"id": "d1", "text": "one"}, {"id": "d2", "text": "two"}]},
            "qrels": {"qrels": [{"q_id": "q1", "p_id": "d2", "score": 1}]},
        },
    )
    repository(
        tmp_path / "hub",
        "BeIR/scifact",
        {
            "corpus": {"corpus": [{"_id": "4983", "title": "T", "text": "one"}]},
            "queries": {
                "queries": [{"_id": "0", "title": "", "text": "train"}, {"_id": "1", "title": "", "text": "t"}]
            },
        },
    )
    repository(
        tmp_path / "hub",
        "BeIR/scifact-qrels",
        {"default": {"test": [{"query-id": 1, "corpus-id": 4983, "score": 1}]}},
    )
    root, load = tmp_path / "data", hub(tmp_path / "hub")
    fetch(get_benchmark("r2med/Biology"), root / "r2med" / "Biology", load_dataset=load)
    fetch(get_benchmark("beir/scifact"), root / "beir" / "scifact", load_dataset=load)
    r2med, beir = load_benchmark("r2med/Biology", root=root), load_benchmark("beir/scifact", root=root)
    assert r2med.qrels == {"q1": {"d2": 1}} and r2med.corpus["d2"].text == "two"
    assert beir.qrels == {"1": {"4983": 1}} and list(beir.queries or {}) == ["1"]  # judged queries only
    assert beir.corpus["4983"].title == "T"


def test_a_download_that_fails_says_what_to_do_by_hand(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"could not be fetched.*cannot be reached.*lay it out at"):
        fetch(get_benchmark("bright/pony"), tmp_path / "pony", load_dataset=hub(tmp_path))
    assert not (tmp_path / "pony").exists()
    with pytest.raises(InputError, match="publisher"):
        fetch(get_benchmark("beir/signal1m"), tmp_path / "signal")


# --- ir_datasets: the interface that its datasets share ---------------------------------------------------------------
class FakeSet:
    """A dataset with ir_datasets' methods and its namedtuples (documents with a title and a body, as TREC's have)."""

    documents = [("d1", "One", "first body"), ("d2", "", "second body")]

    def has_queries(self) -> bool:
        return True

    def has_qrels(self) -> bool:
        return True

    def has_docs(self) -> bool:
        return True

    def queries_iter(self) -> Any:
        query = namedtuple("GenericQuery", "query_id text")
        return iter([query("q1", "how?"), query("q9", "not judged")])

    def qrels_iter(self) -> Any:
        judged = namedtuple("TrecQrel", "query_id doc_id relevance iteration")
        return iter([judged("q1", "d2", 2, "0"), judged("q1", "d1", 0, "0")])

    def docs_iter(self) -> Any:
        document = namedtuple("TitleBodyDoc", "doc_id title body")
        return (document(*row) for row in self.documents)

    def docs_store(self) -> Any:
        every = {d.doc_id: d for d in self.docs_iter()}
        return types.SimpleNamespace(get_many_iter=lambda ids: (every[i] for i in ids))


def test_any_ir_datasets_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> FakeSet:
        return {"small/judged": FakeSet()}[name]

    monkeypatch.setitem(sys.modules, "ir_datasets", types.SimpleNamespace(load=load))
    data = load_benchmark("ir_datasets:small/judged", root=tmp_path, fetch=True, max_passage_tokens=100)
    assert data.name == "ir_datasets/small/judged" and data.spec.max_passage_tokens == 100
    assert data.qrels == {"q1": {"d2": 2, "d1": 0}} and list(data.queries or {}) == ["q1"]
    assert data.corpus["d1"].title == "One" and data.corpus["d2"].text == "second body"
    with pytest.raises(InputError, match="knows no"):
        load_benchmark("ir_datasets:other", root=tmp_path, fetch=True)
    run = tmp_path / "run.trec"
    run.write_text("q1 Q0 d2 1 1 t\n")
    only = load_benchmark("ir_datasets:small/judged", root=tmp_path / "b", fetch=True, run=run)
    assert list(only.corpus) == ["d2"]  # of a large collection, only what is reranked


def test_without_ir_datasets_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'rrlib\[ir-datasets\]'"):
        load_benchmark("dl19", root=tmp_path, fetch=True)


def test_gzipped_copies_and_other_query_files(tmp_path: Path) -> None:
    folder = small(tmp_path / "mine")
    (folder / "queries.tsv.gz").write_bytes(gzip.compress(b"1\tfox\n2\tdog\n3\tz\n"))
    (folder / "queries.jsonl").unlink()
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress((folder / "corpus.jsonl").read_bytes()))
    (folder / "corpus.jsonl").unlink()
    assert len(load_benchmark(Benchmark("mine"), root=tmp_path, first_stage="bm25s").need_run()["1"]) == 2
