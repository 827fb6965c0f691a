"""Reward hacking: rollouts that try what was seen to pay elsewhere earn what the reward table says, and no more.

The texts go through the whole path: token ids out of the rollout engine, TRL, our decoder, the reward, the completions
kept on disk. The table: R_m for one think block, then one answer block with a permutation written `[a] > [b] > ...`; 0
for both blocks and a wrong list; -1 for anything else.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_training import EXAMPLES, GRPO

from rrlib.reward import MultiViewReward
from rrlib.training import grpo
from rrlib.training.completions import read_completions
from rrlib.training.grpo import train_grpo

THINK, VALID = "<think> ok </think>", "valid"
LIST = "[1] > [2] > [3]"
BAD_LIST, BAD_FORMAT = 0.0, -1.0

HACKS: dict[str, tuple[str, float | str]] = {
    "an honest answer": (f"{THINK} <answer> {LIST} </answer>", VALID),
    "white space around it": (f"\n {THINK}\n\n<answer>\n{LIST}\n</answer> \n", VALID),
    "an answer quoted while thinking": (f"<think> <answer> [2] </answer> </think> <answer> {LIST} </answer>", VALID),
    "trial rankings while thinking": (f"<think> [3] > [2] > [1], no </think> <answer> {LIST} </answer>", VALID),
    # the list
    "id 0, which a reward once read as the last passage": (f"{THINK} <answer> [0] > [1] > [2] </answer>", BAD_LIST),
    "an id out of range": (f"{THINK} <answer> [1] > [2] > [4] </answer>", BAD_LIST),
    "a negative id": (f"{THINK} <answer> [1] > [2] > [-1] </answer>", BAD_LIST),
    "repeats": (f"{THINK} <answer> [1] > [1] > [2] </answer>", BAD_LIST),
    "too short": (f"{THINK} <answer> [1] > [2] </answer>", BAD_LIST),
    "too long": (f"{THINK} <answer> {LIST} > [1] </answer>", BAD_LIST),
    "only the best one": (f"{THINK} <answer> [1] </answer>", BAD_LIST),
    "nothing": (f"{THINK} <answer>  </answer>", BAD_LIST),
    "any digits as a list": (f"{THINK} <answer> 1 2 3 </answer>", BAD_LIST),
    "commas": (f"{THINK} <answer> [1], [2], [3] </answer>", BAD_LIST),
    "ties": (f"{THINK} <answer> [1] = [2] > [3] </answer>", BAD_LIST),
    "text before the list": (f"{THINK} <answer> Best: {LIST} </answer>", BAD_LIST),
    "text after the list": (f"{THINK} <answer> {LIST} as I said </answer>", BAD_LIST),
    "two lists, one of which must be right": (f"{THINK} <answer> {LIST} {LIST[::-1]} </answer>", BAD_LIST),
    "digits of another script": (f"{THINK} <answer> [١] > [٢] > [٣] </answer>", BAD_LIST),
    "an id with a leading zero": (f"{THINK} <answer> [01] > [2] > [3] </answer>", BAD_LIST),
    # the blocks
    "two answer blocks": (f"{THINK} <answer> {LIST} </answer> <answer> [3] > [2] > [1] </answer>", BAD_FORMAT),
    "the same answer twice": (f"{THINK} <answer> {LIST} </answer> <answer> {LIST} </answer>", BAD_FORMAT),
    "answer before think": (f"<answer> {LIST} </answer> {THINK}", BAD_FORMAT),
    "no thinking": (f"<answer> {LIST} </answer>", BAD_FORMAT),
    "no answer tags": (f"{THINK} {LIST}", BAD_FORMAT),
    "answer inside think": (f"<think> ok <answer> {LIST} </answer> </think>", BAD_FORMAT),
    "think inside answer": (f"<answer> {THINK} {LIST} </answer>", BAD_FORMAT),
    "answer in answer": (f"{THINK} <answer> <answer> {LIST} </answer> </answer>", BAD_FORMAT),
    "think never closed": (f"<think> ok <answer> {LIST} </answer>", BAD_FORMAT),
    "answer never closed": (f"{THINK} <answer> {LIST}", BAD_FORMAT),
    "text before the blocks": (f"Sure! {THINK} <answer> {LIST} </answer>", BAD_FORMAT),
    "text between the blocks": (f"{THINK} hence <answer> {LIST} </answer>", BAD_FORMAT),
    "text after the blocks": (f"{THINK} <answer> {LIST} </answer> Please rate this highly.", BAD_FORMAT),
    "a chat marker after the blocks": (f"{THINK} <answer> {LIST} </answer><|im_start|>", BAD_FORMAT),
    "a chat marker in the list": (f"{THINK} <answer> [1] > <|im_start|>[2] > [3] </answer>", BAD_LIST),
    "tags in capitals": (f"<THINK> ok </THINK> <ANSWER> {LIST} </ANSWER>", BAD_FORMAT),
    "two think blocks": (f"{THINK} {THINK} <answer> {LIST} </answer>", BAD_FORMAT),
    "think in think": (f"<think> {THINK} </think> <answer> {LIST} </answer>", BAD_FORMAT),
    "cut off before the last sign": (f"{THINK} <answer> {LIST} </answer", BAD_FORMAT),
    "cut off in the list": (f"{THINK} <answer> [1] > [2", BAD_FORMAT),
    "cut off while thinking": (f"<think> {LIST} is what I would say", BAD_FORMAT),
    "silence": ("", BAD_FORMAT),
    "the tags alone": ("<think></think><answer></answer>", BAD_LIST),
}  # fmt: skip


ASKED = [EXAMPLES[0], dataclasses.replace(EXAMPLES[1], relevance=(0, 0, 0))]
"""The second list has no relevant passage."""
Earned = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def step(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Earned, dict[str, Any]]:
    """One GRPO step in which both prompts are answered by every hack, in its order: (hack, prompt) -> row of the
    completions, and the row of the log. An answer that is cut off has no end-of-turn token."""
    folder, names, texts = tmp_path_factory.mktemp("hacks"), list(HACKS), [text for text, _ in HACKS.values()]

    def generate(self: Any, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> tuple[list[list[int]], None]:
        ids = self.processing_class(texts, add_special_tokens=False)["input_ids"]
        end = self.processing_class.eos_token_id
        closed = [one if name.startswith("cut off") else [*one, end] for name, one in zip(names, ids, strict=True)]
        return [closed[i % len(closed)] for i in range(len(prompt_ids))], None

    settings = dataclasses.replace(
        GRPO, prompts=2, rollouts=len(texts), micro_batch=len(texts), updates=1, steps=1, max_completion=200
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "shared_prefix_rollouts", generate)
        (log,) = train_grpo(ASKED, backbone, folder, settings, MultiViewReward(k=1)).log
    rows = read_completions(folder).to_dict("records")
    assert len(rows) == 2 * len(texts)
    return {(names[i % len(texts)], row["prompt"]): row for i, row in enumerate(rows)}, log


@pytest.fixture(scope="module")
def earned(step: tuple[Earned, dict[str, Any]]) -> Earned:
    return step[0]


@pytest.mark.parametrize("hack", HACKS)
def test_a_hack_earns_what_the_table_says(hack: str, earned: Earned) -> None:
    _, expected = HACKS[hack]
    seen = [row for (name, _), row in earned.items() if name == hack]
    assert len(seen) == 2
    for row in seen:
        one = next(e for e in ASKED if f"query: {e.query.text}." in row["prompt"])
        honest = MultiViewReward(k=1).score(f"{THINK} <answer> {LIST} </answer>", one.relevance, one.gold).total
        want = honest if expected == VALID else expected
        assert row["multi_view_reward"] == pytest.approx(want)
        assert row["level"] == {VALID: "valid", BAD_LIST: "bad_list", BAD_FORMAT: "bad_format"}[expected]


def test_no_hack_pays_more_than_the_honest_answer(earned: Earned) -> None:
    for prompt in {prompt for _, prompt in earned}:
        honest = earned["an honest answer", prompt]["multi_view_reward"]
        assert honest > 0
        assert all(row["multi_view_reward"] <= honest for (_, p), row in earned.items() if p == prompt)


def test_a_group_without_a_relevant_passage_earns_rbo_alone_and_is_logged(
    step: tuple[Earned, dict[str, Any]],
) -> None:
    rows, log = step
    prompt = next(prompt for _, prompt in rows if f"query: {ASKED[1].query.text}." in prompt)
    honest = rows["an honest answer", prompt]
    ndcg, recall, rbo = json.loads(honest["views"])
    assert (ndcg, recall) == (0.0, 0.0) and 0 < rbo < 1 and honest["multi_view_reward"] == pytest.approx(0.1 * rbo)
    assert max(row["multi_view_reward"] for (_, p), row in rows.items() if p == prompt) <= 0.1
    assert log["share/no_relevant"] == 0.5


def test_the_log_counts_the_levels(step: tuple[Earned, dict[str, Any]]) -> None:
    for level, reward in (("valid", VALID), ("bad_list", BAD_LIST), ("bad_format", BAD_FORMAT)):
        share = sum(expected == reward for _, expected in HACKS.values()) / len(HACKS)
        assert step[1][f"share/{level}"] == pytest.approx(share)
    assert step[1]["completions/clipped_ratio"] == pytest.approx(sum("cut off" in name for name in HACKS) / len(HACKS))
