"""A collection folder: the BEIR layout with first-stage runs, excluded documents and a note of where it comes from.

    corpus.jsonl[.gz]  queries.jsonl[.gz]  qrels/<split>.tsv  runs/<split>.trec  excluded.tsv  SOURCE.json

A further first stage is `runs/<split>.<first stage>.trec`, asked for by its name. `runs/<split>.hard.trec` is none: it
names passages of each query in which synthesis may look for hard negatives.
`first_stage.trec` is taken for the test split where `runs/` is missing. Every file may be gzip. `queries.jsonl` may
carry `metadata` with `split`, `domain` and `gold_answer`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from rrlib.errors import InputError, MissingFileError
from rrlib.formats.fields import few
from rrlib.formats.requests import make_candidates
from rrlib.formats.textio import find_file, open_text
from rrlib.formats.texts import queries_with_metadata, read_corpus
from rrlib.formats.trec import read_excluded, read_qrels, read_run
from rrlib.types import Candidates, Passage, Qrels, Query, Run


class DataKind(StrEnum):
    """What a figure says of the world, by what its data are."""

    REAL = "real"
    """Texts and judgements that people made."""

    SYNTHETIC = "synthetic"
    """Texts or judgements that a program or a model made."""

    SIMULATED = "simulated"
    """With a program in a model's place, such as a teacher that knows the answers."""


DATA_KINDS = tuple(DataKind)
_ALIASES = {"validation": ("validation", "dev"), "dev": ("dev", "validation")}


@dataclass(frozen=True)
class Collection:
    """One split of a collection.

    queries, qrels and run are those of the split; the corpus is shared by all splits. `run` (rank-column order) is
    None where the folder has no first-stage run for the split, `qrels` is empty where it has no judgements. `hard` is
    the pool for hard negatives, by query, where there is one.
    """

    name: str
    queries: dict[str, Query]
    metadata: dict[str, dict[str, Any]]
    qrels: Qrels
    corpus: Mapping[str, Passage]
    run: Run | None = None
    excluded: dict[str, set[str]] = field(default_factory=dict)
    data_kind: str = DataKind.REAL.value
    source: dict[str, Any] = field(default_factory=dict)
    hard: Run | None = None

    def candidates(self, depth: int | None = None) -> list[Candidates]:
        """The first-stage candidates with their texts, excluded documents removed, at most `depth` a query."""
        if self.run is None:
            raise InputError(f"the collection {self.name} has no first-stage run", remedy="add runs/<split>.trec")
        return make_candidates(self.run, self.queries, self.corpus, depth, self.excluded, collection=self.name)


def read_collection(
    folder: str | Path, split: str = "test", notes: list[str] | None = None, first_stage: str = ""
) -> Collection:
    """Read one split of a collection folder (see the module docstring for its files).

    first_stage: name of a further run, `stem` for runs/<split>.stem.trec; empty = runs/<split>.trec.

    The queries of a split are those whose metadata name it; where no query names a split, those of its qrels and
    its run (all, if it has neither). The name is that of SOURCE.json, else the folder's. A collection whose
    SOURCE.json does not say its `data_kind` is taken as real: who generates data must say so. Raises `InputError`
    for a split that nothing in the folder mentions, and for queries of qrels or run that have no text.
    """
    root = Path(folder)
    if not root.is_dir():
        raise MissingFileError("no such collection folder", path=root, remedy="name a folder with corpus and queries")
    source = read_source(root)
    queries_path = find_file(root, "queries.jsonl", "queries.tsv")
    if queries_path is None:
        raise MissingFileError("no queries.jsonl in this folder", path=root, remedy="see the layout of a collection")
    queries, metadata = queries_with_metadata(queries_path, notes)
    qrels_path = find_qrels(root, split)
    ending = f".{first_stage}.trec" if first_stage else ".trec"
    run_path = find_file(root, *(f"runs/{name}{ending}" for name in split_names(split)))
    if run_path is None and first_stage:
        remedy = "name a first stage that lies there"
        if first_stage == "stem":
            remedy += "; `rrlib data collection` makes `stem` anew from the release (it needs PyStemmer)"
        raise InputError(f"no run {split}{ending} in runs/", path=root, remedy=remedy)
    if run_path is None and split == "test":
        run_path = find_file(root, "first_stage.trec")
    qrels = {} if qrels_path is None else read_qrels(qrels_path, notes)
    run = None if run_path is None else read_run(run_path, notes)
    hard_path = find_file(root, *(f"runs/{name}.hard.trec" for name in split_names(split)))
    chosen = _chosen(queries, metadata, qrels, run, split)
    for path, qids in ((qrels_path, list(qrels)), (run_path, list(run or {}))):
        missing = [qid for qid in qids if qid not in queries]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(qids)} queries are not in {queries_path.name}: {few(missing)}",
                path=path,
                remedy="add their texts, or remove their lines",
            )
    if not chosen:
        raise InputError(
            f"nothing here belongs to the split {split!r}", path=root, remedy=f"splits found: {_splits(root, metadata)}"
        )
    excluded_path = find_file(root, "excluded.tsv")
    return Collection(
        name=str(source.get("name") or root.resolve().name),
        queries={qid: queries[qid] for qid in chosen},
        metadata={qid: metadata[qid] for qid in chosen},
        qrels=qrels,
        corpus=read_corpus(root, notes=notes),
        run=run,
        excluded={} if excluded_path is None else read_excluded(excluded_path, notes),
        data_kind=str(source.get("data_kind", DataKind.REAL.value)),
        source=source,
        hard=None if hard_path is None else read_run(hard_path, notes),
    )


def split_names(split: str) -> tuple[str, ...]:
    """What a split may be called in the names of files: `validation` and `dev` are one."""
    return _ALIASES.get(split, (split,))


def find_qrels(root: Path, split: str) -> Path | None:
    """The judgements of a split of a collection folder."""
    names = (f"qrels/{name}.{end}" for name in split_names(split) for end in ("tsv", "trec", "txt"))
    return find_file(root, *names)


def _chosen(
    queries: Mapping[str, Query], metadata: Mapping[str, dict[str, Any]], qrels: Qrels, run: Run | None, split: str
) -> list[str]:
    if any("split" in extra for extra in metadata.values()):
        return [qid for qid in queries if metadata[qid].get("split") in split_names(split)]
    if not qrels and run is None:
        return list(queries) if split == "test" else []
    named = qrels.keys() | (run or {}).keys()
    return [qid for qid in queries if qid in named]


def _splits(root: Path, metadata: Mapping[str, dict[str, Any]]) -> str:
    names = {str(extra["split"]) for extra in metadata.values() if "split" in extra}
    for folder in ("qrels", "runs"):
        if (root / folder).is_dir():
            names |= {file.name.split(".")[0] for file in (root / folder).iterdir() if not file.name.startswith(".")}
    return ", ".join(sorted(names)) or "none"


def read_source(root: Path) -> dict[str, Any]:
    """SOURCE.json of a collection folder; {} where there is none. Raises InputError for an unknown `data_kind`."""
    path = root / "SOURCE.json"
    if not path.is_file():
        return {}
    try:
        source = json.loads("\n".join(open_text(path)))
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", path=path, line=error.lineno, remedy="mend the file") from None
    if not isinstance(source, dict):
        raise InputError("a JSON object is expected", path=path, remedy='write {"name": ..., "data_kind": ...}')
    kind = source.get("data_kind", DataKind.REAL.value)
    if kind not in DATA_KINDS:
        raise InputError(f"the data_kind is {kind!r}", path=path, remedy=f"it is one of {', '.join(DATA_KINDS)}")
    return source
