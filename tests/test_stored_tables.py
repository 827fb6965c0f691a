"""Tables of the pages and the rows of docs/results/ that they were made from say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rrlib.studies.lengths import Row, told

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"


def table(page: str, *head: str) -> list[list[str]]:
    """The rows of the one table of a page whose head begins so, the head first."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = [block for block in re.split(r"\n\s*\n", text) if block.startswith(f"| {' | '.join(head)} |")]
    assert len(blocks) == 1, f"{len(blocks)} tables of {page}.md begin with {head}"
    lines = [line.strip().removeprefix("|").removesuffix("|") for line in blocks[0].splitlines()]
    return [[cell.strip() for cell in line.split("|")] for line in (lines[0], *lines[2:])]


def test_the_table_of_lengths_is_that_of_its_rows() -> None:
    """From nDCG@10 by query: means, intervals, differences and tests are worked out anew."""
    stored = [json.loads(line) for line in (RESULTS / "lengths.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [Row(**{**row, "ndcg": {str(at): value for at, value in enumerate(row["ndcg"])}}) for row in stored]
    made = [re.split(r" {2,}", line.strip()) for line in told(rows).splitlines() if line.strip()]
    body = [[cell for cell in cells if cell] for cells in made if cells[0] in ("20", "30")]
    shown = [[cell for cell in cells if cell] for cells in table("strategies", "candidates", "model, strategy")[1:]]
    assert shown == body


def test_the_measured_table_of_strategies_is_that_of_its_rows() -> None:
    stored = json.loads((RESULTS / "strategies.json").read_text(encoding="utf-8"))
    head, *shown = table("strategies", "strategy", "nDCG@10", "less the window")
    assert head[2:] == ["less the window", *list(stored["rows"][0])[3:]]
    made = {re.sub(r"(\d)-(\d)", r"\1/\2", row["system"]): list(row.values())[1:] for row in stored["rows"]}
    assert {row[0]: row[1:] for row in shown} == made
    page = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
    assert stored["command"] in page and stored["date"] in page and f"first {stored['queries']} test queries" in page


def test_the_table_of_faithfulness_is_that_of_its_rows() -> None:
    stored = json.loads((RESULTS / "faithfulness.json").read_text(encoding="utf-8"))

    def told(row: dict[str, Any], name: str) -> str:
        mean, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
        return "" if mean is None else f"{mean:.3f} [{low:.3f}, {high:.3f}]"

    made = [
        [
            f"{row['answered'] * 100:g}%",
            told(row, "tau"),
            told(row, "rbo"),
            f"{row['same'] * 100:g}%",
            told(row, "follows"),
        ]
        for row in stored["rows"]
    ]
    _, *shown = table("faithfulness", "behind", "answered")
    assert [row[1:] for row in shown] == made
    page = (ROOT / "docs" / "faithfulness.md").read_text(encoding="utf-8")
    mean, low, high = stored["agreement"]
    assert f"{mean:.3f} [{low:.3f}, {high:.3f}]" in page and stored["date"] in page
    mean, low, high = stored["follows"]
    assert f"{mean:.1%} [{low:.1%}, {high:.0%}]" in page
    assert f"{stored['counts']['verdicts']} have verdicts" in page and f"first {stored['queries']} test queries" in page
