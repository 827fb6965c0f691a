"""Metrics of one ranking and the multi-view reward: known values, the reward table, equality with the references."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrlib.errors import InputError
from rrlib.metrics import ndcg, rbo, recall
from rrlib.prompts import format_response
from rrlib.reward import MultiViewReward
from rrlib.training.trl_reward import summary, trl_reward, trl_reward_parts

TWENTY = list(range(20))


def labels(*relevant: int) -> list[int]:
    return [int(i in relevant) for i in range(20)]


def test_values_of_the_paper() -> None:
    """Positions 1 and 11 against 9 and 10 (section 4.2), and RBO at p = 1 and p = 0.9."""
    assert ndcg(TWENTY, labels(0, 10)) == pytest.approx(0.613, abs=5e-4)
    assert ndcg(TWENTY, labels(8, 9)) == pytest.approx(0.362, abs=5e-4)
    assert recall(TWENTY, labels(0, 10)) == 0.5
    assert recall(TWENTY, labels(8, 9)) == 1.0
    assert rbo(TWENTY, TWENTY) == 1.0
    assert rbo(TWENTY[::-1], TWENTY) == pytest.approx(0.331, abs=5e-4)
    assert rbo(TWENTY, TWENTY, p=0.9) == pytest.approx(0.878, abs=5e-4)


def test_total_prefers_1_and_11_until_recall_weighs_more() -> None:
    """0.713 against 0.562 before RBO; the preference flips where 0.5 * weight makes up for the NDCG."""
    first, second = ([1, *[0] * 9, 1, *[0] * 9], [*[0] * 8, 1, 1, *[0] * 10])
    plain = MultiViewReward(weights={"ndcg": 1.0, "recall": 0.2, "rbo": 0.0})
    text = format_response("r", TWENTY)
    assert plain.score(text, first, TWENTY).total == pytest.approx(0.713, abs=5e-4)
    assert plain.score(text, second, TWENTY).total == pytest.approx(0.562, abs=5e-4)
    heavy = MultiViewReward(weights={"ndcg": 1.0, "recall": 0.51, "rbo": 0.0})
    assert heavy.score(text, second, TWENTY).total > heavy.score(text, first, TWENTY).total


windows = st.integers(1, 25).flatmap(
    lambda n: st.tuples(
        st.lists(st.permutations(range(n)), min_size=1, max_size=6),
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
        st.permutations(range(n)),
    )
)


@settings(max_examples=150, deadline=None)
@given(windows, st.integers(1, 25), st.sampled_from([1.0, 0.9, 0.5]))
def test_equal_to_pytrec_eval_and_rbo(window: tuple[list[list[int]], list[int], list[int]], k: int, p: float) -> None:
    """To 1e-9 against the packages that the field uses, on random rankings."""
    import pytrec_eval
    from rbo import RankingSimilarity

    orders, relevance, gold = window
    n = len(relevance)
    got_ndcg, got_recall = ndcg(orders, relevance, k), recall(orders, relevance, k)
    got_rbo = rbo(orders, gold, p)
    qrels = {"q": {f"d{i}": grade for i, grade in enumerate(relevance)}}
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {f"ndcg_cut.{k}", f"recall.{k}"})
    for index, order in enumerate(orders):
        scores = evaluator.evaluate({"q": {f"d{item}": float(n - rank) for rank, item in enumerate(order)}})["q"]
        assert got_ndcg[index] == pytest.approx(scores[f"ndcg_cut_{k}"], abs=1e-9)  # type: ignore[index]
        assert got_recall[index] == pytest.approx(scores[f"recall_{k}"], abs=1e-9)  # type: ignore[index]
        assert got_rbo[index] == pytest.approx(RankingSimilarity(order, gold).rbo(p=p), abs=1e-9)  # type: ignore[index]


@settings(max_examples=100)
@given(windows)
def test_reward_is_bounded_and_the_ideal_is_best(window: tuple[list[list[int]], list[int], list[int]]) -> None:
    orders, relevance, _ = window
    ideal = sorted(range(len(relevance)), key=lambda i: -relevance[i])
    reward = MultiViewReward()
    best = reward.score(format_response("r", ideal), relevance, ideal)
    assert best.total == pytest.approx(0.1 + (1.2 if any(relevance) else 0.0) if len(relevance) <= 10 else best.total)
    for order in orders:
        record = reward.score(format_response("r", order), relevance, ideal)
        assert record.level == "valid"
        assert 0.0 <= record.total <= best.total + 1e-12


def test_batched_equals_single() -> None:
    rng = np.random.default_rng(0)
    orders = np.array([rng.permutation(20) for _ in range(16)])
    relevance, gold = rng.integers(0, 2, 20), rng.permutation(20)
    for function, other in ((ndcg, relevance), (recall, relevance), (rbo, gold)):
        batch = function(orders, other)
        assert [function(o, other) for o in orders] == pytest.approx(list(batch))  # type: ignore[arg-type]


REWARDS: list[tuple[str, str, float | None]] = [
    ("valid", "<think> a </think> <answer> [1] > [2] > [3] </answer>", None),
    ("valid over lines", "<think>\na\n</think>\n\n<answer>\n[1] > [2] > [3]\n</answer>\n", None),
    ("white space around", "  <think>a</think><answer>[1] > [2] > [3]</answer>  ", None),
    ("answer quoted in think", "<think> <answer> [3] </answer> </think> <answer> [1] > [2] > [3] </answer>", None),
    ("trial ranking in think", "<think> [3] > [2] > [1] or [7] </think> <answer> [1] > [2] > [3] </answer>", None),
    ("empty think", "<think></think><answer>[1] > [2] > [3]</answer>", None),
    ("too few", "<think> a </think> <answer> [1] > [2] </answer>", 0.0),
    ("too many", "<think> a </think> <answer> [1] > [2] > [3] > [4] </answer>", 0.0),
    ("repeat", "<think> a </think> <answer> [1] > [2] > [2] </answer>", 0.0),
    ("id zero", "<think> a </think> <answer> [0] > [1] > [2] </answer>", 0.0),
    ("leading zero", "<think> a </think> <answer> [01] > [2] > [3] </answer>", 0.0),
    ("out of range", "<think> a </think> <answer> [1] > [2] > [9] </answer>", 0.0),
    ("commas", "<think> a </think> <answer> [1], [2], [3] </answer>", 0.0),
    ("equals", "<think> a </think> <answer> [1] = [2] > [3] </answer>", 0.0),
    ("no spaces", "<think> a </think> <answer> [1]>[2]>[3] </answer>", 0.0),
    ("bare digits", "<think> a </think> <answer> 1 > 2 > 3 </answer>", 0.0),
    ("digits hack", "<think> a </think> <answer> 1 2 3 </answer>", 0.0),
    ("text around the list", "<think> a </think> <answer> Sure: [1] > [2] > [3] </answer>", 0.0),
    ("text behind the list", "<think> a </think> <answer> [1] > [2] > [3]. </answer>", 0.0),
    ("trailing separator", "<think> a </think> <answer> [1] > [2] > [3] > </answer>", 0.0),
    ("empty answer", "<think> a </think> <answer> </answer>", 0.0),
    ("huge number", "<think> a </think> <answer> [" + "9" * 6000 + "] </answer>", 0.0),
    ("no think", "<answer> [1] > [2] > [3] </answer>", -1.0),
    ("no answer", "<think> a </think> [1] > [2] > [3]", -1.0),
    ("plain list", "[1] > [2] > [3]", -1.0),
    ("answer first", "<answer> [1] > [2] > [3] </answer> <think> a </think>", -1.0),
    ("two answers", "<think> a </think> <answer> [1] > [2] > [3] </answer> <answer> [3] > [2] > [1] </answer>", -1.0),
    ("two thinks", "<think> a </think> <think> b </think> <answer> [1] > [2] > [3] </answer>", -1.0),
    ("nested think", "<think> <think> a </think> </think> <answer> [1] > [2] > [3] </answer>", -1.0),
    ("nested answer", "<think> a </think> <answer> <answer> [1] > [2] > [3] </answer> </answer>", -1.0),
    ("unclosed think", "<think> a <answer> [1] > [2] > [3] </answer>", -1.0),
    ("unopened think", "a </think> <answer> [1] > [2] > [3] </answer>", -1.0),
    ("unclosed answer", "<think> a </think> <answer> [1] > [2] > [3]", -1.0),
    ("cut off in the answer", "<think> a </think> <answer> [1] > [2", -1.0),
    ("cut off in think", "<think> [1] > [2] > [3] is my first", -1.0),
    ("text before", "Sure. <think> a </think> <answer> [1] > [2] > [3] </answer>", -1.0),
    ("text between", "<think> a </think> so <answer> [1] > [2] > [3] </answer>", -1.0),
    ("text behind", "<think> a </think> <answer> [1] > [2] > [3] </answer> done", -1.0),
    ("capital tags", "<Think> a </Think> <Answer> [1] > [2] > [3] </Answer>", -1.0),
    ("answer tag closes as think", "<think> a </think> <answer> [1] > [2] > [3] </think>", -1.0),
    ("quoted end of think", "<think> the tag </think> ends it </think> <answer> [1] > [2] > [3] </answer>", -1.0),
    ("empty", "", -1.0),
    ("white space", " \n ", -1.0),
]


@pytest.mark.parametrize(("name", "text", "expected"), REWARDS, ids=[r[0] for r in REWARDS])
def test_reward_table(name: str, text: str, expected: float | None) -> None:
    record = MultiViewReward(k=10).score(text, [1, 0, 0], [0, 1, 2])
    assert record.total == pytest.approx(1.3 if expected is None else expected)
    assert record.level == {None: "valid", 0.0: "bad_list", -1.0: "bad_format"}[expected]


NO_THINK = [
    ("valid", "<answer> [1] > [2] > [3] </answer>", 1.3),
    ("bad list", "<answer> [1] > [2] </answer>", 0.0),
    ("think block in no-think mode", "<think> a </think> <answer> [1] > [2] > [3] </answer>", -1.0),
    ("plain", "[1] > [2] > [3]", -1.0),
    ("empty", "", -1.0),
]


@pytest.mark.parametrize(("name", "text", "expected"), NO_THINK, ids=[r[0] for r in NO_THINK])
def test_reward_table_without_thinking(name: str, text: str, expected: float) -> None:
    assert MultiViewReward(think=False).score(text, [1, 0, 0], [0, 1, 2]).total == pytest.approx(expected)


def test_no_relevant_passage_counts_rbo_only() -> None:
    record = MultiViewReward().score(format_response("r", [0, 1, 2]), [0, 0, 0], [0, 1, 2])
    assert (record.ndcg, record.recall, record.rbo) == (0.0, 0.0, 1.0)
    assert record.total == pytest.approx(0.1)


def test_trl_adapter_logs_views_and_shares() -> None:
    numbers: dict[str, list[float]] = defaultdict(list)  # TRL takes the mean of all that is logged in a batch
    extra: dict[str, list[object]] = {}
    good, bad, cut = format_response("r", [0, 1, 2]), "<think> a </think> <answer> [1] </answer>", "<think> a"
    reward = trl_reward(MultiViewReward())
    totals = reward(
        completions=[[{"role": "assistant", "content": t}] for t in (good, bad, cut, good)],
        relevance=[[1, 0, 0]] * 3 + [[0, 0, 1]],
        gold=[[0, 1, 2]] * 4,
        log_metric=lambda name, value: numbers[name].append(value),
        log_extra=extra.__setitem__,
        some_other_column=[1, 2, 3, 4],
    )
    logged = {name: sum(values) / len(values) for name, values in numbers.items()}
    assert totals == pytest.approx([1.3, 0.0, -1.0, 0.5 + 0.2 + 0.1])
    assert logged["share/valid"] == 0.5 and logged["share/bad_list"] == 0.25 and logged["share/bad_format"] == 0.25
    assert logged["view/ndcg"] == pytest.approx(0.75) and logged["view/recall"] == 1.0
    assert extra["level"] == ["valid", "bad_list", "bad_format", "valid"]
    assert reward.__name__ == "multi_view_reward"


def test_the_parts_sum_to_the_reward_and_parse_each_batch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad, cut = format_response("r", [0, 1, 2]), "<think> a </think> <answer> [1] </answer>", "<think> a"
    batch: dict[str, Any] = {
        "completions": [good, bad, cut, good], "relevance": [[1, 0, 0]] * 3 + [[0, 0, 1]], "gold": [[0, 1, 2]] * 4
    }  # fmt: skip
    calls: list[int] = []
    real = MultiViewReward.score_many
    monkeypatch.setattr(MultiViewReward, "score_many", lambda *a: calls.append(1) or real(*a))
    extra: dict[str, list[object]] = {}
    functions, weights = trl_reward_parts(MultiViewReward())
    table = [functions[0](**batch, log_extra=extra.__setitem__), *(f(**batch) for f in functions[1:])]
    assert [f.__name__ for f in functions] == ["gate", "ndcg", "recall", "rbo"] and len(calls) == 1
    assert table[0] == [0.0, 0.0, -1.0, 0.0]
    sums = [sum(w * column[i] for w, column in zip(weights, table, strict=True)) for i in range(4)]
    assert sums == pytest.approx(trl_reward(MultiViewReward())(**batch))
    assert extra["multi_view_reward"] == pytest.approx(sums)
    functions[0](**{**batch, "relevance": [[0, 1, 0]] * 4})
    assert len(calls) == 3, "another batch is parsed anew"
    only = trl_reward_parts(MultiViewReward(weights={"ndcg": 1.0}))
    assert [f.__name__ for f in only[0]] == ["gate", "ndcg"] and only[1] == [1.0, 1.0]


def test_adapter_can_decode_ids_itself() -> None:
    """Tags that are special tokens vanish from the text TRL passes; the ids still hold them."""
    reward = trl_reward(MultiViewReward(), lambda ids: format_response("r", [i - 1 for i in ids]))
    assert reward(completions=["", ""], completion_ids=[[1, 2], [2, 1]], relevance=[[1, 0]] * 2, gold=[[0, 1]] * 2)[
        0
    ] == pytest.approx(1.3)


def test_summary_of_nothing_valid_has_no_views() -> None:
    records = MultiViewReward().score_group(["", "x"], [1, 0], [0, 1])
    assert summary(records) == {"share/valid": 0.0, "share/bad_list": 0.0, "share/bad_format": 1.0}


@pytest.mark.parametrize(
    "make",
    [
        lambda: MultiViewReward(k=0),
        lambda: MultiViewReward(p=0.0),
        lambda: MultiViewReward(p=1.5),
        lambda: MultiViewReward(weights={"ndgc": 1.0}),
        lambda: ndcg([0, 0], [1, 0]),
        lambda: ndcg([0, 1], [1, 0], k=0),
        lambda: rbo([0, 1], [0, 1, 2]),
        lambda: rbo([0, 1], [0, 1], p=2.0),
        lambda: MultiViewReward().score(format_response("r", [0, 1]), [1, 0], [0]),
    ],
)
def test_bad_parameters(make: object) -> None:
    with pytest.raises(InputError):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("gold", "relevance", "counts"),
    [
        ([0, 1, 2, 3], [1, 1, 0, 0], True),
        ([1, 0, 3, 2], [1, 1, 0, 0], True),  # right by the labels, whatever stands behind
        ([0, 2, 1, 3], [1, 1, 0, 0], False),
        ([0, 1, 2, 3], [0, 0, 0, 0], False),  # nothing is relevant: no list can be right
        ([3, 2, 1, 0], [1, 1, 1, 1], True),
    ],
)
def test_rbo_counts_only_where_the_gold_list_is_right(gold: list[int], relevance: list[int], counts: bool) -> None:
    careful, plain = MultiViewReward(k=2, rbo_where_right=True), MultiViewReward(k=2)
    orders = np.array([[0, 1, 2, 3], [3, 1, 2, 0]])
    expected = plain.views(orders, relevance, gold)
    expected[:, 2] *= counts
    assert careful.views(orders, relevance, gold).tolist() == expected.tolist()
    many = careful.views(orders, [relevance, relevance], [gold, gold])  # windows scored together
    assert many.tolist() == expected.tolist()
    assert careful.signature == plain.signature + ", rbo where right"
