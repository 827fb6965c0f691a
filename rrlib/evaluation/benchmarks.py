"""Benchmarks as data: read from a local copy, laid out as a collection folder, with a first stage beside it.

    <root>/bright/economics/  corpus.jsonl[.gz]  queries.jsonl[.gz]  qrels/test.tsv  excluded.tsv  runs/<name>.trec[.gz]

The root is the argument, else the environment variable RRLIB_DATA. Queries may also be `queries.tsv`, corpora shards;
`queries.rewritten.jsonl` (retrieval only) and `corpus` are read when they are needed, so first-stage figures need
neither. rrlib.evaluation.fetch makes such a folder from the hub or from ir_datasets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rrlib.errors import InputError, MissingFileError
from rrlib.evaluation.registry import Benchmark, get_benchmark
from rrlib.formats import (
    Collection,
    make_candidates,
    read_corpus,
    read_excluded,
    read_qrels,
    read_queries,
    read_run,
    without_excluded,
)
from rrlib.formats.collection import _source
from rrlib.formats.fields import few
from rrlib.types import Candidates, Passage, Qrels, Query, Run

_SPLITS = {"validation": ("validation", "dev"), "dev": ("dev", "validation")}


@dataclass
class BenchmarkData:
    """One benchmark, ready for an experiment: judgements, first stage, and texts when they are asked for.

    run: the first stage, excluded documents gone, in rank-column order with its own scores; None where there is none.
    notes: what was counted while reading. validation: another split of the same collection, for choices that must not
    be made on test queries (a weight, a threshold); None where there is none.
    """

    spec: Benchmark
    qrels: Qrels
    run: Run | None = None
    queries: dict[str, Query] | None = None
    excluded: dict[str, set[str]] = field(default_factory=dict)
    data_kind: str = "real"
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)
    validation: BenchmarkData | None = None
    passages: Mapping[str, Passage] | None = None
    first_stage: str = ""
    split: str = "test"

    @property
    def name(self) -> str:
        """The benchmark's name, which is the `collection` of every table row and log line."""
        return self.spec.name

    def corpus(self, only: set[str] | None = None) -> Mapping[str, Passage]:
        """The passages (of `only`, or all). Raises MissingFileError that says what to fetch and where to put it."""
        if self.passages is not None:
            return self.passages
        if self.folder is None:
            raise InputError(f"{self.name} has no texts", remedy="load it from a folder with a corpus")
        if _find(self.folder, "corpus.jsonl", "corpus") is None and not list(self.folder.glob("*corpus*.jsonl*")):
            raise _missing(self.spec, self.folder, "corpus.jsonl")
        return read_corpus(self.folder, only=only, notes=self.notes)

    def candidates(self, depth: int | None = None) -> list[Candidates]:
        """The first stage with texts, original queries, at most `depth` passages a query (None: all).

        Raises InputError where the first stage, a query or a passage text is missing, naming the first few.
        """
        run = self.need_run()
        if self.queries is None:
            raise _missing(self.spec, self.folder or Path(self.name), "queries.jsonl")
        judged = {qid: hits for qid, hits in run.items() if qid in self.qrels}
        cut = {qid: hits[:depth] if depth is not None else hits for qid, hits in judged.items()}
        wanted = {hit.docid for hits in cut.values() for hit in hits}
        return make_candidates(cut, self.queries, self.corpus(wanted), collection=self.name)

    def need_run(self) -> Run:
        """The first-stage run. Raises InputError where there is none."""
        if self.run is None:
            raise InputError(
                f"{self.name} has no first-stage run",
                remedy="bring a TREC file (run=PATH), put it at runs/<name>.trec, or make one: first_stage='bm25s'",
            )
        return self.run

    def limited(self, queries: int) -> BenchmarkData:
        """The same benchmark with the first `queries` queries of its qrels (0: all): for trials, not for figures."""
        if not queries or queries >= len(self.qrels):
            return self
        kept = list(self.qrels)[:queries]
        run = None if self.run is None else {qid: self.run[qid] for qid in kept if qid in self.run}
        note = f"{self.name}: the first {queries} of {len(self.qrels)} queries only"
        return replace(self, qrels={qid: self.qrels[qid] for qid in kept}, run=run, notes=[*self.notes, note])


def data_root(root: str | Path | None = None) -> Path:
    """The folder that holds local copies: the argument, else RRLIB_DATA, else `data` below the working directory."""
    return Path(root) if root is not None else Path(os.environ.get("RRLIB_DATA") or "data").expanduser()


def locate(name: str, root: str | Path | None = None) -> tuple[Benchmark, Path]:
    """The specification and the folder that a name stands for.

    `folder:PATH` and names of existing folders are any BEIR-like folder; `ir_datasets:ID` any id of that package;
    else the name is one of the registry.
    """
    if name.startswith("ir_datasets:"):
        inner = name.removeprefix("ir_datasets:").strip("/")
        known = next((b for b in _registered() if b.source == f"ir_datasets:{inner}"), None)
        spec = known or Benchmark(f"ir_datasets/{inner}", source=f"ir_datasets:{inner}", max_passage_tokens=512)
        return spec, data_root(root) / spec.name
    if name.startswith("folder:") or (name not in _names() and Path(name).is_dir()):
        path = Path(name.removeprefix("folder:"))
        return Benchmark(path.resolve().name), path
    spec = get_benchmark(name)
    return spec, data_root(root) / spec.name


