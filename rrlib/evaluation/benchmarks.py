"""Benchmarks as data: read from a local copy, laid out as a collection folder, with a first stage beside it.

    <root>/bright/economics/  corpus.jsonl[.gz]  queries.jsonl[.gz]  qrels/test.tsv  excluded.tsv  runs/<name>.trec[.gz]

The root is the argument, else the environment variable RRLIB_DATA. Queries may also be `queries.tsv`, corpora shards;
`queries.rewritten.jsonl` (retrieval only) and the corpus are read when they are needed, so first-stage figures need
neither. rrlib.evaluation.fetch makes such a folder from the hub or from ir_datasets.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection as Ids
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rrlib.disk import hash_file, hash_text, read_json, write_json
from rrlib.errors import InputError, MissingFileError
from rrlib.evaluation.metrics import check_judged
from rrlib.evaluation.registry import BENCHMARKS, Benchmark, get_benchmark
from rrlib.formats import (
    Collection,
    make_candidates,
    read_corpus,
    read_excluded,
    read_qrels,
    read_queries,
    read_run,
    without_excluded,
    write_scored_run,
)
from rrlib.formats.collection import DataKind, find_qrels, read_source, split_names
from rrlib.formats.fields import few
from rrlib.formats.textio import find_file
from rrlib.formats.texts import corpus_files
from rrlib.retrieval import bm25_run
from rrlib.types import Candidates, Passage, Query, Run

MADE_HERE = {"bm25s": "original", "bm25s-rewritten": "rewritten"}
"""First stages that need no file: name -> form of the queries that retrieve."""

_MADE_DEPTH = 100


class CorpusFolder(Mapping[str, Passage]):
    """The passages of a benchmark's folder, read when they are asked for. Raises MissingFileError, which says what to
    fetch and where to put it, where the folder has none."""

    def __init__(self, spec: Benchmark, folder: Path, notes: list[str]) -> None:
        self._spec, self._folder, self._notes = spec, folder, notes

    def only(self, docids: Ids[str] | None) -> dict[str, Passage]:
        """These passages (None: all), read now and not held: a corpus of millions is read past."""
        if find_file(self._folder, "corpus.jsonl", "corpus") is None and not list(self._folder.glob("*corpus*.jsonl*")):
            raise _missing(self._spec, self._folder, "corpus.jsonl")
        return read_corpus(self._folder, only=docids, notes=self._notes)

    @cached_property
    def _all(self) -> dict[str, Passage]:
        return self.only(None)

    def __getitem__(self, docid: str) -> Passage:
        return self._all[docid]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


@dataclass(frozen=True, kw_only=True)
class BenchmarkData(Collection):
    """One benchmark, ready for an experiment: a split of a collection, and how it is evaluated (`spec`).

    name: the benchmark's, which is the `collection` of every table row and log line. run: the first stage, excluded
    documents gone, in rank-column order with its own scores; None where there is none. queries: {} where the folder has
    none. first_stage: its name. notes: what was counted while reading. validation: another split of the same
    collection, for choices that must not be made on test queries (a weight, a threshold); None where there is none.
    """

    spec: Benchmark
    first_stage: str = ""
    split: str = "test"
    folder: Path | None = None
    validation: BenchmarkData | None = None
    notes: list[str] = field(default_factory=list)

    def candidates(self, depth: int | None = None) -> list[Candidates]:
        """The first stage with texts, judged queries only, at most `depth` passages a query (None: all).

        Raises InputError where the first stage, a query or a passage text is missing, naming the first few.
        """
        run = self.need_run()
        if not self.queries:
            raise _missing(self.spec, self.folder or Path(self.name), "queries.jsonl")
        judged = {qid: hits[:depth] for qid, hits in run.items() if qid in self.qrels}
        corpus = self.passages({hit.docid for hits in judged.values() for hit in hits})
        return make_candidates(judged, self.queries, corpus, collection=self.name)

    def passages(self, docids: Ids[str] | None = None) -> Mapping[str, Passage]:
        """The corpus, or at least these of it; what is read from a folder for that is not held."""
        return self.corpus.only(docids) if isinstance(self.corpus, CorpusFolder) else self.corpus

    def need_run(self) -> Run:
        """The first-stage run. Raises InputError where there is none."""
        if self.run is None:
            raise InputError(
                f"{self.name} has no first-stage run",
                remedy="bring a TREC file (run=PATH), put it at runs/<name>.trec, or make one: first_stage='bm25s'",
            )
        return self.run

    def limited(self, queries: int, validation: int = 0) -> BenchmarkData:
        """The same benchmark with the first `queries` queries of its qrels, and the first `validation` of those kept
        apart (0: all): for trials, not for figures."""
        held_out = self.validation and self.validation.limited(validation)
        if held_out is not self.validation:
            return replace(self, validation=held_out).limited(queries)
        if not queries or queries >= len(self.qrels):
            return self
        qids = list(self.qrels)[:queries]
        run = None if self.run is None else {qid: self.run[qid] for qid in qids if qid in self.run}
        note = f"{self.name}: the first {queries} of {len(self.qrels)} queries only"
        return replace(self, qrels={qid: self.qrels[qid] for qid in qids}, run=run, notes=[*self.notes, note])


def from_collection(collection: Collection, validation: Collection | None = None, **overrides: Any) -> BenchmarkData:
    """A collection that is read already (rrlib.formats.read_collection) as a benchmark; overrides: Benchmark fields."""
    run, removed = (None, 0) if collection.run is None else without_excluded(collection.run, collection.excluded)
    held_out = None if validation is None else replace(from_collection(validation, **overrides), split="validation")
    return BenchmarkData(
        **{**vars(collection), "run": run},
        spec=Benchmark(collection.name, **overrides),
        first_stage="first stage",
        validation=held_out,
        notes=[f"{collection.name}: {removed} excluded documents removed"] if removed else [],
    )


# --- local copies ----------------------------------------------------------------------------------------------------


def data_root(root: str | Path | None = None) -> Path:
    """The folder that holds local copies: the argument, else RRLIB_DATA, else `data` below the working directory."""
    return Path(root if root is not None else os.environ.get("RRLIB_DATA") or "data").expanduser()


def locate(name: str, root: str | Path | None = None) -> tuple[Benchmark, Path]:
    """The specification and the folder that a name stands for.

    `folder:PATH` and names of existing folders are any BEIR-like folder; `ir_datasets:ID` any id of that package;
    else the name is one of the registry.
    """
    if name.startswith("ir_datasets:"):
        source = f"ir_datasets:{name.removeprefix('ir_datasets:').strip('/')}"
        registered = next((spec for spec in BENCHMARKS.values() if spec.source == source), None)
        spec = registered or Benchmark(source.replace(":", "/", 1), source=source, max_passage_tokens=512)
        return spec, data_root(root) / spec.name
    path = Path(name.removeprefix("folder:")).expanduser()
    if name.startswith("folder:") or (name not in BENCHMARKS and path.is_dir()):
        return Benchmark(path.resolve().name), path
    spec = get_benchmark(name)
    return spec, data_root(root) / spec.name


def load_benchmark(
    name: str | Benchmark,
    *,
    root: str | Path | None = None,
    run: str | Path | None = None,
    first_stage: str = "",
    split: str = "test",
    fetch: bool = False,
    **overrides: Any,
) -> BenchmarkData:
    """Load a benchmark by name (see `locate`).

    Parameters
    ----------
    root: folder of the local copies. split: which judgements.
    run: a first stage of your own, a TREC file (gzip or not); excluded documents are removed from it too.
    first_stage: the stem of a file in runs/ (`reasonir` for runs/reasonir.trec.gz); `bm25s` (or `bm25s-rewritten`, for
        retrieval with rewritten queries) makes that file where it is not there. By default the only run of the folder,
        or the one named after the split.
    fetch: get what is missing from the hub or ir_datasets (network). overrides: fields of Benchmark, such as depth.

    Raises MissingFileError that says what to fetch and where to put it, and InputError for qrels whose queries have no
    text, runs without judgements, unknown names and broken files (file, line, remedy).
    """
    from rrlib.evaluation import fetch as source

    spec, folder = locate(name, root) if isinstance(name, str) else (name, data_root(root) / name.name)
    spec = replace(spec, **overrides) if overrides else spec
    if fetch or spec.source.startswith("callable:"):
        source.fetch(spec, folder, run=run)
    return _loaded(spec, folder, run, first_stage, split)


def _loaded(spec: Benchmark, folder: Path, run: str | Path | None, first_stage: str, split: str) -> BenchmarkData:
    """A split of a folder with its first stage, the test split with the validation queries beside it."""
    data = _without_run(spec, folder, split)
    path = _run_path(data, folder, run, first_stage)
    stage = first_stage if path is None else path.name.split(".")[0]
    if run is None and stage in MADE_HERE and (path is None or _made_of(path) is not None):
        depth = max(_MADE_DEPTH, data.spec.depth or 0)
        data = replace(data, run=make_first_stage(data, depth, MADE_HERE[stage]), first_stage=stage)
    elif path is not None:
        data = replace(data, run=_read_run(data, path), first_stage=stage)
    if split == "test" and find_file(folder, "qrels/validation.tsv", "qrels/dev.tsv", "qrels/validation.trec"):
        # its run: runs/validation.trec, or made like the test queries' (a run of test queries serves no validation)
        has_run = find_file(folder, "runs/validation.trec", "runs/dev.trec") is not None
        stage = "bm25s" if find_file(folder, "corpus.jsonl") is not None and not has_run else ""
        data = replace(data, validation=_loaded(spec, folder, None, stage, "validation"))
    return data


def _without_run(spec: Benchmark, folder: Path, split: str) -> BenchmarkData:
    """What the folder has but for the first stage."""
    qrels_path = find_qrels(folder, split)
    if qrels_path is None:
        raise _missing(spec, folder, f"qrels/{split}.tsv")
    notes: list[str] = []
    qrels = read_qrels(qrels_path, notes)
    excluded_path = find_file(folder, "excluded.tsv", "excluded.jsonl")
    excluded = {} if excluded_path is None else read_excluded(excluded_path, notes)
    queries_path = find_file(folder, "queries.jsonl", "queries.tsv")
    queries = {} if queries_path is None else read_queries(queries_path, notes)
    if queries_path is not None and (lost := [qid for qid in qrels if qid not in queries]):
        raise InputError(
            f"{len(lost)} of {len(qrels)} judged queries are not in {queries_path.name}: {few(lost)}",
            path=qrels_path,
            remedy="add their texts, or remove their judgements",
        )
    origin = read_source(folder)
    return BenchmarkData(
        spec.name,
        queries,
        {},
        qrels,
        CorpusFolder(spec, folder, notes),
        excluded=excluded,
        data_kind=str(origin.get("data_kind", DataKind.REAL.value)),
        source=origin,
        spec=spec,
        split=split,
        folder=folder,
        notes=notes,
    )


# --- first stages ----------------------------------------------------------------------------------------------------


def _run_path(data: BenchmarkData, folder: Path, given: str | Path | None, name: str) -> Path | None:
    """The file of the first stage: the one that is given, the one of that name, else the folder's only one."""
    if given is not None:
        return Path(given)
    if name:
        stem = name if data.split == "test" else f"{name}.{data.split}"
        path = find_file(folder, f"runs/{stem}.trec", f"runs/{stem}.txt")
        if path is None and name not in MADE_HERE:
            raise MissingFileError(
                f"no first stage {name!r}", path=folder / "runs" / f"{name}.trec", remedy="put the TREC run there"
            )
        return path
    path = find_file(folder, *(f"runs/{split}.trec" for split in split_names(data.split)))
    if path is not None or data.split != "test":
        return path
    runs = [p for p in sorted((folder / "runs").glob("*")) if p.name.endswith((".trec", ".trec.gz", ".txt.gz"))]
    path = find_file(folder, "first_stage.trec") or (runs[0] if len(runs) == 1 else None)
    if path is None and runs:
        raise InputError(
            f"{data.name} has {len(runs)} first stages: {', '.join(p.name for p in runs)}",
            path=folder / "runs",
            remedy="name one of them: first_stage='...'",
        )
    return path


