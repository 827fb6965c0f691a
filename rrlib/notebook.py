"""What a notebook shows while a cell runs: a text that is written over, and stays as it was at the end."""

from __future__ import annotations

from collections.abc import Callable


def in_notebook() -> bool:
    """Whether a notebook shows what this process displays (papermill's kernel is one)."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return hasattr(get_ipython(), "kernel")


def live_text(text: str = "") -> Callable[[str], None] | None:
    """Show a text in the running cell; what is returned writes another one over it, from any thread. None elsewhere."""
    if not in_notebook():
        return None
    from IPython.display import display

    shown = display({"text/plain": text}, raw=True, display_id=True)
    return lambda line: shown.update({"text/plain": line}, raw=True)
