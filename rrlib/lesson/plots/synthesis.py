"""Figures of the filter, in the manner of rrlib.lesson.plots.basics: no figure needs its colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rrlib.errors import InputError
from rrlib.lesson.plots.basics import PALETTE, _canvas
from rrlib.lesson.story import GRID

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def filter_curves(frame: pd.DataFrame, alpha: float, grid: Sequence[float] = ()) -> Figure:
    """What each alpha keeps, and how many of the kept lists believed wrongly, by kind of error.

    frame: of rrlib.lesson.story.fates. Where the teacher does not tell what it believed, the share of kept lists
    alone is drawn. InputError where no list could be read.
    """
    lists = frame[frame["consistency"].notna()]
    if lists.empty:
        raise InputError("no lists to draw", remedy="run the synthesis first")
    alphas = np.asarray(grid or np.linspace(0.0, 1.0, 41))
    passing = [lists[lists["consistency"] >= a] for a in alphas]
    tells = bool(lists["wrong"].notna().any())
    figure, axes = _canvas(8.6 if tells else 5.2, 3.4, 2 if tells else 1)
    axes[0].plot(alphas, [len(p) / len(lists) for p in passing], color=PALETTE[0], linewidth=2)
    axes[0].set(
        xlabel="alpha", ylabel="share of lists kept", xlim=(0, 1), ylim=(0, 1.03), title="What each alpha keeps"
    )
    if tells:
        wrong = lists[lists["wrong"] == 1.0]
        styles = zip(("-", "--", "-.", ":"), ("o", "s", "^", "D"), strict=True)
        kinds = ["", *wrong["error"].value_counts().index[:3]]
        for index, (kind, (dash, marker)) in enumerate(zip(kinds, styles, strict=False)):
            chosen = [p[(p["wrong"] == 1.0) & ((p["error"] == kind) | (kind == ""))] for p in passing]
            shares = [len(c) / len(p) if len(p) else np.nan for c, p in zip(chosen, passing, strict=True)]
            label = kind or "all wrong beliefs"
            axes[1].plot(alphas, shares, dash, marker=marker, markevery=8, color=PALETTE[index], label=label)
        axes[1].set(xlabel="alpha", ylabel="share of the kept lists", xlim=(0, 1), title="Wrong beliefs that stay")
        axes[1].set_ylim(bottom=0)
        axes[1].legend(frameon=False)
    for axis in axes:
        axis.axvline(alpha, color="black", linestyle="--", linewidth=1.2)
        low = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axis.annotate(f"alpha = {alpha:g}", (alpha, 0.03), xytext=(4, 0), **low)
    return figure


def choice_curves(table: pd.DataFrame, chosen: float) -> Figure:
    """Precision, recall and F1 of the filter on the validation split against alpha; `chosen` is marked.

    table: of rrlib.lesson.story.alpha_table. InputError where it is empty.
    """
    if not len(table):
        raise InputError("no judged lists", remedy=f"validation queries need labels; alphas: {GRID}")
    figure, (axis,) = _canvas(6.0, 3.4)
    for index, (name, dash, marker) in enumerate((("precision", "--", "s"), ("recall", "-.", "^"), ("F1", "-", "o"))):
        axis.plot(table.index, table[name], dash, marker=marker, color=PALETTE[index], label=name, linewidth=2)
    axis.axvline(chosen, color="black", linestyle=":", linewidth=1.5)
    axis.set(xlabel="alpha", ylabel="on validation lists", xlim=(0, 1), ylim=(0, 1.03), title="Choosing alpha")
    axis.legend(frameon=False, loc="lower left")
    return figure
