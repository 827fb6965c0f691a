"""Sentences of the notebooks that depend on a run: computed from its results, so that none contradicts its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rrlib.evaluation.paired import in_words, paired_rows
from rrlib.lesson.explain import citations
from rrlib.responses import parse_lenient
from rrlib.reward import VIEWS, RewardRecord
from rrlib.types import RankingExample

if TYPE_CHECKING:
    import pandas as pd

_NAMES = {"ndcg": "NDCG", "recall": "Recall", "rbo": "RBO"}


def reward_words(scored: Sequence[RewardRecord], weights: Mapping[str, float]) -> str:
    """What the gold list earns of the most that could be earned, and the same list backwards. scored: those two."""
    gold, backwards = scored[0], scored[1]
    most = sum(weights.values())
    why = "all there is" if gold.total >= most - 1e-9 else f"of {most:.3f} at most: {_less_than_most(gold, backwards)}"
    return f"The gold list earns {gold.total:.3f}, {why}; backwards it earns {backwards.total:.3f}."


def _less_than_most(gold: RewardRecord, backwards: RewardRecord) -> str:
    """Why a gold list earns less than the most: what its views say."""
    if not (gold.ndcg or backwards.ndcg):
        return "no passage that counts is relevant"
    if (gold.ndcg or 0.0) < 1 - 1e-9:
        return "its own labels disagree with it"
    if (gold.recall or 0.0) < 1 - 1e-9:
        return "more passages are relevant than the cut-off counts"
    return "its likeness to itself (RBO) counts for less than 1"


def climb_words(table: pd.DataFrame) -> str:
    """Which view climbed most, and of which that can be told. table: of rrlib.lesson.tables.climb_table."""
    gaps = {
        view: table.loc[view, "last steps"] - table.loc[view, "first steps"] for view in VIEWS if view in table.index
    }
    if not gaps:
        return "No rollout was valid, so no view has a mean."
    most = max(gaps, key=lambda view: gaps[view])
    rise = f"The view with the largest rise is {_NAMES[most]} ({gaps[most]:+.3f})" if gaps[most] > 0 else "No view rose"
    certain = [_NAMES[view] for view in gaps if table.loc[view, "it"] == "climbed"]
    told = f"a climb can be told of {', '.join(certain)}" if certain else "of no view can a climb be told from chance"
    return f"{rise}; {told}."


def by_view_words(by_view: pd.DataFrame) -> str:
    """Which view speaks for itself, in how many groups. by_view: of rrlib.lesson.groups.advantage_by_view."""
    alone = {view: int(by_view.loc[view, "groups"]) for view in VIEWS if view in by_view.index}
    groups = int(by_view["groups"].sum())
    form = float(by_view["share of |advantage|"]["form"]) if "form" in by_view.index else 0.0
    formal = ""
    if form > 0.005:  # neither 0% nor nan, which flat groups have
        learned = ": so far it is form that is learned" if form >= 0.5 else ""
        formal = f" Broken form has {form:.0%} of all |advantage|{learned}."
    if not sum(alone.values()):
        return f"In none of the {groups} groups do the rewards differ by one view alone.{formal}"
    most = max(alone, key=lambda view: alone[view])
    share = float(by_view.loc[most, "their share of |advantage|"])
    first = f"In {sum(alone.values())} of {groups} groups the rewards differ by one view alone"
    named = f"{alone[most]} of them by {_NAMES[most]}"
    return f"{first}, in {named}: these {alone[most]} have {share:.0%} of all |advantage|.{formal}"


def loss_words(log: Sequence[Mapping[str, Any]], parts: int = 10) -> str:
    """The mean loss in the first, the second and the last part of the updates: whether the fall comes early.

    log: rows of a training, those with a loss count. parts: into how many the updates are cut.
    """
    losses = [float(row["loss"]) for row in log if "loss" in row]
    size = max(1, len(losses) // parts)
    first, second, last = (
        f"{sum(part) / len(part):.3f}" if part else "none"
        for part in (losses[:size], losses[size : 2 * size], losses[-size:])
    )
    return f"Mean loss: {first} in the first {size} updates, {second} in the next {size}, {last} in the last."


def form_words(table: pd.DataFrame) -> str:
    """What the tag alone adds to NDCG, and what SFT adds to that. table: three rows, before, tag added, after."""
    before, tagged, after = (float(value) for value in table["NDCG"])
    return (
        f"Valid answers: {table['valid'].iloc[0]:.0%} before, {table['valid'].iloc[2]:.0%} after. NDCG: the tag alone "
        f"adds {tagged - before:+.3f}, and what SFT adds to that is {after - tagged:+.3f}."
    )


def first_broken(frame: pd.DataFrame) -> int:
    """The row of the first answer that is not valid, else the first row. frame: of rrlib.evaluation.audition."""
    broken = [row for row, level in enumerate(frame["level"]) if level != "valid"]
    return broken[0] if broken else 0


def gain_words(before: pd.DataFrame, after: pd.DataFrame, seed: int = 0) -> str:
    """The difference in NDCG of two auditions of the same queries, paired, with its interval and what it says."""
    values = {"before": {"validation": before["ndcg"].to_numpy()}, "after": {"validation": after["ndcg"].to_numpy()}}
    row = paired_rows(values, "before", seed=seed)[1]
    low, high = row["difference_low"], row["difference_high"]
    says = "they got better" if low > 0 else "they got worse" if high < 0 else "no change can be told from chance"
    return f"Greedy answers, NDCG after less before: {in_words(row)} over {row['n']} queries: {says}."


def changed_most(before: pd.DataFrame, after: pd.DataFrame) -> tuple[int, str]:
    """The row of two auditions whose answer changed most, and a sentence on how it was chosen.

    The row with the largest difference in NDCG, then one with another text, then the first.
    """
    gaps = (after["ndcg"] - before["ndcg"]).round(9)
    other = before["text"] != after["text"]
    row = max(range(len(gaps)), key=lambda i: (abs(float(gaps.iloc[i])), bool(other.iloc[i]), -i))
    counts = f"{int(other.sum())} of {len(other)} answers differ from before, {int((gaps > 0).sum())} rank "
    counts += f"better, {int((gaps < 0).sum())} worse"
    shown = (
        "the one whose NDCG changed most" if gaps.iloc[row] else "one with other words" if other.iloc[row] else "one"
    )
    return (
        row,
        f"{counts}. Shown is {shown}: {before['qid'].iloc[row]}, NDCG {before['ndcg'].iloc[row]:.3f} before "
        + (f"and {after['ndcg'].iloc[row]:.3f} after."),
    )


def difference_words(answers: Sequence[str], size: int) -> str:
    """In what answers to one window differ: what stands before the first passage, the rest of the reasoning, the list.

    size: passages of the window.
    """
    openings, verdicts, lists = set(), set(), set()
    for text in answers:
        reasoning = text.split("</think>")[0]
        cited = citations(reasoning, size)
        at = cited[0].start if cited else len(reasoning)
        openings.add(reasoning[:at].strip())
        verdicts.add(reasoning[at:].strip())
        lists.add(parse_lenient(text, size).order)
    return (
        f"{len(answers)} answers have {len(openings)} different beginnings (before a passage is named), "
        f"{len(verdicts)} different runs of verdicts, and {len(lists)} different lists."
    )


def cut_words(result: pd.DataFrame) -> str:
    """Which row of the ablations costs most, and which cannot be told from none. result: of studies.report.table."""
    import pandas as pd

    cuts = result.drop(index="first stage", errors="ignore").dropna(subset=["difference"])
    if cuts.empty:
        return "No row is compared with the full recipe."
    unclear = [str(name) for name, row in cuts.iterrows() if row["low"] <= 0 <= row["high"]]
    worst = cuts["difference"].idxmin()
    told = (
        f"cannot be told from none: {', '.join(unclear)}" if unclear else "every row can be told from the full recipe"
    )
    said = f"The cut that costs most is {worst} ({cuts.loc[worst, 'difference']:+.3f}); {told}."
    chance = cuts.get("p (seeds)", pd.Series(dtype=float))
    seeds = [str(name) for name in chance[chance >= 0.05].index if str(name) not in unclear]
    return said + (
        f" Nor can the next training's sign be told (p over seeds at 0.05 or more): {', '.join(seeds)}."
        if seeds
        else ""
    )


def seed_words(result: pd.DataFrame, recipe: str) -> str:
    """How far the trainings of one recipe lie apart. result: of studies.report.table, `seeds` a text of means."""
    if recipe not in result.index:
        return f"The table has no row {recipe}."
    means = [float(word) for word in str(result.loc[recipe, "seeds"]).split()]
    return f"The {len(means)} trainings of {recipe} lie up to {max(means) - min(means):.3f} apart."


def ratio_words(costs: pd.DataFrame, system: str, other: str) -> str:
    """How many times what another system takes. costs: a row a system, a column a cost; costs of 0 are left out."""
    parts = [
        f"{costs.loc[system, name] / costs.loc[other, name]:.2f} times the {name.replace('_', ' ')}"
        for name in costs.columns
        if costs.loc[other, name] > 0
    ]
    return f"{system} takes, against {other}: {', '.join(parts)}."


def knee_words(points: Sequence[Mapping[str, Any]], level: float, close: float = 0.01) -> str:
    """The smallest budget whose mean is within `close` of no limit. points: budget and mean; level: without a limit."""
    curve = ", ".join(
        f"{point['mean']:.3f} at {point['budget']}" for point in sorted(points, key=lambda p: p["budget"])
    )
    enough = [int(point["budget"]) for point in points if point["mean"] >= level - close]
    knee = f"the smallest that costs less than {close:g} is {min(enough)}" if enough else f"all cost {close:g} or more"
    return f"Without a limit {level:.3f}; by budget of tokens {curve}: {knee}."


def agreement_words(example: RankingExample | None) -> str:
    """How many of the selected passages the teacher's own list puts first."""
    if example is None:
        return "No example came of this query, so there is no list to compare."
    many = sum(label > 0 for label in example.relevance)
    first = sum(example.relevance[item] > 0 for item in example.gold[:many])
    return f"Passages selected: {many}; of these in the first {many} places of the list: {first}."


