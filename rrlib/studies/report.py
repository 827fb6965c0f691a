"""Figures and the Markdown table of the ablations (rrlib.studies.ablations). Readable in grey, as all figures here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rrlib.errors import InputError
from rrlib.lesson.plots.basics import PALETTE, _canvas
from rrlib.studies.ablations import METRIC, Result, row_means

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def differences(table: pd.DataFrame) -> Figure:
    """Difference of each row to the full recipe with its interval; hollow: the paper's, in the same unit (fractions).

    table: of rrlib.studies.ablations.table. Raises InputError when no row has a difference.
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
        told = rows["paper"].notna()
        spots = [place for place, has in zip(places, told, strict=True) if has]
        axis.plot(
            rows.loc[told, "paper"] / 100, spots, "D", mfc="none", color=PALETTE[3], label="the paper's, on BRIGHT"
        )
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


def markdown(table: pd.DataFrame, results: Sequence[Result]) -> str:
    """The table as Markdown, with what it is of."""
    seeds = sorted({r.seed for r in results})
    kinds = sorted({r.data_kind for r in results})
    head = [
        "row",
        METRIC,
        "by seed",
        "difference [95% interval]",
        "p (Holm)",
        "p (seeds)",
        "paper (points)",
        "valid",
        "n",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, row in table.iterrows():
        gap = row.get("difference")
        has = gap is not None and gap == gap
        told = row.get("paper")
        cells = [
            str(name),
            f"{row[METRIC]:.3f}",
            str(row["seeds"]),
            f"{gap:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]" if has else "",
            f"{row['p (Holm)']:.4f}" if has else "",
            _p(row["p (seeds)"]) if has else "",
            f"{told:+.2f}" if told is not None and told == told else "",
            f"{row['valid']:.1%}" if row["valid"] == row["valid"] else "",
            str(int(row["n"])),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    what = (
        f"Seeds {', '.join(map(str, seeds))}; {', '.join(kinds)} data, simulated teacher; {METRIC} of sliding windows."
    )
    return "\n".join([what, "", *lines, ""])


def _p(value: float) -> str:
    return "" if value != value else f"{value:.3f}" if value >= 0.0005 else "< 0.001"


def steps_markdown(steps: pd.DataFrame) -> str:
    """`rrlib.studies.ablations.steps_table` as Markdown."""
    lines = ["| seed | " + " | ".join(map(str, steps.columns)) + " |", "|" + "---|" * (len(steps.columns) + 1)]
    for seed, row in steps.iterrows():
        cells = [str(seed)]
        for name, value in row.items():
            if isinstance(value, str):
                cells.append(value)
            elif name == "n":
                cells.append(str(int(value)))
            elif str(name).startswith("p, "):
                cells.append(f"{value:.4f}")
            else:
                cells.append(f"{value:.1%}" if "valid" in str(name) else f"{value:.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])
