"""What the samples of a reranking say of each query: its list, the mean place of each passage, how far they agree.

All of it comes from window records (rrlib.records), so a log is enough. Places of a window are places of the whole list
for the sliding window and the full list alone; for other strategies nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rrlib.errors import InputError
from rrlib.metrics import rbo
from rrlib.records import WindowRecord
from rrlib.sampling import fused, mean_places

STRATEGIES = ("sliding_window", "full_list")
"""Those whose windows keep one list as they go."""

IRRELEVANT = ("engine", "dtype", "model", "weights")
"""Settings by which two samplings of the same checkpoint may differ; the checkpoint itself is compared apart."""


@dataclass(frozen=True)
class Votes:
    """One query. places: document id -> mean place over the samples of the last window that showed it (1 = the head of
    the list), in the order that the windows gave: one that was fused with the first stage's is another. agreement: of
    the last window, in [0, 1]: the mean rank-biased overlap of its samples with the fused order; a sample that gave no
    list agrees with nothing."""

    collection: str
    qid: str
    places: Mapping[str, float]
    agreement: float


def votes_of(records: Iterable[WindowRecord], settings: Mapping[str, Any] | None = None) -> list[Votes]:
    """The votes of each query, in the order of their first records. Of a window that was asked again the last counts.

    settings: of the run (`Reranker.settings()`); None: those that the records of a log bring. Raises InputError where
    there are none, for one sample a window, and for a strategy whose windows keep no list.
    """
    queries: dict[tuple[str, str], list[WindowRecord]] = {}
    for record in {record.key: record for record in records}.values():
        settings = record.settings if settings is None else settings
        queries.setdefault((record.collection, record.qid), []).append(record)
    drawn = checked(settings)
    return [_of_query(name, windows, str(drawn["fuse"])) for name, windows in queries.items()]


def checked(settings: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The settings of a reranking that votes can be taken of. Raises InputError as `votes_of` does."""
    if settings is None:
        raise InputError(
            "no settings say how the windows were asked", remedy="give a window log, or Reranker.settings()"
        )
    if settings.get("samples", 1) < 2:
        raise InputError("one sample a window cannot agree with itself", remedy="rerank with --samples 4 or more")
    if settings.get("strategy") not in STRATEGIES:
        raise InputError(
            f"the strategy {settings.get('strategy')} keeps no list from which places could be read",
            remedy=f"rerank with --strategy {' or '.join(STRATEGIES)}",
        )
    return settings


def _of_query(name: tuple[str, str], records: Sequence[WindowRecord], fuse: str) -> Votes:
    windows: dict[tuple[int, int, int], list[WindowRecord]] = {}
    for record in records:
        windows.setdefault((record.pass_no, record.round, -record.end), []).append(record)
    docids: dict[int, str] = {}
    places: dict[str, float] = {}
    agreement = 0.0
    for key in sorted(windows):
        samples = windows[key]
        shown, start = samples[0].docids, samples[0].start
        orders = [sample.order for sample in samples if not sample.unread]
        order = fused(orders, fuse) if orders else tuple(range(len(shown)))
        means = mean_places(orders or [order], fuse)
        docids |= {start + place: shown[item] for place, item in enumerate(order)}
        places |= {docid: start + float(means[item]) for item, docid in enumerate(shown)}
        agreement = float(np.sum(rbo(np.array(orders), order))) / len(samples) if orders else 0.0
    final = [docids[place] for place in sorted(docids)]
    return Votes(*name, {docid: places[docid] for docid in final}, agreement)


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a reranking that decide what its votes mean: all but engine, number format and seed. A checkpoint
    in a folder goes by its weights, any other by its name."""
    kept = {name: value for name, value in settings.items() if name not in IRRELEVANT}
    decoding = {name: value for name, value in dict(settings.get("decoding") or {}).items() if name != "seed"}
    return {**kept, "decoding": decoding, "checkpoint": settings.get("weights") or settings.get("model")}
