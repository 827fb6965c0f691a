"""What is optional in GRPO, what it keeps, what it warns of: losses, GDPO, masking, completions, bands, alarms, card.

A tiny Qwen3 and scripted rollouts: the answers are given, so every reward and advantage can be worked out by hand.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trl
from tiny_training import EXAMPLES, GRPO, SFT

from rrlib.engines.trained import trained_settings
from rrlib.errors import InputError
from rrlib.lesson.plots.training import Live, grpo_curves, read_log, sft_curves
from rrlib.prompts import format_response
from rrlib.reward import MultiViewReward
from rrlib.training import alarms, grpo
from rrlib.training.alarms import Alarms, find_alarms, read_alarms
from rrlib.training.completions import group_bands, read_completions
from rrlib.training.config import GRPOSettings
from rrlib.training.grpo import grpo_config, train_grpo
from rrlib.training.probe import read_answers
from rrlib.training.sft import train_sft

ROLLOUTS = 4
SCRIPTED = dataclasses.replace(GRPO, prompts=2, rollouts=ROLLOUTS, micro_batch=2, steps=1, max_completion=120)
GOOD = [format_response("ok", order) for order in ((0, 1, 2), (1, 0, 2), (2, 1, 0))]


def script(monkeypatch: pytest.MonkeyPatch, texts: Sequence[str], cut: Sequence[int] = ()) -> None:
    """Every generation returns these texts, closed by the end-of-turn token but for the places in `cut`."""

    def generate(self: Any, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> tuple[list[list[int]], None]:
        ids = self.processing_class(list(texts), add_special_tokens=False)["input_ids"]
        end = self.processing_class.eos_token_id
        given = [one if i in cut else [*one, end] for i, one in enumerate(ids)]
        return [given[i % len(given)] for i in range(len(prompt_ids))], None

    monkeypatch.setattr(grpo, "shared_prefix_rollouts", generate)


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[dict[str, Any], float]]]:
    """(inputs, loss) of every call of TRL's loss, the loss before it is divided for accumulation."""
    seen: list[tuple[dict[str, Any], float]] = []
    real = trl.GRPOTrainer._compute_loss

    def spy(self: Any, model: Any, inputs: dict[str, Any]) -> Any:
        loss = real(self, model, inputs)
        scale = 1.0 if self.loss_type == "dapo" else self.current_gradient_accumulation_steps
        seen.append(({k: v.clone() if hasattr(v, "clone") else v for k, v in inputs.items()}, loss.item() * scale))
        return loss

    monkeypatch.setattr(trl.GRPOTrainer, "_compute_loss", spy)
    yield seen


# --- GDPO: each view against its group, then the sum -----------------------------------------------------------------


def by_hand_views(table: list[dict[str, Any]], weights: dict[str, float]) -> list[float]:
    """Group z-score of each part, weighted sum, batch z-score; unbiased deviations, 1e-4 added (arXiv 2601.05242)."""
    columns = []
    for name in ("gate", "ndcg", "recall", "rbo"):
        values = np.array([row[name] for row in table]).reshape(-1, ROLLOUTS)
        z = (values - values.mean(1, keepdims=True)) / (values.std(1, ddof=1, keepdims=True) + 1e-4)
        columns.append({"gate": 1.0, **weights}[name] * z.reshape(-1))
    total = np.sum(columns, axis=0)
    return list((total - total.mean()) / (total.std(ddof=1) + 1e-4))


