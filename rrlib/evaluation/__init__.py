"""Evaluation: collection metrics, how sure they are, and tables of them."""

from __future__ import annotations

from rrlib.evaluation.metrics import mean, parse_metrics, per_query
from rrlib.evaluation.significance import bootstrap_interval, holm, paired_t, paired_test
from rrlib.evaluation.tables import Row, align, compare, gap_closed, oracle_run, random_run, render, rows_to_json

__all__ = [
    "Row",
    "align",
    "bootstrap_interval",
    "compare",
    "gap_closed",
    "holm",
    "mean",
    "oracle_run",
    "paired_t",
    "paired_test",
    "parse_metrics",
    "per_query",
    "random_run",
    "render",
    "rows_to_json",
]
