"""00 runs by itself: no outputs folder, no stage before it, fewer queries than its default."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rrlib.chain.papermill_engine import execute
from rrlib.chain.params import notebook_path


def test_the_tour_needs_nothing_and_computes_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path / "none yet"))
    target = tmp_path / "tour.ipynb"
    execute(notebook_path("00_tour"), target, {"queries": 6, "seed": 11}, echo=lambda _: None, live=False)
    cells = json.loads(target.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    drawn = sum("stage.figure(" in "".join(cell["source"]) for cell in cells)
    assert sum("image/png" in o.get("data", {}) for o in outputs) == drawn >= 8
    figures = list((tmp_path / "none yet" / "tour" / "figures").glob("00_tour_*.png"))
    assert len(figures) == drawn and target.stat().st_size < 1_000_000
    printed = "".join("".join(o.get("text", "")) for o in outputs)
    assert "0.713 for 1 and 11, 0.562 for 9 and 10" in printed
    metrics = json.loads((tmp_path / "none yet" / "tour" / "00_tour" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["queries"] == 6 and metrics["nDCG@10 reranked"] > metrics["nDCG@10 BM25"]


def test_no_figure_of_a_result_is_written_by_hand() -> None:
    """Texts may name the paper's weights and places, no score: those are computed in the cells."""
    cells = json.loads(notebook_path("00_tour").read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert set(re.findall(r"\b[01]\.\d+", text)) <= {"0.2"}
