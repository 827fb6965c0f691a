"""One engine, many callers: only one of them at a time, and no answer to a call that was given up is taken for another.

Request numbers begin at 1 with every reranking, since sampling is seeded by them. So two rerankings at once would take
each other's answers; the second waits. A reranking that is broken off drops what is in flight, and the engine lives on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rrlib.errors import EngineError

_MAKING = threading.Lock()


class _Turn:
    """Whose turn it is at an engine. busy: the thread that began the reranking, 0 where there is none. Another may go
    on with it and end it, so the lock is none that a thread owns. first: the number below which answers belong to a
    reranking that broke off."""

    def __init__(self) -> None:
        self.lock, self.busy, self.first = threading.Lock(), 0, 0


_OTHERS: dict[int, _Turn] = {}


def _turn(engine: Any) -> _Turn:
    with _MAKING:
        turn = getattr(engine, "_turn", None) or _OTHERS.get(id(engine))
        if isinstance(turn, _Turn):
            return turn
        turn = _Turn()
        try:
            engine._turn = turn
        except AttributeError:  # one of somebody's own that takes no attributes
            _OTHERS[id(engine)] = turn
        return turn


@contextmanager
def alone(engine: Any) -> Iterator[_Turn]:
    """Hold an engine for one reranking; others wait. Where the body raises, what is in flight is dropped.

    The turn's `first` is the number behind which requests are numbered: 0, but for an engine without `cancel` whose
    answers to an earlier reranking may still come; set it to the last number that was used. Raises EngineError where
    the engine is asked for by the thread that began the reranking it is in, which would wait for ever.
    """
    turn, me = _turn(engine), threading.get_ident()
    if turn.busy == me:
        raise EngineError("this engine is in the middle of a reranking of the same thread")
    with turn.lock:
        turn.busy = me
        try:
            yield turn
        except BaseException:
            cancel = getattr(engine, "cancel", None)
            if cancel is not None:
                cancel()
                turn.first = 0
            raise
        finally:
            turn.busy = 0