def test_views_are_normalised_one_by_one_and_logged_as_before(
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script(monkeypatch, [GOOD[0], GOOD[1], GOOD[2], "no tags"])
    reward = MultiViewReward(k=1)
    settings = dataclasses.replace(SCRIPTED, normalize="views")
    result = train_grpo(EXAMPLES, backbone, tmp_path, settings, reward)
    table = read_completions(tmp_path).to_dict("records")
    assert [row["advantage"] for row in table] == pytest.approx(by_hand_views(table, dict(reward.weights)), abs=1e-4)
    example = {row.query.text: row for row in EXAMPLES}
    for row in table:
        one = next(e for text, e in example.items() if f"query: {text}." in row["prompt"])
        record = reward.score(row["completion"], one.relevance, one.gold)
        assert row["multi_view_reward"] == pytest.approx(record.total)
        parts = row["gate"] + row["ndcg"] + 0.2 * row["recall"] + 0.1 * row["rbo"]
        assert parts == pytest.approx(record.total, abs=1e-6), "the parts sum to the reward"
    (log,) = result.log
    assert log["reward"] == pytest.approx(statistics.mean(row["multi_view_reward"] for row in table), abs=1e-6)
    assert log["share/valid"] == 0.75 and log["share/bad_format"] == 0.25 and 0 < log["view/rbo"] < 1


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo"])
def test_each_loss_averages_tokens_as_its_paper_says(
    loss: Any,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    losses: Any,
) -> None:
    """At the first update the ratio is 1 and beta is 0, so the loss of a row is minus its advantage, token by token."""
    script(monkeypatch, [GOOD[0], "<think> much longer, as it is </think> x", GOOD[2], "short"])
    settings = dataclasses.replace(SCRIPTED, loss=loss, updates=1, micro_batch=8, beta=0.0)
    train_grpo(EXAMPLES, backbone, tmp_path, settings, MultiViewReward(k=1))
    ((inputs, found),) = losses
    lengths = inputs["completion_mask"].sum(1).tolist()
    table = read_completions(tmp_path)
    advantages = inputs["advantages"].tolist()
    rewards = np.array(table["multi_view_reward"]).reshape(-1, ROLLOUTS)
    centred = rewards - rewards.mean(1, keepdims=True)
    spread = 1.0 if loss == "dr_grpo" else rewards.std(1, ddof=1, keepdims=True) + 1e-4
    assert sorted(advantages) == pytest.approx(sorted((centred / spread).reshape(-1)), abs=1e-5)
    assert len(set(lengths)) == 3, "the rows are of different lengths, else the losses would be one"
    weighted = [a * n for a, n in zip(advantages, lengths, strict=True)]
    expected = {
        "grpo": -statistics.mean(advantages),
        "dr_grpo": -sum(weighted) / (8 * settings.max_completion),
        "dapo": -sum(weighted) / sum(lengths),
    }[loss]
    assert found == pytest.approx(expected, abs=1e-6)
    assert loss == "grpo" or abs(expected) > 1e-3


def test_masked_truncated_completions_teach_nothing_and_unmasked_ones_do(
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    losses: Any,
) -> None:
    texts = [GOOD[0], GOOD[1], GOOD[2], "<think> on and on"]
    for masked in (False, True):
        script(monkeypatch, texts, cut=[3])
        settings = dataclasses.replace(SCRIPTED, mask_truncated=masked, updates=1, micro_batch=8)
        result = train_grpo(EXAMPLES, backbone, tmp_path / str(masked), settings, MultiViewReward(k=1))
        assert result.log[0]["completions/clipped_ratio"] == 0.25
        assert set(read_completions(tmp_path / str(masked))["multi_view_reward"]) >= {-1.0}, "it stays in the mean"
    (plain, _), (masked_inputs, _) = losses
    assert (plain["completion_mask"].sum(1) > 0).all()
    assert sorted((masked_inputs["completion_mask"].sum(1) == 0).tolist()) == [False] * 6 + [True] * 2


def test_clipping_upwards_alone() -> None:
    config = grpo_config(dataclasses.replace(GRPO, clip_high=0.28), Path("x"), "cpu", False)
    assert (config.epsilon, config.epsilon_high) == (0.2, 0.28)
    assert grpo_config(GRPO, Path("x"), "cpu", False).epsilon_high == 0.2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"loss": "ppo"}, "loss is 'ppo'"),
        ({"normalize": "view"}, "normalize is 'view'"),
        ({"loss": "dr_grpo", "normalize": "views"}, "choose one of them"),
        ({"vllm_mode": "remote"}, "vllm_mode is 'remote'"),
        ({"vllm_memory": 1.5}, "vllm_memory is 1.5"),
        ({"clip_high": -1.0}, "clip_high is -1.0"),
        ({"attention": "flash"}, "attention is 'flash'"),
    ],
)
def test_bad_options_are_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        GRPOSettings(**change)


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_attention_that_cannot_run_is_refused_before_work(backbone: Path, tmp_path: Path, stage: str) -> None:
    with pytest.raises(InputError, match="needs CUDA and the package flash-attn"):
        if stage == "sft":
            train_sft(EXAMPLES, backbone, tmp_path, dataclasses.replace(SFT, attention="flash_attention_2"))
        else:
            train_grpo(EXAMPLES, backbone, tmp_path, dataclasses.replace(GRPO, attention="flash_attention_2"))


