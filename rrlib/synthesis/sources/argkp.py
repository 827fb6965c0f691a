"""ArgKP (Bar-Haim et al. 2020): arguments of debates and the key points that say in short what they say.

The release is github.com/IBM/KPA_2021_shared_task: {arguments,key_points,labels}_{train,dev}.csv in kpm_data, those of
test in test_data. A query is an argument, a passage a key point. Only pairs of one topic and stance were judged, and
undecided ones left out by the authors. Splits share no topic. There is no human reasoning.
"""

from __future__ import annotations

import csv
from pathlib import Path

from rrlib.errors import InputError, MissingFileError
from rrlib.synthesis.sources.judged_folder import SPLITS, Judged, add_first_stages
from rrlib.types import Passage, Query

_SOURCE = {
    "data_kind": "real",
    "repository": "https://github.com/IBM/KPA_2021_shared_task",
    "licence": "Apache-2.0 (the repository); its kpm_data/readme.txt names CDLA-Sharing-1.0",
    "labels": "1: most crowd workers said that the key point captures the gist of the argument; 0: judged, and not",
    "made": "arguments without any matching key point are left out; ids of the test split begin with test_, as they "
    "repeat those of train",
    "cite": "Bar-Haim et al. 2020, From Arguments to Key Points (ACL); Friedman et al. 2021, Overview of the KPA task",
}


def read_argkp(folder: str | Path) -> Judged:
    """The release in a folder (a clone of the repository, or one folder with all files) as a judged collection.

    First stages: BM25, and `stem` (the same over stemmed words). A split whose files are missing is left out, train
    excepted. Raises InputError with file and line for rows without the release's columns or with unknown ids.
    """
    root, judged = Path(folder), Judged("argkp", dict(_SOURCE))
    for split in SPLITS:
        paths = {kind: next(iter(sorted(root.rglob(f"{kind}_{split}.csv"))), None) for kind in _COLUMNS}
        missing = [kind for kind, path in paths.items() if path is None]
        if missing and (split == "train" or len(missing) < len(paths)):
            name = f"{missing[0]}_{split}.csv"
            raise MissingFileError(f"no {name} below this folder", path=root, remedy="give a clone of the release")
        if not missing:
            _add_split(judged, split, {kind: path for kind, path in paths.items() if path is not None})
    add_first_stages(judged, {})
    return judged


_COLUMNS = {
    "arguments": ("arg_id", "argument", "topic", "stance"),
    "key_points": ("key_point_id", "key_point", "topic", "stance"),
    "labels": ("arg_id", "key_point_id", "label"),
}


def _add_split(judged: Judged, split: str, paths: dict[str, Path]) -> None:
    prefix = "test_" if split == "test" else ""
    arguments = {prefix + row["arg_id"]: row for _, row in _rows(paths["arguments"], "arguments")}
    for _, row in _rows(paths["key_points"], "key_points"):
        docid = prefix + row["key_point_id"]
        judged.corpus[docid] = Passage(docid, " ".join(row["key_point"].split()))
    labels: dict[str, dict[str, int]] = {}
    for line, row in _rows(paths["labels"], "labels"):
        qid, docid, label = prefix + row["arg_id"], prefix + row["key_point_id"], row["label"]
        if qid not in arguments or docid not in judged.corpus or label not in ("0", "1"):
            raise InputError(
                f"{row['arg_id']}, {row['key_point_id']}, {label}: unknown ids, or a label that is not 0 or 1",
                path=paths["labels"],
                line=line,
                remedy="give the three files of one split",
            )
        labels.setdefault(qid, {})[docid] = int(label)
    for qid, row in arguments.items():
        matching = [docid for docid, label in labels.get(qid, {}).items() if label]
        if not matching:
            continue
        judged.queries[qid] = Query(qid, " ".join(row["argument"].split()))
        judged.qrels[qid] = labels[qid]
        judged.metadata[qid] = {
            "split": split,
            "domain": "argument",
            "gold_answer": "; ".join(judged.corpus[docid].text for docid in matching),
            "topic": row["topic"],
            "stance": row["stance"],
        }


def _rows(path: Path, kind: str) -> list[tuple[int, dict[str, str]]]:
    """(line, row) of a CSV file with the columns of its kind."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        lacking = [column for column in _COLUMNS[kind] if column not in (reader.fieldnames or ())]
        if lacking:
            raise InputError(f"no column {lacking[0]!r}", path=path, line=1, remedy="give the release's own files")
        rows = []
        for row in reader:
            if any(row[column] is None for column in _COLUMNS[kind]):
                raise InputError("a row with too few cells", path=path, line=reader.line_num, remedy="mend the file")
            rows.append((reader.line_num, row))
    return rows
