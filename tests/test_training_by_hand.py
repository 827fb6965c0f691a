"""TRL's loss and advantages against rrlib.training.objective, and that room against figures worked out by hand.

Steps of GRPO, two groups of four, with scripted rollouts: the log-probabilities come from the model's logits in
float64, token by token, row by row, without padding; the loss from the formulas of the papers in objective.py.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trl
from tiny_training import EXAMPLES, GRPO

from rrlib.prompts import format_response
from rrlib.reward import MultiViewReward
from rrlib.training import grpo, objective
from rrlib.training.completions import read_completions
from rrlib.training.config import GRPOSettings
from rrlib.training.grpo import train_grpo

TEXTS = [
    format_response("ok", (0, 1, 2)), format_response("a bit more thought", (1, 0, 2)),
    "<think> x </think> <answer> [1] </answer>", "no tags at all",
    format_response("ok", (2, 1, 0)), "<think> cut",
    format_response("hm", (0, 2, 1)), format_response("hm, hm", (1, 2, 0)),
]  # fmt: skip
PAPER = dataclasses.replace(
    GRPO, prompts=2, rollouts=4, updates=2, micro_batch=4, steps=1, max_completion=120, learning_rate=3e-3, beta=0.001
)
SETTINGS = {
    "paper": PAPER,
    "dapo": dataclasses.replace(PAPER, loss="dapo", clip_high=0.28, entropy=0.05),
    "dr_grpo": dataclasses.replace(PAPER, loss="dr_grpo", beta=0.1, dual_clip=1.5),
    "views": dataclasses.replace(PAPER, normalize="views", entropy=0.01),
}


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


@dataclasses.dataclass
class Run:
    """Both updates of a step, the rows that were scored, and where the model began."""

    settings: GRPOSettings
    passes: list[Pass]
    rows: list[dict[str, Any]]
    backbone: Path


@pytest.fixture(scope="module", params=list(SETTINGS))
def run(request: pytest.FixtureRequest, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    passes: list[Pass] = []
    real = trl.GRPOTrainer._compute_loss

    def spy(self: Any, model: Any, inputs: dict[str, Any]) -> Any:
        before = {k: v.clone() for k, v in self.accelerator.unwrap_model(model).state_dict().items()}
        loss = real(self, model, inputs)
        copies = {k: v.clone() if hasattr(v, "clone") else v for k, v in inputs.items()}
        assert self.current_gradient_accumulation_steps == 1
        passes.append(Pass(backbone, before, copies, loss.item()))
        return loss

    def generate(self: Any, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> tuple[list[list[int]], None]:
        texts = self.processing_class(TEXTS, add_special_tokens=False)["input_ids"]
        return [[*ids, self.processing_class.eos_token_id] for ids in texts], None

    folder, settings = tmp_path_factory.mktemp("hand"), SETTINGS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trl.GRPOTrainer, "_compute_loss", spy)
        patch.setattr(grpo, "shared_prefix_rollouts", generate)
        train_grpo(EXAMPLES, backbone, folder, settings, MultiViewReward(k=1))
    return Run(settings, passes, read_completions(folder).to_dict("records"), backbone)


def log_probabilities(model: Any, inputs: dict[str, Any], row: int) -> tuple[list[float], list[float]]:
    """Of each completion token of a row, read off the logits of that row alone, without padding; and the entropies."""
    import torch

    prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
    answer = inputs["completion_ids"][row][inputs["completion_mask"][row].bool()].tolist()
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0].double()
    chosen, entropies = [], []
    for place, token in enumerate(answer):
        scores = logits[len(prompt) + place - 1].tolist()
        top = max(scores)
        total = top + math.log(math.fsum(math.exp(score - top) for score in scores))
        chosen.append(scores[token] - total)
        entropies.append(-math.fsum(math.exp(score - total) * (score - total) for score in scores))
    return chosen, entropies


def padded(rows: list[list[float]]) -> Any:
    import torch

    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.float64) for row in rows], batch_first=True)


def advantages_by_text(run: Run) -> dict[str, float]:
    if run.settings.normalize == "views":
        weights = {"gate": 1.0, **MultiViewReward().weights}
        views = np.array([[row[name] for name in weights] for row in run.rows]).reshape(2, 4, -1)
        values = objective.advantages_of_views(views, np.array(list(weights.values())))
    else:
        rewards = np.array([row["multi_view_reward"] for row in run.rows]).reshape(2, 4)
        values = objective.advantages(rewards, divide=run.settings.loss != "dr_grpo")
    return {row["completion"]: value for row, value in zip(run.rows, values.reshape(-1).tolist(), strict=True)}


def test_the_loss_of_two_groups_of_four_is_that_of_the_objective(run: Run) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert len(run.rows) == 8 and len(run.passes) == 2, "one pass an update"
    tokenizer = AutoTokenizer.from_pretrained(run.backbone)
    start = AutoModelForCausalLM.from_pretrained(run.backbone).double().eval()
    old = run.passes[0].model()
    by_text = advantages_by_text(run)
    assert len(by_text) == 8 and len({round(a, 6) for a in by_text.values()}) >= 5
    for number, step in enumerate(run.passes):
        rows = range(len(step.inputs["completion_ids"]))
        now, before, reference = (
            [log_probabilities(model, step.inputs, row) for row in rows] for model in (step.model(), old, start)
        )
        texts = [
            tokenizer.decode(ids[mask.bool()], skip_special_tokens=True)
            for ids, mask in zip(step.inputs["completion_ids"], step.inputs["completion_mask"], strict=True)
        ]
        advantage = torch.tensor([by_text[text] for text in texts], dtype=torch.float64)
        logp, old_logp, reference_logp = (padded([pair[0] for pair in pairs]) for pairs in (now, before, reference))
        expected = objective.grpo_loss(
            logp, old_logp, reference_logp, advantage,
            padded([[1.0] * len(pair[0]) for pair in now]), run.settings,
            padded([pair[1] for pair in now]), float(step.inputs["num_items_in_batch"]) / run.settings.updates,
        )  # fmt: skip
        assert step.loss == pytest.approx(expected.item(), abs=1e-6)
        ratio = (logp - old_logp).exp()
        if number == 0:
            assert (ratio - 1).abs().max() < 1e-9, "the first update is on its own rollouts"
        else:
            sides = (ratio.min().item() < 0.8, ratio.max().item() > 1.28)
            assert all(sides) if run.settings is PAPER else any(sides), "the second update is clipped"
    assert abs(run.passes[1].loss) > 1e-3


def test_the_rewards_of_the_step_are_the_rewards_of_its_texts(run: Run) -> None:
    reward = MultiViewReward(k=1)
    for row in run.rows:
        shown = next(e for e in EXAMPLES if f"query: {e.query.text}." in row["prompt"])
        record = reward.score(row["completion"], shown.relevance, shown.gold)
        assert row["multi_view_reward"] == pytest.approx(record.total, abs=1e-6)


# --- the objective by hand -------------------------------------------------------------------------------------------


def test_advantages_by_hand() -> None:
    # Group 1: mean 0.5, deviation sqrt(3 * 0.25 + 0.25) / sqrt(3) = 1 / sqrt(3). Group 2 earns the same throughout.
    rewards = np.array([[0.0, 1.0, 0.0, 1.0], [0.7, 0.7, 0.7, 0.7]])
    size = 0.5 / (1 / math.sqrt(3) + 1e-4)
    assert objective.advantages(rewards)[0] == pytest.approx([-size, size, -size, size], abs=1e-12)
    assert objective.advantages(rewards)[1] == pytest.approx([0.0] * 4, abs=1e-9)
    assert objective.advantages(rewards, divide=False)[0] == pytest.approx([-0.5, 0.5, -0.5, 0.5])


def test_numpy_and_torch_agree_on_advantages() -> None:
    import torch

    views = np.random.default_rng(0).random((3, 4, 2))
    weights = np.array([1.0, 0.2])
    for of_numpy, of_torch in (
        (objective.advantages(views[..., 0]), objective.advantages(torch.tensor(views[..., 0]))),
        (
            objective.advantages_of_views(views, weights),
            objective.advantages_of_views(torch.tensor(views), torch.tensor(weights)),
        ),
    ):
        assert of_torch.numpy() == pytest.approx(of_numpy, abs=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.0, 2.0, -2.0),
        (1.1, 1.0, -1.1),
        (1.5, 1.0, -1.2),  # beyond the clip a good rollout earns no more
        (0.5, 1.0, -0.5),  # below it, all of the loss is felt
        (0.5, -1.0, 0.8),
        (1.5, -1.0, 1.5),  # a bad rollout made likelier costs more and more
        (9.0, -1.0, 3.0),  # up to the dual clip
        (9.0, 1.0, -1.2),
    ],
)
def test_the_clipped_ratio_by_hand(ratio: float, advantage: float, expected: float) -> None:
    import torch

    loss = objective.policy_loss(torch.tensor([[math.log(ratio)]]), torch.zeros(1, 1), torch.tensor([advantage]), PAPER)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    wide = dataclasses.replace(PAPER, clip_high=0.28)
    if expected == -1.2:
        loss = objective.policy_loss(torch.tensor([[math.log(ratio)]]), torch.zeros(1, 1), torch.tensor([1.0]), wide)
        assert loss.item() == pytest.approx(-1.28, abs=1e-6)


def test_kl_and_averages_by_hand() -> None:
    import torch

    half, quarter = torch.tensor([[0.5]]).log(), torch.tensor([[0.25]]).log()
    assert objective.kl(half, quarter).item() == pytest.approx(0.5 - 1 + math.log(2))
    assert objective.kl(half, half).item() == 0.0
    values, mask = torch.tensor([[1.0, 9.0, 9.0], [2.0, 3.0, 4.0]]), torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    means = {loss: objective.token_mean(values, mask, dataclasses.replace(PAPER, loss=loss)).item() for loss in (
        "grpo", "dapo", "dr_grpo"
    )}  # fmt: skip
    assert means == pytest.approx({"grpo": (1 + 3) / 2, "dapo": 10 / 4, "dr_grpo": 10 / (2 * 120)})
