"""How a notebook shows source, answers and tables: on white, wrapped at words, no wider than the page.

Each object has an HTML form for a notebook and a plain one for a terminal.
"""

from __future__ import annotations

import html
import inspect
import re
import textwrap
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rrlib.notebook import live_text

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 850
"""Pixels: what a table may take of a notebook's page."""

_INTERVAL = re.compile(r"\[[-+]?[\d.]+, [-+]?[\d.]+\]")
_WRAPPED = "white-space:pre-wrap;overflow-wrap:break-word;word-break:normal;max-width:56em;margin:0 0 1em 0"


class Shown:
    """HTML for a notebook, and the same in plain text."""

    def __init__(self, html_form: str, plain: str) -> None:
        self.html_form, self.plain = html_form, plain

    def _repr_html_(self) -> str:
        return self.html_form

    def __repr__(self) -> str:
        return self.plain


def source(*things: Any) -> Shown:
    """The lines of functions or classes as they stand in the library, highlighted, each below its full name.

    Raises what inspect.getsource raises for something that has no source.
    """
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    style = "background:#fff;color:#000;border:1px solid #999;padding:0.6em;white-space:pre-wrap;line-height:1.35;"
    style += "font-family:monospace;font-size:0.9em"
    formatter = HtmlFormatter(noclasses=True, nowrap=True, style="default")
    parts, plain = [], []
    for thing in things:
        name, text = f"{thing.__module__}.{thing.__qualname__}", textwrap.dedent(inspect.getsource(thing)).rstrip()
        marked = highlight(text, PythonLexer(), formatter)
        parts.append(f'<p style="margin:0"><b>{html.escape(name)}</b></p><pre style="{style}">{marked}</pre>')
        plain.append(f"# {name}\n{text}")
    return Shown("".join(parts), "\n\n".join(plain))


def texts(by_name: Mapping[str, str], limit: int = 2000) -> Shown:
    """Answers, each below its name, wrapped at words; of a longer one the first `limit` characters."""
    cut = {
        name: text if len(text) <= limit else f"{text[:limit]} [...]"
        for name, text in ((name, text or "(nothing)") for name, text in by_name.items())
    }
    parts = [
        f'<p style="margin:0"><b>{html.escape(name)}</b></p><p style="{_WRAPPED}">{html.escape(text)}</p>'
        for name, text in cut.items()
    ]
    return Shown("".join(parts), "\n\n".join(f"{name}:\n{text}" for name, text in cut.items()))


def table(frame: pd.DataFrame) -> Shown:
    """A table no wider than WIDTH: texts left, numbers right, intervals on one line, many columns small."""
    import pandas as pd

    numbers = [pd.api.types.is_numeric_dtype(frame[column]) for column in frame]
    frame = frame.assign(**{c: _alike(frame[c]) for c in frame if pd.api.types.is_float_dtype(frame[c])})
    levels = frame.index.nlevels
    heads = [*map(str, frame.index.names), *map(str, frame.columns)]
    rights = [False] * levels + numbers
    padding = ";padding:0.2em 0.15em" if len(heads) > 11 else ";padding:0.2em 0.25em" if len(heads) > 8 else ""

    def cell(tag: str, value: Any, right: bool) -> str:
        text = "" if pd.isna(value) else str(value)
        nowrap = ";white-space:nowrap" if right or _INTERVAL.search(text) else ";overflow-wrap:break-word"
        return f'<{tag} style="text-align:{"right" if right else "left"}{nowrap}{padding}">{html.escape(text)}</{tag}>'

    head = "".join(cell("th", name if name != "None" else "", right) for name, right in zip(heads, rights, strict=True))
    rows = []
    for key, values in zip(frame.index, frame.itertuples(index=False), strict=True):
        keys = key if isinstance(key, tuple) else (key,)
        cells = [cell("th", k, False) for k in keys]
        cells += [cell("td", value, right) for value, right in zip(values, numbers, strict=True)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    size = "0.66em" if len(heads) > 11 else "0.7em" if len(heads) > 8 else "0.9em"
    style = f"max-width:{WIDTH}px;border-collapse:collapse;font-size:{size}"
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return Shown(f'<table class="dataframe" style="{style}">{body}</table>', frame.to_string())


def _alike(column: pd.Series) -> list[str]:
    """Numbers of one column with equally many decimals, at most three; empty where there is none. What is not zero is
    not shown as zero: `<0.001`, `>-0.001` (but for what sums of floats leave, below 1e-12)."""
    rounded = [round(float(value), 3) for value in column]
    digits = max((len(str(value).partition(".")[2]) for value in rounded if value == value), default=0)
    tiny = [short == 0.0 and abs(value) > 1e-12 for short, value in zip(rounded, column, strict=True)]
    return [
        ("<0.001" if value > 0 else ">-0.001") if small else f"{short:.{digits}f}" if short == short else ""
        for small, short, value in zip(tiny, rounded, column, strict=True)
    ]


def say(*sentences: str) -> None:
    """Show sentences now, a paragraph each, wrapped at words (what is printed breaks within them)."""
    from IPython.display import display

    parts = [f'<p style="{_WRAPPED}">{html.escape(sentence)}</p>' for sentence in sentences]
    display(Shown("".join(parts), "\n".join(sentences)))


def both(*parts: Shown) -> Shown:
    """Several of these, one below the other."""
    return Shown("".join(part.html_form for part in parts), "\n\n".join(part.plain for part in parts))


class Counting:
    """A bar that fills while something runs: `with Counting("windows", 120) as count`, then count() for each.

    It is drawn anew every `every` seconds, also where nothing calls, so that one sees the seconds go by; at the end it
    closes: what was counted, and the seconds, or that it stopped. total: 0 where it is not known, and no bar then.
    logs: files whose lines are counted in place of calls, as a glob pattern in a folder. Outside a notebook it shows
    nothing.
    """

    def __init__(self, what: str, total: int = 0, every: float = 0.5, *, logs: tuple[Path, str] | None = None) -> None:
        self.what, self.total, self.every, self.logs, self.n = what, total, every, logs, 0
        self._write: Callable[[str], None] | None = None
        self._begun = time.monotonic()
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Counting:
        self._write = live_text(self.in_words())
        if self._write is not None:
            self._ticker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self._write is not None:
            self._ticker.join()
            self._look()
            done = f"{self.n} {self.what}" if self.n else self.what
            ended = "" if kind is None else f", stopped by {kind.__name__}"
            self._write(f"{done}: {time.monotonic() - self._begun:.0f} s{ended}")

    def __call__(self, *_: Any) -> None:
        """One more; whatever is given with it is not looked at."""
        self.n += 1

    def in_words(self) -> str:
        """The bar as it is now."""
        seconds = time.monotonic() - self._begun
        if not self.total:
            return f"{self.n} {self.what}, {seconds:.0f} s" if self.n else f"{self.what}, {seconds:.0f} s"
        share = min(self.n / self.total, 1.0)
        left = f", about {seconds / share - seconds:.0f} s left" if 0.0 < share < 1.0 and seconds >= 5.0 else ""
        filled = round(20 * share)
        return f"{'█' * filled}{'░' * (20 - filled)} {self.n} of {self.total} {self.what}, {seconds:.0f} s{left}"

    def _look(self) -> None:
        if self.logs is not None:
            folder, pattern = self.logs
            self.n = sum(path.read_bytes().count(b"\n") for path in folder.glob(pattern))

    def _tick(self) -> None:
        while self._write is not None and not self._over.wait(self.every):
            self._look()
            self._write(self.in_words())