def test_a_vllm_server_on_a_cpu_is_refused(backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="NCCL, which needs a CUDA device"):
        train_grpo(EXAMPLES, backbone, tmp_path, dataclasses.replace(GRPO, use_vllm=True, vllm_mode="server"))


# --- what is kept ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Three rollout batches of scripted answers."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        script(patch, [*GOOD, "no tags"])
        settings = dataclasses.replace(SCRIPTED, steps=3, save_every=3)
        return folder, train_grpo(EXAMPLES, backbone, folder, settings, MultiViewReward(k=1))


def test_the_log_says_where_time_goes_and_how_groups_spread(kept: tuple[Path, Any]) -> None:
    folder, result = kept
    assert len(result.log) == 3 == len(read_log(folder))
    for row in result.log:
        assert row["groups/no_spread"] == 0.0 and row["share/bad_format"] == 0.25
        parts = [row[f"time/{name}"] for name in ("generate", "score", "update")]
        assert all(math.isfinite(part) and part >= 0 for part in parts) and row["time/update"] > row["time/score"]


def test_bands_are_quantiles_of_the_groups_means(kept: tuple[Path, Any]) -> None:
    table = read_completions(kept[0])
    bands = group_bands(table, 0.0, 1.0)
    for step, rows in table.groupby("step"):
        means = rows.groupby("prompt")["multi_view_reward"].mean()
        assert bands.loc[step, "reward/low"] == pytest.approx(means.min())
        assert bands.loc[step, "reward/high"] == pytest.approx(means.max())
        ndcg = [json.loads(v)[0] for v in rows["views"]]
        assert bands.loc[step, "ndcg/low"] <= np.nanmean(np.array(ndcg, dtype=float)) <= bands.loc[step, "ndcg/high"]


def test_a_torn_file_of_completions_is_left_out_and_none_is_said(kept: tuple[Path, Any], tmp_path: Path) -> None:
    folder = tmp_path / "trainer" / "completions"
    folder.mkdir(parents=True)
    (folder / "completions_00002.parquet").write_bytes(b"PAR1 half a file")
    with pytest.raises(InputError, match="no completions here"):
        read_completions(tmp_path)
    whole = sorted((kept[0] / "trainer" / "completions").glob("*.parquet"))[0]
    (folder / "completions_00001.parquet").write_bytes(whole.read_bytes())
    assert len(read_completions(tmp_path)) == 8