def consistency_words(values: Sequence[float], alpha: float) -> str:
    """How consistent a teacher was: the share of lists at 1, and below alpha. values: NDCG at a cut-off, so that of
    more relevant passages than it counts the others may stand anywhere."""
    if not values:
        return "No list was judged."
    top, below = (sum(test) / len(values) for test in ([v >= 1 - 1e-9 for v in values], [v < alpha for v in values]))
    return (
        f"{top:.0%} of {len(values)} lists have every relevant passage on top (as far as the cut-off counts), "
        f"{below:.0%} lie below alpha."
    )


def alpha_words(table: pd.DataFrame) -> str:
    """From the lowest alpha to the highest: what becomes of precision and recall. table: of story.alpha_table."""
    if not len(table):
        return "No labels to judge an alpha by."
    low, high = table.iloc[0], table.iloc[-1]
    return (
        f"From alpha {table.index[0]:g} to {table.index[-1]:g}, precision goes from {low['precision']:.3f} to "
        f"{high['precision']:.3f} and recall from {low['recall']:.3f} to {high['recall']:.3f}."
    )


def belief_words(table: pd.DataFrame) -> str:
    """What the filter does to lists of a wrong belief. table: of story.wrong_beliefs."""
    if "wrong belief" not in table.index or "share after" not in table:
        return "This teacher does not say what it believed, so nothing can be counted."
    row, lists = table.loc["wrong belief"], table.loc["all lists"]
    wrong, passing = int(row["before"]), int(row["after"])
    return (
        f"{passing} of {wrong} lists of a wrong belief pass the filter, and {int(lists['after']) - passing} of "
        f"{int(lists['before']) - wrong} others: wrong ones are "
        f"{row['share before']:.1%} before and {row['share after']:.1%} after."
    )
