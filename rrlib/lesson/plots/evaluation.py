"""Figures of the evaluation: per-query differences, length and quality, passages through the windows, ceiling and gap,
quality against budget. Style as in rrlib.lesson.plots.basics: colour-blind safe, and readable in grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rrlib.errors import InputError
from rrlib.lesson.plots.basics import _DASHES, _MARKERS, PALETTE, _canvas

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def sorted_differences(differences: Mapping[str, Sequence[float]], baseline: str, metric: str) -> Figure:
    """For each system its per-query differences from the baseline, sorted: how many queries gain, how many lose, how
    much. differences: system -> values, in any order."""
    if not differences or not all(len(values) for values in differences.values()):
        raise InputError("no differences to draw", remedy="give at least one system with values")
    figure, axes = _canvas(3.2 * len(differences) + 1.2, 3.0, len(differences))
    for axis, (name, values) in zip(axes, differences.items(), strict=True):
        ordered = np.sort(np.asarray(values, dtype=float))[::-1]
        places = np.arange(1, len(ordered) + 1)
        rose = ordered >= 0
        axis.bar(places[rose], ordered[rose], color=PALETTE[0], width=1.0)
        axis.bar(places[~rose], ordered[~rose], color=PALETTE[1], width=1.0, hatch="//")
        axis.axhline(
            float(ordered.mean()), color="black", linestyle="--", linewidth=1, label=f"mean {ordered.mean():+.3f}"
        )
        axis.axhline(0, color="black", linewidth=0.8)
        wins, losses = int((ordered > 1e-9).sum()), int((ordered < -1e-9).sum())
        axis.set(xlabel="queries, sorted", ylim=(-1.05, 1.05))
        axis.set_title(f"{name}: {wins} gain, {losses} lose")
        axis.legend(frameon=False, loc="upper right")
    axes[0].set_ylabel(f"{metric} less {baseline}")
    return figure


def length_and_quality(table: pd.DataFrame, metric: str, bins: int = 5) -> Figure:
    """Value against tokens written: each query in light, and the mean of equally full bins with its standard error.

    table: columns system, tokens, value (rrlib.lesson.tables.length_table).
    """
    if table.empty:
        raise InputError("no queries to draw", remedy="give a system that asked a model")
    figure, (axis,) = _canvas(6.4, 3.6)
    for number, (name, part) in enumerate(table.groupby("system", sort=False)):
        tokens, values = part["tokens"].to_numpy(dtype=float), part["value"].to_numpy(dtype=float)
        axis.scatter(tokens, values, s=10, alpha=0.2, color=PALETTE[number])
        groups = [g for g in np.array_split(np.argsort(tokens, kind="stable"), min(bins, len(tokens))) if len(g)]
        x = [tokens[g].mean() for g in groups]
        y = [values[g].mean() for g in groups]
        error = [values[g].std() / np.sqrt(len(g)) for g in groups]
        style = {"marker": _MARKERS[number % 4], "linestyle": _DASHES[number % 4], "color": PALETTE[number]}
        axis.errorbar(x, y, yerr=error, capsize=3, linewidth=1.6, label=str(name), **style)
    axis.set(xlabel="tokens written for a query", ylabel=metric, ylim=(-0.03, 1.03))
    low, high = float(table["tokens"].min()), float(table["tokens"].max())
    if high - low < 0.1 * high:  # else a few tokens would fill the axis and look like a slope
        axis.set(xlim=(0.8 * low, 1.2 * high), title="all answers are about equally long")
    axis.legend(frameon=False, loc="lower right")
    return figure


def window_movement(traces: Sequence[Sequence[int]], title: str = "Relevant passages through the windows") -> Figure:
    """The rank of every relevant passage after each window: single ones in light, the quartiles in full.

    traces: ranks (1 = best) of equally many windows each (rrlib.lesson.tables.window_traces); shorter ones are left
    out of the quartiles.
    """
    if not traces:
        raise InputError("no relevant passage to follow", remedy="give records of queries with relevant candidates")
    figure, (axis,) = _canvas(6.4, 3.6)
    longest = max(len(trace) for trace in traces)
    ranks = np.array([trace for trace in traces if len(trace) == longest], dtype=float)  # (passages, windows + 1)
    shift = np.random.default_rng(0).uniform(-0.3, 0.3, size=len(ranks))  # equal ranks lie side by side
    for trace, by in zip(ranks[:400], shift, strict=False):
        axis.plot(range(longest), trace + by, color=PALETTE[7], alpha=0.15, linewidth=0.8)
    for quantile, dash, label in ((0.25, ":", "best quarter"), (0.5, "-", "median"), (0.75, "--", "worst quarter")):
        axis.plot(
            range(longest), np.quantile(ranks, quantile, axis=0), dash, color=PALETTE[0], linewidth=2, label=label
        )
    axis.invert_yaxis()
    axis.set(xlabel="windows ranked (tail to head)", ylabel="rank", title=title, xticks=range(longest))
    axis.legend(frameon=True, loc="lower left")
    return figure


def ceiling_and_gap(rows: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """How far each system goes from the first stage to the ceiling of its candidates.

    rows: of ExperimentResult.rows (system, metric, mean, low, high, ceiling, gap_closed), of one benchmark.
    """
    of_metric = [row for row in rows if row["metric"] == metric]
    if not of_metric:
        raise InputError(f"no row has the metric {metric!r}", remedy="name a metric of the table")
    figure, (axis,) = _canvas(6.4, 0.45 * len(of_metric) + 1.4)
    names = [str(row["system"]) for row in of_metric]
    for place, row in enumerate(of_metric):
        axis.barh(place, row["mean"], color=PALETTE[0], alpha=0.8)
        axis.plot([row["low"], row["high"]], [place, place], color="black", linewidth=1.5)
        share = row["gap_closed"]
        label = "" if share is None or np.isnan(share) else f"{share:.0%} of the gap"
        axis.annotate(label, (row["high"], place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8)
    ceiling = float(of_metric[0]["ceiling"])
    axis.axvline(ceiling, color=PALETTE[1], linestyle="--", linewidth=1.5, label=f"ceiling {ceiling:.3f}")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set(xlabel=f"{metric}, mean with 95% interval", xlim=(0, max(1.0, ceiling) * 1.18))
    figure.legend(frameon=False, loc="outside upper right")
    return figure


def budget_curve(points: Sequence[Mapping[str, Any]], metric: str, levels: Mapping[str, float] | None = None) -> Figure:
    """Quality against reasoning budget. points: budget (tokens), mean, low, high, tokens_out (a query).

    levels: name -> value of systems without a budget, drawn as lines to compare with.
    """
    if not points:
        raise InputError("no budgets to draw", remedy="give at least one")
    ordered = sorted(points, key=lambda p: p["budget"])
    figure, axes = _canvas(8.6, 3.3, 2)
    x = [p["budget"] for p in ordered]
    spread = [[p["mean"] - p["low"] for p in ordered], [p["high"] - p["mean"] for p in ordered]]
    axes[0].errorbar(
        x, [p["mean"] for p in ordered], yerr=spread, marker="o", capsize=3, color=PALETTE[0], linewidth=1.8
    )
    for number, (name, value) in enumerate((levels or {}).items()):
        dash, colour = _DASHES[1 + number % 3], PALETTE[1 + number]
        axes[0].axhline(value, linestyle=dash, color=colour, linewidth=1.5, label=name)
    axes[0].set(xlabel="reasoning budget of a window (tokens)", ylabel=metric, title="Quality")
    if levels:
        axes[0].legend(frameon=False, loc="lower right")
    axes[1].plot(x, [p["tokens_out"] for p in ordered], marker="s", color=PALETTE[2], linewidth=1.8)
    axes[1].set(xlabel="reasoning budget of a window (tokens)", ylabel="tokens written for a query", title="Cost")
    axes[1].set_ylim(bottom=0)
    return figure