def test_one_query_is_answered_at_start_middle_and_end_without_touching_the_training(
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_answers = train_sft(
        EXAMPLES, backbone, tmp_path / "a", dataclasses.replace(SFT, learning_rate=5e-3, max_steps=40)
    )
    answers = read_answers(tmp_path / "a")
    assert [a["step"] for a in answers] == [0, 20, 40] and {a["qid"] for a in answers} == {"q0"}
    assert answers[0]["text"] != answers[2]["text"], "training changed the answer"

    class Nothing(__import__("transformers").TrainerCallback):  # type: ignore[misc]
        pass

    monkeypatch.setattr("rrlib.training.trainer.probe", lambda *a: Nothing())
    without = train_sft(EXAMPLES, backbone, tmp_path / "b", dataclasses.replace(SFT, learning_rate=5e-3, max_steps=40))
    assert [r["loss"] for r in without.log] == [r["loss"] for r in with_answers.log]
    assert read_answers(tmp_path / "b") == []


def test_curves_are_drawn_from_the_folder_while_it_grows(kept: tuple[Path, Any], tmp_path: Path) -> None:
    figure = grpo_curves(kept[0])
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:4] == ["Reward", "Views", "Lengths", "KL and entropy"]
    assert len(figure.axes[0].collections) == 1 and len(figure.axes[1].collections) == 3, "bands over groups"
    with pytest.raises(InputError, match="no log here yet"):
        sft_curves(tmp_path)
    with Live(tmp_path, sft_curves, every=0.0) as live:
        live({"step": 1})
        assert live.drawn == 0, "nothing on the disk yet"
        rows = [{"step": i, "loss": 1.0 / i, "grad_norm": 1.0, "mean_token_accuracy": 0.5} for i in (1, 2)]
        (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "lo')
        live({"step": 2})
        assert live.drawn == 1 and len(read_log(tmp_path)) == 2, "a line that is being written is left out"
    assert len(sft_curves(tmp_path).axes) == 3


def test_the_checkpoint_has_a_card_that_names_no_place_of_this_machine(kept: tuple[Path, Any], backbone: Path) -> None:
    card = (kept[1].checkpoint / "README.md").read_text()
    for word in (
        "after GRPO",
        "8 examples (0 left out",
        "| reward |",
        "| beta | 0.001 |",
        "library_name: transformers",
    ):
        assert word in card, word
    assert str(backbone) not in card and str(kept[0]) not in card
    # and says with what it was trained, where a reranking looks
    assert trained_settings(kept[1].checkpoint)["style"] == "reasonrank"


# --- alarms ----------------------------------------------------------------------------------------------------------


def rows_of(**columns: Sequence[float]) -> list[dict[str, Any]]:
    size = max(len(values) for values in columns.values())
    names = {"length": "completions/mean_length", "cut": "completions/clipped_ratio", "still": "groups/no_spread",
             "gap": "sampling/sampling_logp_difference/mean"}  # fmt: skip
    return [{"step": i + 1, **{names.get(k, k): v[i] for k, v in columns.items() if i < len(v)}} for i in range(size)]


def raised(rows: list[dict[str, Any]]) -> list[str]:
    return [alarm.kind for alarm in find_alarms(rows)]


@pytest.mark.parametrize(
    ("rows", "kinds", "remedy"),
    [
        (rows_of(cut=[0.5, 1.0]), ["cut_off"], "raise max_completion"),
        (rows_of(still=[0.5, 1.0]), ["no_spread"], "train SFT further"),
        ([{"step": 1, "frac_reward_zero_std": 1.0}], ["no_spread"], "train SFT further"),
        (rows_of(kl=[1.2]), ["kl"], "raise beta"),
        (rows_of(kl=[0.01, 0.02, 0.03, 0.25]), ["kl"], "raise beta"),
        (rows_of(length=[100, 110, 90, 205]), ["length"], "lower rl_learning_rate"),
        (rows_of(length=[100, 110, 90, 45]), ["length"], "is the reasoning gone"),
        (rows_of(reward=[0.9] * 3 + [0.8] * 3 + [0.6] * 3), ["reward"], "earlier checkpoint"),
        (rows_of(gap=[0.06]), ["stale_weights"], "turn use_vllm off"),
        (rows_of(gap=[0.0007, 0.0314]), ["stale_weights"], "turn use_vllm off"),
        (rows_of(loss=[0.1, float("nan")]), ["not_finite"], "lower learning_rate"),
        ([{"step": 4, "loss": 0.1, "grad_norm": 0.2, "updates/left_out": 1}], ["not_finite"], "was left out"),
        (rows_of(cut=[0.99], still=[0.9], kl=[0.5], gap=[0.01]), [], ""),
        (rows_of(gap=[0.001, 0.019]), [], ""),
        (rows_of(gap=[0.01, 0.012, 0.045]), [], ""),
        (rows_of(kl=[0.01, 0.02, 0.03, 0.15], length=[100, 110, 90, 180], reward=[0.9] * 6 + [0.75] * 3), [], ""),
    ],
)  # fmt: skip
def test_each_alarm_rings_for_its_cause_and_says_what_to_change(
    rows: list[dict[str, Any]], kinds: list[str], remedy: str
) -> None:
    assert raised(rows) == kinds
    assert all(remedy in str(alarm) for alarm in find_alarms(rows))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_update_whose_gradient_is_not_finite_is_left_out(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    import torch
    from transformers import Trainer

    calls, weights = [], []
    whole = Trainer._clip_grad_norm

    def spoilt(self: Any, model: Any) -> Any:
        first = next(p for p in model.parameters() if p.grad is not None)
        calls.append(len(calls) + 1)
        weights.append(first.detach().clone())
        if calls[-1] == 3:
            first.grad[0] = bad
        return whole(self, model)

    monkeypatch.setattr(Trainer, "_clip_grad_norm", spoilt)
    result = train_sft(EXAMPLES, backbone, tmp_path / "sft", dataclasses.replace(SFT, save_every=0))
    assert len(calls) == len(weights) == 6 and all(w.isfinite().all() for w in weights)
    moved = [not torch.equal(before, after) for before, after in itertools.pairwise(weights)]
    assert moved == [False, True, False, True, True]  # the first has a rate of 0, the third is left out
    assert [row.get("updates/left_out") for row in result.log] == [None, None, 1, None, None, None]
    (alarm,) = read_alarms(tmp_path / "sft")
    assert alarm.kind == "not_finite" and alarm.step == 3
    assert all(math.isfinite(row["loss"]) for row in result.log)


def test_an_alarm_is_told_once_kept_on_disk_and_not_told_again_after_a_resume(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch, path = Alarms(), tmp_path / "alarms.jsonl"
    watch.begin(path, [])
    rows = rows_of(cut=[1.0, 1.0, 1.0])
    assert [len(watch.tell(row)) for row in rows] == [1, 0, 0]
    assert caplog.text.count("all completions were cut off") == 1
    (kept_alarm,) = read_alarms(tmp_path)
    assert (kept_alarm.kind, kept_alarm.step) == ("cut_off", 1) and "raise max_completion" in str(kept_alarm)
    again = Alarms()
    again.begin(path, rows)
    assert again.tell({"step": 4, "completions/clipped_ratio": 1.0}) == [] and len(read_alarms(tmp_path)) == 1
    assert caplog.text.count("all completions were cut off") == 1
    assert alarms.KL_FLOOR < alarms.KL_LIMIT


@pytest.mark.parametrize("cause", ["cut", "still"])
def test_real_trainings_ring(
    cause: str,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts: dict[str, tuple[list[str], Callable[[], list[int]]]] = {
        "cut": ([*GOOD, "x"], lambda: [0, 1, 2, 3]), "still": ([GOOD[0]] * 4, lambda: [])
    }  # fmt: skip
    script(monkeypatch, texts[cause][0], cut=texts[cause][1]())
    train_grpo(EXAMPLES, backbone, tmp_path, SCRIPTED, MultiViewReward(k=1))
    assert [alarm.kind for alarm in read_alarms(tmp_path)] == [{"cut": "cut_off", "still": "no_spread"}[cause]]
