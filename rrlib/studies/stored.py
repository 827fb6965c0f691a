"""The figures that notebook 06 shows with its default parameters: the experiments of one run, kept with the library.

    rrlib run params/efficiency.yaml
    python -c "from rrlib.studies.stored import keep; print(keep('outputs/efficiency'))"

One JSONL file: a line that says what it is of (profile, sizes, seed, data kind, date, machine, seconds), a training
list, and a line an experiment with its tables and the value of every query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrlib.disk import read_json
from rrlib.errors import InputError, MissingFileError
from rrlib.evaluation.results import ExperimentResult
from rrlib.formats import example_from_json, example_to_json, read_examples, read_jsonl, write_jsonl
from rrlib.resources import PACKAGE
from rrlib.types import RankingExample

STORED = PACKAGE / "miniature" / "results" / "efficiency.jsonl"
EXPERIMENTS = ("experiment", "router", "budgets", "robustness")
"""Folders of a finished stage 06, an experiment each."""
SHOWN = ("train_queries", "test_queries", "queries", "sft_examples", "per_list", "epochs", "budgets", "seed")


@dataclass(frozen=True)
class Kept:
    """results: name (of EXPERIMENTS) -> tables and values, without runs and windows. example: a list that was trained
    on. source: profile, parameters, queries, data_kind, date, machine, seconds."""

    results: Mapping[str, ExperimentResult]
    example: RankingExample
    source: Mapping[str, Any]

    def __str__(self) -> str:
        """One line: what the figures are of."""
        s = self.source
        return (
            f"stored results: profile {s['profile']}, seed {s['seed']}, {s['queries']} test queries, "
            f"{s['examples']} training lists, {s['data_kind']} data, simulated teacher; {s['date']}, {s['machine']}"
        )


def kept_results(path: str | Path = STORED) -> Kept:
    """Read them. Raises MissingFileError where they are not, InputError where the file is not whole."""
    if not Path(path).is_file():
        raise MissingFileError("no stored results", path=path, remedy="set stored = False, or restore it from git")
    rows = [row for _, row in read_jsonl(path)]
    found = {str(row["experiment"]): ExperimentResult.from_dict(row) for row in rows if "experiment" in row}
    if len(rows) < 2 or "profile" not in rows[0] or set(found) != set(EXPERIMENTS):
        raise InputError("this is no whole file of stored results", path=path, remedy="restore it from git")
    return Kept(found, example_from_json(rows[1]), rows[0])


def keep(run: str | Path, path: str | Path = STORED) -> Path:
    """Keep the results of a finished run of notebook 06; returns the file. Raises MissingFileError where it is not
    finished."""
    folder = Path(run)
    manifest = read_json(folder / "06_efficiency" / "manifest.json")
    if manifest is None:
        raise MissingFileError("this run is not finished", path=folder, remedy="rrlib run params/efficiency.yaml")
    results = {name: ExperimentResult.load(folder / "06_efficiency" / name) for name in EXPERIMENTS}
    examples = read_examples(folder / "01_synthesis" / "teacher" / "examples.jsonl")
    given, record = manifest["match"]["parameters"], manifest["record"]
    whole = {**read_json(folder / "01_synthesis" / "manifest.json")["match"]["parameters"], **given}  # type: ignore[index]
    source = {
        "profile": given["profile"],
        "seed": given["seed"],
        "queries": results["experiment"].per_query["qid"].nunique(),
        "examples": len(examples[: given["sft_examples"] or None]),
        "data_kind": record["data_kind"],
        "date": str(record["finished"])[:10],
        "machine": f"{record['device']}, {record['threads'] or 'all'} thread(s)",
        "seconds": record["seconds"],
        "parameters": {key: whole[key] for key in SHOWN},
    }
    lines = [source, example_to_json(examples[0])]
    lines += [{"experiment": name, **result.to_dict(values=True)} for name, result in results.items()]
    return write_jsonl(path, lines)
