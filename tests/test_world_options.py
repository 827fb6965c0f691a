"""Options of the embedded world: one where Recall and NDCG disagree and the filter sees errors, one with hard pools."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrlib.engines.base import Decoding
from rrlib.errors import InputError
from rrlib.formats import read_collection, read_jsonl
from rrlib.metrics import Floats, _ndcg, _recall
from rrlib.miniature import SimulatedTeacher, build
from rrlib.studies.setting import Setting, setting_of
from rrlib.synthesis.assemble import Mix, assemble
from rrlib.synthesis.domains import recipe_for
from rrlib.synthesis.pipeline import synthesize
from rrlib.synthesis.prompts import rank_messages
from rrlib.synthesis.rank import read_ranking

QUERIES, TEACHERS = 40, 8


@dataclass
class Sampled:
    """Rankings of one window by several teachers. views: (rankings, NDCG and Recall). right: whether each believed the
    truth."""

    views: Floats
    right: list[bool]


def sampled(setting: Setting, folder: Path) -> list[Sampled]:
    """What teachers with the setting's errors make of a training window of each query: a stand-in for rollouts."""
    config, k = setting.config("01_synthesis"), setting.config("03_rl").reward_k
    sizes = {"train": QUERIES, "validation": 0, "test": 0, "pool": config.pool}
    build(folder, seed=5, **sizes, **config.corpus_options)
    train = read_collection(folder, "train")
    teachers = [SimulatedTeacher(folder, seed=seed, **config.teacher_options) for seed in range(TEACHERS)]
    out = []
    for candidates in train.candidates():
        qid = candidates.query.qid
        relevant = {docid for docid, grade in train.qrels[qid].items() if grade}
        window = assemble(candidates.passages, relevant, Mix(config.window), 1, qid)
        recipe = recipe_for(train.metadata[qid]["domain"])
        asked = rank_messages(recipe, candidates.query.text, window.passages)
        replies = [teacher.answer(asked, Decoding(4096)) for teacher in teachers]
        lists = [read_ranking(reply.text, config.window, reasoning=reply.reasoning).gold for reply in replies]
        orders = np.array([order for order in lists if order])
        labels = np.array(window.relevance, dtype=float)
        views = np.stack([_ndcg(orders, labels, k), _recall(orders, labels, k)], axis=1)
        right = [r.extra["belief"] == r.extra["truth"] for r, order in zip(replies, lists, strict=True) if order]
        out.append(Sampled(views, right))
    return out


def opposed(groups: list[Sampled]) -> float:
    """Share of the pairs of a window's rankings that differ in NDCG or Recall in which the two disagree."""
    against = differ = 0
    for group in groups:
        first, second = np.triu_indices(len(group.views), 1)
        gaps = (group.views[first] - group.views[second]).round(9)  # (pairs, 2)
        differ += int(gaps.any(axis=1).sum())
        against += int((gaps.prod(axis=1) < 0).sum())
    return against / differ


@pytest.fixture(scope="module")
def straddle(tmp_path_factory: pytest.TempPathFactory) -> list[Sampled]:
    return sampled(setting_of("straddle"), tmp_path_factory.mktemp("straddle") / "world")


def test_recall_and_ndcg_disagree_where_relevant_passages_straddle(straddle: list[Sampled], tmp_path: Path) -> None:
    usual = sampled(setting_of("miniature"), tmp_path / "world")
    share, before = opposed(straddle), opposed(usual)
    assert share >= 0.05 > 0.02 > before, (share, before)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_no_cut_of_three_or_less_can_make_them_disagree(k: int) -> None:
    """Two relevant passages at ranks 2 and 3 outdo one at rank 1; at 3 and 4 they do not."""
    tops = np.array(list(product((0.0, 1.0), repeat=k)))
    gains = tops @ (1 / np.log2(np.arange(2, k + 2)))
    opposed_pairs = (gains[:, None] > gains[None]) & (tops.sum(axis=1)[:, None] < tops.sum(axis=1)[None])
    assert opposed_pairs.any() == (k > 3)


def test_the_filter_sees_the_errors_of_this_teacher(straddle: list[Sampled]) -> None:
    """Consistency is NDCG at consistency_k of a list, by the labels."""
    config = setting_of("straddle").config("01_synthesis")
    assert config.consistency_k == setting_of("straddle").config("03_rl").reward_k
    values = {
        belief: np.concatenate([g.views[np.array(g.right) == belief, 0] for g in straddle]) for belief in (True, False)
    }
    assert values[True].mean() - values[False].mean() > 0.1
    dropped = {belief: float((v < config.alpha).mean()) for belief, v in values.items()}
    assert dropped[False] > 0.3 > 0.1 > dropped[True], dropped


def test_the_profile_carries_forward_what_the_reward_counts() -> None:
    setting = setting_of("straddle")
    synthesis, last = setting.config("01_synthesis"), setting.config("04_evaluation")
    assert synthesis.window - last.stride == setting.config("03_rl").reward_k == setting.config("02_sft").reward_k
    assert synthesis.corpus_options["relevant"][1] > synthesis.window // 2


# --- hard pools -------------------------------------------------------------------------------------------------------
def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_step_hard_runs_where_there_is_a_pool_for_it(tmp_path: Path) -> None:
    sizes = {"train": 8, "validation": 0, "test": 0}
    plain = build(tmp_path / "plain", seed=3, **sizes)
    folder = build(tmp_path / "hard", seed=3, **sizes, hard=10)
    before, after = files_of(plain), files_of(folder)
    assert {name for name in after if after[name] != before.get(name)} == {"SOURCE.json", "runs/train.hard.trec"}
    train = read_collection(folder, "train")
    assert train.hard is not None and {len(hits) for hits in train.hard.values()} == {10}
    teacher = SimulatedTeacher(folder, seed=3, refusal=0.0, cut_off=0.0, miss=0.0, extra=0.0)
    made = synthesize(train, teacher, tmp_path / "made", window=10, seed=3, k=5, alpha=0.0)
    asked, ranked = (records(tmp_path / "made" / f"{step}.jsonl") for step in ("hard", "rank"))
    teachers_own = [qid for qid, m in train.metadata.items() if recipe_for(m["domain"]).labels != "qrels"]
    assert {r["qid"] for r in asked} == set(teachers_own) and asked, "a domain with labels of people asks for none"
    roles = {r["qid"]: dict(zip(r["docids"], r["roles"], strict=True)) for r in ranked}
    for record in asked:
        named = [record["docids"][int(i) - 1] for i in re.findall(r"\[(\d+)\]", record["text"])]
        concept = train.metadata[record["qid"]]["concept"]
        assert named and all(teacher.concept_of(train.corpus[docid].text) != concept for docid in named)
        taken = [docid for docid, role in roles[record["qid"]].items() if role == "hard"]
        assert set(taken) & set(named), "traps stand in the window"
    assert len(records(made.examples)) == len(ranked) == 8


def records(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


def test_a_negative_pool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hard is -1"):
        build(tmp_path, seed=1, train=1, validation=0, test=0, hard=-1)
