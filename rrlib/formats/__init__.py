"""Files in and out: TREC runs and qrels, BEIR folders, rank_llm requests, training examples; gzip anywhere.

Readers raise `rrlib.errors.InputError` with file, line and remedy; what they mend instead they count in the list
that is passed as `notes`. Writers are atomic.
"""

from __future__ import annotations

from rrlib.formats.collection import DATA_KINDS, Collection, DataKind, read_collection
from rrlib.formats.examples import example_from_json, example_to_json, read_examples, write_examples
from rrlib.formats.requests import make_candidates, read_requests, write_requests, write_reranked
from rrlib.formats.textio import TextLines, open_text, read_jsonl, write_jsonl, write_lines
from rrlib.formats.texts import read_corpus, read_queries
from rrlib.formats.trec import (
    ranking_to_run,
    read_excluded,
    read_qrels,
    read_run,
    without_excluded,
    write_qrels,
    write_run,
    write_scored_run,
)

__all__ = [
    "DATA_KINDS",
    "Collection",
    "DataKind",
    "TextLines",
    "example_from_json",
    "example_to_json",
    "make_candidates",
    "open_text",
    "ranking_to_run",
    "read_collection",
    "read_corpus",
    "read_examples",
    "read_excluded",
    "read_jsonl",
    "read_qrels",
    "read_queries",
    "read_requests",
    "read_run",
    "without_excluded",
    "write_examples",
    "write_jsonl",
    "write_lines",
    "write_qrels",
    "write_requests",
    "write_reranked",
    "write_run",
    "write_scored_run",
]
