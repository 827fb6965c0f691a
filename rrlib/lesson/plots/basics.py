"""The figures of the notebooks: plain functions from numbers to a matplotlib Figure.

Colours are seaborn's colour-blind-safe palette, and no figure needs its colours: lines differ in dash and marker, bars
carry labels or hatches, so all of them read in grey. Each figure is closed for pyplot, so that a cell that ends with
it shows it once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from rrlib.errors import InputError
from rrlib.responses import Verdict
from rrlib.types import Qrels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE: list[Any] = list(sns.color_palette("colorblind"))
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D")


def _canvas(width: float = 6.4, height: float = 3.4, columns: int = 1) -> tuple[Figure, list[Axes]]:
    with sns.axes_style("whitegrid"), plt.rc_context({"figure.dpi": 110, "font.size": 10, "axes.titlesize": 11}):
        figure, axes = plt.subplots(1, columns, figsize=(width, height), layout="constrained", squeeze=False)
    sns.despine(figure)
    plt.close(figure)
    return figure, list(axes[0])


def _series(history: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one key of a trainer's log history; entries without it, or not finite, are left out."""
    points = [(float(h["step"]), float(h[key])) for h in history if key in h and "step" in h and np.isfinite(h[key])]
    return [step for step, _ in points], [value for _, value in points]


def _smooth(values: Sequence[float], width: int) -> np.ndarray:
    kernel = np.ones(width)
    weight = np.convolve(np.ones(len(values)), kernel, mode="same")
    return np.convolve(np.asarray(values, dtype=float), kernel, mode="same") / weight


def format_shares(history: Sequence[Mapping[str, Any]], title: str = "Format of the rollouts") -> Figure:
    """Stacked shares of valid, bad list and bad format rollouts against optimizer step."""
    names = {"share/valid": "valid", "share/bad_list": "bad list", "share/bad_format": "bad format"}
    rows = [h for h in history if all(key in h for key in names)]
    if not rows:
        raise InputError("no format shares in this log", remedy="give the log history of a GRPO run")
    figure, (axis,) = _canvas(6.4, 2.8)
    steps, bottom = np.array([float(h["step"]) for h in rows]), np.zeros(len(rows))
    width = 0.8 * (float(np.diff(steps).min()) if len(steps) > 1 else 1.0)
    for index, (key, name) in enumerate(names.items()):
        values = np.array([float(h[key]) for h in rows])
        axis.bar(
            steps,
            values,
            width,
            bottom=bottom,
            color=PALETTE[(0, 1, 7)[index]],
            hatch=("", "//", "xx")[index],
            label=name,
        )
        bottom += values
    axis.set(xlabel="optimizer step", ylabel="share of rollouts", ylim=(0, 1.0), title=title)
    figure.legend(frameon=False, ncols=3, loc="outside lower center")
    return figure


def consistency_histogram(values: Sequence[float], alpha: float, title: str = "Self-consistency filter") -> Figure:
    """Distribution of NDCG of the teacher's lists under their own pointwise labels, with the threshold alpha."""
    if not values:
        raise InputError("no lists to draw", remedy="run the synthesis first")
    figure, (axis,) = _canvas()
    edges = np.linspace(0.0, 1.0, 21)
    scores = np.asarray(values, dtype=float)
    dropped = scores < alpha
    axis.hist(scores[~dropped], bins=edges, color=PALETTE[0], label=f"kept: {int((~dropped).sum())}")
    axis.hist(scores[dropped], bins=edges, color=PALETTE[1], hatch="//", label=f"dropped: {int(dropped.sum())}")
    axis.axvline(alpha, color="black", linestyle="--", linewidth=1.5)
    top = axis.get_ylim()[1]
    axis.annotate(f"alpha = {alpha:g}", (alpha, top), xytext=(4, -4), textcoords="offset points", va="top")
    axis.set(xlabel="NDCG of the gold list under the pointwise labels", ylabel="lists", xlim=(0, 1), title=title)
    axis.legend(frameon=False, loc="upper left" if np.median(scores) > 0.5 else "upper right")
    return figure


def rollout_group(rewards: Sequence[float], advantages: Sequence[float], levels: Sequence[str] = ()) -> Figure:
    """One GRPO group: reward of each rollout beside its advantage (what the update will favour, and what it will not).

    All of length G. levels: "valid", "bad_list", "bad_format"; what is not valid is hatched.
    """
    figure, axes = _canvas(8.6, 2.9, 2)
    places = np.arange(1, len(rewards) + 1)
    hatches = ["" if level in ("", "valid") else "//" for level in (list(levels) or [""] * len(rewards))]
    shown = (("reward", np.asarray(rewards, dtype=float)), ("advantage", np.asarray(advantages, dtype=float)))
    for axis, (name, values) in zip(axes, shown, strict=True):
        colours = [PALETTE[0] if value >= 0 else PALETTE[1] for value in values]
        bars = axis.bar(places, values, color=colours, edgecolor="black", linewidth=0.6)
        for bar, hatch in zip(bars, hatches, strict=True):
            bar.set_hatch(hatch)
        mean = float(np.mean(values))
        axis.axhline(mean, color="black", linestyle="--", linewidth=1)
        axis.annotate("mean", (1.01, mean), xycoords=("axes fraction", "data"), va="center", fontsize=9)
        axis.set(xlabel="rollout", ylabel=name, xticks=places)
    axes[0].set_title("Rewards of one group")
    axes[1].set_title("Advantages: above the group's mean or below")
    return figure


