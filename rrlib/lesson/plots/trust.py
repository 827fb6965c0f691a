"""Figures of trust: whether probabilities hold, and what it is worth to leave unsure queries unanswered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rrlib.errors import InputError
from rrlib.evaluation.confidence import Reliability, RiskCoverage
from rrlib.lesson.plots.basics import PALETTE, _canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def confidence(table: Reliability | None, curve: RiskCoverage, metric: str) -> Figure:
    """Left: the share of relevant passages against the probability said, bins of equal size
    (None: nothing is calibrated). Right: 1 - metric of the
    queries answered, the surest first, beside a confidence that knows nothing."""
    if not len(curve.risk):
        raise InputError("no queries to draw", remedy="give judged queries")
    figure, (left, right) = _canvas(8.0, 3.4, 2)
    left.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="as said")
    if table is not None:
        left.plot(table.predicted, table.observed, color=PALETTE[0], marker="o", label="held")
    left.set(xlabel="probability said", ylabel="share of relevant passages", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    left.legend(frameon=False, loc="upper left")
    right.plot(curve.coverage, curve.risk, color=PALETTE[0], drawstyle="steps-post", label="surest first")
    right.axhline(curve.all_answered, color=PALETTE[1], linestyle="--", label="knowing nothing")
    right.set(
        xlabel="share of queries answered",
        ylabel=f"1 - {metric} of these",
        xlim=(0, 1.02),
        ylim=(0, 1.2 * float(curve.risk.max()) or 1.0),
    )
    right.legend(frameon=False, loc="lower right")
    return figure
