"""`rrlib confidence LOG`: what the agreement of samples says of each passage and query, fitted or applied."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rrlib.evaluation.confidence import Confidence
    from rrlib.evaluation.votes import Votes
    from rrlib.records import WindowRecord
    from rrlib.types import Qrels


NOTHING_KEPT = 3
"""Exit code where a run is asked for and no passage is kept."""


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(confidence)


def confidence(
    log: Annotated[Path, typer.Argument(help="window log of `rrlib rerank --samples K`")],
    output: Annotated[Path, typer.Option(help="with --qrels the calibration (JSON), else what is said (JSONL)")],
    qrels: Annotated[Path | None, typer.Option(help="fit: judgements of the log's queries, for validation")] = None,
    calibration: Annotated[Path | None, typer.Option(help="apply: the file of a fit")] = None,
    metric: Annotated[
        str | None, typer.Option(help="fit: what is expected of a query, a name of ir-measures; default: nDCG@10")
    ] = None,
    keep: Annotated[
        float | None, typer.Option(help="apply: probability from which a passage is kept, 0 to 1; default: 0.5")
    ] = None,
    abstain_below: Annotated[
        float | None,
        typer.Option(help="apply: queries of which less is expected are left unanswered, 0 to 1; default: 0"),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="apply: TREC run of what is kept; unanswered queries are not in it")
    ] = None,
) -> None:
    """Say how likely each passage is relevant, cut the list there, and leave queries unanswered.

    First fit on the log of validation queries, then apply to logs with the same settings:

    rrlib confidence val.log.jsonl --qrels val.tsv --output calibration.json

    rrlib confidence out.trec.log.jsonl --calibration calibration.json --output sure.jsonl --run kept.trec
    """
    from rrlib.disk import check_apart, check_output
    from rrlib.errors import InputError
    from rrlib.evaluation.confidence import one_metric
    from rrlib.records import read_records

    if (qrels is None) == (calibration is None):
        raise InputError("give --qrels to fit or --calibration to apply, one of them")
    to_fit, to_apply = {"--metric": metric}, {"--run": run, "--keep": keep, "--abstain-below": abstain_below}
    for name, value in (to_apply if qrels is not None else to_fit).items():
        if value is not None:
            other = "--calibration" if qrels is not None else "--qrels"
            raise InputError(f"{name} goes with {other}: here it does nothing", remedy="leave it out")
    for name, share in (("--keep", keep), ("--abstain-below", abstain_below)):
        if share is not None and not 0.0 <= share <= 1.0:
            raise InputError(f"{name} {share}", remedy="give a number between 0 and 1")
    one_metric(metric or "nDCG@10")
    check_apart({"LOG": log, "--qrels": qrels, "--calibration": calibration}, {"--output": output, "--run": run})
    for path, what in ((output, "output"), (run, "run")):
        if path is not None:
            check_output(path, what)
    records = read_records(log)
    if len({record.collection for record in records}) > 1:
        raise InputError("the log holds several collections", path=log, remedy="give a log of one")
    if qrels is not None:
        _fit(records, qrels, metric or "nDCG@10", output)
    elif calibration is not None:
        _apply(records, calibration, output, run, 0.5 if keep is None else keep, abstain_below or 0.0)


def _fit(records: Sequence[WindowRecord], qrels: Path, metric: str, output: Path) -> None:
    """Fit and write the file, and say what it is worth on queries that it was not fitted on."""
    from rrlib.errors import InputError
    from rrlib.evaluation.confidence import Calibration, cross_fitted
    from rrlib.evaluation.votes import votes_of
    from rrlib.formats import read_qrels

    judged, votes = read_qrels(qrels), votes_of(records)
    settings = records[0].settings or {}
    fitted = Calibration.fit(votes, judged, settings, metric)
    fitted.save(output)
    typer.echo(f"fitted on {fitted.queries} queries with {fitted.passages} passages, wrote {output}")
    votes = [vote for vote in votes if vote.qid in judged]
    try:
        confidences = cross_fitted(votes, judged, settings, metric)
    except InputError as error:
        typer.echo(f"too few to say what it is worth: {error}", err=True)
        return
    for line in worth(confidences, votes, judged, metric):
        typer.echo(line)


def worth(confidences: Sequence[Confidence], votes: Sequence[Votes], judged: Qrels, metric: str) -> list[str]:
    """Lines on what confidences hold: how far probabilities are off, and the risk at coverages.

    confidences, votes: of the same judged queries, in the same order.
    """
    from rrlib.evaluation.confidence import reliability, risk_coverage, values_of

    table = reliability(confidences, votes, judged)
    values = list(values_of(votes, judged, metric).values())
    curve = risk_coverage([each.expected for each in confidences], values)
    at = {share: curve.risk[max(round(share * len(values)) - 1, 0)] for share in (0.5, 0.8, 1.0)}
    return [
        "on queries not fitted on (5 folds): "
        f"probabilities are off by {table.error:.3f}, squared error {table.brier:.3f}",
        f"1 - {metric} of the surest " + ", ".join(f"{share:.0%} {risk:.3f}" for share, risk in at.items())
        + f"; area {curve.area:.3f} (knowing nothing {curve.all_answered:.3f}, knowing all {curve.ideal_area:.3f})",
    ]  # fmt: skip


def _apply(
    records: Sequence[WindowRecord], calibration: Path, output: Path, run: Path | None, keep: float, least: float
) -> None:
    """Write what is said of each query, and the run of what is kept."""
    from rrlib.evaluation.confidence import Calibration
    from rrlib.formats import write_jsonl, write_run

    fitted = Calibration.load(calibration)
    confidences = fitted.of(records)
    answered = {each.qid: each.relevant_docids(keep) for each in confidences if each.expected >= least}
    rows = (
        {
            "qid": each.qid,
            f"expected_{fitted.metric}": round(each.expected, 4),
            "answered": each.qid in answered,
            "kept": answered.get(each.qid, []),
            "relevant": {docid: round(probability, 4) for docid, probability in each.probabilities.items()},
        }
        for each in confidences
    )
    write_jsonl(output, rows)
    count = sum(map(len, answered.values()))
    empty = sum(not docids for docids in answered.values())
    typer.echo(
        f"{len(confidences)} queries: {len(answered)} answered with {count} passages, {empty} of them with none; "
        f"{len(confidences) - len(answered)} left unanswered; wrote {output}"
    )
    if run is not None:
        if not count:
            typer.echo("nothing is kept, so no run was written -> lower --keep or --abstain-below", err=True)
            raise typer.Exit(NOTHING_KEPT)
        write_run(run, {qid: docids for qid, docids in answered.items() if docids}, "rrlib")
        typer.echo(f"wrote {run}: what is kept, without the queries of which nothing is")
