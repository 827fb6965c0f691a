"""Reward hacking: rollouts that try what was seen to pay elsewhere earn what the reward table says, and no more.

The texts go through the whole path: token ids out of the rollout engine, TRL, our decoder, the reward, the completions
kept on disk. The table: R_m for one think block, then one answer block with a permutation written `[a] > [b] > ...`; 0
for both blocks and a wrong list; -1 for anything else.
"""

from __future__ import annotations

import dataclasses
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
    "silence": ("", BAD_FORMAT),
    "the tags alone": ("<think></think><answer></answer>", BAD_LIST),
}  # fmt: skip


@pytest.fixture(scope="module")
def earned(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """(hack, query) -> row of the completions, out of one GRPO step in which every prompt is answered by every hack."""
    folder, texts = tmp_path_factory.mktemp("hacks"), [text for text, _ in HACKS.values()]

    def generate(self: Any, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> tuple[list[list[int]], None]:
        ids = self.processing_class(texts, add_special_tokens=False)["input_ids"]
        end = self.processing_class.eos_token_id
        return [[*ids[i % len(ids)], end] for i in range(len(prompt_ids))], None

    settings = dataclasses.replace(
        GRPO, prompts=2, rollouts=len(texts), micro_batch=len(texts), updates=1, steps=1, max_completion=200
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "small_model_rollouts", generate)
        train_grpo(EXAMPLES, backbone, folder, settings, MultiViewReward(k=1))
    rows = read_completions(folder).to_dict("records")
    assert len(rows) == 2 * len(texts)
    return {(list(HACKS)[i % len(texts)], row["prompt"]): row for i, row in enumerate(rows)}


@pytest.mark.parametrize("hack", HACKS)
def test_a_hack_earns_what_the_table_says(hack: str, earned: dict[tuple[str, str], dict[str, Any]]) -> None:
    _, expected = HACKS[hack]
    seen = [row for (name, _), row in earned.items() if name == hack]
    assert len(seen) == 2
    for row in seen:
        one = next(e for e in EXAMPLES if f"query: {e.query.text}." in row["prompt"])
        honest = MultiViewReward(k=1).score(f"{THINK} <answer> {LIST} </answer>", one.relevance, one.gold).total
        want = honest if expected == VALID else expected
        assert row["multi_view_reward"] == pytest.approx(want)
        assert row["level"] == {VALID: "valid", BAD_LIST: "bad_list", BAD_FORMAT: "bad_format"}[expected]


def test_no_hack_pays_more_than_the_honest_answer(earned: dict[tuple[str, str], dict[str, Any]]) -> None:
    for prompt in {prompt for _, prompt in earned}:
        honest = earned["an honest answer", prompt]["multi_view_reward"]
        assert honest > 0
        assert all(row["multi_view_reward"] <= honest for (_, p), row in earned.items() if p == prompt)


def test_a_cut_off_answer_earns_minus_one_even_if_its_list_was_whole(backbone: Path, tmp_path: Path) -> None:
    """The budget ends inside the closing tag: no end-of-turn, no closed block."""
    reward = MultiViewReward(k=1)
    whole = f"{THINK} <answer> {LIST} </answer>"
    assert reward.score(whole[:-1], (1, 0, 0), (0, 1, 2)).total == BAD_FORMAT
    assert reward.score(whole, (1, 0, 0), (0, 1, 2)).total == pytest.approx(1.3)


def test_a_group_without_a_relevant_passage_cannot_be_gamed_beyond_rbo() -> None:
    reward = MultiViewReward(k=1)
    best = reward.score(f"{THINK} <answer> {LIST} </answer>", (0, 0, 0), (0, 1, 2))
    assert (best.total, best.ndcg, best.recall) == (pytest.approx(0.1), 0.0, 0.0)
