"""Evaluation: benchmarks by name, one experiment call, baselines, how sure the figures are, and what they cost."""

from __future__ import annotations

from rrlib.evaluation.benchmarks import BenchmarkData, from_collection, load_benchmark
from rrlib.evaluation.experiment import Experiment, plan_experiment
from rrlib.evaluation.latency import Prices
from rrlib.evaluation.metrics import mean, parse_metrics, per_query
from rrlib.evaluation.mixtures import Interpolated, Routed, interpolate
from rrlib.evaluation.orders import FirstStage, Given, Oracle, RandomOrder
from rrlib.evaluation.reference import ABLATIONS, REPORTED
from rrlib.evaluation.registry import BENCHMARKS, Benchmark, expand, get_benchmark
from rrlib.evaluation.results import ExperimentResult
from rrlib.evaluation.significance import bootstrap_interval, holm, paired_t, paired_test, suite_interval
from rrlib.evaluation.systems import Listwise, Outcome, Pointwise
from rrlib.evaluation.tables import Row, align, compare, gap_closed, oracle_run, random_run, render

__all__ = [
    "ABLATIONS",
    "BENCHMARKS",
    "REPORTED",
    "Benchmark",
    "BenchmarkData",
    "Experiment",
    "ExperimentResult",
    "FirstStage",
    "Given",
    "Interpolated",
    "Listwise",
    "Oracle",
    "Outcome",
    "Pointwise",
    "Prices",
    "RandomOrder",
    "Routed",
    "Row",
    "align",
    "bootstrap_interval",
    "compare",
    "expand",
    "from_collection",
    "gap_closed",
    "get_benchmark",
    "holm",
    "interpolate",
    "load_benchmark",
    "mean",
    "oracle_run",
    "paired_t",
    "paired_test",
    "parse_metrics",
    "per_query",
    "plan_experiment",
    "random_run",
    "render",
    "suite_interval",
]
