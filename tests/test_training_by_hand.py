"""One step of GRPO worked out by hand, two groups of four, against the loss that TRL computes with our settings.

The hand works in float64 from the model's logits, token by token, by the formulas of the papers: advantage = (reward -
mean of the group) / (unbiased deviation + 1e-4); ratio of new to old probability, clipped at 0.2, and bounded by 3
where the advantage is negative; KL by exp(r - p) - (r - p) - 1, times 0.001; mean over a sequence, then over sequences.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import trl
from tiny_training import EXAMPLES, GRPO

from rrlib.prompts import format_response
from rrlib.reward import MultiViewReward
from rrlib.training import grpo
from rrlib.training.grpo import train_grpo

TEXTS = [
    format_response("ok", (0, 1, 2)), format_response("a bit more thought", (1, 0, 2)),
    "<think> x </think> <answer> [1] </answer>", "no tags at all",
    format_response("ok", (2, 1, 0)), "<think> cut",
    format_response("hm", (0, 2, 1)), format_response("hm, hm", (1, 2, 0)),
]  # fmt: skip
SETTINGS = dataclasses.replace(
    GRPO, prompts=2, rollouts=4, updates=2, micro_batch=4, steps=1, max_completion=120, learning_rate=3e-3, beta=0.001
)


@dataclasses.dataclass
class Pass:
    """One forward pass of TRL's loss: the weights as they were, what it was given, what came out."""

    folder: Path
    weights: dict[str, Any]
    inputs: dict[str, Any]
    loss: float

    def model(self) -> Any:
        """The model as it was, in float64, without anything of TRL's."""
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.folder)
        model.load_state_dict(self.weights)
        return model.double().eval()


@pytest.fixture(scope="module")
def run(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Pass], list[dict[str, Any]], Path]:
    """Both updates of a step with scripted rollouts, and the rows that were scored."""
    passes: list[Pass] = []
    real = trl.GRPOTrainer._compute_loss

    def spy(self: Any, model: Any, inputs: dict[str, Any]) -> Any:
        before = {k: v.clone() for k, v in self.accelerator.unwrap_model(model).state_dict().items()}
        loss = real(self, model, inputs)
        kept = {k: v.clone() if hasattr(v, "clone") else v for k, v in inputs.items()}
        assert self.current_gradient_accumulation_steps == 1
        passes.append(Pass(backbone, before, kept, loss.item()))
        return loss

    def generate(self: Any, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> tuple[list[list[int]], None]:
        ids = self.processing_class(TEXTS, add_special_tokens=False)["input_ids"]
        return [[*one, self.processing_class.eos_token_id] for one in ids], None

    folder = tmp_path_factory.mktemp("hand")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trl.GRPOTrainer, "_compute_loss", spy)
        patch.setattr(grpo, "small_model_rollouts", generate)
        train_grpo(EXAMPLES, backbone, folder, SETTINGS, MultiViewReward(k=1))
    from rrlib.training.completions import read_completions

    return passes, read_completions(folder).to_dict("records"), backbone


def log_probabilities(model: Any, inputs: dict[str, Any], row: int) -> list[float]:
    """Of each completion token of a row, read off the logits of that row alone, without padding."""
    import torch

    prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
    answer = inputs["completion_ids"][row][inputs["completion_mask"][row].bool()].tolist()
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0].double()
    found = []
    for place, token in enumerate(answer):
        scores = logits[len(prompt) + place - 1].tolist()
        top = max(scores)
        found.append(scores[token] - top - math.log(math.fsum(math.exp(score - top) for score in scores)))
    return found


def advantages_by_hand(rows: list[dict[str, Any]]) -> dict[str, float]:
    found = {}
    for start in (0, 4):
        rewards = [row["multi_view_reward"] for row in rows[start : start + 4]]
        mean, spread = statistics.mean(rewards), statistics.stdev(rewards)
        for row, reward in zip(rows[start : start + 4], rewards, strict=True):
            found[row["completion"]] = (reward - mean) / (spread + 1e-4)
    return found


def loss_by_hand(
    step: Pass, old: Any, start: Any, advantages: dict[str, float], decode: Any
) -> tuple[float, list[float]]:
    rows, ratios, model = [], [], step.model()
    for row in range(len(step.inputs["completion_ids"])):
        ids = step.inputs["completion_ids"][row][step.inputs["completion_mask"][row].bool()].tolist()
        advantage = advantages[decode(ids)]
        now, before, reference = (log_probabilities(m, step.inputs, row) for m in (model, old, start))
        tokens = []
        for p, o, r in zip(now, before, reference, strict=True):
            ratio = math.exp(p - o)
            clipped = min(max(ratio, 1 - 0.2), 1 + 0.2)
            gain = min(min(ratio, 3.0) * advantage, clipped * advantage)
            kl = math.exp(r - p) - (r - p) - 1
            tokens.append(-gain + 0.001 * kl)
            ratios.append(ratio)
        rows.append(statistics.mean(tokens))
    return statistics.mean(rows), ratios


def test_two_groups_of_four_by_hand(run: tuple[list[Pass], list[dict[str, Any]], Path]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    passes, rows, folder = run
    assert len(rows) == 8 and len(passes) == 2, "one pass an update"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    start = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    advantages = advantages_by_hand(rows)
    assert len(advantages) == 8 and len({round(a, 6) for a in advantages.values()}) >= 5

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True)

    old = passes[0].model()
    for number, step in enumerate(passes):
        expected, ratios = loss_by_hand(step, old, start, advantages, decode)
        assert step.loss == pytest.approx(expected, abs=1e-6)
        if number == 0:
            assert max(abs(ratio - 1) for ratio in ratios) < 1e-9, "the first update is on its own rollouts"
        else:
            assert min(ratios) < 0.8 and max(ratios) > 1.2, "the second update is clipped on both sides"
    assert abs(passes[1].loss) > 1e-3


def test_the_rewards_of_the_step_are_the_rewards_of_its_texts(
    run: tuple[list[Pass], list[dict[str, Any]], Path],
) -> None:
    reward = MultiViewReward(k=1)
    for row in run[1]:
        one = next(e for e in EXAMPLES if f"query: {e.query.text}." in row["prompt"])
        record = reward.score(row["completion"], one.relevance, one.gold)
        assert row["multi_view_reward"] == pytest.approx(record.total, abs=1e-6)