def means_with_intervals(rows: Sequence[Mapping[str, Any]], metric: str, order: Sequence[str] = ()) -> Figure:
    """Mean of each system with its 95% interval. rows: results rows (system, metric, mean, low, high, n), fractions."""
    row_of = {str(row["system"]): row for row in rows if row["metric"] == metric}
    if not row_of:
        raise InputError(f"no row has the metric {metric!r}", remedy="name a metric of the table")
    names = [name for name in (order or row_of) if name in row_of]
    figure, (axis,) = _canvas(6.4, 0.55 * len(names) + 1.3)
    for place, name in enumerate(names):
        row = row_of[name]
        spread = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
        axis.errorbar(
            row["mean"], place, xerr=spread, color=PALETTE[0], marker="o", capsize=4, linestyle="none", linewidth=2
        )
        axis.annotate(
            f"{row['mean']:.3f}", (row["mean"], place), xytext=(0, 7), textcoords="offset points", ha="center"
        )
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.6)
    axis.set_xlim(
        max(0.0, min(r["low"] for r in row_of.values()) - 0.05),
        min(1.02, max(r["high"] for r in row_of.values()) + 0.05),
    )
    axis.set(xlabel=f"{metric}, mean over {row_of[names[0]]['n']} queries with 95% interval")
    return figure


def relevant_movement(
    before: Mapping[str, Sequence[str]],
    after: Mapping[str, Sequence[str]],
    qrels: Qrels,
    labels: tuple[str, str] = ("first stage", "reranked"),
) -> Figure:
    """Rank of every relevant passage before and after reranking: below the diagonal it rose. Crowded dots grow.

    before, after: qid -> document ids, best first. Passages that are in neither list are left out.
    """
    pairs: dict[tuple[int, int], int] = {}
    for qid, grades in qrels.items():
        old = {docid: rank for rank, docid in enumerate(before.get(qid, ()), 1)}
        new = {docid: rank for rank, docid in enumerate(after.get(qid, ()), 1)}
        for docid, grade in grades.items():
            if grade > 0 and docid in old and docid in new:
                pair = old[docid], new[docid]
                pairs[pair] = pairs.get(pair, 0) + 1
    if not pairs:
        raise InputError("no relevant passage is in both rankings", remedy="give rankings and qrels of one collection")
    figure, (axis,) = _canvas(4.8, 4.4)
    x, y, counts = (np.array(v) for v in zip(*((a, b, n) for (a, b), n in pairs.items()), strict=True))
    size = int(max(x.max(), y.max())) + 1
    colours = [PALETTE[0] if b < a else PALETTE[7] if b == a else PALETTE[1] for a, b in zip(x, y, strict=True)]
    axis.plot([0, size], [0, size], color="black", linewidth=1, linestyle="--")
    axis.scatter(x, y, s=18 + 14 * (counts - 1), c=colours, alpha=0.75, edgecolor="black", linewidth=0.4)
    rose, fell = int(counts[y < x].sum()), int(counts[y > x].sum())
    same = int(counts.sum()) - rose - fell
    axis.set(xlim=(0, size), ylim=(size, 0), xlabel=f"rank: {labels[0]}", ylabel=f"rank: {labels[1]}", aspect="equal")
    axis.set_title(f"Relevant passages: {rose} rose, {same} stayed, {fell} fell")
    axis.annotate("rose", (1.02, 0.97), xycoords="axes fraction", va="top", style="italic")
    axis.annotate("fell", (0.03, 0.03), xycoords="axes fraction", style="italic")
    return figure


def verdict_shares(shares: Mapping[str, Mapping[str, float]], title: str = "How the answers could be read") -> Figure:
    """One stacked bar a system: share of its responses by verdict (fractions that sum to 1)."""
    if not shares:
        raise InputError("no responses to draw", remedy="give shares of at least one system")
    places: dict[str, int] = {verdict: place for place, verdict in enumerate(Verdict)}
    names = list(dict.fromkeys(verdict for row in shares.values() for verdict in row))
    figure, (axis,) = _canvas(6.4, 0.5 * len(shares) + 1.3)
    left = np.zeros(len(shares))
    for verdict in names:
        place = places.get(verdict, len(places))
        values = np.array([row.get(verdict, 0.0) for row in shares.values()])
        hatch = ("", "//", "xx", "..", "\\\\", "oo", "++")[place]
        colour = PALETTE[(0, 2, 1, 7, 4, 3, 5)[place]]
        axis.barh(list(shares), values, left=left, color=colour, hatch=hatch, label=verdict, edgecolor="white")
        left += values
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="share of windows", title=title)
    figure.legend(frameon=False, ncols=min(6, len(names)), loc="outside lower center")
    return figure