def _read_run(data: BenchmarkData, path: Path) -> Run:
    run, removed = without_excluded(read_run(path, data.notes), data.excluded)
    if removed:
        data.notes.append(f"{path}: {removed} excluded documents removed")
    check_judged(data.qrels, run, path)
    return run


def make_first_stage(data: BenchmarkData, depth: int = _MADE_DEPTH, form: str = "original", keep: bool = True) -> Run:
    """BM25 over the benchmark's corpus; written to runs/bm25s.trec of its folder when `keep`.

    form: of the queries, `original` or `rewritten` (queries.rewritten.jsonl): BRIGHT's first stages retrieve with
    rewritten queries, while reranking sees the original ones. A run that is there is read back if it was brought by
    hand, or made here at this depth from this corpus and these queries and exclusions; otherwise it is made anew.
    """
    stem = "bm25s" if form == "original" else f"bm25s-{form}"
    split = "" if data.split == "test" else f".{data.split}"
    path = None if data.folder is None else data.folder / "runs" / f"{stem}{split}.trec"
    if path is not None and path.is_file() and _still_fits(data, _made_of(path), form, depth):
        return read_run(path, data.notes)
    if "documents_of" in data.source:
        raise InputError(
            f"{data.name} holds the documents of one run alone, too few to retrieve from",
            path=data.folder,
            remedy="fetch it again without a run",
        )
    queries = _retrieval_queries(data, form)
    run = bm25_run(data.passages(), {qid: queries[qid] for qid in data.qrels}, data.excluded, depth)
    if silent := [qid for qid, hits in run.items() if not hits]:
        data.notes.append(f"{data.name}: {len(silent)} queries share no word with the corpus: {few(silent)}")
    if path is not None and keep:
        with contextlib.suppress(OSError):  # a local copy may be read-only: then the run is made anew each time
            write_scored_run(path, {qid: hits for qid, hits in run.items() if hits}, "bm25s")
            write_json(_note_of(path), {"run": hash_file(path), "made": _made_now(data, queries, depth)})
    return run


