"""Whole episodes: credit that telescopes, a potential that brute force finds too, a training that learns, the study."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tiny_training import GRPO

from rrlib.engines.trained import trained_settings
from rrlib.errors import InputError
from rrlib.evaluation.significance import t_interval
from rrlib.formats import read_collection
from rrlib.metrics import ndcg
from rrlib.miniature import build
from rrlib.prompts import format_response
from rrlib.responses import Level
from rrlib.strategies import sliding_spans
from rrlib.studies import episodes as study
from rrlib.studies.ablations import Table
from rrlib.studies.episodes import Arm, Row, Study, differences, study_setting
from rrlib.training import episodes
from rrlib.training.credit import best_reachable, left_behind, potential, window_advantages
from rrlib.training.episodes import Sampler, judge, train_episodes
from rrlib.types import Passage, Query, RankingExample

# --- credit -----------------------------------------------------------------------------------------------------------


@given(st.data())
def test_the_changes_telescope_to_the_final_reward_and_no_window_gains(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 6))
    spans = sliding_spans(data.draw(st.integers(2, 20)), size, data.draw(st.integers(1, size)))
    labels = data.draw(st.lists(st.integers(0, 3), min_size=spans[0][1], max_size=spans[0][1]))
    start = potential(labels, spans)
    changes = []
    for t, (first, last) in enumerate(spans):
        before = potential(labels, spans[t:])
        labels[first:last] = data.draw(st.permutations(labels[first:last]))
        changes.append(potential(labels, spans[t + 1 :]) - before)
    assert start + sum(changes) == pytest.approx(ndcg(range(len(labels)), labels), abs=1e-12)
    assert max(changes) <= 1e-12


@pytest.mark.parametrize("k", [1, 2, 10])
@pytest.mark.parametrize(("n", "size", "stride"), [(5, 3, 1), (5, 3, 2), (6, 3, 2), (6, 4, 3), (4, 2, 1)])
def test_brute_force_finds_the_same_potential(n: int, size: int, stride: int, k: int) -> None:
    spans = sliding_spans(n, size, stride)

    def best(labels: tuple[int, ...], left: Sequence[tuple[int, int]]) -> float:
        if not left:
            return float(ndcg(range(n), labels, k))  # type: ignore[arg-type]
        (first, last), *rest = left
        windows = set(itertools.permutations(labels[first:last]))
        return max(best((*labels[:first], *window, *labels[last:]), rest) for window in windows)

    lists = list(itertools.product((0, 1), repeat=n))
    lists += [tuple(row) for row in np.random.default_rng(0).integers(0, 4, (20, n)).tolist()]
    for labels in lists:
        assert potential(labels, spans, k) == pytest.approx(best(labels, spans), abs=1e-12), labels


def test_a_perfect_run_keeps_the_potential_and_a_lost_passage_costs_what_it_is_worth() -> None:
    spans = sliding_spans(6, 4, 2)  # 2-6, 0-4: two are carried on
    assert spans == [(2, 6), (0, 4)]
    labels = [0, 0, 0, 0, 1, 1]
    assert potential(labels, spans) == 1.0 and best_reachable(labels, spans) == [1, 1, 0, 0, 0, 0]
    assert potential([0, 0, 1, 0, 0, 1], spans[1:]) == pytest.approx((1 + 1 / np.log2(7)) / (1 + 1 / np.log2(3)))
    assert potential([0, 0, 0, 0, 1, 1], spans[1:]) == ndcg(range(6), [0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize(
    ("labels", "share"),
    [([1, 1, 0, 0, 0], 0.0), ([1, 0, 0, 1, 1], 2 / 3), ([0, 0, 2, 0, 1], 0.5), ([0, 0, 0, 0, 0], 0.0)],
)
def test_left_behind_is_below_the_last_window(labels: list[int], share: float) -> None:
    assert left_behind(labels, sliding_spans(5, 3, 2)) == pytest.approx(share)


def test_advantages_are_those_of_the_place_over_the_deviation_of_the_query() -> None:
    changes_TG, none_TG = np.array([[0.0, -0.4], [-0.1, -0.3]]), np.zeros((2, 2))  # two windows of two episodes
    assert window_advantages(changes_TG, none_TG, divide=False) == pytest.approx(np.array([[0.2, -0.2], [0.1, -0.1]]))
    deviation = np.sqrt((2 * 0.2**2 + 2 * 0.1**2) / 3)
    assert window_advantages(changes_TG, none_TG) == pytest.approx(
        np.array([[0.2, -0.2], [0.1, -0.1]]) / (deviation + 1e-4)
    )
    to_go = window_advantages(changes_TG, none_TG, trace=1.0, divide=False)  # -0.1 and -0.7, -0.1 and -0.3
    assert to_go == pytest.approx(np.array([[0.3, -0.3], [0.1, -0.1]]))
    penalised = window_advantages(changes_TG, np.array([[0.0, 0.0], [-1.0, 0.0]]), trace=1.0, divide=False)
    assert penalised == pytest.approx(np.array([[0.3, -0.3], [-0.4, 0.4]]))  # of that window alone
    assert (window_advantages(none_TG, none_TG) == 0).all()


# --- episodes ---------------------------------------------------------------------------------------------------------


def listed(number: int, labels: Sequence[int] = (0, 0, 0, 0, 1)) -> RankingExample:
    passages = tuple(Passage(f"d{number}-{i}", f"a{i}") for i in range(len(labels)))
    return RankingExample(Query(f"q{number}", f"x{number}"), passages, tuple(labels), tuple(range(len(labels))))


SMALL = dataclasses.replace(GRPO, prompts=2, rollouts=2, updates=1, micro_batch=4, steps=1, max_completion=120)
"""One query a step, two episodes of two windows (places 2-4, then 0-2; one passage is carried on)."""
SPANS = sliding_spans(5, 3, 2)
GOOD, KEPT, BROKEN = format_response("ok", (2, 0, 1)), format_response("ok", (0, 1, 2)), "no tags at all"


class Script:
    """In the place of prefix.decode: the texts of each call, in turn; what was asked is kept."""

    def __init__(self, tokenizer: Any, calls: Sequence[Sequence[str]]) -> None:
        self.tokenizer, self.calls, self.asked = tokenizer, list(calls), list[tuple[list[str], int]]()

    def __call__(self, model: Any, prompts: Sequence[Any], *, copies: int = 1, **_: Any) -> list[list[int]]:
        self.asked.append(([self.tokenizer.decode(ids) for ids in prompts], copies))
        texts = self.calls[(len(self.asked) - 1) % len(self.calls)]
        assert len(texts) == len(prompts) * copies
        ids = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [[*row, self.tokenizer.eos_token_id] for row in ids]


@pytest.fixture
def scripted(backbone: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def patch(*calls: Sequence[str]) -> tuple[Sampler, Script]:
        sampler = Sampler(str(backbone), SMALL, "reasonrank", 5, 3, 2, 10)
        script = Script(sampler.tokenizer, calls)
        monkeypatch.setattr(episodes.prefix, "decode", script)
        return sampler, script

    return patch


def test_windows_see_the_list_as_those_before_left_it(scripted: Any) -> None:
    sampler, script = scripted([GOOD, BROKEN], [GOOD, KEPT])
    lifted, kept = sampler.episodes(None, [listed(0)])
    assert [len(prompts) for prompts, _ in script.asked] == [1, 2]  # the first window is read once for both
    assert script.asked[0][1] == 2
    assert "[3] a4" in script.asked[1][0][0] and "[3] a2" in script.asked[1][0][1]
    assert lifted.order == [4, 0, 1, 2, 3] and kept.order == [0, 1, 2, 3, 4]
    assert lifted.reached == 1.0 and kept.reached == pytest.approx(1 / np.log2(6))
    assert [a.level for a in kept.answers] == [Level.BAD_FORMAT, Level.VALID]
    assert [a.change for a in lifted.answers] == [0.0, 0.0]
    assert [a.change for a in kept.answers] == pytest.approx([1 / np.log2(6) - 1, 0.0])
    judge([lifted, kept], 2, trace=0.0, divide=False)
    half = (1 - 1 / np.log2(6) + 1) / 2  # the lost passage and the penalty, both of the first window
    assert [a.advantage for a in kept.answers] == pytest.approx([-half, 0.0])
    assert [a.advantage for a in lifted.answers] == pytest.approx([half, 0.0])


def logprobs(folder: Path, sampler: Sampler, prompt: str, texts: Sequence[str]) -> list[float]:
    """Of whole answers, row by row without padding."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = sampler.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    out = []
    for text in texts:
        answer = [*sampler.tokenizer(text, add_special_tokens=False)["input_ids"], sampler.tokenizer.eos_token_id]
        with torch.no_grad():
            scores = model(torch.tensor([[*ids, *answer]])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        out.append(float(scores[torch.arange(len(answer)), answer].sum()))
    return out


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo"])
def test_one_update_makes_the_better_window_likelier(loss: Any, scripted: Any, backbone: Path, tmp_path: Path) -> None:
    sampler, script = scripted([GOOD, KEPT], [GOOD, KEPT])
    settings = dataclasses.replace(SMALL, loss=loss, learning_rate=1e-3, entropy=0.01)
    result = train_episodes([listed(0)], backbone, tmp_path, settings, window=3, stride=2)
    prompt = script.asked[0][0][0]
    good, kept = logprobs(backbone, sampler, prompt, [GOOD, KEPT])
    good_after, kept_after = logprobs(result.checkpoint, sampler, prompt, [GOOD, KEPT])
    assert good_after - kept_after > good - kept + 0.1
    (row,) = result.log
    assert row["potential"] == 1.0 and row["reward"] == pytest.approx((1 + 1 / np.log2(6)) / 2)
    assert row["left_behind"] == 0.5 and row["share/valid"] == 1.0 and row["windows/no_pull"] == 0.5


def test_what_is_sampled_is_what_is_scored(backbone: Path, tmp_path: Path) -> None:
    """The first update's ratio is 1: its loss is minus the mean advantage, which is 0, plus no KL."""
    settings = dataclasses.replace(SMALL, max_completion=8)
    (row,) = train_episodes([listed(0)], backbone, tmp_path, settings, window=3, stride=2).log
    assert row["loss"] == pytest.approx(0.0, abs=1e-6) and row["kl"] == pytest.approx(0.0, abs=1e-6)
    assert row["share/bad_format"] == 1.0 and row["tokens"] <= 8


def test_finished_is_handed_back_and_killed_begins_anew(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(SMALL, max_completion=8, steps=2)
    call = {"window": 3, "stride": 2, "early_cpu_seconds": 1e9}
    lists = [listed(0), listed(1, (1, 0, 1, 0, 0))]
    monkeypatch.setattr(episodes._Loop, "_finish", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_episodes(lists, backbone, tmp_path, settings, **call)
    monkeypatch.undo()
    first = train_episodes(lists, backbone, tmp_path, settings, **call)
    assert (
        [row["step"] for row in first.log]
        == [1, 2]
        == [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    )
    assert first.info["early_step"] == 2
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("early", "checkpoint")]
    assert weights[0] == weights[1]
    assert trained_settings(tmp_path / "checkpoint") == {
        "style": "reasonrank", "window": 3, "stride": 2, "max_passage_tokens": 512
    }  # fmt: skip
    monkeypatch.setattr(episodes, "_Loop", None)  # a second training would fail
    assert train_episodes(lists, backbone, tmp_path, settings, **call) == first


@pytest.mark.parametrize(
    ("changes", "labels", "said"),
    [
        ({"prompts": 3}, [5, 5], "3 prompts a step"),
        ({"prompts": 8}, [5, 5], "at most 2 queries"),
        ({"mask_truncated": True}, [5, 5], "plain loss"),
        ({"lora_rank": 4}, [5, 5], "plain loss"),
        ({}, [5, 4], "one length"),
        ({}, [], "no passages"),
        ({"max_prompt": 10}, [5, 5], "limit 10"),
    ],
)
def test_what_it_cannot_follow_is_refused(
    changes: dict[str, Any], labels: list[int], said: str, backbone: Path, tmp_path: Path
) -> None:
    lists = [listed(i, [1] * n) for i, n in enumerate(labels)]
    with pytest.raises(InputError, match=said):
        train_episodes(lists, backbone, tmp_path, dataclasses.replace(SMALL, **changes), window=3, stride=2)


# --- the world and the study ------------------------------------------------------------------------------------------


def test_a_world_with_more_relevant_passages(tmp_path: Path) -> None:
    sizes = {"train": 40, "validation": 0, "test": 4, "pool": 25}
    folder = build(tmp_path / "a", seed=3, relevant=[4, 8], **sizes)
    counts = {sum(grades.values()) for grades in read_collection(folder, "train").qrels.values()}
    assert counts == {4, 5, 6, 7, 8}
    assert json.loads((folder / "SOURCE.json").read_text())["relevant"] == [4, 8]
    assert "relevant" not in json.loads((build(tmp_path / "b", seed=3, **sizes) / "SOURCE.json").read_text())
    for wrong in ([0, 3], [5, 4], [4, 13], [4]):
        with pytest.raises(InputError, match="fewest, most"):
            build(tmp_path / "c", seed=3, relevant=wrong, **sizes)


@pytest.fixture(scope="module")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    plain = {"micro_batch": 4, "dtype": "fp32"}
    setting = study_setting("smoke", train=60, test=4, steps=1).changed("02_sft", **plain, epochs=0.1)
    short = {"prompts": 4, "rollouts": 2, "updates": 1, "max_completion": 24}
    setting = setting.changed("03_rl", **plain, **short).changed("04_evaluation", max_new_tokens=24)
    return Study(tmp_path_factory.mktemp("study"), setting, say=lambda text: None)


def test_the_study_makes_each_row_once(small_study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = small_study.run([3])
    assert {row.arm for row in rows} >= {Arm.SFT, Arm.WINDOW, Arm.EPISODE}
    assert all(len(row.ndcg) == len(row.left_behind) == 4 for row in rows)
    assert [row.steps for row in rows[:3]] == [0, 1, 1] and rows[0].cpu_seconds == 0.0 < rows[1].cpu_seconds
    lists = small_study.lists(3)
    assert all(len(example.passages) == 25 and 4 <= sum(example.relevance) <= 8 for example in lists)
    best, lost = small_study.bounds(3)
    assert 0.5 < best <= 1.0 and 0.0 < lost < 0.5
    assert all(sum(row.ndcg.values()) / 4 <= best + 1e-4 for row in rows)
    with small_study.path.open("r+b") as file:
        file.truncate(small_study.path.stat().st_size - 20)  # killed while the last row was written
    monkeypatch.setattr(Table, "_make", lambda *args: pytest.fail("a row of the ablations was made"))
    again = small_study.run([3])
    assert [(row.arm, row.ndcg) for row in again] == [(row.arm, row.ndcg) for row in rows]


def test_differences_are_paired_by_seed() -> None:
    def row(arm: Arm, seed: int, value: float) -> Row:
        return Row(seed, arm, {"a": value, "b": value + 0.2}, {"a": 0.5, "b": 0.1}, 1.0, 5, 9.0, "s")

    rows = [row(Arm.WINDOW, seed, 0.1 * seed) for seed in (1, 2, 3)]
    rows += [row(Arm.EPISODE, seed, 0.1 * seed + gain) for seed, gain in ((1, 0.01), (2, 0.03), (3, 0.02))]
    table = differences(rows)
    half = stats.t.ppf(0.975, 2) * 0.01 / np.sqrt(3)
    found = table.loc[Arm.EPISODE, ["difference", "low", "high"]]
    assert list(found) == pytest.approx([0.02, 0.02 - half, 0.02 + half])
    assert table.loc[Arm.WINDOW, "ndcg"] == pytest.approx(0.3)
    assert differences(rows, "left_behind")["left_behind"].tolist() == pytest.approx([0.3, 0.3])


def test_a_t_interval_is_scipys() -> None:
    found, values = t_interval([0.1, 0.4, 0.3, 0.0], level=0.9), np.array([0.1, 0.4, 0.3, 0.0])
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, expected.low, expected.high))
    assert t_interval([0.1, 0.1]).low == t_interval([0.1, 0.1]).high == pytest.approx(0.1)
    with pytest.raises(InputError, match="two values"):
        t_interval([0.1])


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study.main(["--profile", "nothing", "--output", str(tmp_path)]) == 2
    assert "nothing" in capsys.readouterr().err
