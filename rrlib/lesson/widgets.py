"""Widgets of the lesson: a few controls over a figure of rrlib.lesson.plots.tour, which a notebook shows static first.

Every control is a standard one (slider, menu, button, text), so Tab and the arrow keys reach all of it. The figure is a
picture on a white ground with a text alternative, and the sentence under it says the same in words, so a widget reads
in light and dark themes, in grey, and by ear. What depends on a colour also has a star, a hatch, a frame or a word.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as w

from rrlib.errors import InputError
from rrlib.lesson.explain import Outlook, advantages, citations, outlook, play_all
from rrlib.lesson.plots import tour as lesson_plots
from rrlib.responses import parse_lenient, parse_strict
from rrlib.reward import MultiViewReward
from rrlib.strategies import StrategySpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rrlib.types import Passage, Qrels, Query

_WIDE = {"description_width": "11em"}
_FULL = w.Layout(width="auto", max_width="46em")
# Marks carry their own text and ground colour, so they read in any theme; the star says what the colour says.
_MARK = "color:#000;border:1px solid #555;border-radius:3px;padding:0 2px;background:"
_RELEVANT, _OTHER, _NOW = "#9ecae1", "#e6e6e6", "#ffe08a"


class Panel(w.VBox):
    """Controls above a picture and a sentence. `controls`: name -> widget; `picture`, `words`: what they change.

    draw: called with the controls' values by name; returns a figure (or None) and HTML. When it raises InputError the
    sentence says why and the last picture stays.
    """

    def __init__(
        self, name: str, controls: Mapping[str, w.Widget], draw: Callable[..., tuple[Figure | None, str]], **more: Any
    ) -> None:
        self.controls, self._draw = dict(controls), draw
        self.picture, self.words = w.HTML(), w.HTML()
        self.picture.add_class("rr-picture")
        self.words.add_class("rr-words")
        super().__init__([*(more.get("rows") or self.controls.values()), self.picture, self.words])
        self.add_class(f"rr-{name}")
        for key, control in self.controls.items():
            control.add_class(f"rr-{key}")
            control.observe(lambda _: self.refresh(), names="value")
        self.refresh()

    def values(self) -> dict[str, Any]:
        """The controls' values by name."""
        return {key: control.value for key, control in self.controls.items()}

    def refresh(self) -> None:
        """Draw again from the controls' values."""
        try:
            figure, words = self._draw(**self.values())
        except InputError as error:
            self.words.value = f'<p role="status">{html.escape(str(error))}</p>'
            return
        if figure is not None:
            self.picture.value = picture(figure, _plain(words))
        self.words.value = f'<div role="status" aria-live="polite">{words}</div>'