def _note_of(path: Path) -> Path:
    """The note beside a run that was made here: of what, and the hash of the run as it was written."""
    return path.with_name(f"{path.name}.made.json")


def _made_of(path: Path) -> dict[str, Any] | None:
    """What the run in this file was made of; None where it was brought by hand, or changed since."""
    note = read_json(_note_of(path))
    return note["made"] if note and path.is_file() and note["run"] == hash_file(path) else None


def _still_fits(data: BenchmarkData, made: dict[str, Any] | None, form: str, depth: int) -> bool:
    """Whether a run that is there would be made so again; also where it was brought by hand (None), and where corpus or
    queries are gone, so that it cannot be made again."""
    try:
        return made is None or made == _made_now(data, _retrieval_queries(data, form), depth)
    except InputError:
        return True


def _made_now(data: BenchmarkData, queries: Mapping[str, Query], depth: int) -> dict[str, Any]:
    """What a run that is made now is made of. Raises MissingFileError where there is no corpus."""
    shards = [] if data.folder is None else corpus_files(data.folder)
    texts = [part for qid in data.qrels if qid in queries for part in (qid, queries[qid].text)]
    banned = [f"{qid}\t{docid}" for qid, docids in sorted(data.excluded.items()) for docid in sorted(docids)]
    corpus = {shard.name: hash_file(shard) for shard in shards}
    return {"depth": depth, "corpus": corpus, "queries": hash_text(*texts), "excluded": hash_text(*banned)}


def _retrieval_queries(data: BenchmarkData, form: str) -> Mapping[str, Query]:
    """The queries as a retriever sees them."""
    if form == "original":
        if not data.queries:
            raise InputError(f"{data.name} has no queries", remedy="add queries.jsonl to its folder")
        return data.queries
    if form != "rewritten":
        raise InputError(f"query form {form!r}", remedy="use original or rewritten")
    path = (data.folder or Path(".")) / "queries.rewritten.jsonl"
    rewritten = read_queries(path, data.notes)
    lost = [qid for qid in data.qrels if qid not in rewritten]
    if lost:
        raise InputError(
            f"{len(lost)} queries have no rewritten form: {few(lost)}", path=path, remedy="rewrite them all"
        )
    return rewritten


def _missing(spec: Benchmark, folder: Path, name: str) -> MissingFileError:
    from rrlib.evaluation.fetch import what_to_fetch

    return MissingFileError(f"{spec.name}: {name} is not there", path=folder / name, remedy=what_to_fetch(spec, folder))
