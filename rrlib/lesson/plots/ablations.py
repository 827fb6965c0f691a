"""Figures of the ablations (rrlib.studies): differences with their intervals, and how far seeds lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rrlib.errors import InputError
from rrlib.lesson.plots.basics import PALETTE, _canvas
from rrlib.studies.report import row_means
from rrlib.studies.rows import METRIC, Result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def differences(table: pd.DataFrame) -> Figure:
    """Difference of each row to the full recipe with its interval; hollow: the paper's, in the same unit (fractions).

    table: of rrlib.studies.report.table. Raises InputError when no row has a difference.
    """
    rows = table[table["difference"].notna()] if "difference" in table else table.iloc[:0]
    if rows.empty:
        raise InputError("no row has a difference", remedy="make the row `full` and at least one other, on one seed")
    figure, (axis,) = _canvas(7.2, 0.9 + 0.38 * len(rows))
    places = list(range(len(rows)))[::-1]
    errors = [rows["difference"] - rows["low"], rows["high"] - rows["difference"]]
    axis.errorbar(
        rows["difference"], places, xerr=errors, fmt="o", color=PALETTE[0], capsize=3, label="here, 95% interval"
    )
    if "paper" in rows:
        reported = rows["paper"].notna()
        spots = [place for place, has in zip(places, reported, strict=True) if has]
        marks = {"mfc": "none", "color": PALETTE[3], "label": "the paper's, on BRIGHT"}
        axis.plot(rows.loc[reported, "paper"] / 100, spots, "D", **marks)
    axis.axvline(0.0, color="0.3", linewidth=1, linestyle="--")
    axis.set_yticks(places, list(rows.index))
    axis.set(xlabel=f"{METRIC}, difference to the full recipe", ylim=(-0.6, len(rows) - 0.4))
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, 1.0 + 0.9 / len(rows)), ncols=2)
    return figure


def seed_dots(results: Sequence[Result]) -> Figure:
    """One dot a training: the mean of each row and seed, a bar from the least to the largest."""
    means = row_means(results)
    if not means:
        raise InputError("no rows to show", remedy="make some rows first")
    figure, (axis,) = _canvas(7.2, 0.9 + 0.34 * len(means))
    for place, (_, seeds) in zip(range(len(means))[::-1], means.items(), strict=True):
        values = list(seeds.values())
        axis.plot([min(values), max(values)], [place, place], color="0.6", linewidth=2, zorder=1)
        axis.plot(values, [place] * len(values), "o", color=PALETTE[0], markersize=5, zorder=2)
    axis.set_yticks(range(len(means))[::-1], list(means))
    axis.set(xlabel=f"{METRIC}, one dot a training", ylim=(-0.6, len(means) - 0.4))
    return figure
