"""Curves of a training from its folder: while it runs, and afterwards. Log and completions are read from the disk, so
it does not matter which process trains."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from rrlib.errors import InputError
from rrlib.lesson.plots.basics import _DASHES, _MARKERS, PALETTE, _canvas, _series, _smooth
from rrlib.notebook import in_notebook, live_text
from rrlib.training.alarms import read_alarms
from rrlib.training.completions import group_bands, read_completions

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[[str | Path], "Figure"]
_LINES = 8
"""Lines of progress that are shown at a time."""
_BELOW: dict[str, Any] = {"frameon": False, "loc": "upper center", "bbox_to_anchor": (0.5, -0.19), "columnspacing": 1.2}
"""Where a legend lies that no curve may cross: under the axis and its label."""


def read_log(output: str | Path) -> list[dict[str, Any]]:
    """The rows of log.jsonl so far; a line that is being written is left out. Raises InputError when there is none."""
    path = Path(output) / "log.jsonl"
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    if not rows:
        raise InputError("no log here yet", path=path, remedy="name the output folder of a training that has begun")
    return rows


def sft_curves(output: str | Path) -> Figure:
    """Loss, share of response tokens predicted right, and the size of the gradient, against optimiser step."""
    log = read_log(output)
    figure, axes = _canvas(9.6, 2.9, 3)
    _line(axes[0], log, "loss", 0, "loss per token (nats)")
    losses = _series(log, "loss")[1]
    if losses and min(losses) > 0 and max(losses) / min(losses) > 20:
        axes[0].set_yscale("log")
    _line(axes[1], log, "mean_token_accuracy", 2, "share of tokens right")
    _line(axes[2], log, "grad_norm", 3, "norm of the gradient")
    axes[0].set_title("SFT: loss on the responses")
    return figure


def grpo_curves(output: str | Path) -> Figure:
    """Reward and views with a band over groups, lengths, and KL with entropy, against optimiser step.

    The band holds the middle 80% of the groups (prompts) of a step; it is drawn where completions are kept.
    """
    log, bands = read_log(output), _bands(output)
    figure, axes = _canvas(13.2, 3.5, 4)
    _line(axes[0], log, "reward", 0, "reward: mean, and 80% of groups")
    _band(axes[0], bands, "reward", 0)
    for place, view in enumerate(("ndcg", "recall", "rbo"), 1):
        _line(axes[1], log, f"view/{view}", place, "views: mean of valid, 80% of groups", label=view)
        _band(axes[1], bands, view, place)
    cut, entropy = axes[2].twinx(), axes[3].twinx()
    _line(axes[2], log, "completions/mean_length", 4, "tokens of a completion", label="length (left)")
    _line(cut, log, "completions/clipped_ratio", 7, "share cut off", label="cut off (right)")
    cut.set_ylim(-0.02, 1.02)
    _line(axes[3], log, "kl", 5, "KL to the start (nats a token)", label="KL (left)", dash="-")
    _line(entropy, log, "entropy", 6, "entropy (nats a token)", label="entropy (right)", dash="--")
    for left, right in ((axes[2], cut), (axes[3], entropy)):
        handles = [*left.get_lines(), *right.get_lines()]
        named = [handle for handle in handles if not handle.get_label().startswith("_")]
        right.legend(handles=named, **_BELOW, ncols=2)
    for axis, title in zip(axes, ("Reward", "Views", "Lengths", "KL and entropy"), strict=True):
        axis.set_title(title)
    if axes[1].get_legend_handles_labels()[0]:
        axes[1].legend(**_BELOW, ncols=3)
    return figure


def _bands(output: str | Path) -> pd.DataFrame | None:
    try:
        return group_bands(read_completions(output))
    except InputError:
        return None


def _line(
    axis: Axes, log: list[dict[str, Any]], key: str, colour: int, name: str, label: str | None = None, dash: str = ""
) -> None:
    steps, values = _series(log, key)
    if steps:
        style = {"color": PALETTE[colour], "linestyle": dash or _DASHES[colour % 4], "marker": _MARKERS[colour % 4]}
        axis.plot(steps, values, color=PALETTE[colour], alpha=0.3, linewidth=1)
        smooth = _smooth(values, max(1, len(values) // 15))
        axis.plot(steps, smooth, label=label, markersize=4, markevery=max(1, len(steps) // 10), **style)
    axis.set(xlabel="optimizer step", ylabel=name)


def _band(axis: Axes, bands: pd.DataFrame | None, name: str, colour: int) -> None:
    if bands is not None:
        steps = bands.index.to_numpy(dtype=float)
        low, high = (bands[f"{name}/{end}"].to_numpy(dtype=float) for end in ("low", "high"))
        finite = np.isfinite(low) & np.isfinite(high)
        axis.fill_between(steps[finite], low[finite], high[finite], color=PALETTE[colour], alpha=0.12, linewidth=0)


class Live:
    """Curves and progress in a notebook while a training runs: `with Live(folder, sft_curves) as live`, on_log=live.

    Redrawn at most every `every` seconds. Outside a notebook it shows nothing. When it ends, the place is emptied: the
    figure of the executed copy is the one that the next cell draws.
    """

    def __init__(self, output: str | Path, draw: Draw, every: float = 10.0) -> None:
        self.output, self.draw, self.every = Path(output), draw, every
        self.lines: list[str] = []
        self.drawn = 0
        self._last = time.monotonic()
        self._figure: Any = None
        self._text: Callable[[str], None] | None = None

    def __enter__(self) -> Live:
        if in_notebook():
            from IPython.display import display

            self._text = live_text()
            self._figure = display({"text/plain": ""}, raw=True, display_id=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._figure is not None and kind is None:
            self._figure.update({"text/plain": ""}, raw=True)
            alarms = "\n".join(f"alarm at {alarm}" for alarm in read_alarms(self.output))
            assert self._text is not None
            self._text(alarms or "no alarms")

    def __call__(self, row: dict[str, Any]) -> None:
        """A row of the log: `on_log` of a training."""
        if time.monotonic() - self._last >= self.every:
            self._last = time.monotonic()
            self.show()

    def echo(self, line: str) -> None:
        """A line of progress or of a worker's output: `echo` of a training."""
        self.lines = [*self.lines[1 - _LINES :], line]
        if self._text is not None:
            self._text("\n".join(self.lines))

    def show(self) -> None:
        """Draw from what is on the disk now."""
        try:
            figure = self.draw(self.output)
        except InputError:  # nothing is written yet
            return
        self.drawn += 1
        if self._figure is not None:
            self._figure.update(figure)


