"""The field's benchmarks by name, each with what is easily got wrong: passage limit, grades that count, averaging.

BRIGHT's headline is the plain mean of its 12 set means (so are those of R2MED and of the paper's BEIR sets), on the
plain qrels; its excluded documents are removed before reranking. TREC Deep Learning counts recall and reciprocal rank
from grade 2. Rewritten queries serve retrieval only: reranking always sees the original query. Sources: paper sections
5.1 and A; the data sets' own cards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rrlib.errors import InputError


@dataclass(frozen=True)
class Benchmark:
    """How one test collection is evaluated.

    name: `suite/set`, also its folder below the data root. title: the column of the paper's tables. queries: how many
    the set has (0 = unknown), for plans on paper. max_passage_tokens: 512 for BRIGHT and R2MED, 100 for BEIR and TREC
    DL. metrics: names of ir-measures, the headline first. relevance_level: least grade that counts for metrics that
    count relevant documents. window, stride, depth: of the sliding window (passages).
    source: where the data come from: `bright:SET`, `r2med:SET`, `beir:SET`, `ir_datasets:ID`, `callable:module:name`,
    or `` (nothing can fetch it). options: arguments of a callable. licence: why a set cannot be fetched.
    """

    name: str
    suite: str = ""
    title: str = ""
    queries: int = 0
    max_passage_tokens: int = 512
    metrics: tuple[str, ...] = ("nDCG@10",)
    relevance_level: int = 1
    window: int = 20
    stride: int = 10
    depth: int = 100
    source: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    licence: str = ""


_BRIGHT = {  # set: column of the paper's Table 1, queries
    "economics": ("Econ", 103),
    "earth_science": ("Earth", 116),
    "robotics": ("Rob", 101),
    "biology": ("Bio", 103),
    "psychology": ("Psy", 101),
    "stackoverflow": ("Stack", 117),
    "sustainable_living": ("Sus", 108),
    "leetcode": ("Leet", 142),
    "pony": ("Pony", 112),
    "aops": ("AoPS", 111),
    "theoremqa_questions": ("TheoQ", 194),
    "theoremqa_theorems": ("TheoT", 76),
}
_R2MED = {
    "Biology": 103,
    "Bioinformatics": 77,
    "Medical-Sciences": 88,
    "MedXpertQA-Exam": 97,
    "MedQA-Diag": 118,
    "PMC-Treatment": 150,
    "PMC-Clinical": 114,
    "IIYi-Clinical": 129,
}
_LICENSED = "its texts are given out under an agreement, so BEIR does not distribute it"
_BEIR = {  # the paper's seven: queries, whether BEIR distributes it
    "trec-covid": (50, True),
    "dbpedia-entity": (400, True),
    "scifact": (300, True),
    "nfcorpus": (323, True),
    "signal1m": (97, False),
    "robust04": (249, False),
    "trec-news": (57, False),
}
_DL = {"2019": 43, "2020": 54}
SUITES = ("bright", "r2med", "beir", "trec-dl")
"""Suites whose mean over sets is a headline; `trec-dl` is reported year by year."""


def _registry() -> dict[str, Benchmark]:
    specs: list[Benchmark] = []
    for name, (title, queries) in _BRIGHT.items():
        specs.append(Benchmark(f"bright/{name}", "bright", title, queries, source=f"bright:{name}"))
    for name, queries in _R2MED.items():
        specs.append(Benchmark(f"r2med/{name}", "r2med", name, queries, source=f"r2med:{name}"))
    for name, (queries, free) in _BEIR.items():
        source, licence = (f"beir:{name}", "") if free else ("", _LICENSED)
        specs.append(Benchmark(f"beir/{name}", "beir", name, queries, 100, source=source, licence=licence))
    for year, queries in _DL.items():
        specs.append(
            Benchmark(
                f"trec-dl/{year}",
                "trec-dl",
                f"DL{year[2:]}",
                queries,
                100,
                ("nDCG@10", "R@100", "RR", "AP@100"),
                relevance_level=2,
                source=f"ir_datasets:msmarco-passage/trec-dl-{year}/judged",
            )
        )
    specs.append(
        Benchmark(
            "miniature",
            queries=240,
            metrics=("nDCG@10", "R@5", "RR"),
            window=10,
            stride=5,
            depth=30,
            source="callable:rrlib.miniature:build",
            options={"seed": 7, "train": 0, "validation": 64, "test": 240},
        )
    )
    return {spec.name: spec for spec in specs}


BENCHMARKS: dict[str, Benchmark] = _registry()
"""Name -> benchmark, in the order of the paper's tables."""

_ALIASES = {
    "dl19": "trec-dl/2019",
    "dl20": "trec-dl/2020",
    "trec-dl-2019": "trec-dl/2019",
    "trec-dl-2020": "trec-dl/2020",
}


def expand(names: str | Sequence[str]) -> list[str]:
    """Names of single benchmarks: a suite stands for its sets, in the order of the paper's tables.

    Names that the registry does not know pass through (folders, `ir_datasets:ID`).
    """
    out: list[str] = []
    for name in [names] if isinstance(names, str) else names:
        full_name = _ALIASES.get(name.lower(), name)
        if full_name in SUITES:
            out += [spec.name for spec in BENCHMARKS.values() if spec.suite == full_name]
        else:
            out.append(full_name)
    return list(dict.fromkeys(out))


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of that name. Raises InputError with the nearest names."""
    import difflib

    full_name = _ALIASES.get(name.lower(), name)
    if full_name in BENCHMARKS:
        return BENCHMARKS[full_name]
    near = difflib.get_close_matches(full_name, [*BENCHMARKS, *SUITES], n=3, cutoff=0.4)
    raise InputError(
        f"no benchmark is called {name!r}",
        remedy=f"did you mean {', '.join(near)}?" if near else f"use one of {', '.join(BENCHMARKS)}, or name a folder",
    )
