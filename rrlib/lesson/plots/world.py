"""The drawing of the embedded world: a query's cues, what each suggests, the concept, and the teacher's error."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from rrlib.lesson.plots.basics import PALETTE, _canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def world_drawing(sketch: Any) -> Figure:
    """Cue, concept, rival and the teacher's error of one query. sketch: of rrlib.miniature.sketch (or alike)."""
    figure, (axis,) = _canvas(8.6, 4.3)
    axis.set(xlim=(0, 10), ylim=(0, 10))
    axis.axis("off")
    left, right, middle = 2.3, 7.7, 5.0
    for x, number, cue in ((left, 1, sketch.cues[0]), (right, 2, sketch.cues[1])):
        _box(axis, x, 8.6, f"cue {number}: {cue}", "#ffffff", width=34)
    axis.text(middle, 9.9, f"query (its topic: {sketch.topic})", ha="center", va="top", fontsize=10, style="italic")
    for x, rival in ((1.4, sketch.rivals[0]), (8.6, sketch.rivals[1])):
        _box(axis, x, 5.4, f"{rival}\n(rival)", "#f2f2f2", hatched=True)
    _box(axis, middle, 5.4, f"{sketch.concept} ★\nthe concept", "#9ecae1")
    for start, end in ((left, 1.4), (left, middle), (right, middle), (right, 8.6)):
        _arrow(axis, (start, 7.7), (end, 6.3), "suggests" if end in (1.4, 8.6) else "")
    _box(axis, middle, 1.5, f"relevant ★: ... {sketch.evidence}", "#9ecae1", width=44)
    _arrow(axis, (middle, 4.5), (middle, 2.3), "its evidence shares no content word with the query")
    share, drawn = f"{sketch.systematic:.0%}", f"{sketch.at_random:.0%}"
    error = f"the teacher's error: it believes a rival; here it may be {sketch.rivals[0]}. "
    error += f"Always the same for {share} of the pairs of cues, and at random in {drawn} of its other answers."
    _box(axis, 1.55, 1.5, error, "#ffe08a", width=27)
    _arrow(axis, (1.4, 3.1), (1.4, 4.5), "", dashed=True)
    return figure


def _box(axis: Axes, x: float, y: float, text: str, ground: str, *, width: int = 24, hatched: bool = False) -> None:
    lines = "\n".join(textwrap.fill(line, width) for line in text.split("\n"))
    style = {"boxstyle": "round,pad=0.4", "facecolor": ground, "edgecolor": "#555555"}
    axis.text(
        x, y, lines, ha="center", va="center", fontsize=9, bbox=style | ({"linestyle": "--"} if hatched else {}),
    )  # fmt: skip


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], word: str, dashed: bool = False) -> None:
    style: dict[str, Any] = {"arrowstyle": "->", "color": PALETTE[1] if dashed else "black", "linewidth": 1.4}
    axis.annotate("", end, start, arrowprops=style | {"linestyle": "--" if dashed else "-"})
    if word:
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        axis.text(middle[0] + 0.12, middle[1], word, fontsize=8, style="italic", va="center")
