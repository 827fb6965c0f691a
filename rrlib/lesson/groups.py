"""The groups of a GRPO training as its kept completions hold them: the liveliest one, and what they all are like.

Everything is read from the run's files, so the same run shows the same group.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rrlib.errors import InputError
from rrlib.lesson.explain import group_pull, liveliness
from rrlib.metrics import Floats
from rrlib.reward import PAPER_WEIGHTS, VIEWS, MultiViewReward, RewardRecord
from rrlib.training.objective import EPSILON
from rrlib.types import RankingExample

if TYPE_CHECKING:
    import pandas as pd

    from rrlib.training.data import Row


@dataclass(frozen=True)
class LivelyGroup:
    """The rollouts of one prompt: a row each, with step, prompt, completion, reward, level, ndcg, recall, rbo and
    advantage (views are nan where a rollout is no ranking); and a sentence that says how the group was chosen."""

    rollouts: pd.DataFrame
    chosen: str


def rollouts_with_views(completions: pd.DataFrame) -> pd.DataFrame:
    """The completions with a column for each view, and the reward's called `reward`.

    completions: of rrlib.training.completions.read_completions.
    """
    views = [[float("nan") if v is None else float(v) for v in json.loads(row)] for row in completions["views"]]
    named = {view: [row[place] for row in views] for place, view in enumerate(VIEWS)}
    return completions.rename(columns={"multi_view_reward": "reward"}).drop(columns="views").assign(**named)


def lively_group_of(completions: pd.DataFrame, size: int) -> LivelyGroup:
    """The liveliest group of a whole training, by rrlib.lesson.explain.liveliness: its valid rollouts differ in most
    views, then in most values, then by most; of equals the first drawn. size: rollouts of a group; smaller ones are
    left out.

    Raises InputError where no prompt has so many.
    """
    table = rollouts_with_views(completions)
    groups = [group for _, group in table.groupby(["step", "prompt"], sort=False) if len(group) >= size]
    if not groups:
        raise InputError(f"no prompt has {size} rollouts", remedy="give the number of rollouts of the training")
    lively = [liveliness(_records(group)) for group in groups]
    spread = [float(group["reward"].std(ddof=0)) for group in groups]
    best = max(range(len(groups)), key=lambda i: (lively[i], spread[i], -i))
    rows = groups[best].head(size).reset_index(drop=True)
    return LivelyGroup(rows, _chosen([views for views, _, _ in lively], spread, int(rows["step"].iloc[0])))


def _records(group: pd.DataFrame) -> list[RewardRecord]:
    return [
        RewardRecord(row.reward, row.ndcg, row.recall, row.rbo, row.level)
        for row in group[["reward", *VIEWS, "level"]].itertuples()
    ]


def _chosen(in_views: list[int], spread: Sequence[float], step: int) -> str:
    """How many groups differ in what, and which of them is shown."""
    groups, alike = len(in_views), sum(value <= 1e-6 for value in spread)
    form = sum(views == 0 and value > 1e-6 for views, value in zip(in_views, spread, strict=True))
    names = {3: "all three views", 2: "two views", 1: "one view"}
    counts = ", ".join(f"{in_views.count(n)} in {name}" for n, name in names.items())
    said = f"Of {groups} groups, the valid rollouts differ: {counts}. {form} differ in form alone, {alike} in nothing."
    if max(in_views) == 0:
        return f"{said} So no group shows two rankings; here is the one with the widest rewards, of update {step}."
    return f"{said} Here is one with the most to show: of update {step}."


def example_of(group: LivelyGroup, rows: Sequence[Row]) -> RankingExample:
    """The example behind a group: the one whose prompt it answers. rows: of rrlib.training.grpo.encode_for_grpo.

    Raises InputError where none has that prompt.
    """
    prompt = group.rollouts["prompt"].iloc[0]
    for row in rows:
        if row.prompt == prompt:
            return row.example
    raise InputError("the group's prompt is none of these examples", remedy="give the examples that were trained on")


def rollout_table(group: LivelyGroup) -> pd.DataFrame:
    """One row a rollout: level, the three views in a row, reward and advantage."""
    columns = ["level", *VIEWS, "reward", "advantage"]
    table = group.rollouts[columns].copy()
    table.index = range(1, len(table) + 1)
    table.index.name = "rollout"
    numbers = columns[1:]
    table[numbers] = table[numbers].astype(float).round(3)
    return table


def pull_words(
    texts: Sequence[str], relevance: Sequence[int], gold: Sequence[int], reward: MultiViewReward, scale: str = "group"
) -> str:
    """Which passages the update of one group moves up, relevant ones and others, and whether that sorts them: the
    panel on the right of rrlib.lesson.plots.tour.group_update in words. Arguments as there."""
    force = group_pull(texts, relevance, gold, reward, scale)
    if not (np.abs(force) > _ALIKE).any():
        return "This group moves no passage up: its answers earn the same, rank alike, or are no rankings."
    good = np.asarray(relevance) > 0
    up, names = force > _ALIKE, {True: "a relevant one", False: "one that is not relevant"}
    most = int(np.argmax(force))
    said = (
        f"Moved up: {int(up[good].sum())} of {int(good.sum())} relevant, {int(up[~good].sum())} of "
        f"{int((~good).sum())} others. Moved up most is [{most + 1}], {names[bool(good[most])]}."
    )
    if not good.any() or good.all():
        return said
    if force[good].min() > force[~good].max():
        return f"{said} So this group alone favours every relevant passage over the others."
    return f"{said} One of the others is favoured over a relevant one: one group of {len(texts)} answers is noisy."


def was_prompt(example: RankingExample, completions: pd.DataFrame, rows: Sequence[Row]) -> str:
    """A sentence: whether an example was among the prompts that the training drew groups for."""
    prompts = set(completions["prompt"])
    asked = any(row.prompt in prompts for row in rows if row.example.query.qid == example.query.qid)
    return (
        f"This query was {'' if asked else 'not '}among the {len(prompts)} prompts that the training drew groups for."
    )


# --- which view the advantage comes from ------------------------------------------------------------------------------
FORM, SEVERAL, NOTHING = "form", "several", "nothing"
_ALIKE = 1e-6
"""Rewards of a group that lie closer are one reward: float32 keeps no more."""


def advantage_by_view(
    completions: pd.DataFrame, weights: Mapping[str, float] = PAPER_WEIGHTS, *, divide: bool = True
) -> pd.DataFrame:
    """How much of all |advantage| of a training each view of the reward made, over the groups that were kept.

    Reward less the group's mean is the sum of the same difference of each weighted view, so its advantage splits into
    parts by view. An answer that is no ranking has no views: it counts as having the mean ones of the group's valid
    answers, and what is left of its reward is the part `form`. A part counts for where it points as the advantage does,
    and against where it opposes, so the shares add up to 1.

    completions: of rrlib.training.completions.read_completions, of a training on the total reward. weights: its own.
    divide: whether it divided by the group's deviation, as all but `dr_grpo` do.

    Returns a row for `form`, each view with a weight, `several` and `nothing`, with `share of |advantage|` (nan for the
    last two), `groups` (whose rewards differ by this alone, by several, or not at all), `their share of |advantage|`.
    Raises InputError where the weights do not give the rewards.
    """
    import pandas as pd

    table = rollouts_with_views(completions)
    used = [view for view in VIEWS if weights.get(view)]
    names = [FORM, *used]
    shares, groups = np.zeros(len(names)), dict.fromkeys((*names, SEVERAL, NOTHING), 0)
    inside: dict[str, float] = {}
    for _, group in table.groupby(["step", "prompt"], sort=False):
        parts_PG = _parts(group, {view: weights[view] for view in used})
        spread = float(np.std(parts_PG.sum(axis=0), ddof=1)) if len(group) > 1 else 0.0
        moved = [name for name, part in zip(names, parts_PG, strict=True) if np.abs(part).max() > _ALIKE]
        kind = NOTHING if spread <= _ALIKE else moved[0] if len(moved) == 1 else SEVERAL
        groups[kind] += 1
        if kind == NOTHING:
            continue
        parts_PG /= spread + EPSILON if divide else 1.0
        advantage_G = parts_PG.sum(axis=0)
        shares += (parts_PG * np.sign(advantage_G)).sum(axis=1)
        inside[kind] = inside.get(kind, 0.0) + float(np.abs(advantage_G).sum())
    total = float(shares.sum()) or float("nan")
    frame = pd.DataFrame({"share of |advantage|": pd.Series(shares / total, names), "groups": pd.Series(groups)})
    frame["their share of |advantage|"] = [inside.get(name, 0.0) / total for name in frame.index]
    return frame.loc[[*names, SEVERAL, NOTHING]].rename_axis("part of the reward")


def _parts(group: pd.DataFrame, weights: Mapping[str, float]) -> Floats:
    """Reward less the group's mean, by part: shape (1 + views, G), form first. Raises as `advantage_by_view`."""
    reward_G = group["reward"].to_numpy(float)
    views_VG = group[list(weights)].to_numpy(float).T * np.array(list(weights.values()))[:, None]  # weighted
    valid_G = ~np.isnan(views_VG).any(axis=0)
    if np.abs(views_VG[:, valid_G].sum(axis=0) - reward_G[valid_G]).max(initial=0.0) > 1e-4:
        raise InputError("these weights do not give the rewards", remedy="give reward_weights of the training")
    if valid_G.any():  # what is no ranking differs by its form alone
        views_VG[:, ~valid_G] = views_VG[:, valid_G].mean(axis=1, keepdims=True)
    else:
        views_VG[:] = 0.0
    form_G = np.where(valid_G, 0.0, reward_G - views_VG.sum(axis=0))
    parts_PG = np.concatenate([form_G[None], views_VG])
    centred: Floats = parts_PG - parts_PG.mean(axis=1, keepdims=True)
    return centred
