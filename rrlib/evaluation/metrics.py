"""Collection metrics through ir-measures, over all queries of the qrels.

Three conventions that differ between toolkits, and what is done here:

- a query of the qrels that the run lacks scores 0 and is counted (pytrec_eval alone leaves it out, which raises the
  mean of a crashed run);
- a query of the qrels without any relevant document scores 0 and counts, as in trec_eval and ir-measures;
- documents are ordered as trec_eval does: score descending in float32, equal scores by document id descending. The
  rank column plays no part.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.errors import InputError
from rrlib.formats.fields import few
from rrlib.types import Hit, Qrels, Run

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

AT_ONCE = 200
"""Queries of a run file that are in memory at a time, with all their documents."""

EXAMPLES = "nDCG@10, R@100, R(rel=2)@100, AP, RR, P@5, Success@10"
_SEPARATOR = re.compile(r"[\s,]+(?![^(]*\))")


def parse_metrics(metrics: str | Sequence[str], relevance_level: int | None = None) -> list[Any]:
    """ir-measures objects for names such as `nDCG@10`; `str(measure)` is the name used in every table.

    metrics: names, as a list or in one string with blanks or commas between them.
    relevance_level: the least grade that counts as relevant, for metrics that take one and were not given one
        (TREC Deep Learning counts recall from grade 2).

    Raises `InputError` for a name that ir-measures does not know or cannot compute here, and for cut-offs below 1
    (which would abort the process inside trec_eval).
    """
    names = [name for name in _SEPARATOR.split(metrics) if name] if isinstance(metrics, str) else list(metrics)
    if not names:
        raise InputError("no metric is named", remedy=f"name some of ir-measures' metrics: {EXAMPLES}")
    measures = [_measure(name, relevance_level) for name in names]
    return list(dict.fromkeys(measures))


def _measure(name: str, relevance_level: int | None) -> Any:
    import ir_measures

    remedy = f"use the names of ir-measures, upper and lower case as there: {EXAMPLES}"
    try:
        measure = ir_measures.parse_measure(name)
    except Exception as error:  # it raises NameError, ValueError, KeyError, SyntaxError, ...
        raise InputError(f"no metric is called {name!r}", remedy=_hint(name) or remedy) from error
    cutoff = measure.params.get("cutoff")
    if cutoff is not None and (isinstance(cutoff, bool) or not isinstance(cutoff, int) or not 1 <= cutoff < 2**31):
        raise InputError(f"the cut-off of {name!r} is not a positive integer", remedy="cut at 1 or deeper")
    if relevance_level is not None and "rel" in measure.SUPPORTED_PARAMS and "rel" not in measure.params:
        measure = measure(rel=relevance_level)
    level = measure.params.get("rel", 1)
    if isinstance(level, bool) or not isinstance(level, int) or level < 1:
        raise InputError(
            f"the relevance level of {name!r} is {level!r}", remedy="the least relevant grade is 1 or more"
        )
    try:
        ir_measures.evaluator([measure], {"q": {"d": 1}})
    except Exception as error:
        raise InputError(f"the metric {name!r} cannot be computed here: {str(error).strip()}", remedy=remedy) from error
    return measure


def _hint(name: str) -> str:
    """A correction for names that are right but for their case or come from trec_eval."""
    import ir_measures

    head, tail = re.fullmatch(r"([^(@]*)(.*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    if trec := re.fullmatch(r"(?i)(ndcg|map|recall|P|success)(?:_cut)?_([0-9]+)", name):
        names = {"ndcg": "nDCG", "map": "AP", "recall": "R", "p": "P", "success": "Success"}
        return f"did you mean {names[trec.group(1).lower()]}@{trec.group(2)}?"
    for candidate in dir(ir_measures):
        if candidate.lower() == head.lower() and isinstance(getattr(ir_measures, candidate), ir_measures.Measure):
            return f"did you mean {getattr(ir_measures, candidate).NAME}{tail}?"
    return ""


def per_query(
    qrels: Qrels,
    run: Run,
    metrics: str | Sequence[str],
    relevance_level: int | None = None,
    notes: list[str] | None = None,
) -> dict[str, dict[str, float]]:
    """Metric name -> query id -> value in [0, 1] (for the usual metrics), for every query of the qrels, in their order.

    Queries that the run lacks, or for which it lists nothing, get 0; they, queries of the run without judgements and
    queries without a relevant document are counted in `notes`. Raises `InputError` for empty qrels, an empty run and
    bad metric names.
    """
    measures = parse_metrics(metrics, relevance_level)
    if not qrels:
        raise InputError("there are no judgements to evaluate against", remedy="give qrels with at least one query")
    if not run:
        raise InputError("the run is empty", remedy="check the program that wrote it")
    scores = {qid: _ranks(hits) for qid, hits in run.items() if qid in qrels and hits}
    values = {str(measure): dict.fromkeys(qrels, 0.0) for measure in measures}
    _measure_into(values, measures, qrels, scores)
    _count(qrels, run, scores, notes)
    return values


def per_query_of_file(
    qrels: Qrels,
    path: Path,
    metrics: str | Sequence[str],
    relevance_level: int | None = None,
    notes: list[str] | None = None,
) -> dict[str, dict[str, float]] | None:
    """`per_query` of a run file that is plain (rrlib.formats.plainrun), a few queries in memory at a time.

    None for any other file, and for one that `check_judged` would refuse: read it with `read_run`, which says why.
    """
    from rrlib.formats.plainrun import NotPlain, plain_queries

    measures = parse_metrics(metrics, relevance_level)
    judged = {docid for grades in qrels.values() for docid in grades}
    if not any(grade > 0 for grades in qrels.values() for grade in grades.values()):
        return None
    values = {str(measure): dict.fromkeys(qrels, 0.0) for measure in measures}
    listed: dict[str, bool] = {}  # query of the run -> whether it is one of the qrels
    batch: dict[str, dict[str, float]] = {}
    shared = False
    try:
        for qid, docids, scores in plain_queries(path):
            shared = shared or not judged.isdisjoint(docids)
            listed[qid] = qid in qrels
            if listed[qid]:
                batch[qid] = _ranked(docids, scores)
            if len(batch) == AT_ONCE:
                _measure_into(values, measures, qrels, batch)
                batch = {}
    except NotPlain:
        return None
    if not shared or not any(listed.values()):
        return None
    _measure_into(values, measures, qrels, batch)
    _count(qrels, listed, {qid for qid, known in listed.items() if known}, notes)
    return values


def _measure_into(
    values: dict[str, dict[str, float]], measures: list[Any], qrels: Qrels, scores: Mapping[str, dict[str, float]]
) -> None:
    """Put the values of the queries of `scores` in their places: metric -> query -> value."""
    import ir_measures

    # By number: a program that some measures start (gdeval) takes no other names, and answers under numbers of its own.
    names = {str(number): qid for number, qid in enumerate(scores, 1)}
    judged = {number: qrels[qid] for number, qid in names.items()}
    ranked = {number: scores[qid] for number, qid in names.items()}
    for result in ir_measures.iter_calc(measures, judged, ranked) if scores else ():
        values[str(result.measure)][names[result.query_id]] = float(result.value)


def check_judged(qrels: Qrels, run: Run, path: str | Path | None = None) -> None:
    """Refuse a run that these judgements cannot judge, where every metric would be 0 without anything being bad.

    Raises `InputError`, with ids of both, where no document is judged relevant, where run and judgements share no query
    (another collection), and where they share no document (other ids, or another collection with the same query ids).
    """
    if not any(grade > 0 for grades in qrels.values() for grade in grades.values()):
        remedy = "give judgements with a grade of 1 or more"
        raise InputError(f"no document is judged relevant in {len(qrels)} queries", remedy=remedy)
    judged = {docid for grades in qrels.values() for docid in grades}
    listed = {hit.docid for hits in run.values() for hit in hits}
    for what, ours, theirs in (("queries", set(run), set(qrels)), ("documents", listed, judged)):
        if ours and theirs and ours.isdisjoint(theirs):
            raise InputError(
                f"none of its {len(ours)} {what} is judged: its ids are like {few(sorted(ours), 2)}, "
                f"those of the judgements like {few(sorted(theirs), 2)}",
                path=path,
                remedy="is it the run of another set? ids must be equal to the letter",
            )


def _ranks(hits: Sequence[Hit]) -> dict[str, float]:
    """Strictly falling scores in trec_eval's order. ir-measures computes some metrics (RR@10) outside trec_eval, in
    another order of ties: without ties there is one order."""
    return _ranked([hit.docid for hit in hits], [hit.score for hit in hits])


def _ranked(docids: Sequence[str], given: ArrayLike) -> dict[str, float]:
    """`_ranks` of document ids and their scores. Most runs are sorted already and have no ties in float32."""
    import numpy as np

    scores = np.asarray(given, dtype=np.float32)
    if not (scores[:-1] > scores[1:]).all():
        single = scores.tolist()
        order = sorted(range(len(docids)), key=lambda i: (single[i], docids[i]), reverse=True)
        docids = [docids[i] for i in order]
    return dict(zip(docids, np.arange(len(docids), 0, -1, dtype=float).tolist(), strict=True))


def _count(qrels: Qrels, run: Collection[str], scores: Collection[str], notes: list[str] | None) -> None:
    if notes is None:
        return
    missing = [qid for qid in qrels if qid not in scores]
    if missing:
        notes.append(
            f"{len(missing)} of {len(qrels)} queries of the qrels are not in the run and score 0: {few(missing)}"
        )
    unjudged = [qid for qid in run if qid not in qrels]
    if unjudged:
        notes.append(
            f"{len(unjudged)} of {len(run)} queries of the run have no judgements and are left out: {few(unjudged)}"
        )
    hopeless = [qid for qid, grades in qrels.items() if max(grades.values(), default=0) < 1]
    if hopeless:
        notes.append(
            f"{len(hopeless)} of {len(qrels)} queries of the qrels have no relevant document, "
            f"score 0 and count: {few(hopeless)}"
        )


def mean(values: Mapping[str, float]) -> float:
    """The plain mean over queries. Raises `InputError` if there are none."""
    if not values:
        raise InputError("there is no query to average over")
    return sum(values.values()) / len(values)