def group_in_views(rollouts: pd.DataFrame) -> Figure:
    """One GRPO group: NDCG, Recall and RBO of each rollout in a row, and the advantage that follows.

    rollouts: of rrlib.lesson.groups (columns ndcg, recall, rbo, advantage, level). What is no ranking has a cross and
    no bar; a dashed line is the mean of the others.
    """
    figure, axes = _canvas(9.6, 2.6, 4)
    places = np.arange(1, len(rollouts) + 1)
    columns = {"ndcg": "NDCG", "recall": "Recall", "rbo": "RBO", "advantage": "advantage"}
    for axis, (column, name) in zip(axes, columns.items(), strict=True):
        values = rollouts[column].to_numpy(dtype=float)
        ranked = np.isfinite(values)
        colours = [PALETTE[0] if value >= 0 else PALETTE[1] for value in values]
        bars = axis.bar(places, np.nan_to_num(values), color=colours, edgecolor="black", linewidth=0.6)
        for bar, value in zip(bars, values, strict=True):
            bar.set_hatch("//" if value < 0 else "")
        axis.plot(places[~ranked], np.zeros((~ranked).sum()), "x", color="black", markersize=7)
        if ranked.any():
            axis.axhline(float(values[ranked].mean()), color="black", linestyle="--", linewidth=1)
        axis.set(xlabel="rollout", title=name, xticks=places)
        if column != "advantage":
            axis.set_ylim(0, 1.05)
    return figure
