"""What a stranger types wrong: files that would be lost, options without effect, a judge that is asked for lists."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rrlib.cli import main
from rrlib.cli.rerank import _candidates
from rrlib.engines import Decoding
from rrlib.errors import InputError
from rrlib.outcome import NOTHING_RANKED, outcome
from rrlib.records import Tally
from rrlib.rerank import Reranker
from rrlib.resources import locate, packed
from rrlib.types import Candidates, Passage, Query
from tests.test_first_stage import Turning

JUDGE = "package:rrlib.checkpoints/smollm2-135m-judge"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A run of two documents with its queries and corpus."""
    made = {name: tmp_path / f"{name}.txt" for name in ("run", "queries", "corpus", "excluded")}
    made["run"].write_text("q Q0 a 1 2.0 x\nq Q0 b 2 1.0 x\n", encoding="utf-8")
    made["queries"].write_text("q\twhat is it\n", encoding="utf-8")
    made["corpus"].write_text('{"_id": "a", "text": "one"}\n{"_id": "b", "text": " "}\n', encoding="utf-8")
    made["excluded"].write_text("q b\n", encoding="utf-8")
    return made


@pytest.mark.parametrize("ours", ["--output", "--log"])
@pytest.mark.parametrize("name", ["run", "queries", "corpus", "excluded"])
def test_what_is_read_is_not_written_over(
    files: dict[str, Path], ours: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in files.values()}
    words = ["rerank", "--model", JUDGE, *(word for key, path in files.items() for word in (f"--{key}", str(path)))]
    same = files[name].parent / "." / files[name].name
    rest = [] if ours == "--output" else ["--output", str(files["run"]) + ".out"]
    assert main([*words, *rest, ours, str(same)]) == 2
    assert f"{ours} and --{name} are the same file" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in files.values()} == before


def test_an_empty_query_is_refused_before_anything_is_asked() -> None:
    passages = (Passage("a", "one"), Passage("b", "two"))
    engine = Turning()
    with pytest.raises(InputError, match="query 'q' has no text"):
        Reranker(engine).rerank([Candidates(Query("p", "good"), passages), Candidates(Query("q", " "), passages)])
    assert engine.asked == 0
    assert Reranker(engine).rerank([Candidates(Query("q", ""), ())]).rankings == {("", "q"): []}


def test_empty_documents_are_noted(files: dict[str, Path]) -> None:
    notes: list[str] = []
    _candidates(files["run"], files["queries"], files["corpus"], None, False, 100, notes)
    assert any("1 of 2 documents have an empty text" in note for note in notes)


def test_samples_of_a_probability_are_refused() -> None:
    warm = Decoding(temperature=1.0)
    with pytest.raises(InputError, match="the same 4 times"):
        Reranker(Turning(), style="pointwise_nothink", strategy="pointwise", samples=4, decoding=warm)
    Reranker(Turning(), samples=4, decoding=warm)  # a list is drawn


