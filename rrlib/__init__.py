"""rrlib: passage reranking by reasoning, from data synthesis to evaluation.

Importing the package loads nothing heavy: the names below are looked up when they are first used, so that
`import rrlib` and every `--help` answer at once, with or without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rrlib.rerank import Reranker
    from rrlib.types import Candidates, Passage, Query, RankingExample

_HOME = {
    "Candidates": "rrlib.types",
    "Passage": "rrlib.types",
    "Query": "rrlib.types",
    "RankingExample": "rrlib.types",
    "Reranker": "rrlib.rerank",
}

_ROOMS = {"pt": "rrlib.adapters.pyterrier"}
"""Short names of modules: `rrlib.pt.Reranker`."""

__all__ = ["Candidates", "Passage", "Query", "RankingExample", "Reranker", "__version__"]


def __getattr__(name: str) -> Any:
    """Import a re-exported name on first use (PEP 562)."""
    if name in _ROOMS:
        return import_module(_ROOMS[name])
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'rrlib' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))
