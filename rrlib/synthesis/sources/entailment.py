"""EntailmentBank (Dalvi et al. 2021): science questions, one-sentence facts, and human proofs of the right answer.

The release is github.com/allenai/entailment_bank: dataset/task_{1,3}/{train,dev,test}.jsonl (task 1: the trees; task 3:
25 sentences that AI2's retriever found) and supporting_data/worldtree_corpus_sentences_extended.json (id -> sentence).
A query is a question with its right answer, a passage a sentence of the corpus; relevant are the leaves of its tree.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rrlib.errors import InputError, MissingFileError
from rrlib.formats import read_jsonl
from rrlib.synthesis.chains import argument_of
from rrlib.synthesis.sources.judged_folder import SPLITS, Judged, add_first_stages
from rrlib.types import Passage, Query

_CORPUS = "worldtree_corpus_sentences_extended.json"
_NEAR = 0.8
_SOURCE = {
    "data_kind": "real",
    "repository": "https://github.com/allenai/entailment_bank",
    "licence": "Apache-2.0 (the repository); questions from ARC: non-commercial research",
    "labels": "grade 1: a leaf of the entailment tree that an annotator built; nothing else was judged",
    "made": "sentences equal but for case and punctuation are one passage; leaves that are no sentence of the corpus "
    "are added to it; queries like one of a later split (word Jaccard of 0.8 or more) are left out",
    "metadata": "proof: the tree in the release's notation; leaves: its sentN as document ids; hypothesis: question "
    "and answer as one statement",
    "cite": "Dalvi et al. 2021, Explaining Answers with Entailment Trees (EMNLP)",
}


class _Corpus:
    """Passages by id, and found by their words: sentences that differ in case and punctuation alone are one."""

    def __init__(self, sentences: Mapping[str, str]) -> None:
        self.passages: dict[str, Passage] = {}
        self._by_words: dict[str, str] = {}
        self._by_uuid: dict[str, str] = {}
        for uuid, sentence in sentences.items():
            text = " ".join(sentence.split())
            if not _words(text) or text == "DUMMY":
                continue
            self._by_uuid[uuid] = self._add(uuid.replace(":", "_"), text)

    def _add(self, docid: str, text: str) -> str:
        key = " ".join(_words(text))
        if key not in self._by_words:
            self._by_words[key] = docid
            self.passages[docid] = Passage(docid, text)
        return self._by_words[key]

    def docid(self, uuid: str, text: str) -> str:
        """The id of a sentence by its uuid, else by its words; what the corpus lacks is added to it."""
        if uuid in self._by_uuid:
            return self._by_uuid[uuid]
        text = " ".join(text.split())
        return self._add(f"leaf_{hashlib.sha256(text.encode()).hexdigest()[:10]}", text)


def read_entailment_bank(folder: str | Path) -> Judged:
    """The release in a folder (a clone of the repository, or its data folder) as a judged collection.

    First stages: BM25, `stem` (the same over stemmed words), and `ai2-25` (the sentences of task 3 in BM25's order,
    since the release shuffles them). Raises InputError with file and line for records without the release's fields.
    """
    root = _dataset(Path(folder))
    corpus = _Corpus(_sentences(root))
    judged, lists = Judged("entailmentbank", dict(_SOURCE)), dict[str, list[str]]()
    for split in SPLITS:
        for line, row in _rows(root / "dataset" / "task_1" / f"{split}.jsonl"):
            _add_tree(judged, corpus, row, split, root / "dataset" / "task_1" / f"{split}.jsonl", line)
        path = root / "dataset" / "task_3" / f"{split}.jsonl"
        for line, row in _rows(path) if path.is_file() else ():
            triples, provenance = _triples(row, path, line)
            lists[str(row["id"])] = [corpus.docid(provenance.get(sid, ""), text) for sid, text in triples.items()]
    _leave_out_near(judged)
    judged.corpus = corpus.passages
    add_first_stages(judged, {"ai2-25": lists} if lists else {})
    return judged


def _add_tree(judged: Judged, corpus: _Corpus, row: Mapping[str, Any], split: str, path: Path, line: int) -> None:
    """One record of task 1. A question that has a tree already gets the leaves of the second one as labels too."""
    triples, provenance = _triples(row, path, line)
    qid = str(row["id"])
    question, answer = (" ".join(str(row.get(key) or "").split()) for key in ("question", "answer"))
    leaves = {sid: corpus.docid(provenance.get(sid, ""), text) for sid, text in triples.items()}
    metadata = {
        "split": split,
        "domain": "science",
        "gold_answer": answer,
        "question": question,
        "hypothesis": " ".join(str(row.get("hypothesis") or "").split()),
        "leaves": leaves,
        "proof": " ".join(str(row.get("proof") or row["meta"].get("step_proof") or "").split()),
    }
    try:
        argument_of(metadata)
    except InputError as error:
        raise InputError(error.message, path=path, line=line, remedy="fetch the release again") from None
    judged.qrels.setdefault(qid, {}).update(dict.fromkeys(leaves.values(), 1))
    judged.queries.setdefault(qid, Query(qid, f"{question} {answer}"))
    judged.metadata.setdefault(qid, metadata)


def _triples(row: Mapping[str, Any], path: Path, line: int) -> tuple[dict[str, str], dict[str, str]]:
    """(name -> sentence, name -> uuid) of a record. Provenance is an object in task 1, a list in task 3."""
    meta = row.get("meta")
    if not isinstance(meta, dict) or not isinstance(meta.get("triples"), dict) or "id" not in row:
        raise InputError("no `id` or `meta.triples`", path=path, line=line, remedy="give the release's own files")
    provenance = meta.get("worldtree_provenance") or {}
    if isinstance(provenance, list):
        provenance = {entry["sid"]: entry for entry in provenance}
    uuids = {sid: str(entry.get("uuid") or "") for sid, entry in provenance.items()}
    return {str(sid): str(text) for sid, text in meta["triples"].items()}, uuids


def _leave_out_near(judged: Judged) -> None:
    """Drop queries of train like one of dev or test, and of dev like one of test."""
    words = {qid: frozenset(_words(query.text)) for qid, query in judged.queries.items()}
    for early, later in (("train", ("dev", "test")), ("dev", ("test",))):
        others = [words[qid] for split in later for qid in judged.of_split(split)]
        for qid in judged.of_split(early):
            if any(len(words[qid] & other) >= _NEAR * len(words[qid] | other) for other in others):
                for table in (judged.queries, judged.metadata, judged.qrels):
                    table.pop(qid)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _dataset(folder: Path) -> Path:
    """The folder with `dataset/task_1` and the supporting data; the newest version, where there are several."""
    roots = sorted(path.parent.parent for path in folder.glob("**/dataset/task_1") if path.is_dir())
    if not roots:
        raise MissingFileError("no dataset/task_1 below this folder", path=folder, remedy="give a clone of the release")
    return roots[-1]


def _sentences(root: Path) -> dict[str, str]:
    path = root / "supporting_data" / _CORPUS
    if not path.is_file():
        raise MissingFileError("the corpus is not there", path=path, remedy="give the release with its supporting_data")
    try:
        sentences = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"not JSON: {error}", path=path, remedy="fetch the file again") from None
    if not isinstance(sentences, dict):
        raise InputError("not an object of id -> sentence", path=path, remedy="fetch the file again")
    return {str(uuid): str(sentence) for uuid, sentence in sentences.items()}


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise MissingFileError("a split of the release is not there", path=path, remedy="give all three splits")
    return list(read_jsonl(path))
