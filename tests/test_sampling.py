"""Samples of a window: the two fusions by hand, strategies asked several times, seeds, log, resume, replay, command."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rrlib.cli import main
from rrlib.engines import Decoding, Reply, Request
from rrlib.engines.replay import ReplayEngine
from rrlib.errors import InputError
from rrlib.formats import read_run
from rrlib.prompts import format_response
from rrlib.records import read_records
from rrlib.rerank import Reranker
from rrlib.sampling import Fusion, fused, mean_places, sampled, seed_of
from rrlib.strategies import STRATEGIES, StrategySpec, counted
from rrlib.types import Candidates, Passage, Query

WARM = Decoding(temperature=0.7, seed=7)


class Sampler:
    """An engine that ranks by the numbers in the texts, misread anew in each request; some fail, some say no list.

    An answer hangs on key and seed alone, so that one given before and after a kill is the same.
    """

    name, model = "sampler", "sampler"

    def __init__(self, failing: float = 0.0, noise: float = 6.0, capacity: int = 8) -> None:
        self.failing, self.noise, self.capacity, self.order = failing, noise, capacity, random.Random(1)
        self.waiting: list[Request] = []
        self.asked: list[Request] = []

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        self.waiting += requests
        self.asked += requests

    def collect(self) -> list[tuple[int, Reply]]:
        request = self.waiting.pop(self.order.randrange(len(self.waiting)))
        dice = random.Random(f"{request.key} {request.seed}")
        if dice.random() < self.failing:
            return [(request.id, Reply(error="the server is down") if dice.random() < 0.5 else Reply("I cannot say."))]
        gains = [int(gain) for gain in re.findall(r"gain (\d+)", request.messages[1]["content"])]
        read = [gain + dice.gauss(0, self.noise) for gain in gains]
        return [(request.id, Reply(format_response("so", sorted(range(len(read)), key=lambda i: -read[i]))))]

    def close(self) -> None:
        """Nothing to free."""


def lists(lengths: Sequence[int] = (0, 1, 7, 30)) -> list[Candidates]:
    made = []
    for n in lengths:
        gains = random.Random(n).sample(range(n), n)
        made.append(Candidates(Query(f"q{n}", "which?"), tuple(Passage(f"d{g}", f"gain {g}") for g in gains)))
    return made


@pytest.mark.parametrize(
    ("orders", "borda", "rrf"),
    [
        ([(2, 0, 1)], (2, 0, 1), (2, 0, 1)),  # one vote is its own order
        ([(0, 1, 2), (0, 1, 2), (2, 1, 0)], (0, 1, 2), (0, 1, 2)),  # two against one
        ([(0, 1), (1, 0)], (0, 1), (0, 1)),  # a draw keeps the window's order
        # 0 has the places 2 and 3, 1 has 1 and 4: the sums are equal, and reciprocals prefer who was first once.
        ([(1, 0, 2, 3), (2, 3, 0, 1)], (2, 0, 1, 3), (2, 1, 0, 3)),
    ],
)
def test_fusions_by_hand(orders: Any, borda: Any, rrf: Any) -> None:
    assert fused(orders, "borda") == borda
    assert fused(orders, "rrf") == rrf
    assert mean_places(orders, "borda").sum() == pytest.approx(len(orders[0]) * (len(orders[0]) + 1) / 2)


def test_the_mean_place_of_rrf_is_a_place() -> None:
    places = mean_places([(0, 1, 2), (1, 0, 2)], "rrf")
    assert places[2] == pytest.approx(3.0) and places[0] == pytest.approx(places[1]) and 1.0 < places[0] < 1.5
    assert 1 / (60 + places[0]) == pytest.approx((1 / 61 + 1 / 62) / 2)


@pytest.mark.parametrize(
    ("orders", "fuse", "message"),
    [
        ([], "rrf", "permutations of one window"),
        ([(0, 1), (0, 1, 2)], "rrf", "permutations of one window"),
        ([(0, 0)], "borda", "permutations of one window"),
        ([(0, 1)], "max", "unknown fusion 'max' -> use one of rrf, borda"),
    ],
)
def test_what_cannot_be_fused(orders: Any, fuse: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        fused(orders, fuse)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_perfect_ranker_asked_thrice_gives_the_same_order_at_the_same_depth(name: str) -> None:
    spec = StrategySpec(name)
    for n in (0, 1, 2, 35, 60):
        gains = random.Random(n).sample(range(n), n)

        def ask(window: Any, gains: list[int] = gains) -> Any:
            if window.score:
                return float(gains[window.items[0]])
            return sorted(range(len(window.items)), key=lambda i: -gains[window.items[i]])

        order, once = counted(spec.start(n), ask)
        thrice_order, thrice = counted(sampled(spec.start(n), 3, "rrf"), ask)
        assert thrice_order == order
        assert (thrice.calls, thrice.depth) == (3 * once.calls, once.depth)


def test_a_failed_sample_has_no_vote_and_a_score_is_a_mean() -> None:
    votes = iter([(1, 0), None, None])
    assert counted(sampled(StrategySpec("full_list").start(2), 3, "borda"), lambda w: next(votes))[0] == (1, 0)
    assert counted(sampled(StrategySpec("full_list").start(2), 3, "borda"), lambda w: None)[0] == (0, 1)
    scores = iter([0.1, 0.9, 0.6, 0.6])  # 0.5 and 0.6
    assert counted(sampled(StrategySpec("pointwise").start(2), 2, "rrf"), lambda w: next(scores))[0] == (1, 0)


def test_every_sample_has_its_own_seed() -> None:
    keys = [("", qid, 0, (0, 1), sample) for qid in ("a", "b") for sample in range(50)]
    seeds = [seed_of(7, key) for key in keys]
    assert len(set(seeds)) == 100 and all(seed is not None and 0 <= seed < 2**31 for seed in seeds)
    assert seeds == [seed_of(7, key) for key in keys] != [seed_of(8, key) for key in keys]
    assert seed_of(None, keys[0]) is None


@pytest.mark.parametrize("fuse", Fusion)
@pytest.mark.parametrize("failing", [0.0, 0.4])
@pytest.mark.parametrize("strategy", ["sliding_window", "top_down"])
def test_a_log_of_samples_resumes_and_replays_to_the_same_order(
    strategy: str, failing: float, fuse: str, tmp_path: Path
) -> None:
    log, options = tmp_path / "log.jsonl", {"strategy": strategy, "window": 10, "stride": 5}
    drawn: dict[str, Any] = {"samples": 3, "fuse": fuse, "decoding": WARM, **options}
    first = Reranker(Sampler(failing), log=log, **drawn).rerank(lists())
    records = read_records(log)
    assert len({record.key for record in records}) == len(records) == first.counts["asked"] > 9
    assert {record.sample for record in records} == {0, 1, 2} and len({record.seed for record in records}) > 9
    assert {record.seed for record in records} == {seed_of(7, record.key) for record in records}

    replayed = Reranker(ReplayEngine(log), **options).rerank(lists())  # samples and fusion are those of the log
    assert replayed.rankings == first.rankings and not replayed.counts.get("missing")

    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[: len(lines) // 2]))
    engine = Sampler(failing)
    resumed = Reranker(engine, log=log, retry_failed=False, **drawn).rerank(lists())
    assert resumed.rankings == first.rankings and len(engine.asked) == len(lines) - len(lines) // 2


def test_more_samples_of_a_noisy_ranker_are_nearer_to_the_truth() -> None:
    """What the whole thing is for: the best ten of sixty, from one sample and from nine."""

    def best_ten(samples: int) -> float:
        reranker = Reranker(Sampler(noise=12.0), samples=samples, decoding=WARM)
        rankings = reranker.rerank(lists(range(51, 61))).run()
        right = [len({f"d{g}" for g in range(n - 10, n)} & set(rankings[f"q{n}"][:10])) for n in range(51, 61)]
        return sum(right) / 100

    assert best_ten(9) > best_ten(1) + 0.05


def test_other_samples_than_the_log_has_are_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    Reranker(Sampler(), log=log, samples=2, decoding=WARM).rerank(lists())
    for other in ({"samples": 3}, {"samples": 2, "fuse": "borda"}, {}):
        with pytest.raises(InputError, match="this log was made with"):
            Reranker(Sampler(), log=log, decoding=WARM, **other).rerank(lists())
    with pytest.raises(InputError, match="3 samples of a window, and 2 recorded"):
        Reranker(ReplayEngine(log), samples=3)
    assert Reranker(ReplayEngine(log), samples=1).rerank(lists()).counts["windows"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 2}, "2 samples at temperature 0 are one answer 2 times"),
        ({"samples": 0}, "0 samples"),
        ({"samples": 2, "fuse": "mean", "decoding": WARM}, "unknown fusion"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Reranker(Sampler(), **options)


def test_one_question_alone_is_asked_and_logged_as_ever(tmp_path: Path) -> None:
    log, engine = tmp_path / "log.jsonl", Sampler()
    Reranker(engine, log=log, decoding=WARM).rerank(lists())
    assert {request.seed for request in engine.asked} == {None}
    row = json.loads(log.read_text().splitlines()[0])
    assert not {"sample", "seed"} & set(row) and not {"samples", "fuse"} & set(row["settings"])


def test_the_command_replays_samples(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log, run = tmp_path / "log.jsonl", tmp_path / "run.trec"
    items = lists((30,))
    first = Reranker(Sampler(), log=log, samples=4, fuse="borda", decoding=WARM).rerank(items)
    run.write_text("".join(f"q30 Q0 {p.docid} {i} {-i} bm25\n" for i, p in enumerate(items[0].passages, 1)))
    common = ["rerank", "--run", str(run), "--output", str(tmp_path / "out.trec")]
    assert main([*common, "--engine", "replay", "--responses", str(log)]) == 0
    assert [hit.docid for hit in read_run(tmp_path / "out.trec")["q30"]] == first.run()["q30"]
    assert main([*common, "--model", "m", "--samples", "4"]) == 2
    assert "at temperature 0 are one answer 4 times" in capfd.readouterr().err
