"""Every sentence with a measured figure, in README, pages and notebooks, is bound to what it was read from.

A figure is a decimal, a percentage, a number of points or times, a time, or a size in GB or MB; and in words a number
of points, minutes, hours or seconds, and a fraction (`three points`, `an eighth`, `more than half`). Blocks between
`<!-- name -->` and `<!-- end -->`, fenced blocks and tables have tests of their own. A sentence with figures is one of
these:

- it says itself that they were read: `(read)`, `(read: where)`, or `; read)`;
- `tests/claims.yaml` names it (by a part of it) with `rows`: for every figure an expression, computed here from stored
  rows and from tables that other tests hold;
- or with `command`: what printed them, which the page names too;
- or with `plain`: why no figure of it was measured (a setting, a definition, a name).
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from functools import cache
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from figures_in_text import figures, holds

from rrlib.chain.from_profile import plans_of
from rrlib.evaluation import REPORTED
from rrlib.formats import read_jsonl
from rrlib.lesson.explain import outlook
from rrlib.miniature.skills import EXACT_SHARE
from rrlib.miniature.teacher import ErrorRates
from rrlib.plans.training import GIB
from rrlib.reward import PAPER_WEIGHTS
from rrlib.studies.recipes import RECIPES
from rrlib.studies.stored import ROWS, STORED, STRADDLE_ROWS
from rrlib.synthesis.filter import ALPHA
from rrlib.training.objective import EPSILON

ROOT = Path(__file__).resolve().parent.parent
CLAIMS: dict[str, list[dict[str, Any]]] = yaml.safe_load((ROOT / "tests" / "claims.yaml").read_text(encoding="utf-8"))
LOGS = {"experiments.md", "nightly.md"}
"""Dated sections that name their command, and a table that a run writes: what others are read from."""
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md")) if path.name not in LOGS)]
PAGES += [f"notebooks/{path.name}" for path in sorted(ROOT.glob("notebooks/0*.ipynb"))]
READ = re.compile(r"\(read\b|[;,] read\)")


# --- the sentences ----------------------------------------------------------------------------------------------------
@cache
def text_of(page: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    if page.endswith(".ipynb"):
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return text


def sentences(page: str) -> list[str]:
    """The sentences of the page's prose, in one line each."""
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!-- (?!end)[^>]*-->.*?<!-- end -->", "", text, flags=re.DOTALL)
    text = re.sub(r"^\|.*$|\$\$.*?\$\$|!?\[[^]]*\]\(\S+\.png\)", "", text, flags=re.MULTILINE)
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n|\n(?=[-*#] )", text))
    return [s for p in paragraphs for s in re.split(r"(?<=[.?!:;])\s+(?=[A-Z*`\[(])", p) if s]


def claims_of(page: str) -> list[str]:
    return [sentence for sentence in sentences(page) if figures(sentence)]


# --- what the figures are computed from -------------------------------------------------------------------------------
@cache
def _stored(name: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(name)]


def ablation(row: str, seed: int) -> dict[str, Any]:
    return [r for r in _stored(ROWS) if r["row"] == row and r["seed"] == seed][-1]  # the last one counts


def seeds_of(row: str, stored: Path = ROWS) -> list[int]:
    """The seeds of which a row is stored."""
    return sorted({r["seed"] for r in _stored(stored) if r["row"] == row})


def mean(row: str, *seeds: int) -> float:
    """Mean nDCG@10 over all queries of these seeds (none: of all that are stored)."""
    return fmean(value for seed in seeds or seeds_of(row) for value in ablation(row, seed)["values"].values())


def gain(row: str, base: str = "full") -> float:
    """How much more a row has than another, over the seeds that both have."""
    shared = [seed for seed in seeds_of(row) if seed in seeds_of(base)]
    return mean(row, *shared) - mean(base, *shared)


def graded(row: str, seed: int) -> float:
    """Mean nDCG@10 by graded labels of a stored row and seed."""
    (found,) = [r["graded"] for r in _stored(ROWS) if (r["row"], r["seed"]) == (row, seed) and r.get("graded")]
    return fmean(found.values())


def straddle(row: str, *seeds: int) -> float:
    """`mean`, of the rows of the other world."""
    rows = {(r["row"], r["seed"]): r["values"].values() for r in _stored(STRADDLE_ROWS)}
    return fmean(value for seed in seeds or seeds_of(row, STRADDLE_ROWS) for value in rows[row, seed])


def straddle_gain(row: str, base: str = "full") -> float:
    """`gain`, of the rows of the other world."""
    shared = [seed for seed in seeds_of(row, STRADDLE_ROWS) if seed in seeds_of(base, STRADDLE_ROWS)]
    return straddle(row, *shared) - straddle(base, *shared)


def efficiency(system: str, field: str) -> float:
    """A field of the headline row of a system in the stored results of notebook 06."""
    (table,) = [line["table"] for line in _stored(STORED) if line.get("experiment") == "experiment"]
    (found,) = [r for r in table if r["system"] == system and r["metric"] == "nDCG@10"]
    return float(found[field])


@cache
def cell(page: str, row: str, column: str, table: int = 0) -> str:
    """A cell of a page's table that has this row and this column (the `table`-th of them)."""
    found, head = [], []
    for line in text_of(page).splitlines():
        cells = [part.strip() for part in line.strip().strip("|").split("|")] if line.startswith("|") else []
        head = [] if not cells else head or cells
        if cells and cells[0] == row and column in head:
            found.append(cells[head.index(column)])
    return found[table]


def number(page: str, row: str, column: str, table: int = 0, which: int = 0) -> float:
    """The `which`-th number of such a cell."""
    return float(re.findall(r"[-+]?\d+\.?\d*", cell(page, row, column, table))[which])


def pair(systems: str, collection: str, profile: str, column: str, which: int = 0) -> float:
    """The `which`-th number of a cell of the table of pairs of docs/results.md, which is made from stored runs."""
    head: list[str] = []
    found = []
    for line in text_of("docs/results.md").splitlines():
        cells = [part.strip() for part in line[1:].split(" | ")] if line.startswith("|") else []
        head = [] if not cells else head or cells
        if head[:1] == ["systems"] and cells[0] == systems and cells[2:4] == [collection, f"`{profile}`"]:
            found.append(cells[head.index(column)])
    (text,) = found
    return float(re.findall(r"[-+]?\d+\.?\d*", text)[which])


def real(system: str, collection: str, first_stage: str, metric: str = "nDCG@10", profile: str = "") -> float:
    """A mean of docs/results/real.json, over its seeds; of one profile where it is named."""
    rows = json.loads((ROOT / "docs/results/real.json").read_text(encoding="utf-8"))["rows"]
    key = (system, collection, first_stage, metric)
    rows = [row for row in rows if (row["system"], row["collection"], row["first_stage"], row["metric"]) == key]
    return fmean(row["mean"] for row in rows if row["profile"] == profile or not profile)


def belief(row: str, column: str) -> float:
    """A figure of docs/results/beliefs.json; percentages as shares."""
    stored = json.loads((ROOT / "docs/results/beliefs.json").read_text(encoding="utf-8"))
    text = {**stored["rows"], **stored["read"]}[row][stored["columns"].index(column)]
    return float(text.split()[0].rstrip("%")) / (100 if "%" in text else 1)


def logged(figure: str, question: str) -> float:
    """A figure of the log of experiments, in the one section of this question, which has its command and date."""
    sections = [s for s in text_of("docs/experiments.md").split("\n## ") if question in s.splitlines()[0]]
    assert len(sections) == 1, f"{len(sections)} sections ask: {question}"
    command, result = sections[0].partition("**Result.**")[::2]
    assert "**Command.**" in command, f"no command: {question}"
    assert re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", result), f"{figure} is not in the result: {question}"
    return float(figure.rstrip("%")) / (100 if figure.endswith("%") else 1)


def paper(figure: float) -> float:
    """A figure that the paper reports; the sentence says whose it is."""
    return figure


def reported(system: str, benchmark: str = "bright") -> float:
    """A figure of a table of the paper, x 100."""
    (value,) = [row.value for row in REPORTED if (row.system, row.benchmark) == (system, benchmark)]
    return 100 * value


def backbone(kind: str) -> float:
    """`parameters` in millions, or the share of `exact` answers in its pretraining."""
    if kind == "exact":
        return float(EXACT_SHARE)
    raw = (ROOT / "rrlib" / "miniature" / "backbone" / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__") / 1e6


def adapter_megabytes() -> float:
    """The packaged adapter of SmolLM2-135M, which has rank 16."""
    folder = ROOT / "rrlib" / "checkpoints" / "smollm2-135m-judge"
    assert json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"] == 16
    return (folder / "adapter_model.safetensors").stat().st_size / 1e6


def minutes(*rows: str, most: float = math.inf, stored: Path = ROWS) -> list[float]:
    """The minutes that each stored row and seed took, of these rows (none: of all that train), none above `most`."""
    named = rows or [r["row"] for r in _stored(stored) if (known := RECIPES.get(r["row"])) and (known.sft or known.rl)]
    took = [sum(r["seconds"].values()) / 60 for r in _stored(stored) if r["row"] in named and r["seconds"]]
    return [value for value in took if value <= most]


def written(page: str, text: str) -> float:
    """The first number of a text that stands in a page, where its own figure is bound or marked."""
    assert text in " ".join(text_of(page).split()), f"{page} does not say: {text}"
    return float(re.findall(r"\d+\.?\d*", text)[0])


@cache
def planned(kind: str) -> float:
    """GiB that `rrlib plan params/miniature.yaml` counts by its parts for a training, in a clone where nothing ran: a
    finished run's own examples would be counted by their lengths."""
    with tempfile.TemporaryDirectory() as empty, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RRLIB_OUTPUTS", empty)
        plans = {plan.kind.lower(): plan.needed / GIB for plan in plans_of(ROOT / "params" / "miniature.yaml")}
    return plans[kind]


def view(places: tuple[int, int], name: str) -> float:
    """NDCG@10 or Recall@10 of two relevant passages at these places of a window of 20."""
    return float(outlook(list(places)).views[{"ndcg": 0, "recall": 1}[name]])


HELPERS = {
    "__builtins__": {"min": min, "max": max, "sum": sum, "range": range, "abs": abs},
    **{f.__name__: f for f in (mean, ablation, efficiency, number, real, belief, logged, paper, reported)},
    **{f.__name__: f for f in (backbone, view, gain, graded, seeds_of, straddle, straddle_gain)},
    **{f.__name__: f for f in (pair, adapter_megabytes, planned, minutes, written)},
    "rates": ErrorRates(),
    "weights": PAPER_WEIGHTS,
    "alpha": ALPHA,
    "epsilon": EPSILON,
}


# --- the tests --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("page", PAGES)
def test_every_sentence_with_a_figure_is_bound_or_marked(page: str) -> None:
    entries, loose = CLAIMS.get(page, []), []
    for sentence in claims_of(page):
        if not READ.search(sentence) and not any(entry["in"] in sentence for entry in entries):
            loose.append(f"{figures(sentence)} in: {sentence}")
    assert loose == [], "bind it in tests/claims.yaml, or mark it (read)"


ENTRIES = [(page, entry) for page, entries in CLAIMS.items() for entry in entries]


@pytest.mark.parametrize(("page", "entry"), ENTRIES, ids=[f"{page}: {entry['in']}" for page, entry in ENTRIES])
def test_every_bound_figure_is_what_its_row_says(page: str, entry: dict[str, Any]) -> None:
    found = [sentence for sentence in claims_of(page) if entry["in"] in sentence]
    assert len(found) == 1, f"{len(found)} sentences with figures hold: {entry['in']}"
    (kind,) = set(entry) - {"in"}
    if kind == "command":
        assert entry["command"] in text_of(page), "the page does not name the command"
    elif kind == "plain":
        assert len(entry["plain"].split()) >= 2
    else:
        wanted = figures(found[0])
        assert sorted(entry["rows"]) == sorted(set(wanted)), "bind each figure of the sentence, and no other"
        for figure, expression in entry["rows"].items():
            assert "paper(" not in expression or "the paper" in found[0].lower(), "say that it is the paper's"
            value = eval(expression, dict(HELPERS))
            assert holds(figure, value), f"{figure} is {value:.4f} by {expression}"


TABLE = [
    (row, stored, column, value)
    for row, stored in (
        ("first stage (BM25)", "first stage"),
        ("backbone, before training", "backbone"),
        ("SFT", "no RL"),
        ("SFT, then GRPO", "full"),
    )
    for column, value in (("nDCG@10", lambda s: mean(s, 7)), ("valid answers", lambda s: ablation(s, 7)["valid"]))
    if not (column == "valid answers" and stored == "first stage")
]


@pytest.mark.parametrize(("row", "stored", "column", "value"), TABLE)
def test_the_table_of_the_miniature_is_that_of_the_stored_rows(row: str, stored: str, column: str, value: Any) -> None:
    figure = cell("docs/miniature.md", row, column).split()[0]
    assert holds(figure, value(stored))


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("It gains 0.088 [+0.070, +0.106] (p 0.0001).", ["0.088", "+0.070", "+0.106", "0.0001"]),
        (
            "A share of 99.4% and 15%, 4 points, 2.8 times, 25 minutes.",
            ["99.4%", "15%", "4 points", "2.8 times", "25 minutes"],
        ),
        ("It takes 4 GB, 5.6 GB and 20 to 30 MB.", ["4 GB", "5.6 GB", "20 MB", "30 MB"]),
        (
            "Twenty minutes, about three points, half a point, an eighth of the lists; more than half is the tag.",
            ["Twenty minutes", "three points", "half a point", "an eighth", "more than half"],
        ),
        ("A second run asks two questions, one at a time, on three seeds; half is noise.", []),
        ("With a 95% bootstrap interval, `0.5`, [a page](x-0.5.md), section 4.1, arXiv 2508.07050.", []),
        ("Seed 7, 600 queries, 64 concepts, torch 2.13.0 and places 1 and 11.", []),
    ],
)
def test_figures_are_found(sentence: str, expected: list[str]) -> None:
    assert figures(sentence) == expected


def test_a_figure_that_is_off_by_a_digit_does_not_hold() -> None:
    assert holds("0.842", 0.84161) and not holds("0.842", 0.8412) and holds("15%", 0.1541) and not holds("16%", 0.1541)
    assert holds("4 GB", 4.4) and not holds("4 GB", 4.6) and holds("5.6 GB", 5.61)
    assert holds("-0.011", -0.011) and not holds("+0.011", -0.011) and holds("13 points", 0.1343)


@pytest.mark.parametrize(
    ("figure", "good", "bad"),
    [
        ("a quarter", 0.244, 0.29),
        ("an eighth", 0.123, 0.143),
        ("three quarters", 0.76, 0.9),
        ("half of", 0.45, 0.34),
        ("more than half", 0.6, 0.5),
        ("less than half", 0.4, 0.5),
        ("half a point", 0.005, 0.009),
        ("two points", 0.021, 0.026),
        ("twenty minutes", 19, 17),
        ("three minutes", 3.2, 3.6),
        ("an hour", 0.8, 0.4),
    ],
)
def test_a_figure_in_words_holds_only_near_its_value(figure: str, good: float, bad: float) -> None:
    assert figures(f"It is {figure} here.") == [figure]
    assert holds(figure, good) and not holds(figure, bad)
