"""Figures that others report, to stand beside ours: always marked as reported, never mixed with measured ones.

NDCG@10 x 100. Source: Liu et al., ReasonRank, ACL 2026 (2026.acl-long.1005), Table 1 (BRIGHT), the R2MED and BEIR
averages, Table 2 (ablations) and the efficiency section. The candidates of BRIGHT are the top 100 of ReasonIR-8B.

Not here, though the paper has them: RankT5, RankZephyr, Rank-R1-7B, Rank1-32B and Rearank-7B, and R2MED and BEIR by
set. Their figures were not at hand, and a figure from memory is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rrlib.evaluation.registry import BENCHMARKS

PAPER = "Liu et al., ReasonRank, ACL 2026"


@dataclass(frozen=True, slots=True)
class Reported:
    """One reported figure: NDCG@10 as a fraction. benchmark: a set, or a suite for its mean over sets."""

    system: str
    benchmark: str
    value: float
    note: str = ""
    source: str = PAPER


_BRIGHT_SETS = [spec.name for spec in BENCHMARKS.values() if spec.suite == "bright"]
# Columns: Econ Earth Rob Bio Psy Stack Sus Leet Pony AoPS TheoQ TheoT, then the average as printed.
_TABLE_1: dict[str, tuple[float, ...]] = {
    "ReasonIR-8B": (32.65, 43.00, 20.82, 43.49, 39.57, 30.96, 27.34, 31.69, 19.55, 7.37, 33.93, 36.68, 30.59),
    "Rank1-7B (pointwise)": (25.34, 38.91, 16.77, 39.91, 35.32, 24.81, 33.47, 12.71, 28.14, 2.58, 30.67, 38.18, 27.23),
    "Rank-R1-14B (setwise)": (27.39, 38.73, 23.11, 44.45, 37.10, 27.82, 36.77, 21.27, 19.23, 8.80, 31.66, 39.53, 29.66),
    "Rank-K-32B": (30.09, 39.78, 26.60, 50.64, 43.45, 29.87, 35.17, 27.23, 22.80, 7.61, 37.06, 41.00, 32.61),
    "ReasonRank-7B": (35.05, 47.75, 31.22, 56.70, 47.77, 32.47, 40.87, 23.17, 24.95, 7.68, 39.49, 41.80, 35.74),
    "ReasonRank-32B": (36.64, 48.90, 33.88, 58.17, 53.27, 38.68, 45.97, 25.78, 20.93, 9.41, 38.46, 46.28, 38.03),
}
_AVERAGES: tuple[tuple[str, str, float, str], ...] = (
    ("ReasonRank-32B (RaDeR+BM25 first stage, window 10, stride 5)", "bright", 40.80, ""),
    ("ReasonRank (Qwen3-8B)", "bright", 36.14, ""),
    ("ReasonRank (Llama-3.1-8B)", "bright", 34.08, ""),
    ("E5-mistral", "r2med", 23.84, "first stage"),
    ("ReasonRank-7B", "r2med", 39.53, ""),
    ("ReasonRank-32B", "r2med", 42.85, ""),
    ("BM25", "beir", 43.74, "first stage"),
    ("ReasonRank-7B", "beir", 54.35, ""),
    ("ReasonRank-32B", "beir", 55.44, ""),
)
_ABLATIONS: tuple[tuple[str, float], ...] = (
    ("full", 35.74),
    ("only MS MARCO", 30.08),
    ("no filter", 34.20),
    ("no SFT", 28.69),
    ("no RL", 33.15),
    ("NDCG-only reward", 34.20),
    ("no reasoning, SFT", 32.96),
    ("no reasoning, SFT+RL", 33.60),
)


def _rows() -> list[Reported]:
    rows: list[Reported] = []
    for system, figures in _TABLE_1.items():
        note = "first stage" if system == "ReasonIR-8B" else ""
        rows += [
            Reported(system, name, round(v / 100, 4), note) for name, v in zip(_BRIGHT_SETS, figures[:-1], strict=True)
        ]
        rows.append(Reported(system, "bright", round(figures[-1] / 100, 4), note))
    rows += [Reported(system, name, round(v / 100, 4), note) for system, name, v, note in _AVERAGES]
    return rows


REPORTED: tuple[Reported, ...] = tuple(_rows())
"""Every reported figure but the ablations."""

ABLATIONS: tuple[Reported, ...] = tuple(
    Reported(f"ReasonRank-7B, {name}", "bright", round(v / 100, 4), "ablation") for name, v in _ABLATIONS
)
"""The paper's ablations: mean NDCG@10 over BRIGHT's 12 sets."""


def reported_for(benchmarks: Sequence[str]) -> list[Reported]:
    """What is reported for these sets, and for a suite whose every set is among them."""
    names = set(benchmarks)
    for suite in {row.benchmark for row in REPORTED if "/" not in row.benchmark}:
        members = {spec.name for spec in BENCHMARKS.values() if spec.suite == suite}
        if members and members <= names:
            names.add(suite)
    return [row for row in REPORTED if row.benchmark in names]
