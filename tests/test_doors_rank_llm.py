"""rank_llm's JSONL in and out, held against rank_llm's own data classes, its reader and its writer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rank_llm.data import Candidate, DataWriter, Query, Request, Result, read_requests_from_file

from rrlib.cli import main
from rrlib.errors import InputError
from rrlib.formats import read_requests, write_requests, write_reranked
from rrlib.types import Candidates, Passage
from rrlib.types import Query as OurQuery

MODEL = "package:rrlib.miniature/reranker"
WHY = "In a tavern, clouds piled up each sunny afternoon, and hot soup cooled sooner beside an open window. Why?"
REQUESTS = [
    Request(
        Query(WHY, 7),
        [
            Candidate("a", 12.5, {"contents": "Cabbage notes: bacteria make acid.", "url": "u", "headings": ["h", 1]}),
            Candidate(2, 12.5, {"segment": "Heated fluid rises and chilled fluid descends.", "title": "T"}),
            Candidate("c", -1.0, {"text": "Sweat carries away latent heat."}),
        ],
    ),
    Request(Query("nothing came for it", "empty"), []),
    Request(Query("one came", "one"), [Candidate("x", 0.0, {"passage": "alone"})]),
]


def theirs(folder: Path, requests: list[Any] = REQUESTS, name: str = "requests.jsonl") -> Path:
    """The requests as rank_llm writes them."""
    DataWriter(requests).write_in_jsonl_format(str(folder / name))
    return folder / name


def test_what_they_write_is_read(tmp_path: Path) -> None:
    requests = read_requests(theirs(tmp_path))
    assert [(request.query.qid, request.query.text) for request in requests] == [
        ("7", WHY), ("empty", "nothing came for it"), ("one", "one came"),
    ]  # fmt: skip
    assert [passage.docid for passage in requests[0].passages] == ["a", "2", "c"]
    assert requests[0].passages[1] == Passage("2", "Heated fluid rises and chilled fluid descends.", "T")
    assert requests[0].scores == (12.5, 12.5, -1.0) and requests[2].passages[0].text == "alone"
    results = theirs(tmp_path, [Result(request.query, request.candidates, []) for request in REQUESTS], "results.jsonl")
    assert read_requests(results) == requests


def test_what_we_write_is_read_by_them(tmp_path: Path) -> None:
    candidates = Candidates(OurQuery("q", "why?"), (Passage("a", "A", "T"), Passage("b", "B")), (2.0, 1.0))
    path = write_requests(tmp_path / "ours.jsonl", [candidates])
    wanted = [Candidate("a", 2.0, {"title": "T", "text": "A"}), Candidate("b", 1.0, {"text": "B"})]
    assert read_requests_from_file(str(path)) == [Request(Query("why?", "q"), wanted)]


def test_reranked_by_the_command_and_read_by_them_again(tmp_path: Path) -> None:
    source, output, run = theirs(tmp_path), tmp_path / "reranked.jsonl", tmp_path / "reranked.trec"
    command = ["rerank", "--requests", str(source), "--engine", "numpy", "--model", MODEL, "--quiet"]
    assert main([*command, "--output", str(output)]) == 0
    assert main([*command, "--output", str(run)]) == 0
    ranked = [line.split() for line in run.read_text(encoding="utf-8").splitlines()]
    results = read_requests_from_file(str(output))
    assert [result.query for result in results] == [request.query for request in REQUESTS]
    by_id = {str(candidate.docid): candidate for request in REQUESTS for candidate in request.candidates}
    for result in results:
        wanted = [docid for qid, _, docid, *_ in ranked if qid == str(result.query.qid)]
        assert [str(candidate.docid) for candidate in result.candidates] == wanted
        n = len(wanted)
        assert [candidate.score for candidate in result.candidates] == [float(n - place) for place in range(n)]
        assert all(candidate.doc == by_id[str(candidate.docid)].doc for candidate in result.candidates)
        assert all(type(c.docid) is type(by_id[str(c.docid)].docid) for c in result.candidates)
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    before = {candidate["docid"]: candidate["retrieval_score"] for candidate in rows[0]["candidates"]}
    assert before == {"a": 12.5, 2: 12.5, "c": -1.0}
    DataWriter(results).write_in_trec_eval_format(str(tmp_path / "theirs.trec"))
    again = [line.split() for line in (tmp_path / "theirs.trec").read_text(encoding="utf-8").splitlines()]
    assert [line[:4] for line in again] == [line[:4] for line in ranked]


def test_rank_gpts_form_comes_out_as_theirs(tmp_path: Path) -> None:
    hits = [
        {"qid": "1", "docid": "a", "score": 3, "content": "A", "rank": 1},
        {"docid": "b", "score": 2, "content": "B"},
    ]
    (tmp_path / "gpt.jsonl").write_text(json.dumps({"query": "why?", "hits": hits}) + "\n", encoding="utf-8")
    path = write_reranked(tmp_path / "out.jsonl", tmp_path / "gpt.jsonl", {"1": ["b", "a"]})
    (result,) = read_requests_from_file(str(path))
    assert result == Request(
        Query("why?", "1"), [Candidate("b", 2.0, {"text": "B"}), Candidate("a", 1.0, {"text": "A"})]
    )


@pytest.mark.parametrize("rankings", [{}, {"1": ["a"]}, {"1": ["a", "b", "c"]}, {"1": ["a", "a"]}, {"2": ["a", "b"]}])
def test_rankings_of_another_file_are_refused(rankings: dict[str, list[str]], tmp_path: Path) -> None:
    source = theirs(tmp_path, [Request(Query("q", 1), [Candidate(name, 0.0, {"text": "t"}) for name in "ab"])])
    with pytest.raises(InputError, match=r"requests\.jsonl:1: query 1: its documents are not those"):
        write_reranked(tmp_path / "out.jsonl", source, rankings)
    assert not (tmp_path / "out.jsonl").exists()


def test_the_form_needs_requests_and_a_model_that_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.jsonl"
    assert main(["rerank", "--run", "bm25.trec", "--model", MODEL, "--output", str(output)]) == 2
    assert "give --requests" in capsys.readouterr().err
    source = theirs(tmp_path, REQUESTS[:1])
    command = ["rerank", "--requests", str(source), "--engine", "numpy", "--model", MODEL, "--quiet"]
    assert main([*command, "--max-new-tokens", "2", "--output", str(output)]) == 3
    assert "nothing was reranked" in capsys.readouterr().err and not output.exists()
