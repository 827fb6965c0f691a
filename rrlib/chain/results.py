"""The rows of results.json: made from an experiment, checked and written by a stage, rendered for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rrlib.chain.manifest import Stage
from rrlib.disk import write_json
from rrlib.errors import StageError
from rrlib.evaluation.results import ExperimentResult

SYSTEMS = ("first-stage", "backbone", "sft", "sft+rl", "oracle")
"""The rows of the chain's results table, in this order; systems of other names come behind them."""

ROW_KEYS = ("system", "collection", "metric", "mean", "low", "high", "n", "seed", "profile", "data_kind")


def result_rows(result: ExperimentResult, profile: str, systems: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Measured rows in the shape of results.json; of `systems` alone, where they are named."""
    rows = []
    for row in result.rows():
        if row["benchmark"] not in result.qrels or (systems and row["system"] not in systems):
            continue
        values = {key: row[key] for key in ("system", "metric", "mean", "low", "high", "seed", "data_kind")}
        rows.append({**values, "collection": row["benchmark"], "n": int(row["n"]), "profile": profile})
    return rows


def write_results(stage: Stage, rows: Sequence[Mapping[str, Any]], systems: Iterable[str] = SYSTEMS) -> Path:
    """Write the rows of a results table into the stage, checked; the runner copies them to outputs/<run>/results.json.

    Each row has exactly ROW_KEYS; values are fractions; one row a system and metric. systems: the names that rows may
    have, those of the chain unless a profile names checkpoints of its own. Raises StageError otherwise.
    """
    names = list(systems)
    seen: set[tuple[str, str, str]] = set()
    for row in rows:
        if set(row) != set(ROW_KEYS):
            raise StageError(f"results row with keys {sorted(row)} -> the keys are {', '.join(ROW_KEYS)}")
        key = (row["system"], row["collection"], row["metric"])
        if row["system"] not in names:
            raise StageError(f"results row {key}: no such system -> the names are {', '.join(names)}")
        if key in seen:
            raise StageError(f"results row {key}: there twice -> one row a system and metric")
        if not 0.0 <= row["low"] <= row["mean"] <= row["high"] <= 1.0:
            raise StageError(f"results row {key}: {row['low']} <= {row['mean']} <= {row['high']} are no fractions")
        seen.add(key)
    path = stage.path("results.json")
    write_json(path, {"rows": [{key: row[key] for key in ROW_KEYS} for row in rows]})
    return path


def render_results(rows: Sequence[Mapping[str, Any]]) -> str:
    """The results as text, a table a collection: one line a system, one column a metric (mean with 95% interval)."""
    if not rows:
        return "no results"
    return "\n\n".join(
        _render_collection([row for row in rows if row["collection"] == name])
        for name in dict.fromkeys(row["collection"] for row in rows)
    )


def _render_collection(rows: Sequence[Mapping[str, Any]]) -> str:
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    head = ["system", *metrics, "n", "data"]
    table = [head]
    systems = dict.fromkeys([*SYSTEMS, *(row["system"] for row in rows)])
    for system in (name for name in systems if any(row["system"] == name for row in rows)):
        by_metric = {row["metric"]: row for row in rows if row["system"] == system}
        cells = [_cell(by_metric[metric]) if metric in by_metric else "" for metric in metrics]
        any_row = next(iter(by_metric.values()))
        table.append([system, *cells, str(any_row["n"]), str(any_row["data_kind"])])
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    lines.insert(1, "  ".join("-" * width for width in widths))
    kind = f"{rows[0]['collection']}: means over queries, 95% bootstrap intervals, profile {rows[0]['profile']}"
    return "\n".join([f"{kind}, seed {rows[0]['seed']}", *lines])


def _cell(row: Mapping[str, Any]) -> str:
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
