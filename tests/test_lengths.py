"""The study of list lengths: what its two arms read, what it ranks, and that it goes on."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from rrlib.metrics import ndcg
from rrlib.resources import resolve
from rrlib.studies import lengths
from rrlib.studies.lengths import LENGTHS, SIZES, Arm, Row, Study, study_setting, told


def tiny(folder: Path) -> Study:
    setting = study_setting("smoke", train=24, test=2).changed("02_sft", epochs=1.0)
    return Study(folder, setting, lambda _: None)


def test_the_arms_differ_in_the_length_of_their_lists_alone(tmp_path: Path) -> None:
    study = tiny(tmp_path)
    lists = study.lists(7)
    ten, mixed = lists[Arm.TEN], lists[Arm.MIXED]
    assert len(ten) == len(mixed) > 10
    assert {len(e.passages) for e in ten} == {10}
    assert {len(e.passages) for e in mixed} == set(SIZES[Arm.MIXED])
    by_query = {e.query.qid: e for e in ten}
    alpha = study.setting.config("01_synthesis").alpha
    for example in mixed:
        assert example.reasoning and sorted(example.gold) == list(range(len(example.passages)))
        assert float(ndcg(example.gold, example.relevance, 5)) >= alpha
        if example.query.qid in by_query:  # as retrieved: one list is the beginning of the other
            other = by_query[example.query.qid].passages
            shared = min(len(other), len(example.passages))
            assert example.passages[:shared] == other[:shared]
    assert study.lists(7) == lists


def test_every_list_is_ranked_once_and_a_killed_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, asked = tiny(tmp_path), []
    monkeypatch.setattr(Study, "_train", lambda self, seed, arm, lists: f"trained on {arm}")

    def rank(self: Study, seed: int, arm: Arm, checkpoint: str, strategy: str, n: int, examples: int) -> Row:
        if len(asked) == 7:
            raise KeyboardInterrupt
        asked.append((arm, strategy, n))
        assert checkpoint == f"trained on {arm}"
        return Row(
            seed, arm.value, strategy, n, {"a": 0.25, "b": 0.5 + n / 100}, 1.0, 10.0 * n, examples, self.table.key
        )

    monkeypatch.setattr(Study, "_rank", rank)
    with pytest.raises(KeyboardInterrupt):
        study.run([7])
    assert len(study.rows()) == 7
    asked.append(("killed", "", 0))
    rows = study.run([7])
    kinds = [(s, n) for s in lengths.STRATEGIES for n in LENGTHS if s != lengths.WIDE or n > 20]  # 20 are one window
    wanted = {(arm, strategy, n) for arm in Arm for strategy, n in kinds}
    assert len(asked) == len(wanted) + 1 and {(r.arm, r.strategy, r.n) for r in rows} == wanted
    tables = told(rows)
    assert (
        tables.count("+0.000 [+0.000, +0.000]") == len(LENGTHS) * 3 + 2 and "0.525" in tables
    )  # n = 30: mean of 0.25, 0.8


def test_a_row_is_made_and_a_full_list_is_one_question(tmp_path: Path) -> None:
    study = tiny(tmp_path)
    checkpoint = resolve(study.setting.config("02_sft").model)
    full, windows = (
        study._rank(7, Arm.TEN, checkpoint, strategy, 20, 3) for strategy in ("full_list", "sliding_window")
    )
    assert 0 < full.tokens < windows.tokens  # one list of 20 against three windows of 10
    assert len(full.ndcg) == 2 and all(0.0 <= v <= 1.0 and math.isfinite(v) for v in full.ndcg.values())