def picture(figure: Figure, alt: str) -> str:
    """A figure as an HTML image on white, with a text alternative; scales down on narrow screens."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100, facecolor="white", bbox_inches="tight")
    coded = base64.b64encode(data.getvalue()).decode("ascii")
    style = "max-width:100%;height:auto;background:#fff"
    return f'<img alt="{html.escape(alt, quote=True)}" style="{style}" src="data:image/png;base64,{coded}">'


def _plain(words: str) -> str:
    import re

    return html.unescape(re.sub(r"<[^>]+>", " ", words)).strip()[:300]


def _slider(value: int, low: int, high: int, name: str, **more: Any) -> w.IntSlider:
    return w.IntSlider(value, low, high, description=name, style=_WIDE, layout=_FULL, continuous_update=False, **more)


def _number(value: float, low: float, high: float, name: str, step: float = 0.05) -> w.FloatSlider:
    return w.FloatSlider(
        value, min=low, max=high, step=step, description=name, style=_WIDE, layout=_FULL, continuous_update=False
    )


def _menu(options: Sequence[Any], name: str, **more: Any) -> w.Dropdown:
    return w.Dropdown(options=options, description=name, style=_WIDE, layout=_FULL, **more)


def reward_explorer(
    places: Sequence[int] = (1, 11), others: Sequence[int] = (9, 10), size: int = 20, stride: int = 10
) -> Panel:
    """Drag relevant passages through a window, in two rankings side by side; weights and p; the views, the totals, and
    the window that follows. places, others: of the relevant passages in the first ranking and in the second."""
    controls: dict[str, w.Widget] = {
        f"place{i}": _slider(p, 1, size, f"relevant passage {i} at") for i, p in enumerate(places, 1)
    }
    controls |= {f"other{i}": _slider(p, 1, size, f"in the second, {i} at") for i, p in enumerate(others, 1)}
    controls |= {
        "ndcg": _number(1.0, 0.0, 2.0, "weight of NDCG"),
        "recall": _number(0.2, 0.0, 2.0, "weight of Recall"),
        "rbo": _number(0.1, 0.0, 2.0, "weight of RBO"),
        "p": _number(1.0, 0.5, 1.0, "p of RBO", 0.05),
    }

    def draw(ndcg: float, recall: float, rbo: float, p: float, **at: int) -> tuple[Figure, str]:
        weights = {"ndcg": ndcg, "recall": recall, "rbo": rbo}
        first, second = (
            outlook([place for name, place in at.items() if name.startswith(kind)], size, stride, weights, p)
            for kind in ("place", "other")
        )
        views = ", ".join(f"{n} {v:.3f}" for n, v in zip(lesson_plots.NAMES.values(), first.views, strict=True))
        words = (
            f"Reward <b>{first.total:.3f}</b> ({views}). {len(first.carried)} of {len(first.places)} relevant passages "
            f"are carried into the next window; ranked perfectly there, the list has NDCG@10 {first.ndcg_after:.3f}. "
            f"The second ranking earns <b>{second.total:.3f}</b>, carries {len(second.carried)} of "
            f"{len(second.places)}, and leads to {second.ndcg_after:.3f}: {_preferred(first, second)}."
        )
        return lesson_plots.reward_window([first, second], weights, ["first", "second"]), words

    return Panel("reward", controls, draw)


def _preferred(first: Outlook, second: Outlook) -> str:
    """Which of two rankings the reward prefers, and whether the list after the next window agrees."""
    now, later = first.total - second.total, first.ndcg_after - second.ndcg_after
    if abs(now) < 1e-9:
        return "the reward cannot tell them apart"
    prefers = f"the reward prefers the {'first' if now > 0 else 'second'}"
    if abs(later) < 1e-9:
        return f"{prefers}, and later it makes no difference"
    return f"{prefers}, {'and the list that follows agrees' if now * later > 0 else 'but the other is better later'}"


def window_player(relevance: Sequence[int], specs: Mapping[str, StrategySpec]) -> Panel:
    """Step through strategies side by side on one list with a perfect ranker, or play them: calls, depth, places.

    relevance: label of each candidate, in first-stage order. specs: name -> strategy.
    """
    frames = play_all(relevance, specs)
    step = _slider(0, 0, max(len(played) for played in frames.values()) - 1, "step")
    film = w.Play(value=0, min=0, max=step.max, interval=1000, description="play")
    film.add_class("rr-play")
    w.link((film, "value"), (step, "value"))
    back, forward = w.Button(description="back"), w.Button(description="forward")
    back.add_class("rr-back")
    forward.add_class("rr-forward")
    back.on_click(lambda _: setattr(step, "value", max(step.min, step.value - 1)))
    forward.on_click(lambda _: setattr(step, "value", min(step.max, step.value + 1)))

    def draw(step: int) -> tuple[Figure, str]:
        states = []
        for name, played in frames.items():
            frame = played[min(step, len(played) - 1)]
            top = [place for place, item in enumerate(frame.order, 1) if relevance[item] > 0]
            state = "done" if step >= len(played) - 1 else "at work"
            calls = lesson_plots.counted(frame.calls, "call")
            states.append(
                f"<b>{html.escape(name)}</b>: {calls}, depth {frame.depth}, {state}; relevant at "
                f"{', '.join(map(str, top)) or 'none'}"
            )
        return lesson_plots.player(frames, step, relevance), f"Step {step}. " + ". ".join(states) + "."

    return Panel("player", {"step": step}, draw, rows=[step, w.HBox([film, back, forward])])


def response_inspector(
    text: str, relevance: Sequence[int], gold: Sequence[int], reward: MultiViewReward | None = None
) -> Panel:
    """Edit a response; see how inference and training read it, and what it earns. gold: 0-based positions."""
    rule = reward or MultiViewReward()
    area = w.Textarea(
        text, description="response", style=_WIDE, rows=7, continuous_update=True, layout=w.Layout(width="auto")
    )

    def draw(text: str) -> tuple[Figure, str]:
        style = "reasonrank" if rule.think else "reasonrank-qwen3"
        read, strict = parse_lenient(text, len(relevance), style), parse_strict(text, len(relevance), rule.think)
        record = rule.score(text, relevance, gold)
        repairs = f" ({', '.join(read.repairs)})" if read.repairs else ""
        why = f" ({html.escape(strict.why)})" if strict.why else ""
        words = (
            f"Inference: <b>{read.verdict}</b>{repairs}. Training: <b>{strict.level}</b>{why}. "
            f"Reward <b>{record.total:.3f}</b>."
        )
        return lesson_plots.response_reading(text, relevance, gold, rule), words

    return Panel("inspector", {"text": area}, draw)


def trace_html(
    reasoning: str, passages: Sequence[Passage], relevance: Sequence[int], upto: int | None = None, width: int = 160
) -> str:
    """A chain of thought beside its passages, as HTML: the first `upto` citations marked, the last of them framed.

    A star marks relevant passages. All texts are escaped.
    """
    cited = citations(reasoning, len(passages))
    shown = cited if upto is None else cited[: max(0, upto)]
    parts, at = [], 0
    for citation in shown:
        star = "★" if relevance[citation.n - 1] > 0 else ""
        now = upto is not None and citation is shown[-1]
        ground = _NOW if now else _RELEVANT if star else _OTHER
        frame = "outline:2px solid #000;" if now else ""
        parts.append(html.escape(reasoning[at : citation.start]))
        parts.append(f'<mark style="{_MARK}{ground};{frame}">[{citation.n}]{star}</mark>')
        at = citation.end
    rest = html.escape(reasoning[at:])
    parts.append(rest if upto is None else f'<span style="opacity:0.75">{rest}</span>')
    numbers = {c.n for c in shown}
    current = shown[-1].n if upto is not None and shown else 0
    rows = []
    for i, passage in enumerate(passages, 1):
        star = "★" if relevance[i - 1] > 0 else ""
        ground = _NOW if i == current else _RELEVANT if star and i in numbers else _OTHER if i in numbers else ""
        flat = " ".join(passage.text.split())
        text = html.escape(flat if len(flat) <= width else flat[: width - 3] + "...")
        mark = f'style="{_MARK}{ground}"' if ground else ""
        rows.append(f"<li><span {mark}>[{i}]{star}</span> {text}</li>")
    listed = f'<ol style="list-style:none;padding-left:0">{"".join(rows)}</ol>'
    return f'<p style="white-space:pre-wrap">{"".join(parts)}</p>{listed}'


def trace_reader(reasoning: str, passages: Sequence[Passage], relevance: Sequence[int]) -> Panel:
    """Read a chain of thought citation by citation; the passage that is cited is marked in the text and in the list."""
    total = len(citations(reasoning, len(passages)))
    step = _slider(0, 0, total, "citations read")

    def draw(step: int) -> tuple[Figure, str]:
        words = f"<p>{step} of {total} citations read.</p>" + trace_html(reasoning, passages, relevance, step)
        return lesson_plots.citation_map(reasoning, relevance, step), words

    return Panel("trace", {"step": step}, draw)


def group_explorer(texts: Sequence[str], relevance: Sequence[int], gold: Sequence[int], k: int = 10) -> Panel:
    """One GRPO group: choose a rollout, turn the weights, see rewards, advantages and what the update favours."""
    controls = {
        "rollout": _slider(1, 1, len(texts), "rollout"),
        "recall": _number(0.2, 0.0, 2.0, "weight of Recall"),
        "rbo": _number(0.1, 0.0, 2.0, "weight of RBO"),
        "scale": _menu([("divide by the group's deviation", "group"), ("do not divide", "none")], "advantage"),
    }

    def draw(rollout: int, recall: float, rbo: float, scale: str) -> tuple[Figure, str]:
        rule = MultiViewReward(k=k, weights={"ndcg": 1.0, "recall": recall, "rbo": rbo})
        records = rule.score_group(texts, relevance, gold)
        gained = advantages([r.total for r in records], scale)
        record, sign = records[rollout - 1], float(gained[rollout - 1])
        fate = "more" if sign > 1e-9 else "less" if sign < -1e-9 else "neither more nor less"
        words = (
            f"Rollout {rollout}: {record.level}, reward <b>{record.total:.3f}</b>, advantage <b>{sign:+.3f}</b>: the "
            f"update makes its tokens {fate} likely.<details><summary>its text</summary>"
            f'<pre style="white-space:pre-wrap">{html.escape(texts[rollout - 1])}</pre></details>'
        )
        return lesson_plots.group_update(texts, relevance, gold, rule, scale, rollout - 1), words

    return Panel("group", controls, draw)


def run_compare(
    runs: Mapping[str, Mapping[str, Sequence[str]]],
    qrels: Qrels,
    k: int = 10,
    baseline: str | None = None,
    queries: Mapping[str, Query] | None = None,
) -> Panel:
    """Compare two runs query by query. runs: name -> qid -> document ids, best first, of the queries of the qrels.

    queries: their texts, shown below the figure where they are given.
    """
    if len(runs) < 2:
        raise InputError(f"{len(runs)} run to compare", remedy="give two runs or more")
    names = list(runs)
    start = names.index(baseline) if baseline is not None else 0
    first = _menu(names, "before", value=names[start])
    second = _menu(names, "after", value=names[-1] if start != len(names) - 1 else names[0])
    place = _slider(len(qrels), 1, len(qrels), "query, worst to best")

    def draw(before: str, after: str, place: int) -> tuple[Figure, str]:
        scores = lesson_plots.per_query(runs[before], runs[after], qrels, k)
        qid = list(scores)[place - 1]
        old, new = scores[qid]
        words = (
            f"Query <b>{html.escape(qid)}</b>: NDCG@{k} {old:.3f} with {html.escape(before)}, {new:.3f} with "
            f"{html.escape(after)} ({new - old:+.3f})."
        )
        if queries is not None and qid in queries:
            words += f" <q>{html.escape(queries[qid].text)}</q>"
        return lesson_plots.run_compare(runs[before], runs[after], qrels, qid, (before, after), k), words

    return Panel("compare", {"before": first, "after": second, "place": place}, draw)


def show(panel: w.Widget) -> None:
    """Display a widget from inside an `if`, where a notebook shows no last value."""
    from IPython.display import display

    display(panel)
