"""Trying a checkpoint out on one window a query: what notebooks 02 and 03 show before and after a training."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.engines.base import Decoding
from rrlib.errors import InputError
from rrlib.formats import Collection
from rrlib.metrics import ndcg, recall
from rrlib.prompts import get_style
from rrlib.records import WindowRecord
from rrlib.rerank import Reranker
from rrlib.responses import parse_lenient, parse_strict
from rrlib.types import Candidates

if TYPE_CHECKING:
    import pandas as pd


def audition(
    model: str | Path,
    collection: Collection,
    *,
    window: int,
    style: str = "reasonrank",
    max_passage_tokens: int | None = None,
    max_new_tokens: int = 512,
    limit: int | None = None,
    k: int = 10,
    engine: str = "transformers",
    engine_options: Mapping[str, Any] | None = None,
    on_window: Callable[[WindowRecord], None] | None = None,
) -> pd.DataFrame:
    """Let a checkpoint rank one window of each query: one row a query, greedy, judged by the qrels.

    max_passage_tokens: a longer passage is cut; None is what the checkpoint was trained with, which need not be what
    another checkpoint was. on_window: told of every window as it is finished.

    Columns: qid, query, level (strict: valid, bad_list, bad_format), verdict (lenient), ndcg and recall at k over the
    window's passages, tokens, text (the response), order (docids), passages.

    Raises InputError for a style without tags: the form that is judged here has them.
    """
    import pandas as pd

    if not get_style(style).tags:
        raise InputError(
            f"the style {style!r} has no answer block, so no answer of it would count as valid",
            remedy="use a style with answer tags: nothink_tags asks for the list alone too",
        )
    candidates = [c for c in collection.candidates(window) if len(c.passages) > 1][:limit]
    reranker = Reranker(
        str(model),
        engine,
        style=style,
        strategy="full_list",
        depth=window,
        max_passage_tokens=max_passage_tokens,
        decoding=Decoding(max_new_tokens=max_new_tokens),
        **dict(engine_options or {}),
    )
    reranker.on_window = on_window
    records = {record.qid: record for record in reranker.rerank(candidates).records}
    reranker.engine.close()
    think = get_style(style).think
    return pd.DataFrame(
        [
            _judged(item, records[item.query.qid], collection.qrels.get(item.query.qid, {}), k, think)
            for item in candidates
        ]
    )


WRITTEN_LIST = re.compile(r"\[\d+\](?:\s*>\s*\[\d+\])+")
_ANSWER_WORD = re.compile(r"(?:Ranking|Answer):\s*$")


def add_answer_tag(text: str) -> str:
    """The text with its last list `[a] > [b] > ...` in an answer block, where it has no such block; nothing else is
    mended but a think block that was left open, which is closed before the list. A text without a list stays."""
    lists = list(WRITTEN_LIST.finditer(text))
    if "<answer>" in text or not lists:
        return text
    before = _ANSWER_WORD.sub("", text[: lists[-1].start()].rstrip()).rstrip()
    close = " </think>" if "<think>" in before and "</think>" not in before else ""
    return f"{before}{close} <answer> {lists[-1].group()} </answer>"


def tag_added(frame: pd.DataFrame, collection: Collection, *, k: int = 10, style: str = "reasonrank") -> pd.DataFrame:
    """The same responses with the answer tag added to those that lack it, read and judged again: what a checkpoint
    knows already, apart from the form that it does not write. frame: of `audition`, of a style with tags."""
    import pandas as pd

    rows = []
    for row in frame.to_dict("records"):
        text, passages = add_answer_tag(row["text"]), row["passages"]
        parsed = parse_lenient(text, len(passages), style)
        grades = collection.qrels.get(row["qid"], {})
        labels = [max(grades.get(p.docid, 0), 0) for p in passages]
        level = parse_strict(text, len(passages), think=get_style(style).think).level
        values = {name: float(f(list(parsed.order), labels, k)) for name, f in (("ndcg", ndcg), ("recall", recall))}  # type: ignore[arg-type]
        order = [passages[i].docid for i in parsed.order]
        rows.append({**row, **values, "level": level, "verdict": parsed.verdict, "text": text, "order": order})
    return pd.DataFrame(rows)


def _judged(item: Candidates, record: WindowRecord, grades: Mapping[str, int], k: int, think: bool) -> dict[str, Any]:
    """One row: what was written for a query's window, and what it is worth under the judgements."""
    labels = [max(grades.get(p.docid, 0), 0) for p in item.passages]
    order = list(record.order)
    return {
        "qid": item.query.qid,
        "query": item.query.text,
        "level": parse_strict(record.text or "", len(labels), think=think).level,
        "verdict": record.verdict,
        "ndcg": float(ndcg(order, labels, k)),  # type: ignore[arg-type]
        "recall": float(recall(order, labels, k)),  # type: ignore[arg-type]
        "tokens": record.tokens_out,
        "text": record.text or "",
        "order": [item.passages[i].docid for i in order],
        "passages": item.passages,
    }
