"""`rrlib evaluate`: metrics of run files, how sure they are, and how they differ from the first one.

Standard output holds the table (or, with `--json`, one JSON object and nothing else); what was counted on the way
goes to standard error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rrlib.evaluation import Row
    from rrlib.types import Qrels


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(evaluate)


def evaluate(
    qrels: Annotated[Path, typer.Option(help="relevance judgements: TREC form, or BEIR TSV with a header")],
    run: Annotated[list[Path], typer.Option(help="a TREC run; give it again for more (the first is the baseline)")],
    metrics: Annotated[str, typer.Option(help="names of ir-measures, with blanks between")] = "nDCG@10 R@100",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON and nothing else")] = False,
    differences: Annotated[
        bool, typer.Option("--differences", help="with --json: add difference and p to all runs but the first")
    ] = False,
    excluded: Annotated[
        Path | None, typer.Option(help="documents to remove from the runs, lines: query document")
    ] = None,
    relevance_level: Annotated[
        int | None, typer.Option(help="least relevant grade (2 for recall on TREC Deep Learning)")
    ] = None,
    only_retrieved: Annotated[
        bool, typer.Option("--only-retrieved", help="only the queries that every run holds, as a part is tried")
    ] = False,
    seed: Annotated[int, typer.Option(help="seed of the bootstrap and of the randomisation test")] = 0,
    resamples: Annotated[int, typer.Option(help="resamples of the bootstrap and of the randomisation test")] = 10_000,
) -> None:
    """Evaluate run files over all queries of the qrels: mean, 95% bootstrap interval, paired differences.

    Order of documents: score, equal scores by document id descending (trec_eval's). A query of the qrels that a
    run lacks scores 0, and so does one without a relevant document; both count, and are reported (with --only-retrieved
    the queries that some run lacks are left out). A run that shares no query or no document with the qrels is refused.

    \b
    Examples:
      rrlib evaluate --qrels qrels.tsv --run bm25.trec
      rrlib evaluate --qrels qrels.tsv --run bm25.trec --run reranked.trec --metrics "nDCG@10 R(rel=2)@100"
    """
    from rrlib.errors import InputError
    from rrlib.evaluation import parse_metrics, render
    from rrlib.evaluation.tables import compare_values
    from rrlib.formats import read_excluded, read_qrels

    if seed < 0 or resamples < 1:
        raise InputError(f"--seed {seed}, --resamples {resamples}", remedy="a seed of 0 or more, at least 1 resample")
    if relevance_level is not None and relevance_level < 1:
        raise InputError(f"--relevance-level {relevance_level}", remedy="the least relevant grade is 1 or more")
    parse_metrics(metrics, relevance_level)
    notes: list[str] = []
    judged = read_qrels(qrels, notes)
    without = {} if excluded is None else read_excluded(excluded, notes)
    held: dict[Path, set[str]] = {}
    values = _values(run, judged, without, metrics, relevance_level, notes, held)
    if only_retrieved:
        values = _held_by_all(run, values, held, notes)
    rows = compare_values(values, seed=seed, resamples=resamples)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    if as_json:
        typer.echo(json.dumps(_json(rows, [name for name, _ in values], differences), ensure_ascii=False))
    else:
        typer.echo(render(_short(rows)))


def _values(
    paths: Sequence[Path],
    judged: Qrels,
    excluded: Mapping[str, set[str]],
    metrics: str,
    relevance_level: int | None,
    notes: list[str],
    held: dict[Path, set[str]],
) -> list[tuple[str, dict[str, dict[str, float]]]]:
    """(path, metric -> query -> value) of each run. A plain file is read query by query; any other, one that needs a
    message and one with documents to remove are read as a whole. held: gets the queries of the latter: a pipe cannot be
    read again."""
    from rrlib.evaluation.metrics import check_judged, per_query, per_query_of_file
    from rrlib.formats import read_run, without_excluded

    found, counted = [], list[str]()
    for path in paths:
        said: list[str] = []
        values = None if excluded else per_query_of_file(judged, path, metrics, relevance_level, said)
        if values is None:
            hits = read_run(path, notes)
            held[path] = set(hits)
            hits, removed = without_excluded(hits, excluded)
            if removed:
                notes.append(f"{path}: {removed} excluded documents removed")
            check_judged(judged, hits, path)
            values = per_query(judged, hits, metrics, relevance_level, said)
        counted += [f"{path}: {note}" for note in said]
        found.append((str(path), values))
    notes += counted
    return found


def _held_by_all(
    paths: Sequence[Path],
    values: list[tuple[str, dict[str, dict[str, float]]]],
    known: Mapping[Path, set[str]],
    notes: list[str],
) -> list[tuple[str, dict[str, dict[str, float]]]]:
    """The values of the judged queries that all runs hold. known: the queries of runs, where they are known.

    Raises InputError where there is none.
    """
    from rrlib.errors import InputError
    from rrlib.formats import read_run

    held = set.intersection(*(known[path] if path in known else set(read_run(path)) for path in paths))
    cut = [
        (
            name,
            {metric: {qid: v for qid, v in by_query.items() if qid in held} for metric, by_query in by_metric.items()},
        )
        for name, by_metric in values
    ]
    kept = {qid for _, by_metric in cut for by_query in by_metric.values() for qid in by_query}
    judged = {qid for _, by_metric in values for by_query in by_metric.values() for qid in by_query}
    if not kept:
        raise InputError("no judged query is in all runs", remedy="leave --only-retrieved out")
    notes.append(f"{len(kept)} of {len(judged)} queries are in all runs: the others are left out")
    return cut


def _json(rows: Sequence[Row], paths: Sequence[str], differences: bool) -> dict[str, Any]:
    """Rows come run by run, so runs are told apart by their place: the same path may be given twice."""
    size = len(rows) // len(paths)
    runs = []
    for place, path in enumerate(paths):
        metrics: dict[str, Any] = {}
        for row in rows[place * size : (place + 1) * size]:
            metrics[row.metric] = {"mean": row.mean, "low": row.low, "high": row.high}
            if differences and row.difference is not None:
                full = row.to_json(differences=True)
                metrics[row.metric] |= {key: full[key] for key in ("difference", "p", "p_holm")}
        runs.append({"run": path, "queries": rows[place * size].n, "metrics": metrics})
    return {"runs": runs}


def _short(rows: Sequence[Row]) -> list[Row]:
    """Rows with file names for paths, where the names tell the runs apart."""
    names = {row.system: Path(row.system).name for row in rows}
    if len(set(names.values())) < len(names):
        return list(rows)
    return [replace(row, system=names[row.system]) for row in rows]
