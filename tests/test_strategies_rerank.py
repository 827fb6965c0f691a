"""Every listwise strategy through the reranker: log, resume, replay, limits, the command line, and the page's table."""

from __future__ import annotations

import json
import random
import re
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rrlib.cli import main
from rrlib.engines import Decoding, Reply, Request
from rrlib.engines.replay import ReplayEngine
from rrlib.errors import InputError
from rrlib.formats import read_run
from rrlib.plans.strategies import cells, compared, cost_rows
from rrlib.prompts import format_response
from rrlib.records import read_records
from rrlib.rerank import Reranker
from rrlib.strategies import STRATEGIES, StrategySpec
from rrlib.types import Candidates, Passage, Query

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = (0, 1, 2, 7, 20, 21, 57, 100)
OPTIONS: dict[str, dict[str, Any]] = {
    "sliding": {"strategy": "sliding_window", "passes": 2},
    "full": {"strategy": "full_list"},
    "top_down": {"strategy": "top_down"},
    "top_down, best 3 of 6": {"strategy": "top_down", "window": 6, "stride": 3, "best": 3},
    "setwise": {"strategy": "setwise"},
    "setwise 4": {"strategy": "setwise", "window": 4, "stride": 2, "best": 10},
    "tournament": {"strategy": "tournament"},
    "tournament, 3 of windows of 5": {"strategy": "tournament", "window": 5, "stride": 2, "passes": 3},
}


class Noisy:
    """An engine that ranks by the numbers in the texts, some of which it misreads anew in each window; some calls fail.

    An answer hangs on the window alone, so that one given before and after a kill is the same.
    """

    name, model = "noisy", "noisy"

    def __init__(self, failing: float = 0.0, capacity: int = 8) -> None:
        self.failing, self.capacity, self.order = failing, capacity, random.Random(1)
        self.waiting: list[Request] = []
        self.asked: list[Any] = []

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        self.waiting += requests
        self.asked += [request.key for request in requests]

    def collect(self) -> list[tuple[int, Reply]]:
        request = self.waiting.pop(self.order.randrange(len(self.waiting)))
        dice = random.Random(str(request.key))
        if dice.random() < self.failing:
            return [(request.id, Reply(error="the server is down"))]
        gains = [int(gain) for gain in re.findall(r"gain (\d+)", request.messages[1]["content"])]
        read = [gain + dice.gauss(0, 10) for gain in gains]
        return [(request.id, Reply(format_response("so", sorted(range(len(read)), key=lambda i: -read[i]))))]

    def close(self) -> None:
        """Nothing to free."""


def lists() -> list[Candidates]:
    made = []
    for n in LENGTHS:
        gains = random.Random(n).sample(range(n), n)
        made.append(Candidates(Query(f"q{n}", "which?"), tuple(Passage(f"d{g}", f"gain {g}") for g in gains)))
    return made


