"""Results that are kept with the library, so that notebooks 05 and 06 open in seconds.

Rows of the ablations are made by `rrlib run params/ablations.yaml`, the experiments of notebook 06 by `rrlib run
params/efficiency.yaml` and `python benchmarks/keep.py outputs/efficiency`: one JSONL file with a line that says what it
is of (profile, sizes, seed, data kind, date, machine, seconds), a training list, and a line an experiment with its
tables and the value of every query. docs/experiments.md has the dates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrlib.errors import InputError, MissingFileError
from rrlib.evaluation.results import ExperimentResult
from rrlib.formats import example_from_json, read_jsonl
from rrlib.resources import PACKAGE
from rrlib.studies.rows import Result, read_results
from rrlib.types import RankingExample

ROWS = PACKAGE / "miniature" / "results" / "ablations.jsonl.gz"
STRADDLE_ROWS = PACKAGE / "miniature" / "results" / "straddle.jsonl"
STORED = PACKAGE / "miniature" / "results" / "efficiency.jsonl"
EXPERIMENTS = ("experiment", "router", "budgets", "robustness")
"""Folders of a finished stage 06, an experiment each."""


def stored_rows(path: str | Path = ROWS) -> list[Result]:
    """The rows of the ablation table, all seeds, or those of another world. Raises MissingFileError where there are
    none."""
    results = read_results(path)
    if not results:
        raise MissingFileError("no stored rows", path=path, remedy="set stored = False, or restore it from git")
    return results


@dataclass(frozen=True)
class StoredExperiments:
    """results: name (of EXPERIMENTS) -> tables and values, without runs and windows. example: a list that was trained
    on. source: profile, parameters, queries, data_kind, date, machine, seconds."""

    results: Mapping[str, ExperimentResult]
    example: RankingExample
    source: Mapping[str, Any]

    def unlike(self, parameters: Mapping[str, Any]) -> list[str]:
        """A line for each parameter that the stored results had with another value: it has no effect on them."""
        made_with = dict(self.source["parameters"])
        return [
            f"{name} = {parameters[name]!r} has no effect: the stored results had {value!r}"
            for name, value in made_with.items()
            if name in parameters and parameters[name] != value
        ]

    def __str__(self) -> str:
        """One line: what the figures are of."""
        s = self.source
        return (
            f"stored results: profile {s['profile']}, seed {s['seed']}, {s['queries']} test queries, "
            f"{s['examples']} training lists, {s['data_kind']} data, simulated teacher; {s['date']}, {s['machine']}"
        )


def stored_experiments(path: str | Path = STORED) -> StoredExperiments:
    """Read them. Raises MissingFileError where they are not, InputError where the file is not whole."""
    if not Path(path).is_file():
        raise MissingFileError("no stored results", path=path, remedy="set stored = False, or restore it from git")
    rows = [row for _, row in read_jsonl(path)]
    results = {str(row["experiment"]): ExperimentResult.from_dict(row) for row in rows if "experiment" in row}
    if len(rows) < 2 or "profile" not in rows[0] or set(results) != set(EXPERIMENTS):
        raise InputError("this is no whole file of stored results", path=path, remedy="restore it from git")
    return StoredExperiments(results, example_from_json(rows[1]), rows[0])
