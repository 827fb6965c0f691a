"""Metrics over all queries, intervals, tests and tables, against scipy, hand-made examples and recorded values."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrlib import evaluation, formats
from rrlib.errors import InputError
from rrlib.evaluation import bootstrap_interval, paired_test
from rrlib.evaluation.paired import in_words, paired_rows, sets_of
from rrlib.types import Candidates, Hit, Interval, Passage, Query, Run


def run_of(**queries: dict[str, float]) -> Run:
    return {qid: [Hit(d, s, i + 1) for i, (d, s) in enumerate(hits.items())] for qid, hits in queries.items()}


# --- metrics ---------------------------------------------------------------------------------------------------------
def test_all_queries_of_the_qrels_count_and_are_counted_aloud() -> None:
    qrels = {"a": {"d": 1}, "crashed": {"d": 1}, "hopeless": {"d": 0, "e": -1}, "emptied": {"d": 1}}
    run = {**run_of(a={"d": 1.0}, hopeless={"d": 1.0}, foreign={"d": 1.0}), "emptied": []}
    notes: list[str] = []
    values = evaluation.per_query(qrels, run, "nDCG@10 R@100", notes=notes)
    assert values == {
        "nDCG@10": {"a": 1.0, "crashed": 0.0, "hopeless": 0.0, "emptied": 0.0},
        "R@100": {"a": 1.0, "crashed": 0.0, "hopeless": 0.0, "emptied": 0.0},
    }
    assert evaluation.mean(values["nDCG@10"]) == 0.25
    assert notes == [
        "2 of 4 queries of the qrels are not in the run and score 0: 'crashed', 'emptied'",
        "1 of 4 queries of the run have no judgements and are left out: 'foreign'",
        "1 of 4 queries of the qrels have no relevant document, score 0 and count: 'hopeless'",
    ]


def test_a_run_of_other_queries_scores_nothing() -> None:
    assert evaluation.per_query({"a": {"d": 1}}, run_of(b={"d": 1.0}), ["RR"]) == {"RR": {"a": 0.0}}


@pytest.mark.parametrize(
    ("scores", "reciprocal", "why"),
    [
        ({"a": 1.0, "b": 1.0}, 0.5, "equal scores: the greater id goes first"),
        ({"b": 1.0, "a": 1.0}, 0.5, "whatever the order of lines"),
        ({"a": 1.00000001, "b": 1.0}, 0.5, "equal in float32"),
        ({"a": 1.0001, "b": 1.0}, 1.0, "not equal in float32"),
        ({"a": 1.0, "B": 1.0}, 1.0, "ids are compared by byte, so capitals come last"),
        ({"a": 1.0, "é": 1.0}, 0.5, "and what is not ASCII first"),
        ({"a": -1.0, "b": -2.0}, 1.0, "negative scores"),
    ],
)
def test_documents_are_in_the_order_of_trec_eval(scores: dict[str, float], reciprocal: float, why: str) -> None:
    assert evaluation.per_query({"q": {"a": 1}}, run_of(q=scores), "RR")["RR"]["q"] == reciprocal, why


def test_the_rank_column_plays_no_part() -> None:
    run = {"q": [Hit("b", 1.0, 1), Hit("a", 2.0, 2)]}
    assert evaluation.per_query({"q": {"a": 1}}, run, "RR")["RR"]["q"] == 1.0


def test_ndcg_by_hand() -> None:
    qrels = {"q": {"a": 2, "b": 1, "c": 0, "e": 3}}
    run = run_of(q={"c": 4.0, "a": 3.0, "x": 2.0, "b": 1.0})
    found = 2 / math.log2(3) + 1 / math.log2(5)
    ideal = 3 + 2 / math.log2(3) + 1 / math.log2(4)
    assert evaluation.per_query(qrels, run, "nDCG@10")["nDCG@10"]["q"] == pytest.approx(found / ideal, abs=1e-12)


def test_names_and_relevance_levels() -> None:
    names = [str(one) for one in evaluation.parse_metrics("nDCG@10,R@100  R(rel=3)@5 SetF(beta=0.5, rel=2) NDCG@10", 2)]
    assert names == ["nDCG@10", "R(rel=2)@100", "R(rel=3)@5", "SetF(beta=0.5,rel=2)"]
    qrels = {"q": {"a": 1, "b": 2}}
    values = evaluation.per_query(qrels, run_of(q={"a": 1.0}), ["R@100", "R(rel=1)@100"], relevance_level=2)
    assert values == {"R(rel=2)@100": {"q": 0.0}, "R@100": {"q": 0.5}}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("ndcg@10", "did you mean nDCG@10?"),
        ("ndcg_cut_10", "did you mean nDCG@10?"),
        ("recall_100", "did you mean R@100?"),
        ("NDGC@10", "use the names of ir-measures"),
        ("nDCG@ten", "no metric is called"),
        ("nDCG@-1", "no metric is called"),
        ("nDCG@0", "not a positive integer"),
        ("nDCG(cutoff=0.5)", "not a positive integer"),
        ("nDCG(colour=1)@10", "cannot be computed"),
        ("R(rel=0)@10", "relevance level"),
        ("R", "cannot be computed"),
        ("nDCG@10)", "no metric is called"),
        ("__import__('os')", "no metric is called"),
        ("", "no metric is named"),
        (" , ", "no metric is named"),
    ],
)
def test_bad_metric_names(name: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        evaluation.per_query({"q": {"a": 1}}, run_of(q={"a": 1.0}), name)
    assert part in str(caught.value)


def test_nothing_to_evaluate() -> None:
    with pytest.raises(InputError, match="no judgements"):
        evaluation.per_query({}, run_of(q={"a": 1.0}), "AP")
    with pytest.raises(InputError, match="run is empty"):
        evaluation.per_query({"q": {"a": 1}}, {}, "AP")
    with pytest.raises(InputError, match="no query"):
        evaluation.mean({})


# --- significance ----------------------------------------------------------------------------------------------------
def test_bootstrap_agrees_with_scipy_and_repeats() -> None:
    from scipy import stats

    values = np.random.default_rng(1).beta(0.5, 1.0, size=120)
    got = evaluation.bootstrap_interval(values, seed=3)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=5).confidence_interval
    assert got.mean == pytest.approx(values.mean())
    assert (got.low, got.high) == pytest.approx((theirs.low, theirs.high), abs=0.003)
    assert evaluation.bootstrap_interval(values, seed=3) == got
    assert evaluation.bootstrap_interval(values, seed=4) != got


def test_bootstrap_covers_the_true_mean() -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for seed in range(200):
        interval = evaluation.bootstrap_interval(rng.exponential(1.0, size=100), seed, n=500)
        covered += interval.low <= 1.0 <= interval.high
    assert 176 <= covered <= 199  # 95% of 200 is 190, a little less for a percentile interval of skewed data


@pytest.mark.parametrize(
    ("values", "interval"),
    [([0.25], Interval(0.25, 0.25, 0.25)), ([0.1] * 3, Interval(0.1, 0.1, 0.1))],
)
def test_bootstrap_of_equal_values(values: list[float], interval: Interval) -> None:
    got = evaluation.bootstrap_interval(values, seed=0)
    assert (got.mean, got.low, got.high) == pytest.approx((interval.mean, interval.low, interval.high))
    assert got.low == got.high


def test_bootstrap_in_pieces_is_still_a_bootstrap() -> None:
    values = np.random.default_rng(0).normal(size=20_000)
    got = evaluation.bootstrap_interval(values, seed=0, n=1000)
    assert got.high - got.low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(values.size), rel=0.1)


def test_randomisation_by_hand() -> None:
    # differences 1, 1, 1, 1, 0: two of the 16 sign patterns reach |4|
    assert evaluation.paired_test([1, 1, 1, 1, 5], [0, 0, 0, 0, 5], seed=0) == 2 / 16
    # differences 1, 2, 3: sums 6, 4, 2, 0, 0, -2, -4, -6; |observed| = 4
    assert evaluation.paired_test([0, 2, 3], [1, 0, 0], seed=0) == 4 / 8
    assert evaluation.paired_test([0.3, 0.1], [0.3, 0.1], seed=0) == 1.0


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8))
def test_exact_randomisation_counts_all_sign_patterns(differences: list[float]) -> None:
    patterns = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    slack = 1e-9 * sum(map(abs, differences))
    expected = sum(abs(total) >= abs(sum(differences)) - slack for total in patterns) / len(patterns)
    zeros = [0.0] * len(differences)
    assert evaluation.paired_test(differences, zeros, seed=0) == pytest.approx(expected)
    assert evaluation.paired_test(zeros, differences, seed=0) == pytest.approx(expected)


def test_sampled_randomisation_agrees_with_the_exact_and_the_t_test() -> None:
    from scipy import stats

    rng = np.random.default_rng(2)
    a, b = rng.normal(0.1, 0.3, size=16), np.zeros(16)
    exact = evaluation.paired_test(a, b, seed=0, n=2**16)
    assert evaluation.paired_test(a, b, seed=0) == pytest.approx(exact, abs=0.015)
    a, b = rng.normal(0.05, 0.3, size=150), rng.normal(0.0, 0.3, size=150)
    p = evaluation.paired_test(a, b, seed=0)
    assert p == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.02)
    assert p == evaluation.paired_test(a, b, seed=0)
    assert evaluation.paired_test(a + 9, b, seed=0) == 1 / 10_001


def test_t_test() -> None:
    from scipy import stats

    a, b = [0.1, 0.5, 0.9, 0.3], [0.0, 0.4, 0.5, 0.4]
    assert evaluation.paired_t(a, b) == pytest.approx(stats.ttest_1samp(np.subtract(a, b), 0).pvalue)
    assert evaluation.paired_t(a, a) == 1.0


def test_holm_by_hand() -> None:
    assert evaluation.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert evaluation.holm([0.6, 0.7]) == [1.0, 1.0]
    assert evaluation.holm([]) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda: evaluation.bootstrap_interval([], seed=0),
        lambda: evaluation.bootstrap_interval([float("nan")], seed=0),
        lambda: evaluation.bootstrap_interval([0.5], seed=0, n=0),
        lambda: evaluation.bootstrap_interval([0.5], seed=0, level=95),
        lambda: evaluation.bootstrap_interval([[0.5]], seed=0),
        lambda: evaluation.paired_test([1, 2], [1], seed=0),
        lambda: evaluation.paired_test([], [], seed=0),
        lambda: evaluation.paired_t([1], [2]),
        lambda: evaluation.holm([1.5]),
    ],
)
def test_bad_numbers_are_refused(call: object) -> None:
    with pytest.raises(InputError):
        call()  # type: ignore[operator]


# --- tables ----------------------------------------------------------------------------------------------------------
def small() -> tuple[formats.Collection, list[Candidates]]:
    rng = random.Random(0)
    docids = [f"d{i}" for i in range(12)]
    passages = {docid: Passage(docid) for docid in docids}
    qrels = {f"q{i}": {rng.choice(docids[2:]): 1, docids[0]: 0, docids[1]: -1} for i in range(30)}
    candidates = [Candidates(Query(qid), tuple(passages.values())) for qid in qrels]
    return formats.Collection("small", {}, {}, qrels, passages), candidates


def test_oracle_is_the_top_and_random_is_repeatable() -> None:
    collection, candidates = small()
    oracle = evaluation.oracle_run(collection.qrels, candidates)
    value = evaluation.mean(evaluation.per_query(collection.qrels, oracle, "nDCG@10")["nDCG@10"])
    assert value == pytest.approx(1.0)
    rest = [hit.docid for hit in oracle["q0"]][1:]
    assert rest == [docid for docid in collection.corpus if docid in rest], "equal grades keep the first-stage order"
    one, same, other = (evaluation.random_run(candidates, seed) for seed in (1, 1, 2))
    assert one == same != other
    assert one["q1"] == evaluation.random_run(candidates[1:2], 1)["q1"]
    assert sorted(hit.docid for hit in one["q3"]) == sorted(collection.corpus)
    with pytest.raises(InputError, match="ids repeat"):
        evaluation.oracle_run(collection.qrels, candidates * 2)


def test_oracle_cannot_find_what_is_not_a_candidate() -> None:
    candidates = [Candidates(Query("q"), (Passage("x"),))]
    oracle = evaluation.oracle_run({"q": {"gold": 1}}, candidates)
    assert evaluation.per_query({"q": {"gold": 1}}, oracle, "nDCG@10")["nDCG@10"]["q"] == 0.0


def test_compare_and_its_json() -> None:
    collection, candidates = small()
    runs = {
        "random": evaluation.random_run(candidates, 0),
        "again": evaluation.random_run(candidates, 0),
        "oracle": evaluation.oracle_run(collection.qrels, candidates),
    }
    rows = evaluation.compare(
        collection.qrels, runs, "nDCG@10 R@5", seed=4, collection="small", profile="p", data_kind="synthetic"
    )
    assert [(row.system, row.metric) for row in rows] == list(itertools.product(runs, ["nDCG@10", "R@5"]))
    assert list(json.loads(json.dumps(rows[0].to_json()))) == [
        "system",
        "collection",
        "metric",
        "mean",
        "low",
        "high",
        "n",
        "seed",
        "profile",
        "data_kind",
    ]
    by_name = {(row.system, row.metric): row for row in rows}
    assert by_name["random", "R@5"].p is None and by_name["random", "R@5"].difference is None
    assert by_name["again", "R@5"].difference == Interval(0, 0, 0) and by_name["again", "R@5"].p == 1.0
    oracle = by_name["oracle", "nDCG@10"]
    assert oracle.difference is not None and oracle.p is not None and oracle.p_holm is not None
    assert oracle.difference.mean == pytest.approx(oracle.mean - by_name["random", "nDCG@10"].mean)
    assert oracle.difference.low > 0 and oracle.p < 0.01
    assert oracle.p_holm == pytest.approx(2 * oracle.p)
    assert oracle.to_json(differences=True)["difference"]["low"] == oracle.difference.low
    assert oracle.n == 30 and oracle.seed == 4
    other = evaluation.compare(collection.qrels, runs, "nDCG@10", baseline="oracle", seed=4)
    assert [row.difference is None for row in other] == [False, False, True]
    assert other[0].difference is not None and other[0].difference.mean == pytest.approx(-oracle.difference.mean)


def test_rendered_tables_are_aligned() -> None:
    collection, candidates = small()
    runs = {
        "random": evaluation.random_run(candidates, 0),
        "oracle": evaluation.oracle_run(collection.qrels, candidates),
    }
    alone = evaluation.render(evaluation.compare(collection.qrels, {"oracle": runs["oracle"]}, "nDCG@10"))
    assert "difference" not in alone and "1.0000  [1.0000, 1.0000]" in alone
    both = evaluation.render(evaluation.compare(collection.qrels, runs, "nDCG@10", collection="C")).splitlines()
    assert len(both) == 4 and "difference" in both[0] and both[2].split()[-3:] == ["-"] * 3
    assert len({len(line) for line in both[:2]}) == 1
    assert "p (Holm)" not in both[0]


@pytest.mark.parametrize(
    ("runs", "baseline", "part"),
    [({}, None, "no runs"), ({"a": run_of(q={"d": 1.0})}, "b", "none of the systems"), ({"a": {}}, None, "empty")],
)
def test_bad_comparisons(runs: dict[str, Run], baseline: str | None, part: str) -> None:
    with pytest.raises(InputError, match=part):
        evaluation.compare({"q": {"d": 1}}, runs, "AP", baseline=baseline)


def test_share_of_the_gap() -> None:
    assert evaluation.gap_closed(0.5, 0.25, 0.75) == 0.5
    assert evaluation.gap_closed(0.2, 0.25, 0.75) < 0
    assert math.isnan(evaluation.gap_closed(0.5, 0.5, 0.5))


# --- recorded values -------------------------------------------------------------------------------------------------
@pytest.mark.realdata
def test_replayed_runs_have_their_recorded_ndcg(realdata: Path) -> None:
    folder = realdata / "replay"
    qrels = formats.read_qrels(realdata / "collections/dl19-bm25-top100/qrels/test.tsv")
    checked = 0
    for entry in json.loads((folder / "manifest.json").read_text()):
        if entry["dataset"] != "dl19":
            continue
        for key, recorded in (("initial", "ndcg10_initial"), ("expected", "ndcg10_expected")):
            run = formats.read_run(folder / entry[key])
            got = evaluation.mean(evaluation.per_query(qrels, run, "nDCG@10")["nDCG@10"])
            assert 100 * got == pytest.approx(entry[recorded], abs=0.006), entry["name"]
            checked += 1
    assert checked >= 10


def test_every_metric_has_the_same_order_of_ties() -> None:
    """trec_eval puts equal scores in descending order of document ids; RR@10 comes from elsewhere and must follow."""
    qrels = {"q": {"a": 0, "b": 1}}
    run = {"q": [Hit("a", 1.0, 1), Hit("b", 1.0, 2)]}
    values = {name: v["q"] for name, v in evaluation.per_query(qrels, run, ["RR", "RR@10", "P@1", "nDCG@1"]).items()}
    assert values == {"RR": 1.0, "RR@10": 1.0, "P@1": 1.0, "nDCG@1": 1.0}
    close = {"q": [Hit("a", 1.0 + 1e-9, 1), Hit("b", 1.0, 2)]}  # equal in float32
    assert evaluation.per_query(qrels, close, ["RR@10"])["RR@10"]["q"] == 1.0


def test_sets_are_compared_within_themselves() -> None:
    """Two seeds of two queries each, by hand; a system that one seed lacks is compared over the other."""
    values = {
        "base": {"1": [0.2, 0.4], "2": [0.5, 0.5]},
        "mine": {"1": [0.4, 0.4], "2": [0.9, 0.5]},
        "half": {"2": [1, 1]},
    }
    base, mine, half = paired_rows(values, "base", resamples=2000)
    assert "difference" not in base and base["mean"] == pytest.approx(0.4) and base["n"] == 4
    assert mine["by_set"] == pytest.approx({"1": 0.4, "2": 0.7}) and mine["difference"] == pytest.approx(0.15)
    assert (mine["difference_low"], mine["difference_high"]) == pytest.approx((0.0, 0.3))
    assert (mine["wins"], mine["ties"], mine["losses"]) == (2, 2, 0) and mine["p"] == 0.5  # 2 of 4 sign patterns
    assert half["n"] == 2 and half["difference"] == pytest.approx(0.5) and half["p"] == 0.5
    assert mine["p_holm"] == half["p_holm"] == 1.0
    assert in_words(base) == "" and in_words(mine) == "+0.150 [+0.000, +0.300]"
    alone = paired_rows({"a": {"1": [0.1, 0.4, 0.6]}, "b": {"1": [0.3, 0.2, 0.9]}}, "a", seed=5, resamples=500)[1]
    assert alone["p"] == paired_test([0.3, 0.2, 0.9], [0.1, 0.4, 0.6], 5, 500)
    gap = bootstrap_interval([0.2, -0.2, 0.3], 5, 500)
    assert (alone["difference_low"], alone["difference_high"]) == pytest.approx((gap.low, gap.high))


def test_values_that_do_not_pair_are_refused() -> None:
    with pytest.raises(InputError, match="baseline"):
        paired_rows({"a": {"1": [0.5]}}, "b")
    with pytest.raises(InputError, match="2 values against 1"):
        paired_rows({"a": {"1": [0.5]}, "b": {"1": [0.5, 0.1]}}, "a")
    columns = ["benchmark", "qid", "system", "metric", "value"]
    rows = [
        ("s", "q2", "a", "m", 0.2),
        ("s", "q1", "a", "m", 0.1),
        ("s", "q1", "b", "m", 0.3),
        ("s", "q2", "b", "m", 0.4),
    ]
    found = sets_of(pd.DataFrame(rows, columns=columns), "m")
    assert {name: list(sets["s"]) for name, sets in found.items()} == {"a": [0.1, 0.2], "b": [0.3, 0.4]}
    with pytest.raises(InputError, match="queries without a value of"):
        sets_of(pd.DataFrame(rows[:-1], columns=columns), "m")
    with pytest.raises(InputError, match="stands twice"):
        sets_of(pd.DataFrame([*rows, rows[0]], columns=columns), "m")
