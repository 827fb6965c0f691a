"""Sentences of the lessons on groups, form and sums: true either way, from numbers made by hand."""

from __future__ import annotations

import pytest

from rrlib.lesson import groups, story, thread, trust
from rrlib.prompts import format_response
from rrlib.reward import MultiViewReward, RewardRecord

REWARD = MultiViewReward(k=2)
RELEVANCE, GOLD = (0, 0, 1, 1), (2, 3, 0, 1)


def answer(*order: int) -> str:
    return format_response("because", order, "reasonrank")


def said(*texts: str) -> str:
    return groups.pull_words(texts, RELEVANCE, GOLD, REWARD)


def test_what_an_update_moves_up_is_counted_by_label() -> None:
    clean = said(answer(2, 3, 0, 1), answer(0, 1, 2, 3))
    assert clean.startswith("Moved up: 2 of 2 relevant, 0 of 2 others. Moved up most is [3], a relevant one")
    assert clean.endswith("So this group alone favours every relevant passage over the others.")
    noisy = said(answer(2, 0, 3, 1), answer(1, 2, 3, 0))
    assert noisy.startswith("Moved up: 1 of 2 relevant, 1 of 2 others.")
    assert noisy.endswith("One of the others is favoured over a relevant one: one group of 2 answers is noisy.")
    none = groups.pull_words([answer(2, 3, 0, 1), answer(0, 1, 2, 3)], (0, 0, 0, 0), GOLD, REWARD)
    assert "Moved up: 0 of 0 relevant" in none and "noisy" not in none


@pytest.mark.parametrize("texts", [("nothing", "no list"), (answer(2, 3, 0, 1), answer(2, 3, 0, 1))])
def test_a_group_that_moves_nothing_says_so(texts: tuple[str, str]) -> None:
    assert said(*texts).startswith("This group moves no passage up")


def records(*totals: float) -> list[RewardRecord]:
    """Rewards above 0 are rankings, 0 a broken list, -1 a broken format."""
    levels = {0.0: "bad_list", -1.0: "bad_format"}
    return [RewardRecord(t, *((t, t, t) if t > 0 else (None,) * 3), levels.get(t, "valid")) for t in totals]


def test_the_mean_of_a_group_and_what_moved_it() -> None:
    before, better = records(1.0, 1.0, 1.0, 0.8), records(1.2, 1.2, 0.0, 0.0)
    words = thread.group_words({"SFT": before, "RL": better})
    assert "mean falls from 0.950 to 0.600. Broken in form: 0 of 4 answers SFT, 2 of 4 RL." in words
    assert "valid ones rises from 0.950 to 1.200. So it is form alone that the mean lost by." in words
    back = thread.group_words({"RL": better, "SFT": before})
    assert "rises from 0.600 to 0.950" in back and "valid ones falls" in back and "form alone" not in back
    same = thread.group_words({"SFT": before, "RL": before})
    assert "mean stays at 0.950" in same and "form alone" not in same
    assert "valid ones" not in thread.group_words({"SFT": before, "RL": records(0.0, -1.0)})
    worse = thread.group_words({"SFT": before, "RL": records(0.5, 0.5, 0.0, 0.5)})
    assert "falls from 0.950 to 0.375" in worse and "form alone" not in worse


def test_answers_that_a_model_draws_are_counted() -> None:
    assert thread.drawn_words(records(1.0, 1.2)) == "2 of 2 answers drawn are rankings and earn 1.100 in the mean."
    words = thread.drawn_words(records(1.0, 0.0, -1.0))
    assert words.endswith("earn 1.000 in the mean; 2 are broken in form, and such a one earns -1 or 0.")
    assert thread.drawn_words(records(0.0)).startswith("0 of 1 answers drawn are rankings; 1 are broken")


def test_form_that_was_lost_is_said() -> None:
    lost = trust.form_kept_words({"backbone": 0.141, "sft": 0.994, "sft+rl": 0.989})
    assert lost == "Valid answers: 99.4% sft, 98.9% sft+rl. So some form was lost here (one training)."
    assert "was gained here" in trust.form_kept_words({"sft": 0.989, "sft+rl": 0.994})
    assert "nothing was lost" in trust.form_kept_words({"sft": 1.0, "sft+rl": 1.0})
    assert "no two checkpoints" in trust.form_kept_words({"sft": 1.0})


def test_seconds_of_an_account_are_said_to_be_summed() -> None:
    words = story.counted({"calls": 8, "seconds": 61.303, "usd": None})
    assert words == "8 calls, 61.303 seconds of waiting, summed over calls that run side by side"
