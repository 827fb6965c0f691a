"""Figures that others report, to stand beside ours: always marked as reported, never mixed with measured ones.

NDCG@10 x 100. Source: Liu et al., ReasonRank, ACL 2026 (2026.acl-long.1005; arXiv 2508.07050): Tables 1 (BRIGHT), 2
(R2MED), 3 and 6 (ablations), 7 (BEIR), 8 (backbones), 9 (DeepSeek-R1) and 10 (windows). First stages: the top 100 of
ReasonIR-8B on BRIGHT, of E5-mistral on R2MED, of BM25 on BEIR, if a row says no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


# A row: the sets in the registry's order, then the average as printed.
# Econ Earth Rob Bio Psy Stack Sus Leet Pony AoPS TheoQ TheoT
_BRIGHT = {
    "ReasonIR-8B": "32.65 43.00 20.82 43.49 39.57 30.96 27.34 31.69 19.55 7.37 33.93 36.68 30.59",
    "RankT5-3B (pointwise)": "11.35 22.11 10.94 13.62 11.40 11.35 15.96 27.45 38.05 9.24 18.27 9.46 16.60",
    "RankZephyr-7B": "19.87 17.36 12.35 34.90 24.72 13.35 22.34 29.29 32.37 6.05 28.98 30.07 22.64",
    "Rank-R1-7B (setwise)": "20.19 27.91 18.13 36.70 30.22 11.32 29.28 17.13 9.35 3.23 14.43 28.98 20.57",
    "Rank-R1-14B (setwise)": "27.39 38.73 23.11 44.45 37.10 27.82 36.77 21.27 19.23 8.80 31.66 39.53 29.66",
    "Rank1-7B (pointwise)": "25.34 38.91 16.77 39.91 35.32 24.81 33.47 12.71 28.14 2.58 30.67 38.18 27.23",
    "Rank1-32B (pointwise)": "25.43 37.97 17.14 42.43 34.85 23.82 31.18 12.20 40.98 4.79 29.28 39.95 28.34",
    "Rearank-7B": "30.65 40.27 27.16 46.94 40.77 26.12 36.26 30.55 22.84 7.31 32.28 39.86 31.75",
    "Rank-K-32B": "30.09 39.78 26.60 50.64 43.45 29.87 35.17 27.23 22.80 7.61 37.06 41.00 32.61",
    "ReasonRank-7B": "35.05 47.75 31.22 56.70 47.77 32.47 40.87 23.17 24.95 7.68 39.49 41.80 35.74",
    "ReasonRank-32B": "36.64 48.90 33.88 58.17 53.27 38.68 45.97 25.78 20.93 9.41 38.46 46.28 38.03",
    "ReasonRank (Llama-3.1-8B)": "34.47 40.60 27.46 53.44 51.86 29.52 43.58 22.40 23.79 7.69 34.44 39.80 34.08",
    "ReasonRank (Qwen3-8B)": "34.71 44.23 29.46 55.16 50.10 32.50 43.96 24.23 28.44 8.84 37.82 44.19 36.14",
    "RaDeR+BM25": "30.85 56.08 24.13 52.66 46.69 34.93 32.22 31.91 25.87 11.98 37.73 43.43 35.71",
    "ReasonRank-32B (RaDeR+BM25 first stage)": (
        "37.67 50.61 35.44 59.04 53.06 39.04 45.75 22.64 25.30 11.41 41.27 47.73 39.08"
    ),
    "ReasonRank-32B (RaDeR+BM25 first stage; windows of 10 by 5)": (
        "36.70 55.53 35.69 62.72 54.64 38.03 44.81 29.46 25.56 14.38 41.99 50.06 40.80"
    ),
    "DeepSeek-R1 (top 20)": "33.75 45.64 26.91 50.34 49.47 37.22 36.92 25.74 21.08 6.81 33.30 42.42 34.13",
    "ReasonRank-7B (top 20)": "31.32 43.18 27.07 50.06 45.02 33.46 37.25 24.14 22.93 8.23 35.39 40.69 33.23",
    "ReasonRank-32B (top 20)": "33.98 42.30 28.66 51.97 47.45 36.31 38.51 23.15 22.48 8.59 34.51 42.27 34.18",
}
# Biology, Bioinformatics, Medical-Sciences, MedXpertQA-Exam, MedQA-Diag, PMC-Treatment, PMC-Clinical, IIYi-Clinical
_R2MED = {
    "E5-mistral": "18.28 41.47 41.01 6.44 11.38 19.81 30.97 21.37 23.84",
    "RankT5-3B (pointwise)": "13.20 32.84 23.38 2.09 4.18 0.61 14.55 12.39 12.91",
    "RankZephyr-7B": "22.86 43.07 48.24 6.97 10.45 26.64 7.78 14.59 22.58",
    "Rank-R1-7B (setwise)": "34.04 51.63 50.96 12.79 21.96 34.79 31.70 25.08 32.87",
    "Rank-R1-14B (setwise)": "38.78 53.81 57.94 15.15 25.49 40.57 42.52 29.63 37.99",
    "Rank1-7B (pointwise)": "32.64 55.57 54.74 12.78 19.98 34.40 30.17 18.15 32.30",
    "Rank1-32B (pointwise)": "31.84 61.65 59.74 16.56 26.90 41.31 45.56 29.49 39.13",
    "Rearank-7B": "38.35 50.91 59.73 14.06 19.34 37.49 34.29 26.27 35.06",
    "Rank-K-32B": "32.94 53.94 51.47 11.41 22.93 34.44 38.38 26.24 33.97",
    "ReasonRank-7B": "46.80 59.70 60.11 16.48 24.92 39.21 39.13 29.85 39.53",
    "ReasonRank-32B": "45.56 67.73 63.45 18.90 30.60 41.08 46.11 29.35 42.85",
}
# Covid, DBPedia, SciFact, NFCorpus, Signal, Robust04, News
_BEIR = {
    "BM25": "59.47 31.80 67.89 33.75 33.04 40.70 39.52 43.74",
    "RankT5-3B (pointwise)": "80.19 44.85 74.60 37.40 31.73 51.45 49.11 52.76",
    "RankZephyr-7B": "82.92 44.42 75.42 38.26 31.41 53.73 52.80 54.14",
    "Rank-R1-7B (setwise)": "83.71 42.27 72.16 38.94 33.08 54.46 50.60 53.60",
    "Rank-R1-14B (setwise)": "84.63 44.05 75.96 38.58 32.95 56.91 49.20 54.61",
    "Rank1-7B (pointwise)": "79.04 35.79 73.32 37.52 25.41 57.11 47.67 50.84",
    "Rank1-32B (pointwise)": "80.59 34.79 74.78 37.29 25.58 58.30 45.57 50.99",
    "Rearank-7B": "81.28 44.99 75.02 38.83 32.69 56.16 51.04 54.29",
    "Rank-K-32B": "74.76 38.29 60.83 36.48 32.64 49.79 45.59 48.34",
    "ReasonRank-7B": "82.01 46.03 75.55 39.60 31.36 55.40 50.50 54.35",
    "ReasonRank-32B": "83.16 45.65 77.24 40.04 31.07 58.67 52.24 55.44",
}
# BRIGHT again; "no reasoning, SFT+RL" is printed as an average alone
_ABLATIONS = {
    "full": _BRIGHT["ReasonRank-7B"],
    "only MS MARCO": "29.08 36.97 24.34 43.60 37.95 26.05 31.42 26.96 24.51 7.08 33.22 39.75 30.08",
    "no filter": "33.96 50.35 27.94 55.48 46.63 31.96 40.17 22.50 18.29 7.32 35.16 40.67 34.20",
    "no SFT": "27.44 35.23 23.73 50.36 34.48 25.76 29.62 18.59 23.51 6.78 34.46 34.28 28.69",
    "no RL": "30.47 44.83 27.42 50.53 43.10 30.38 38.79 25.11 22.46 7.06 37.53 40.12 33.15",
    "NDCG-only reward": "30.86 47.14 29.75 59.6 44.40 35.04 36.87 20.47 20.80 8.23 37.52 39.66 34.20",
    "no reasoning, SFT": "26.70 45.30 27.89 51.48 43.65 29.72 41.44 25.60 17.64 5.39 38.31 42.4 32.96",
    "no reasoning, SFT+RL": "33.60",
}
_FIRST_STAGES = ("ReasonIR-8B", "RaDeR+BM25", "E5-mistral", "BM25")


def _rows(suite: str, table: Mapping[str, str], note: str = "") -> Iterator[Reported]:
    """A figure a set and one for the mean over them, or the last alone."""
    names = [*(spec.name for spec in BENCHMARKS.values() if spec.suite == suite), suite]
    for system, printed in table.items():
        figures = [round(float(word) / 100, 4) for word in printed.split()]
        own = note or ("first stage" if system in _FIRST_STAGES else "")
        shown = names if len(figures) > 1 else [suite]
        yield from (Reported(system, name, value, own) for name, value in zip(shown, figures, strict=True))


REPORTED: tuple[Reported, ...] = (*_rows("bright", _BRIGHT), *_rows("r2med", _R2MED), *_rows("beir", _BEIR))
"""Every reported figure but the ablations."""

ABLATIONS: tuple[Reported, ...] = tuple(
    _rows("bright", {f"ReasonRank-7B, {name}": printed for name, printed in _ABLATIONS.items()}, "ablation")
)
"""The paper's ablations on BRIGHT: by set where the paper prints them, and their mean."""


def reported_for(benchmarks: Sequence[str]) -> list[Reported]:
    """What is reported for these sets, and for a suite whose every set is among them."""
    names = set(benchmarks)
    for suite in {row.benchmark for row in REPORTED if "/" not in row.benchmark}:
        members = {spec.name for spec in BENCHMARKS.values() if spec.suite == suite}
        if members and members <= names:
            names.add(suite)
    return [row for row in REPORTED if row.benchmark in names]
