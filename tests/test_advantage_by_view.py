"""Which view of the reward a training's advantages come from: shares that add up, groups counted by what moves them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from rrlib.errors import InputError
from rrlib.lesson.groups import advantage_by_view
from rrlib.lesson.sentences import by_view_words
from rrlib.reward import PAPER_WEIGHTS, VIEWS
from rrlib.training.objective import advantages

Views = tuple[float, float, float]
VALID: Views = (0.5, 1.0, 0.8)
Answer = Views | float
"""The views of a valid answer, or the reward of one that is no ranking."""


def kept(*groups: Sequence[Answer]) -> pd.DataFrame:
    """The completions that a training with the paper's weights would have kept, a prompt a group."""
    weights, rows = np.array(list(PAPER_WEIGHTS.values())), []
    for number, group in enumerate(groups):
        rewards = np.array([weights @ answer if isinstance(answer, tuple) else answer for answer in group], np.float32)
        for answer, reward, advantage in zip(group, rewards, advantages(rewards), strict=True):
            views = answer if isinstance(answer, tuple) else (None, None, None)
            row = {"step": 2, "prompt": f"p{number}", "multi_view_reward": reward, "advantage": advantage}
            rows.append(row | {"views": json.dumps(views)})
    return pd.DataFrame(rows)


CASES: dict[str, tuple[list[Answer], str, dict[str, float]]] = {
    "all answers earn the same": ([VALID, VALID], "nothing", {}),
    "RBO differs by a hair, and is normalised to full size": ([VALID, (0.5, 1.0, 0.801)], "rbo", {"rbo": 1.0}),
    "NDCG alone": ([VALID, (0.6, 1.0, 0.8)], "ndcg", {"ndcg": 1.0}),
    "an answer without a list": ([VALID, VALID, 0.0], "form", {"form": 1.0}),
    "no answer is a ranking": ([-1.0, 0.0], "form", {"form": 1.0}),
    # 0.1 of NDCG against 0.2 * 0.25 of Recall: the advantage is their difference, Recall points the other way
    "Recall opposes NDCG": ([VALID, (0.6, 0.75, 0.8)], "several", {"ndcg": 2.0, "recall": -1.0}),
    "RBO beside NDCG": ([VALID, (0.6, 1.0, 0.9)], "several", {"ndcg": 10 / 11, "rbo": 1 / 11}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_group_is_counted_by_what_moves_it(name: str) -> None:
    group, kind, shares = CASES[name]
    table = advantage_by_view(kept(group))
    assert list(table.index) == ["form", "ndcg", "recall", "rbo", "several", "nothing"]
    assert table["groups"].to_dict() == {row: int(row == kind) for row in table.index}
    if kind == "nothing":
        assert table["share of |advantage|"].isna().all()
        return
    expected = {row: shares.get(row, 0.0) for row in ("form", "ndcg", "recall", "rbo")}
    assert table["share of |advantage|"].dropna().to_dict() == pytest.approx(expected, abs=1e-4)
    assert table.loc[kind, "their share of |advantage|"] == pytest.approx(1.0)


def test_groups_are_weighed_by_the_advantages_that_the_training_had() -> None:
    groups = [CASES[name][0] for name in CASES]
    completions = kept(*groups)
    table = advantage_by_view(completions)
    size = completions["advantage"].abs()
    by_rbo = size[completions["prompt"] == "p1"].sum() / size.sum()
    assert table.loc["rbo", "their share of |advantage|"] == pytest.approx(by_rbo, abs=1e-3)
    assert table["their share of |advantage|"].sum() == pytest.approx(1.0)
    assert table["share of |advantage|"].sum() == pytest.approx(1.0)
    assert table["groups"].sum() == len(groups)


def test_weights_of_another_training_are_refused() -> None:
    with pytest.raises(InputError, match="do not give the rewards"):
        advantage_by_view(kept([VALID, (0.6, 1.0, 0.8)]), {"ndcg": 1.0, "recall": 0.0, "rbo": 0.0})


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ((0, 0, 0, 12, 0), "In none of the 12 groups do the rewards differ by one view alone."),
        (
            (1, 1, 3, 4, 1),
            "In 5 of 10 groups the rewards differ by one view alone, in 3 of them by RBO: these 3 have 30%",
        ),
    ],
)
def test_the_sentence_counts_groups_of_one_view(groups: tuple[int, ...], words: str) -> None:
    frame = pd.DataFrame({"groups": groups}, index=[*VIEWS, "several", "nothing"])
    frame["their share of |advantage|"] = [n / 10 for n in groups]
    assert by_view_words(frame).startswith(words) and "form" not in by_view_words(frame)


def test_the_sentence_says_what_broken_form_takes() -> None:
    frame = pd.DataFrame({"groups": 1, "share of |advantage|": 0.7}, index=["form", *VIEWS, "several", "nothing"])
    frame["their share of |advantage|"] = 0.3
    assert "Broken form has 70% of all |advantage|" in by_view_words(frame)
