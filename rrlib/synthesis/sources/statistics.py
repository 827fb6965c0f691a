"""What a judged collection holds, in figures: queries, lists, windows, and how far a perfect reranker could come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rrlib.formats import Collection
from rrlib.metrics import ndcg
from rrlib.synthesis.sources.items import CollectionSource
from rrlib.synthesis.sources.windows import Windowing

if TYPE_CHECKING:
    import pandas as pd


def statistics(collection: Collection, windowing: Windowing | None = None, split: str = "train") -> dict[str, Any]:
    """Counts and means of one split, as training and evaluation meet it (over its judged queries).

    relevant: relevant passages a query, of them `reachable` among the first `depth` candidates. first stage, ceiling:
    mean NDCG@10 of those candidates as retrieved, and in the best order; a query without candidates counts 0. The
    ideal is of all relevant passages, so the ceiling may lie below 1. windows: the lists that `windowing` (default:
    Windowing()) gives; `relevant a window` is their mean, `without` the share of those without any.
    """
    windowing = windowing or Windowing()
    candidates = {one.query.qid: one.passages for one in collection.candidates(windowing.depth)}
    rows = []
    for qid, judged in collection.qrels.items():
        relevant = sum(grade > 0 for grade in judged.values())
        grades = [max(judged.get(p.docid, 0), 0) for p in candidates.get(qid, ())]
        below = sorted((g for d, g in judged.items() if g > 0 and d not in {p.docid for p in candidates.get(qid, ())}))
        labels = [*grades, *([0] * max(0, 10 - len(grades))), *below]  # unreachable ones stand where no metric looks
        best = sorted(range(len(grades)), key=lambda i: -grades[i])
        rest = range(len(grades), len(labels))
        rows.append(
            (
                relevant,
                sum(grade > 0 for grade in grades),
                float(ndcg(range(len(labels)), labels, 10)) if relevant else 0.0,  # type: ignore[arg-type]
                float(ndcg([*best, *rest], labels, 10)) if relevant else 0.0,  # type: ignore[arg-type]
            )
        )
    windows = [
        sum((item.labels or {}).get(p.docid, 0) > 0 for p in item.candidates)
        for item in CollectionSource(collection, split, windowing=windowing)
    ]
    n, m = max(1, len(rows)), max(1, len(windows))
    means = [round(sum(column) / n, 3) for column in zip(*rows, strict=True)] or [0.0] * 4
    return {
        "collection": collection.name,
        "split": split,
        "queries": len(rows),
        "candidates": round(sum(map(len, candidates.values())) / n, 1),
        **dict(zip(("relevant", "reachable", "first stage", "ceiling"), means, strict=True)),
        "windows": len(windows),
        "relevant a window": round(sum(windows) / m, 2),
        "without": round(sum(count == 0 for count in windows) / m, 3),
    }


def table_of_statistics(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows of `statistics`, one a line."""
    import pandas as pd

    return pd.DataFrame(rows).set_index(["collection", "split"])
