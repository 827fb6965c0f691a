"""The first stage's order beside the model's: fused by hand, from Python, on the command line, in packs and tables."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrlib.cli import main
from rrlib.engines import Decoding, Reply, Request
from rrlib.errors import InputError
from rrlib.evaluation.systems import Listwise
from rrlib.formats import read_run
from rrlib.prompts import format_response
from rrlib.ranking import judged_scores
from rrlib.rerank import Reranker
from rrlib.sampling import with_first_stage
from rrlib.studies.real_pages import parts
from rrlib.studies.real_rows import RealRun, put_run, read_runs
from rrlib.types import Candidates, Passage, Query

TURNED = (3, 0, 1, 2)
"""What `Turning` makes of four passages."""


class Turning:
    """An engine that puts the last passage of a window first."""

    name, capacity = "turning", 4

    def __init__(self, model: str = "turning") -> None:
        self.model, self.waiting, self.asked = model, list[Request](), 0

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        self.waiting += requests
        self.asked += len(requests)

    def collect(self) -> list[tuple[int, Reply]]:
        request = self.waiting.pop()
        n = len(re.findall(r"passage \d+", request.messages[-1]["content"]))
        return [(request.id, Reply(format_response("so", [n - 1, *range(n - 1)])))]

    def close(self) -> None:
        """Nothing to free."""


def candidates(n: int = 4, scored: bool = True) -> Candidates:
    passages = tuple(Passage(f"d{i}", f"passage {i}") for i in range(n))
    return Candidates(Query("q", "a question"), passages, tuple(float(n - i) for i in range(n)) if scored else ())


def order(reranker: Reranker, asked: Candidates) -> list[str]:
    return reranker.rerank([asked]).rankings["", "q"]


def ids(numbers: Sequence[int]) -> list[str]:
    return [f"d{number}" for number in numbers]


FUSED = [0, 3, 1, 2]
"""By hand: 1/61 + 1/62, 1/64 + 1/61, 1/62 + 1/63, 1/63 + 1/64."""


@given(st.permutations(range(9)))
def test_places_are_fused_by_their_reciprocals(permutation: list[int]) -> None:
    place = {item: number for number, item in enumerate(permutation, start=1)}
    by_hand = sorted(place, key=lambda item: (round(-1 / (61 + item) - 1 / (60 + place[item]), 12), item))
    assert list(with_first_stage(permutation)) == by_hand


def test_equal_orders_stay_and_ties_go_to_the_first_stage() -> None:
    assert with_first_stage(()) == () and with_first_stage(range(5)) == tuple(range(5))
    assert with_first_stage((1, 0)) == (0, 1)
    assert list(with_first_stage(TURNED)) == FUSED


@pytest.mark.parametrize("scored", [True, False])
def test_the_caller_decides(scored: bool) -> None:
    asked = candidates(scored=scored)
    assert order(Reranker(Turning()), asked) == ids(TURNED)
    assert order(Reranker(Turning(), with_first_stage=False), asked) == ids(TURNED)
    assert order(Reranker(Turning(), with_first_stage=True), asked) == ids(FUSED)


def test_the_tail_stays_behind_what_is_fused() -> None:
    reranker = Reranker(Turning(), with_first_stage=True, depth=4)
    assert order(reranker, candidates(6)) == [*ids(FUSED), "d4", "d5"]


@pytest.fixture
def packed(tmp_path: Path) -> str:
    """A checkpoint whose record says that the first stage counts."""
    folder = tmp_path / "packed"
    folder.mkdir()
    use = {"style": "reasonrank", "window": 10, "with_first_stage": True}
    (folder / "SOURCE.json").write_text(json.dumps({"use": use}), encoding="utf-8")
    return str(folder)


def test_a_packed_checkpoint_decides_for_runs_and_not_for_plain_texts(packed: str) -> None:
    said = Reranker(Turning(packed))
    assert order(said, candidates()) == ids(FUSED)
    assert order(said, candidates(scored=False)) == ids(TURNED)
    assert [hit.docid for hit in said.rank("a question", [p.text for p in candidates().passages])] == list("4123")
    without = Reranker(Turning(packed), with_first_stage=False)
    assert order(without, candidates()) == ids(TURNED)


def test_a_stream_is_fused_too(packed: str) -> None:
    (ranking,) = Reranker(Turning(packed)).stream([candidates()])
    assert ranking.docids == ids(FUSED)


def test_an_evaluation_leaves_it_to_the_checkpoint_unless_told() -> None:
    assert Listwise("m").with_first_stage is None
    assert Listwise("m", with_first_stage=True).settings()["with_first_stage"] is True


def test_the_answers_in_a_log_serve_both_orders(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    engine = Turning()
    assert order(Reranker(engine, log=log), candidates()) == ids(TURNED)
    assert engine.asked == 1
    assert order(Reranker(engine, log=log, with_first_stage=True), candidates()) == ids(FUSED)
    assert engine.asked == 1


def test_scores_of_single_passages_are_none_where_the_order_is_not_theirs() -> None:
    from rrlib.records import WindowRecord

    def record(docid: str, score: float) -> WindowRecord:
        return WindowRecord("q", (0,), (docid,), (0,), score=score)

    records = [record("a", 0.9), record("b", 0.4), record("c", 0.4)]
    assert judged_scores(["a", "b", "c"], records) == [0.9, 0.4, 0.4]
    assert judged_scores(["a", "c", "b"], records) == [0.9, 0.4, 0.4]
    assert judged_scores(["b", "a", "c"], records) is None


def test_the_command_fuses_recorded_answers_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, log = tmp_path / "run.trec", tmp_path / "log.jsonl"
    run.write_text("".join(f"q Q0 d{i} {i + 1} {4 - i} x\n" for i in range(4)), encoding="utf-8")
    Reranker(Turning(), log=log).rerank([candidates()])
    words = ["rerank", "--run", str(run), "--engine", "replay", "--responses", str(log), "--quiet", "--output"]
    for name, flags, wanted in (
        ("a", [], TURNED),
        ("b", ["--with-first-stage"], FUSED),
        ("c", ["--without-first-stage"], TURNED),
    ):
        assert main([*words, str(tmp_path / name), *flags]) == 0
        assert [hit.docid for hit in read_run(tmp_path / name)["q"]] == ids(wanted)
        assert ("fused with the first stage's" in capsys.readouterr().err) == (wanted == FUSED)


def test_pack_writes_it_and_the_card_says_so() -> None:
    from rrlib.training.pack import card

    source = {
        "base": "some/base", "base_license": "apache-2.0", "rank": 4, "share": 1.0, "profile": "p", "seed": 7,
        "weakest": {"weight": "w", "share": 1.0}, "results": [], "use": {"style": "pointwise_nothink"},
    }  # fmt: skip
    plain = card(source, Path("x"), "")
    source["use"] = {"style": "pointwise_nothink", "with_first_stage": True}
    fused = card(source, Path("x"), "")
    assert "--without-first-stage" in fused and "--without-first-stage" not in plain
    assert 'Reranker("x", style="pointwise_nothink")' in fused


# --- the table -------------------------------------------------------------------------------------------------------


def a_run(system: str, values: list[float], **changes: object) -> RealRun:
    facts = {"collection": "argkp", "first_stage": "stem", "seed": 7, "profile": "", "depth": 25, **changes}
    return RealRun(system=system, values=values, **facts)  # type: ignore[arg-type]


def test_a_fused_run_stands_beside_its_row_and_is_none(tmp_path: Path) -> None:
    rng = random.Random(0)
    first = [rng.random() / 2 for _ in range(40)]
    alone, both = [v - 0.1 for v in first], [v + 0.05 for v in first]
    path = tmp_path / "real-runs.jsonl"
    put_run(path, a_run("first-stage", first))
    put_run(path, a_run("pointwise no reasoning", alone, profile="judge"))
    put_run(path, a_run("pointwise no reasoning", both, profile="judge", own=False, fused=True))
    runs = read_runs(path)
    assert len(runs) == 3
    shown = parts([], runs)["fused"].splitlines()[-1]
    means = [f"{sum(values) / 40:.3f}" for values in (first, alone, both)]
    assert all(mean in shown for mean in means) and "+0.050" in shown and "+0.150" in shown
    assert "None has been run" in parts([], runs)["windows"]
    assert "None has been run" in parts([], runs[:2])["fused"]


def test_what_is_no_order_is_refused() -> None:
    with pytest.raises(InputError):
        with_first_stage((0, 0))