def test_the_command_refuses_them_before_it_loads_a_model(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["rerank", "--model", JUDGE, "--run", str(files["run"]), "--queries", str(files["queries"])]
    words += ["--corpus", str(files["corpus"]), "--output", str(files["run"]) + ".out"]
    assert main([*words, "--samples", "4", "--temperature", "1"]) == 2
    assert "the same 4 times" in capsys.readouterr().err


@pytest.fixture
def judge(tmp_path: Path) -> str:
    """A folder whose record says that it judges single passages."""
    use = {"style": "pointwise_nothink", "max_passage_tokens": 200}
    (tmp_path / "SOURCE.json").write_text(json.dumps({"use": use}), encoding="utf-8")
    return str(tmp_path)


def test_a_judge_that_is_asked_for_lists_is_warned_of(judge: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="rrlib.rerank"):
        Reranker(Turning(judge), strategy="sliding_window")
    assert "was trained to judge single passages, and is asked for lists" in caplog.text


def test_where_it_ranked_nothing_the_remedy_is_its_own_strategy() -> None:
    class Result:
        tally = Tally(windows=2, unread=Counter({"no_answer": 2}))
        counts: dict[str, Any] = {}

    code, line = outcome(Result(), {"style": "pointwise_nothink"}, 20, True)
    assert code == NOTHING_RANKED and "leave --strategy out" in line
    assert "leave --strategy out" not in outcome(Result(), {"style": "reasonrank"}, 20, True)[1]


def test_a_packed_reranker_is_named_where_its_name_is_nearly_right() -> None:
    assert packed()["smollm2-135m-judge"] == JUDGE
    with pytest.raises(InputError, match=f"write {JUDGE}"):
        locate("smollm2-135m-judge")
    with pytest.raises(InputError, match=f"use .*{JUDGE}"):
        locate("package:rrlib.checkpoints/nosuch")


def test_ids_of_both_sides_are_shown(files: dict[str, Path]) -> None:
    files["queries"].write_text("q 1\twhat is it\nq:2\tand this\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"file: 'q' \(its ids are like 'q 1', 'q:2'\)"):
        _candidates(files["run"], files["queries"], files["corpus"], None, False, 100, [])


def test_a_folder_given_for_a_file_says_which_file(tmp_path: Path) -> None:
    from rrlib.formats import read_qrels, read_queries

    (tmp_path / "qrels").mkdir()
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "what"}\n', encoding="utf-8")
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n", encoding="utf-8")
    for read in (read_queries, read_qrels):
        with pytest.raises(InputError) as caught:
            read(tmp_path)
        assert str(caught.value).count(str(tmp_path)) == 1
        assert str(caught.value).endswith("name a file in it (queries.jsonl, qrels/test.tsv)")


def test_a_part_is_evaluated_by_the_queries_that_all_runs_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qrels, whole, part = (tmp_path / name for name in ("qrels", "whole", "part"))
    qrels.write_text("".join(f"q{i} 0 a 1\n" for i in range(4)), encoding="utf-8")
    lines = [f"q{i} Q0 a 1 2.0 x\nq{i} Q0 b 2 1.0 x\n" for i in range(4)]
    whole.write_text("".join(lines), encoding="utf-8")
    part.write_text(lines[0] + lines[2].replace("a 1 2.0", "a 2 0.5"), encoding="utf-8")
    words = ["evaluate", "--qrels", str(qrels), "--run", str(whole), "--run", str(part), "--metrics", "RR@10", "--json"]

    def means() -> list[float]:
        runs = json.loads(capsys.readouterr().out)["runs"]
        return [run["metrics"]["RR@10"]["mean"] for run in runs]

    assert main(words) == 0 and means() == pytest.approx([1.0, 0.375])
    assert main([*words, "--only-retrieved"]) == 0
    said = capsys.readouterr()
    runs = json.loads(said.out)["runs"]
    assert [run["metrics"]["RR@10"]["mean"] for run in runs] == pytest.approx([1.0, 0.75])
    assert "2 of 4 queries are in all runs" in said.err


def test_a_judge_is_not_planned_as_a_ranker_of_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "plan", "--benchmark", "dl19", "--model", JUDGE]) == 2
    assert "judges single passages" in capsys.readouterr().err
    assert main(["bench", "plan", "--benchmark", "dl19"]) == 0


def test_a_folder_is_planned_by_its_judgements_and_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "own"
    for part in ("qrels", "runs"):
        (folder / part).mkdir(parents=True)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t1\nq3\td1\t1\n")
    lists = {"q1": 30, "q2": 12}  # q3 has no candidates, so it asks nothing
    lines = (f"{qid} Q0 d{n} {n} {99 - n} bm25\n" for qid, last in lists.items() for n in range(1, last + 1))
    (folder / "runs" / "bm25.trec").write_text("".join(lines))
    assert main(["bench", "plan", "--benchmark", str(folder), "--benchmark", "dl19"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:5]]
    assert rows[0] == ["own", "3", "2", "3"] and rows[1][:2] == ["trec-dl/2019", "43"]
    assert rows[2] == ["all", "46", str(3 + int(rows[1][3]))]
    assert main(["bench", "plan", "--benchmark", str(tmp_path / "gone")]) == 2
    assert "name a folder" in capsys.readouterr().err
