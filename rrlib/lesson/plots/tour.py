"""The figures of the tour and of the widgets: each shows one idea, from the records of rrlib.lesson.explain.

As in rrlib.lesson.plots.basics: a colour-blind-safe palette that no figure depends on. A relevant passage is a dark
cell with a star, so that it is found in grey as well; every figure has a white ground of its own, so that it
reads in a dark theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Rectangle

from rrlib.errors import InputError
from rrlib.evaluation.metrics import per_query as scores
from rrlib.formats import ranking_to_run
from rrlib.lesson.explain import Frame, Outlook, advantages, citations, group_pull
from rrlib.lesson.plots.basics import _DASHES, _MARKERS, PALETTE, _canvas
from rrlib.responses import parse_lenient, parse_strict
from rrlib.reward import VIEWS, MultiViewReward

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rrlib.types import Qrels

DARK, LIGHT, EDGE = PALETTE[0], "#f2f2f2", "#555555"
NAMES = {"ndcg": "NDCG", "recall": "Recall", "rbo": "RBO"}
_HATCH = ("", "//", "..")


def _strip(axis: Axes, labels: Sequence[str], marked: Sequence[bool], y: float = 0.0, x: float = 0.0) -> None:
    """A row of cells: dark with a star where marked."""
    for i, (label, dark) in enumerate(zip(labels, marked, strict=True)):
        axis.add_patch(
            Rectangle((x + i, y), 0.92, 0.8, facecolor=DARK if dark else LIGHT, edgecolor=EDGE, linewidth=0.8)
        )
        text = (f"{label}\n★" if len(labels) > 12 else f"{label}★") if dark else label
        colour, weight = ("white", "bold") if dark else ("black", "normal")
        axis.text(
            x + i + 0.46,
            y + 0.4,
            text,
            ha="center",
            va="center",
            fontsize=6.5 if dark and len(labels) > 12 else 8,
            color=colour,
            weight=weight,
        )


def _bare(axis: Axes) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _views_bar(axis: Axes, rows: Mapping[str, Sequence[float]], title: str) -> None:
    """One stacked bar a row: weighted NDCG, Recall and RBO, with the total behind it."""
    left = np.zeros(len(rows))
    for i, view in enumerate(VIEWS):
        values = np.array([row[i] for row in rows.values()])
        axis.barh(
            list(rows), values, left=left, color=PALETTE[(0, 1, 2)[i]], hatch=_HATCH[i], edgecolor="white",
            label=NAMES[view], height=0.55,
        )  # fmt: skip
        left += values
    for y, total in enumerate(left):
        axis.annotate(f"{total:.3f}", (total, y), xytext=(4, 0), textcoords="offset points", va="center")
    axis.invert_yaxis()
    axis.set(xlim=(min(0.0, float(left.min())), max(1.35, float(left.max()) * 1.15)), xlabel="reward", title=title)


def reward_window(
    seen: Outlook | Sequence[Outlook], weights: Mapping[str, float] | None = None, names: Sequence[str] = ()
) -> Figure:
    """One or several rankings of a window: where the relevant passages stand, what it earns, what the next window sees.

    seen: of rrlib.lesson.explain.outlook. weights: those it was scored with. names: a label for each, its places by
    default.
    """
    shown = [seen] if isinstance(seen, Outlook) else list(seen)
    weight_of = dict(weights or {"ndcg": 1.0, "recall": 0.2, "rbo": 0.1})
    rows = {
        (list(names) or [f"at {_and(o.places)}" for o in shown])[i]: [
            value * weight_of.get(view, 0.0) for value, view in zip(o.views, VIEWS, strict=True)
        ]
        for i, o in enumerate(shown)
    }
    figure, (axis, bars) = _canvas(9.6, 1.1 + 1.15 * len(shown), 2)
    axis.set_box_aspect(None)
    for i, (name, o) in enumerate(zip(rows, shown, strict=True)):
        y, k = -2.6 * i, o.size - o.stride
        _strip(axis, [str(p) for p in range(1, o.size + 1)], [p in o.places for p in range(1, o.size + 1)], y)
        axis.plot([k - 0.04, k - 0.04], [y - 0.25, y + 1.05], color="black", linewidth=2, linestyle="--")
        axis.text(0, y + 1.1, f"{name}: {len(o.carried)} of {len(o.places)} carried into the next window", fontsize=9)
        axis.text(
            0, y - 0.75, f"after the next window at {_and(o.after)}: NDCG@10 {o.ndcg_after:.3f}", fontsize=9,
            style="italic",
        )  # fmt: skip
    axis.set(xlim=(-0.3, shown[0].size + 0.3), ylim=(-2.6 * len(shown) + 1.5, 2.1))
    axis.set_xlabel("place in this window; left of the dashed line: carried on")
    _bare(axis)
    _views_bar(bars, rows, "What the reward sees")
    figure.legend(frameon=False, ncols=3, loc="outside lower right")
    return figure


def counted(n: int, thing: str) -> str:
    """A number and what it counts: `1 call`, `5 calls`."""
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def _and(places: Sequence[int]) -> str:
    words = [str(p) for p in places]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def recall_weight(seen: Sequence[Outlook], flip: float, top: float = 1.0, names: Sequence[str] = ()) -> Figure:
    """Reward without RBO of windows against the weight of Recall, and the weight at which the first two flip."""
    figure, (axis,) = _canvas(6.4, 3.4)
    x = np.array([0.0, top])
    for i, o in enumerate(seen):
        label = (list(names) or [f"relevant at {_and(s.places)}" for s in seen])[i]
        axis.plot(x, o.views[0] + x * o.views[1], color=PALETTE[i], linestyle=_DASHES[i % 4], linewidth=2, label=label)
    axis.axvline(0.2, color=EDGE, linewidth=1, linestyle=":")
    axis.axvline(flip, color="black", linewidth=1.5, linestyle="--")
    low = axis.get_ylim()[0]
    axis.annotate("paper", (0.2, low), xytext=(4, 6), textcoords="offset points", color=EDGE)
    axis.annotate(f"flips at {flip:.3f}", (flip, low), xytext=(4, 6), textcoords="offset points")
    axis.set(xlabel="weight of Recall", ylabel="NDCG + weight x Recall", xlim=(0, top))
    axis.legend(frameon=False, loc="upper left")
    return figure


def window_film(
    orders: Sequence[Sequence[str]], spans: Sequence[tuple[int, int]], relevant: Sequence[str], limit: int = 4
) -> Figure:
    """How a sliding window carries passages up: a column a window, a line a relevant passage (at most `limit` named).

    orders: the list before the first window and after each (document ids); spans: (start, end) of each window, 0-based.
    """
    if len(orders) != len(spans) + 1:
        raise InputError(f"{len(orders)} orders for {len(spans)} windows", remedy="give the result of explain.film")
    figure, (axis,) = _canvas(6.4, 4.4)
    n = len(orders[0])
    for step, (start, end) in enumerate(spans, 1):
        box = (step - 0.3, start + 0.5)
        axis.add_patch(Rectangle(box, 0.6, end - start, facecolor="#dddddd", edgecolor=EDGE, linewidth=1, zorder=1))
    steps = range(len(orders))
    shown = [docid for docid in orders[-1] if docid in set(relevant)]
    for i, docid in enumerate(shown):
        places = [list(order).index(docid) + 1 for order in orders]
        label = f"relevant: {places[0]} to {places[-1]}" if i < limit else None
        axis.plot(
            steps, places, color=PALETTE[(0, 1, 2, 4)[i % 4]], linestyle=_DASHES[i % 4], marker=_MARKERS[i % 4],
            linewidth=2, markersize=7, label=label, zorder=3,
        )  # fmt: skip
    axis.set_xticks(list(steps), ["first\nstage", *[f"{s + 1}-{e}" for s, e in spans]])
    axis.set(ylim=(n + 0.9, 0.1), xlim=(-0.4, len(spans) + 0.4), ylabel="place in the list (1 = best)")
    axis.set_xlabel("window (grey: what the model sees), first to last")
    if shown:
        figure.legend(frameon=False, ncols=2, loc="outside lower center")
    return figure


def player(frames: Mapping[str, Sequence[Frame]], step: int, relevance: Sequence[int]) -> Figure:
    """One step of several strategies side by side: the list, the windows just asked, calls and depth so far.

    frames: of rrlib.lesson.explain.play_all. A strategy that is done stays at its last frame. relevance: label of each
    candidate as first given.
    """
    if not frames or step < 0:
        raise InputError(f"step {step} of {len(frames)} strategies", remedy="give a strategy and a step of 0 or more")
    n = len(relevance)
    figure, axes = _canvas(max(5.0, 2.1 * len(frames)), 0.8 + 0.155 * n, len(frames))
    for axis, (name, played) in zip(axes, frames.items(), strict=True):
        frame = played[min(step, len(played) - 1)]
        asked = {p: i for i, w in enumerate(frame.windows) for p in w.positions} if step < len(played) else {}
        for place, item in enumerate(frame.order):
            dark = relevance[item] > 0
            cell = Rectangle((0.35, place), 1.0, 0.86, facecolor=DARK if dark else LIGHT, edgecolor=EDGE, linewidth=0.6)
            axis.add_patch(cell)
            axis.text(
                0.85, place + 0.45, f"{item + 1}★" if dark else f"{item + 1}", ha="center", va="center", fontsize=7,
                color="white" if dark else "black", weight="bold" if dark else "normal",
            )  # fmt: skip
            if place in asked:
                side = Rectangle((0.12, place), 0.14, 0.95, facecolor="black" if asked[place] % 2 == 0 else "#888888")
                axis.add_patch(side)
        done = " (done)" if step >= len(played) - 1 else ""
        axis.set_title(f"{name}\n{counted(frame.calls, 'call')}, depth {frame.depth}{done}", fontsize=9)
        axis.set(xlim=(0, 1.5), ylim=(n, -0.1))
        _bare(axis)
        axis.set_xlabel("bar: being asked", fontsize=8)
    axes[0].set_ylabel("best at the top", fontsize=8)
    return figure


def response_reading(
    text: str, relevance: Sequence[int], gold: Sequence[int], reward: MultiViewReward | None = None
) -> Figure:
    """One response: how inference reads it (a ranking, always), how training reads it (its level), what it earns."""
    rule = reward or MultiViewReward()
    n = len(relevance)
    style = "reasonrank" if rule.think else "reasonrank-qwen3"
    read, strict, record = (
        parse_lenient(text, n, style),
        parse_strict(text, n, rule.think),
        rule.score(text, relevance, gold),
    )
    figure, (axis, bars) = _canvas(9.6, 2.3, 2)
    _strip(axis, [str(i + 1) for i in read.order], [relevance[i] > 0 for i in read.order])
    repairs = f" ({', '.join(read.repairs)})" if read.repairs else ""
    axis.set_title(f"Inference: {read.verdict}{repairs}", loc="left", fontsize=10)
    axis.set(xlim=(-0.3, n + 0.3), ylim=(-0.6, 1.4), xlabel="the ranking it is read as, best first; ★ = relevant")
    _bare(axis)
    why = f": {strict.why}" if strict.why else ""
    if record.level == "valid":
        views = [rule.weights.get(v, 0.0) * float(getattr(record, v)) for v in VIEWS]
        _views_bar(bars, {"R": views}, f"Training: valid, R = {record.total:.3f}")
        figure.legend(frameon=False, ncols=3, loc="outside lower right")
    else:
        bars.barh(["R"], [record.total], color=PALETTE[1], hatch="//", edgecolor="black", height=0.55)
        bars.set(xlim=(-1.15, 1.35), xlabel="reward", title=f"Training: {strict.level}{why}, R = {record.total:g}")
        bars.axvline(0, color="black", linewidth=1)
    return figure


def citation_map(reasoning: str, relevance: Sequence[int], upto: int | None = None) -> Figure:
    """Where a chain of thought cites which passage: x the place in it, y the passage; stars are relevant.

    upto: only the first so many citations are drawn (all by default). Passages that are never cited are named so.
    """
    size = len(relevance)
    cited = citations(reasoning, size)
    shown = cited if upto is None else cited[: max(0, upto)]
    figure, (axis,) = _canvas(6.4, 1.2 + 0.2 * size)
    length = max(1, len(reasoning))
    for relevant, marker, colour, label in ((1, "*", DARK, "relevant"), (0, "o", "#999999", "not relevant")):
        dots = [c for c in shown if int(relevance[c.n - 1] > 0) == relevant]
        axis.scatter(
            [100 * c.start / length for c in dots], [c.n for c in dots], marker=marker, s=130 if relevant else 36,
            color=colour, edgecolor="black", linewidth=0.6, label=label, zorder=3,
        )  # fmt: skip
    numbers = {c.n for c in cited}
    ticks = [
        f"[{i}]" + ("★" if relevance[i - 1] > 0 else "") + ("" if i in numbers else " never")
        for i in range(1, size + 1)
    ]
    axis.set_yticks(range(1, size + 1), ticks)
    axis.set(xlim=(-2, 102), ylim=(size + 0.6, 0.4), xlabel="place in the reasoning (% of its characters)")
    axis.set_ylabel("passage")
    figure.legend(frameon=False, ncols=2, loc="outside lower center")
    return figure


def group_update(
    texts: Sequence[str],
    relevance: Sequence[int],
    gold: Sequence[int],
    reward: MultiViewReward | None = None,
    scale: str = "group",
    chosen: int | None = None,
) -> Figure:
    """One GRPO group: its rewards, its advantages, and which passages the update would move up.

    texts: the rollouts of one prompt. scale: of the advantages (lesson.explain.advantages). chosen: 0-based rollout to
    mark. Hatched bars are no rankings; dark bars on the right are relevant passages.
    """
    rule = reward or MultiViewReward()
    records = rule.score_group(texts, relevance, gold)
    rewards = [r.total for r in records]
    advantage = advantages(rewards, scale)  # (G,)
    figure, axes = _canvas(9.6, 3.1, 3)
    places = np.arange(1, len(texts) + 1)
    for axis, name, values in ((axes[0], "reward", np.array(rewards)), (axes[1], "advantage", advantage)):
        bars = axis.bar(places, values, color=[PALETTE[0] if v >= 0 else PALETTE[1] for v in values], edgecolor="black")
        for i, bar in enumerate(bars):
            bar.set(hatch="" if records[i].level == "valid" else "//", linewidth=2.4 if i == chosen else 0.6)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(xlabel="rollout", ylabel=name, xticks=places)
    axes[0].axhline(float(np.mean(rewards)), color="black", linestyle="--", linewidth=1)
    axes[0].annotate("mean", (1.01, np.mean(rewards)), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes[0].set_title("What each earned")
    axes[1].set_title("Above the mean, or below")
    size = np.arange(1, len(relevance) + 1)
    force = group_pull(texts, relevance, gold, rule, scale)
    bars = axes[2].bar(
        size, force, color=[DARK if r > 0 else LIGHT for r in relevance], edgecolor="black", linewidth=0.6
    )
    for bar, relevant in zip(bars, relevance, strict=True):
        bar.set_hatch("" if relevant > 0 else "..")
    axes[2].axhline(0, color="black", linewidth=0.8)
    ticks = [f"{i}★" if r > 0 else str(i) for i, r in zip(size, relevance, strict=True)]
    axes[2].set_xticks(size, ticks, fontsize=8 if len(size) <= 10 else 6)
    axes[2].set(xlabel="passage (★ = relevant)", ylabel="pull, in places", title="What the update favours")
    return figure


def per_query(
    before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]], qrels: Qrels, k: int = 10
) -> dict[str, tuple[float, float]]:
    """NDCG@k of both runs for every query of the qrels, in order of their difference (worst first). 0 where missing."""
    old, new = (next(iter(scores(qrels, ranking_to_run(run), [f"nDCG@{k}"]).values())) for run in (before, after))
    pairs = {qid: (old[qid], new[qid]) for qid in qrels}
    return dict(sorted(pairs.items(), key=lambda item: (item[1][1] - item[1][0], item[0])))


def run_compare(
    before: Mapping[str, Sequence[str]],
    after: Mapping[str, Sequence[str]],
    qrels: Qrels,
    qid: str | None = None,
    labels: tuple[str, str] = ("before", "after"),
    k: int = 10,
) -> Figure:
    """Two runs: the difference in NDCG@k of every query, and how the passages of one query moved (thick = relevant).

    before, after: qid -> document ids, best first. qid: the query on the right (default: the one that gained most).
    """
    pairs = per_query(before, after, qrels, k)
    chosen = qid if qid is not None else list(pairs)[-1]
    if chosen not in pairs:
        raise InputError(f"query {chosen!r} is not in the qrels", remedy=f"name one of {', '.join(list(pairs)[:5])}")
    figure, (axis, slope) = _canvas(9.6, 4.4, 2)
    gaps = [new - old for old, new in pairs.values()]
    bars = axis.bar(range(len(gaps)), gaps, color=[PALETTE[0] if g >= 0 else PALETTE[1] for g in gaps], width=0.9)
    place = list(pairs).index(chosen)
    for bar, gap in zip(bars, gaps, strict=True):
        bar.set_hatch("" if gap >= 0 else "//")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.annotate(
        "shown", (place, max(0.0, gaps[place])), xytext=(0, 14), textcoords="offset points", ha="center", va="bottom",
        arrowprops={"arrowstyle": "->"}, fontsize=9, annotation_clip=False,
    )  # fmt: skip
    rose, fell = sum(g > 1e-9 for g in gaps), sum(g < -1e-9 for g in gaps)
    axis.set(
        xlabel="queries, from most lost to most won",
        ylabel=f"difference in NDCG@{k}",
        title=f"{rose} better, {len(gaps) - rose - fell} equal, {fell} worse",
    )
    axis.margins(y=0.18)
    axis.set_xticks([])
    _slopes(slope, before.get(chosen, ()), after.get(chosen, ()), qrels[chosen], labels)
    old, new = pairs[chosen]
    slope.set_title(f"query {chosen}: {old:.3f} to {new:.3f}")
    return figure


def _slopes(
    axis: Axes, old: Sequence[str], new: Sequence[str], grades: Mapping[str, int], labels: tuple[str, str]
) -> None:
    to = {docid: rank for rank, docid in enumerate(new, 1)}
    for rank, docid in enumerate(old, 1):
        if docid not in to:
            continue
        relevant = grades.get(docid, 0) > 0
        style: dict[str, Any] = (
            {"color": DARK, "linewidth": 2.6, "marker": "*", "markersize": 11, "zorder": 3}
            if relevant
            else {"color": "#aaaaaa", "linewidth": 0.8, "marker": "", "zorder": 1}
        )
        axis.plot([0, 1], [rank, to[docid]], **style)
        if relevant:
            axis.annotate(str(rank), (0, rank), xytext=(-8, 0), textcoords="offset points", ha="right", va="center")
            axis.annotate(str(to[docid]), (1, to[docid]), xytext=(8, 0), textcoords="offset points", va="center")
    deepest = max(len(old), len(new), 1)
    axis.set_yticks([1, *range(5, deepest + 1, 5 if deepest <= 40 else 20)])
    axis.set_xticks([0, 1], labels)
    axis.set(ylim=(deepest + 0.8, 0.2), xlim=(-0.2, 1.2), ylabel="rank (thick, ★: relevant)")
    axis.grid(False)
