"""Sentences of the notebooks that depend on a run: computed from its results, so that none contradicts its numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rrlib.evaluation.paired import in_words, paired_rows
from rrlib.lesson.explain import citations
from rrlib.prompts import get_style
from rrlib.responses import Verdict, parse_lenient
from rrlib.reward import VIEWS, RewardRecord
from rrlib.types import Passage, Qrels, RankingExample

if TYPE_CHECKING:
    import pandas as pd

    from rrlib.studies.rows import Result

_WORDS = re.compile(r"[a-z]+")
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
        most_of_it = ": most of the advantage is about form" if form >= 0.5 else ""
        formal = f" Broken form has {form:.0%} of all |advantage|{most_of_it}."
    if not sum(alone.values()):
        return f"In none of the {groups} groups do the rewards differ by one view alone.{formal}"
    most = max(alone, key=lambda view: alone[view])
    share = float(by_view.loc[most, "their share of |advantage|"])
    first = f"In {sum(alone.values())} of {groups} groups the rewards differ by one view alone"
    named = f"{alone[most]} of them by {_NAMES[most]}"
    return f"{first}, in {named}: these {alone[most]} have {share:.0%} of all |advantage|.{formal}"


def scale_words(loss: str, normalize: str = "total") -> str:
    """Whether a training divides its advantages by the deviation of their group, and what follows. loss, normalize: of
    rrlib.training.config.GRPOSettings."""
    if normalize == "views":
        return "This run measures each view against its group, and their weighted sum against the whole batch."
    if loss != "dr_grpo":
        return "This run divides by the group's deviation, so each group is brought to the same spread."
    return (
        "This run does not divide by the group's deviation (loss dr_grpo): an advantage is the reward less the group's "
        "mean, and a group counts for as much as it spreads."
    )


def loss_words(log: Sequence[Mapping[str, Any]], parts: int = 10) -> str:
    """The mean loss in the first, the second and the last part of the updates: whether the fall comes early.

    log: rows of a training, those with a loss count. parts: into how many the updates are cut.
    """
    losses = [float(row["loss"]) for row in log if "loss" in row]
    if len(losses) < 2:
        return f"Loss of the only update: {losses[0]:.3f}." if losses else "No loss was logged."
    size = max(1, len(losses) // parts)
    first, second, last = (sum(part) / len(part) for part in (losses[:size], losses[size : 2 * size], losses[-size:]))
    return (
        f"Mean loss: {first:.3f} in the first {size} updates, {second:.3f} in the next {size}, {last:.3f} in the last."
    )


def loss_fell(log: Sequence[Mapping[str, Any]], parts: int = 10) -> bool | None:
    """Whether the mean loss of the last part of the updates is below that of the first; None with fewer updates than
    parts, where single batches are all there is. log, parts: as in `loss_words`."""
    losses = [float(row["loss"]) for row in log if "loss" in row]
    size = len(losses) // parts
    return sum(losses[-size:]) < sum(losses[:size]) if size else None


def teacher_words(rows: Sequence[Result]) -> str:
    """Whether the student beats its teacher, and by how much, by rows of the ablations (rrlib.studies.stored). Each
    difference is paired by query over the seeds that both rows have, with its 95% interval."""
    from rrlib.studies.report import table

    teachers = {"teacher, windows": "by windows", "teacher, full list": "on the full list at once"}
    names = ("full", "no RL", *teachers)
    kept = [row for row in rows if row.row in names]
    lacking = [name for name in names if name not in {row.row for row in kept}]
    if lacking:
        return f"Nothing can be said of student and teacher: no row {', '.join(lacking)} is stored."
    result = table(kept)
    means, n = result["nDCG@10"], int(result.loc["full", "n"])
    seeds, kinds = len({row.seed for row in kept if row.row == "full"}), ", ".join(sorted({r.data_kind for r in kept}))
    said = []
    for name, how in teachers.items():
        gap, low, high = (-float(result.loc[name, key]) for key in ("difference", "high", "low"))
        verdict = "better" if low > 0 else "worse" if high < 0 else "not to be told from it"
        said.append(f"against the teacher {how} {gap:+.3f} [{low:+.3f}, {high:+.3f}], {verdict}")
    return (
        f"Stored of the profile miniature ({kinds} data, simulated teacher, {seeds} seeds, n {n} whole lists), in "
        f"NDCG@10: the teacher by windows {means['teacher, windows']:.3f}, and on the full list at once "
        f"{means['teacher, full list']:.3f}; the student after SFT {means['no RL']:.3f}, and after SFT and GRPO "
        f"{means['full']:.3f}. The last of these is {'; '.join(said)}."
    )


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


def difference_words(answers: Sequence[str], size: int, style: str = "reasonrank") -> str:
    """In what answers to one window differ: what stands before the first passage, the rest of the reasoning, the list.

    size: passages of the window. style: of the prompt; of one without reasoning the lists alone are counted. Raises
    InputError for an unknown one.
    """
    openings, verdicts, lists = set(), set(), set()
    for text in answers:
        reasoning = text.split("</think>")[0]
        cited = citations(reasoning, size)
        at = cited[0].start if cited else len(reasoning)
        openings.add(reasoning[:at].strip())
        verdicts.add(reasoning[at:].strip())
        lists.add(parse_lenient(text, size, style).order)
    if not get_style(style).think:
        return f"{len(answers)} answers have {len(lists)} different lists."
    return (
        f"{len(answers)} answers have {len(openings)} different beginnings (before a passage is named), "
        f"{len(verdicts)} different runs of verdicts, and {len(lists)} different lists."
    )


NO_CUTS = ("backbone", "teacher, windows", "teacher, full list", "listwise, gold", "pointwise", "pointwise, gold")
"""Rows of the ablations that are no full recipe with one part taken out: untrained, teachers, and SFT alone."""


def cut_words(result: pd.DataFrame) -> str:
    """Which row of the ablations costs most, and which cannot be told from none. result: of studies.report.table. Rows
    whose partner is not the full recipe are left out."""
    import pandas as pd

    cuts = result.drop(index=["first stage", *NO_CUTS], errors="ignore").dropna(subset=["difference"])
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


def valid_words(shares: Mapping[str, Mapping[str, float]]) -> str:
    """Whose answers are valid rankings. shares: system -> verdict -> share (rrlib.lesson.tables.verdicts_of)."""
    if not shares:
        return "No system answered."
    valid, mended = (
        ", ".join(f"{name} {of.get(verdict, 0.0):.1%}" for name, of in shares.items())
        for verdict in (Verdict.OK, Verdict.REPAIRED)
    )
    return f"Valid rankings as they were written: {valid} of the windows. Rankings once they were mended: {mended}."


def rise_words(
    before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]], qrels: Qrels, k: int = 10
) -> str:
    """Of the queries that gain in NDCG@k: does one of their relevant candidates rise, or all? And of the one that gains
    most (as rrlib.lesson.plots.tour.run_compare shows it), how far. before, after: qid -> docids, best first."""
    from rrlib.lesson.plots.tour import per_query

    pairs = per_query(before, after, qrels, k)
    gained = [qid for qid, (old, new) in pairs.items() if new - old > 1e-9]
    if not gained:
        return f"No query gains in NDCG@{k}."
    rises = {}
    for qid in gained:
        places = {docid: place for place, docid in enumerate(after.get(qid, ()))}
        relevant = [(place, d) for place, d in enumerate(before.get(qid, ())) if qrels[qid].get(d, 0) > 0]
        rises[qid] = [place - places[docid] for place, docid in relevant if docid in places]
    risen = {qid: sum(rise > 0 for rise in moved) for qid, moved in rises.items()}
    alone = sum(count == 1 for count in risen.values())
    whole = sum(1 < risen[qid] == len(moved) for qid, moved in rises.items())
    part = sum(1 < risen[qid] < len(moved) for qid, moved in rises.items())
    most, (old, new) = gained[-1], pairs[gained[-1]]
    return (
        f"Of {len(gained)} queries that gain, one relevant passage alone rises in {alone}, all of two or more in "
        f"{whole}, two or more but not all in {part}. Most gains {most} (NDCG@{k} {old:.3f} to {new:.3f}): relevant "
        f"candidates {len(rises[most])}, of which {risen[most]} rise, the furthest by {max(0, *rises[most], 0)} places."
    )


def shared_words(query: str, passages: Sequence[Passage]) -> str:
    """Which words of the query each passage shares: what counts words is led by these. Words that BM25 passes over are
    left out."""
    from bm25s.stopwords import STOPWORDS_EN

    asked = set(_WORDS.findall(query.lower())) - set(STOPWORDS_EN)
    parts = []
    for place, passage in enumerate(passages, 1):
        both = sorted(asked & set(_WORDS.findall(passage.text.lower())))
        parts.append(f"{place}: {', '.join(both) or 'none'}")
    return f"Words of the query, in passage {'; '.join(parts)}."


def likeness_words(weight: float | None, now: float) -> str:
    """At which weight of RBO the teacher's list would earn more: thread.weight_of_likeness. now: as it is."""
    if weight is None:
        return "At no weight of RBO does the teacher's list earn more than this answer."
    if weight <= now:
        return f"RBO weighs {now:g}, and from {weight:.2f} on the teacher's list earns more: so it does here."
    return f"RBO weighs {now:g}; the teacher's list would earn more from {weight:.2f} on."


def router_words(info: Mapping[str, float], mean: float) -> str:
    """What a router did (rrlib.evaluation.Routed), and whether it beats a random choice of as many. mean: of it."""
    routed, chance = float(info["routed"]), float(info["random_route"])
    verdict = "better than" if mean - chance > 5e-4 else "worse than" if chance - mean > 5e-4 else "no better than"
    every = "every query" if routed == 1 else "no query" if routed == 0 else f"{routed:.0%} of the queries"
    return (
        f"With the threshold that validation chose ({info['threshold']:g}) it thinks about {every}: {mean:.3f}, "
        f"{verdict} a random choice of as many ({chance:.3f})."
    )