def _registered() -> list[Benchmark]:
    from rrlib.evaluation.registry import BENCHMARKS

    return list(BENCHMARKS.values())


def _names() -> set[str]:
    return {one.name for one in _registered()}


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
    qrels_path = _find(
        folder, *(f"qrels/{s}.{e}" for s in _SPLITS.get(split, (split,)) for e in ("tsv", "trec", "txt"))
    )
    if qrels_path is None:
        raise _missing(spec, folder, f"qrels/{split}.tsv")
    notes: list[str] = []
    qrels = read_qrels(qrels_path, notes)
    excluded_path = _find(folder, "excluded.tsv", "excluded.jsonl")
    excluded = {} if excluded_path is None else read_excluded(excluded_path, notes)
    queries_path = _find(folder, "queries.jsonl", "queries.tsv")
    queries = None if queries_path is None else read_queries(queries_path, notes)
    if queries is not None and (lost := [qid for qid in qrels if qid not in queries]):
        raise InputError(
            f"{len(lost)} of {len(qrels)} judged queries are not in {queries_path.name}: {few(lost)}",  # type: ignore[union-attr]
            path=qrels_path,
            remedy="add their texts, or remove their judgements",
        )
    kind = str(_source(folder).get("data_kind", "real"))
    data = BenchmarkData(spec, qrels, None, queries, excluded, kind, folder, notes, split=split)
    data.run, data.first_stage = _first_stage(data, split, run, first_stage)
    if split == "test" and _find(folder, "qrels/validation.tsv", "qrels/dev.tsv", "qrels/validation.trec"):
        # its run: runs/validation.trec, or made like the test queries' (a run of test queries serves no validation)
        stage = "" if _find(folder, "runs/validation.trec", "runs/dev.trec") else "bm25s" if _has_corpus(folder) else ""
        data.validation = load_benchmark(spec, root=_root_of(folder, spec), split="validation", first_stage=stage)
    return data


def _root_of(folder: Path, spec: Benchmark) -> Path:
    """The root below which `spec.name` is this folder."""
    return Path(str(folder)[: -len(spec.name)]) if str(folder).endswith(spec.name) else folder.parent


def _has_corpus(folder: Path) -> bool:
    return _find(folder, "corpus.jsonl") is not None


def _first_stage(data: BenchmarkData, split: str, given: str | Path | None, name: str) -> tuple[Run | None, str]:
    folder = data.folder
    assert folder is not None
    path: Path | None
    if given is not None:
        path = Path(given)
    elif name:
        stem = name if split == "test" else f"{name}.{split}"
        path = _find(folder, f"runs/{stem}.trec", f"runs/{stem}.txt")
        if path is None and name in ("bm25s", "bm25s-rewritten"):
            from rrlib.retrieval import bm25_run

            return bm25_run(data, form="rewritten" if name.endswith("rewritten") else "original"), name
        if path is None:
            raise MissingFileError(
                f"no first stage {name!r}", path=folder / "runs" / f"{name}.trec", remedy="put the TREC run there"
            )
    else:
        path = _find(folder, *(f"runs/{s}.trec" for s in _SPLITS.get(split, (split,))))
        runs = [p for p in sorted((folder / "runs").glob("*")) if p.name.endswith((".trec", ".trec.gz", ".txt.gz"))]
        if path is None and split == "test":
            path = _find(folder, "first_stage.trec") or (runs[0] if len(runs) == 1 else None)
            if path is None and len(runs) > 1:
                raise InputError(
                    f"{data.name} has {len(runs)} first stages: {', '.join(p.name for p in runs)}",
                    path=folder / "runs",
                    remedy="name one of them: first_stage='...'",
                )
    if path is None:
        return None, ""
    run, removed = without_excluded(read_run(path, data.notes), data.excluded)
    if removed:
        data.notes.append(f"{path}: {removed} excluded documents removed")
    if not any(qid in data.qrels for qid in run):
        raise InputError(
            f"none of its {len(run)} queries is judged in {data.name}",
            path=path,
            remedy="is it the run of another set?",
        )
    return run, path.name.split(".")[0]


def from_collection(collection: Collection, validation: Collection | None = None, **overrides: Any) -> BenchmarkData:
    """A collection that is read already (rrlib.formats.read_collection) as a benchmark; overrides: Benchmark fields."""
    run, removed = (None, 0) if collection.run is None else without_excluded(collection.run, collection.excluded)
    held = None if validation is None else replace(from_collection(validation, **overrides), split="validation")
    return BenchmarkData(
        spec=Benchmark(collection.name, **overrides),
        qrels=collection.qrels,
        run=run,
        queries=collection.queries,
        excluded=collection.excluded,
        data_kind=collection.data_kind,
        notes=[f"{collection.name}: {removed} excluded documents removed"] if removed else [],
        validation=held,
        passages=collection.corpus,
        first_stage="first stage",
    )


def _find(root: Path, *names: str) -> Path | None:
    for name in names:
        for candidate in (root / name, root / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    return None


def _missing(spec: Benchmark, folder: Path, name: str) -> MissingFileError:
    from rrlib.evaluation.fetch import what_to_fetch

    return MissingFileError(f"{spec.name}: {name} is not there", path=folder / name, remedy=what_to_fetch(spec, folder))