@pytest.mark.parametrize("failing", [0.0, 0.3])
@pytest.mark.parametrize("case", OPTIONS)
def test_a_log_replays_and_resumes_to_the_same_order(case: str, failing: float, tmp_path: Path) -> None:
    options, log = OPTIONS[case], tmp_path / "log.jsonl"
    first = Reranker(Noisy(failing), log=log, **options).rerank(lists())
    for item in lists():
        assert sorted(first.run()[item.query.qid]) == sorted(p.docid for p in item.passages)
    assert first.counts["windows"] == first.counts["asked"] == len(first.records) > len(LENGTHS) - 3
    assert bool(first.counts.get("failed")) == (failing > 0)
    records = read_records(log)
    assert len({record.key for record in records}) == len(records) == len(first.records)

    replayed = Reranker(ReplayEngine(log), **options).rerank(lists())
    assert replayed.rankings == first.rankings and not replayed.counts.get("missing")

    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[: len(lines) // 2]))
    engine = Noisy(failing)
    resumed = Reranker(engine, log=log, retry_failed=False, **options).rerank(lists())
    assert resumed.rankings == first.rankings and resumed.counts["windows"] == len(lines)
    assert len(engine.asked) == len(lines) - len(lines) // 2


def test_answers_are_not_replayed_with_another_strategy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Windows of two strategies may stand at the same places: the head of the list is first, or last, to be asked."""
    log, run, output = tmp_path / "log.jsonl", tmp_path / "run.trec", tmp_path / "out.trec"
    (item,) = [made for made in lists() if made.query.qid == "q100"]
    asked = Reranker(Noisy(), strategy="top_down", best=5, log=log).rerank([item])
    run.write_text("".join(f"q100 Q0 {p.docid} {r} {200 - r} x\n" for r, p in enumerate(item.passages, 1)))
    argv = ["rerank", "--run", str(run), "--engine", "replay", "--responses", str(log), "--output", str(output)]
    assert main([*argv, "--quiet"]) == 2
    assert "--strategy top_down" in capsys.readouterr().err and not output.exists()
    assert main([*argv, "--quiet", "--strategy", "top_down", "--best", "5"]) == 0
    assert [hit.docid for hit in read_run(output)["q100"]] == asked.run()["q100"]


def test_another_best_is_another_run(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    Reranker(Noisy(), strategy="setwise", best=5, log=log).rerank(lists())
    with pytest.raises(InputError, match="best"):
        Reranker(Noisy(), strategy="setwise", best=6, log=log).rerank(lists())
    assert "best" not in Reranker(Noisy()).settings(), "logs of before are gone on with"


@pytest.mark.parametrize(
    ("name", "fits"), [("top_down", True), ("setwise", True), ("tournament", True), ("full_list", False)]
)
def test_a_window_and_not_the_list_is_held_against_the_models_positions(name: str, fits: bool) -> None:
    from tokenizers_for_tests import make_tokenizer

    engine: Any = Noisy()
    engine.tokenizer = make_tokenizer("qwen2.5")
    (item,) = [made for made in lists() if made.query.qid == "q57"]
    reranker = Reranker(engine, strategy=name, decoding=Decoding(max_new_tokens=50))
    engine.max_model_len = reranker.prompts.bound(item.query.text, item.passages, 20) + 50
    if fits:
        assert sorted(reranker.rerank([item]).run()["q57"]) == sorted(p.docid for p in item.passages)
    else:
        with pytest.raises(InputError, match="a window may hold"):
            reranker.rerank([item])


def test_the_page_holds_the_table_that_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
    table = cells(cost_rows(100, 20, 10))
    lines = ["| " + " | ".join(row) + " |" for row in table]
    assert "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]]) in page
    for name in {spec.name for spec in map(StrategySpec, STRATEGIES)}:
        assert f"`rrlib.strategies:{name}`" in page
    assert main(["strategies", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == cost_rows(100, 20, 10)
    assert main(["strategies", "--candidates", "30", "--window", "10", "--stride", "5"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [re.split(r"  +", line.strip()) for line in (printed[0], *printed[2:])] == cells(cost_rows(30, 10, 5))
    assert main(["strategies", "--window", "1"]) == 2 and "window size 1" in capsys.readouterr().err
    assert main(["strategies", "--candidates", "-1"]) == 2 and "a list of -1" in capsys.readouterr().err
    for least in (["--candidates", "0"], ["--window", "2", "--stride", "1"], ["--window", "3", "--stride", "3"]):
        assert main(["strategies", *least]) == 0


def test_tokens_are_those_of_the_passages_and_of_the_windows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["strategies", "--json", "--passage-tokens", "100", "--frame-tokens", "7"]) == 0
    for row in json.loads(capsys.readouterr().out):
        assert row["tokens"] == row["shown"] * 100 + row["calls"] * 7


def test_the_simulation_says_its_kind_and_is_perfect_without_noise(capsys: pytest.CaptureFixture[str]) -> None:
    """`benchmarks/strategies.py` at tiny size."""
    main = runpy.run_path(str(ROOT / "benchmarks" / "strategies.py"), run_name="bench")["main"]
    main(["--simulated", "6"])
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert list(result) == ["name", "value", "unit", "goal", "holds", "n", "device"]
    assert result["name"] == "strategies" and result["n"] == 6 and "simulated" in result["device"]
    assert lines[0].startswith("data kind: simulated; 6 queries")
    rows = [re.split(r"  +", line) for line in lines[1:-1]]
    assert [row[0] for row in rows[2:]] == [*compared(), "full_list, noise grows"]
    without = {row[0]: float(row[4].split()[0]) for row in rows[2:]}
    main(["--simulated", "6", "--noise", "0"])
    rows = [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()[3:-1]]
    perfect = {row[0]: float(row[4].split()[0]) for row in rows}
    assert all(perfect[name] >= value for name, value in without.items())
    for name, spec in compared().items():
        assert perfect[name] == 1.0 or spec.promised(100) < 10, "ten are relevant"
