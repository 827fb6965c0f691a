"""Getting a benchmark from the hub or from ir_datasets into a local folder (the layout of rrlib.evaluation.benchmarks).

Nothing is fetched unless it is asked for. What is written is a plain collection folder, SOURCE.json last, so a fetch
that was cut off is seen and done again, and later runs need no network. Fields as on the data sets' own cards: BRIGHT
`xlangai/BRIGHT` (examples: id, query, gold_ids, excluded_ids; documents: id, content; gpt4_reason: rewritten queries),
R2MED `R2MED/<Set>` (corpus and query: id, text; qrels: q_id, p_id, score), BEIR `BeIR/<set>` and `BeIR/<set>-qrels`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from rrlib.disk import hash_file, read_json, write_json
from rrlib.errors import EngineError, InputError, MissingPackageError
from rrlib.evaluation.registry import Benchmark
from rrlib.formats import read_run, write_jsonl, write_lines, write_qrels
from rrlib.types import Qrels

LoadDataset = Callable[..., Any]
"""`datasets.load_dataset`, or something with its signature (tests point it at local folders)."""

LAYOUT = "corpus.jsonl, queries.jsonl, qrels/test.tsv, runs/<first stage>.trec and, where there are any, excluded.tsv"


@dataclass
class _Parts:
    corpus: Iterable[dict[str, Any]]
    queries: list[dict[str, Any]]
    qrels: Qrels
    excluded: list[tuple[str, str]] = field(default_factory=list)
    rewritten: list[dict[str, Any]] = field(default_factory=list)
    origin: str = ""


def what_to_fetch(spec: Benchmark, folder: Path) -> str:
    """One sentence: what to get, from where, and where to put it."""
    kind, _, rest = spec.source.partition(":")
    put = f"lay it out at {folder}/ ({LAYOUT})"
    if kind == "bright":
        where = f"xlangai/BRIGHT on the Hugging Face hub, configurations examples and documents, split {rest}"
    elif kind == "r2med":
        where = f"R2MED/{rest} on the Hugging Face hub, configurations corpus, query and qrels"
    elif kind == "beir":
        where = f"BeIR/{rest} and BeIR/{rest}-qrels on the Hugging Face hub"
    elif kind == "ir_datasets":
        where = f"`{rest}` through the package ir_datasets"
    elif spec.licence:
        return f"{spec.licence}: get {spec.title or spec.name} from its publisher and {put}"
    else:
        return put
    return f"fetch=True (`rrlib bench fetch {spec.name}`) gets {where}; or {put}"


def fetch(
    spec: Benchmark, folder: Path, *, run: str | Path | None = None, load_dataset: LoadDataset | None = None
) -> Path:
    """Write the collection folder of a benchmark unless it is there (SOURCE.json); returns it.

    run: with ir_datasets, only the documents of this run are written (a corpus of millions is not needed to rerank);
    asked for with another run, or with none, it is fetched again.
    Raises InputError where nothing can fetch it, or it was built there with other options, MissingPackageError without
    ir_datasets, EngineError where the download fails, with what to do by hand.
    """
    kind, _, rest = spec.source.partition(":")
    options = json.loads(json.dumps(dict(spec.options), default=str))
    part = {} if kind != "ir_datasets" or run is None else {"documents_of": hash_file(Path(run))}
    there = read_json(folder / "SOURCE.json")
    if there is not None:
        if kind == "callable" and there.get("built_with", options) != options:
            raise InputError(
                f"{spec.name} was built here with the options {there['built_with']}, not {options}",
                path=folder,
                remedy="name another root, or remove this folder",
            )
        if there.get("documents_of") in (None, part.get("documents_of")):
            return folder
    if kind == "callable":
        from rrlib.resources import load_callable

        load_callable(rest)(folder, **spec.options)
        write_json(folder / "SOURCE.json", {**(read_json(folder / "SOURCE.json") or {}), "built_with": options})
        return folder
    try:
        if kind == "bright":
            parts = _bright(rest, load_dataset or _hub())
        elif kind == "r2med":
            parts = _r2med(rest, load_dataset or _hub())
        elif kind == "beir":
            parts = _beir(rest, load_dataset or _hub())
        elif kind == "ir_datasets":
            parts = _ir_datasets(rest, run)
        else:
            raise InputError(f"{spec.name} cannot be fetched", remedy=what_to_fetch(spec, folder))
    except (InputError, MissingPackageError):
        raise
    except Exception as error:  # the hub's, requests' and ir_datasets' own errors share no base class
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise EngineError(
            f"{spec.name} could not be fetched: {type(error).__name__}: {first} -> {what_to_fetch(spec, folder)}"
        ) from error
    write_folder(spec, folder, parts, **part)
    return folder


def write_folder(spec: Benchmark, folder: Path, parts: _Parts, **more: str) -> None:
    """Write the parts as a collection folder, SOURCE.json last (more: further entries of it)."""
    write_jsonl(folder / "corpus.jsonl.gz", parts.corpus)
    write_jsonl(folder / "queries.jsonl", parts.queries)
    if parts.rewritten:
        write_jsonl(folder / "queries.rewritten.jsonl", parts.rewritten)
    write_qrels(folder / "qrels" / "test.tsv", parts.qrels)
    if parts.excluded:
        write_lines(folder / "excluded.tsv", (f"{qid}\t{docid}" for qid, docid in parts.excluded))
    source = {"name": spec.name, "data_kind": "real", "source": parts.origin, "fetched": date.today().isoformat()}
    source |= more
    (folder / "SOURCE.json").write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")


def _hub() -> LoadDataset:
    import datasets

    return datasets.load_dataset  # type: ignore[no-any-return]


def _bright(name: str, load: LoadDataset) -> _Parts:
    """The plain qrels (gold_ids), which the published figures use; `N/A` stands for no excluded document."""
    examples = load("xlangai/BRIGHT", "examples")[name]
    documents = load("xlangai/BRIGHT", "documents")[name]
    try:
        rewritten = [_row(r["id"], r["query"]) for r in load("xlangai/BRIGHT", "gpt4_reason")[name]]
    except (ValueError, KeyError, FileNotFoundError):  # a mirror without that configuration
        rewritten = []
    return _Parts(
        corpus=(_row(d["id"], d["content"]) for d in documents),
        queries=[_row(e["id"], e["query"]) for e in examples],
        qrels={str(e["id"]): {str(docid): 1 for docid in e["gold_ids"]} for e in examples},
        excluded=[(str(e["id"]), str(d)) for e in examples for d in e["excluded_ids"] or () if d != "N/A"],
        rewritten=rewritten,
        origin=f"hub: xlangai/BRIGHT, split {name}, plain qrels",
    )


def _r2med(name: str, load: LoadDataset) -> _Parts:
    repository = f"R2MED/{name}"
    qrels: Qrels = {}
    for row in load(repository, "qrels")["qrels"]:
        qrels.setdefault(str(row["q_id"]), {})[str(row["p_id"])] = int(row["score"])
    return _Parts(
        corpus=(_row(d["id"], d["text"]) for d in load(repository, "corpus")["corpus"]),
        queries=[_row(q["id"], q["text"]) for q in load(repository, "query")["query"]],
        qrels=qrels,
        origin=f"hub: {repository}",
    )


def _beir(name: str, load: LoadDataset) -> _Parts:
    qrels: Qrels = {}
    for row in load(f"BeIR/{name}-qrels")["test"]:
        qrels.setdefault(str(row["query-id"]), {})[str(row["corpus-id"])] = int(row["score"])
    queries = load(f"BeIR/{name}", "queries")["queries"]
    documents = load(f"BeIR/{name}", "corpus")["corpus"]
    return _Parts(
        corpus=(_row(d["_id"], d["text"], d.get("title") or "") for d in documents),
        queries=[_row(q["_id"], q["text"]) for q in queries if str(q["_id"]) in qrels],
        qrels=qrels,
        origin=f"hub: BeIR/{name}",
    )


def _ir_datasets(name: str, run: str | Path | None) -> _Parts:
    try:
        import ir_datasets
    except ImportError as error:
        raise MissingPackageError(
            f"`{name}` needs the package ir_datasets: pip install 'rrlib[ir-datasets]'"
        ) from error
    try:
        data = ir_datasets.load(name)
    except KeyError as error:
        raise InputError(f"ir_datasets knows no {name!r}", remedy="see its catalogue for ids") from error
    for needed in ("queries", "qrels", "docs"):
        if not getattr(data, f"has_{needed}")():
            raise InputError(f"`{name}` of ir_datasets has no {needed}", remedy="name a set with judged queries")
    qrels: Qrels = {}
    for judged in data.qrels_iter():
        qrels.setdefault(str(judged.query_id), {})[str(judged.doc_id)] = int(judged.relevance)
    queries = [
        _row(q.query_id, _text(q, ("text", "query", "title"))) for q in data.queries_iter() if q.query_id in qrels
    ]
    return _Parts(_documents(data, run), queries, qrels, origin=f"ir_datasets: {name}")


def _documents(data: Any, run: str | Path | None) -> Iterator[dict[str, Any]]:
    if run is None:
        documents = data.docs_iter()
    else:
        wanted = sorted({hit.docid for hits in read_run(run).values() for hit in hits})
        documents = data.docs_store().get_many_iter(wanted)
    for document in documents:
        title = getattr(document, "title", "") or ""
        yield _row(document.doc_id, _text(document, ("text", "body", "contents", "abstract")), title)


def _text(record: Any, names: tuple[str, ...]) -> str:
    for name in names:
        value = getattr(record, name, None)
        if isinstance(value, str) and value.strip():
            return value
    default = getattr(record, "default_text", None)
    return str(default()) if callable(default) else ""


def _row(identifier: object, text: object, title: str = "") -> dict[str, Any]:
    row = {"_id": str(identifier), "text": str(text)}
    return {**row, "title": title} if title else row
