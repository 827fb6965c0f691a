"""The lenient reader: a table of edge strings with their verdicts, properties, and real responses."""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrlib.errors import InputError
from rrlib.prompts import format_response
from rrlib.records import WindowRecord
from rrlib.responses import Parsed, audit, parse_lenient, valid_share

T = "<think> a </think> "
# name, text, finish reason, expected verdict, repairs, order as written ids (four passages; None: the input order)
CASES: list[tuple[str, str, str | None, str, tuple[str, ...], list[int] | None]] = [
    ("clean", T + "<answer> [3] > [1] > [4] > [2] </answer>", "stop", "ok", (), [3, 1, 4, 2]),
    (
        "over lines",
        "<think>\na\n</think>\n\n<answer>\n[3] > [1] > [4] > [2]\n</answer>\n",
        None,
        "ok",
        (),
        [3, 1, 4, 2],
    ),
    ("no think block", "<answer> [3] > [1] > [4] > [2] </answer>", "stop", "ok", (), [3, 1, 4, 2]),
    ("think unopened", "a </think> <answer> [4] > [3] > [2] > [1] </answer>", "stop", "ok", (), [4, 3, 2, 1]),
    ("text behind", T + "<answer> [4] > [3] > [2] > [1] </answer> Done.", "stop", "ok", (), [4, 3, 2, 1]),
    (
        "decoys in think",
        "<think> [2] > [1], [13]-[18], 1999 </think> <answer> [3] > [1] > [4] > [2] </answer>",
        None,
        "ok",
        (),
        [3, 1, 4, 2],
    ),
    (
        "answer quoted in think",
        "<think> <answer> [2] </answer> </think> <answer> [3] > [1] > [4] > [2] </answer>",
        None,
        "ok",
        (),
        [3, 1, 4, 2],
    ),
    (
        "think quoted twice",
        "<think> a </think> no <think> b </think> <answer> [3] > [1] > [4] > [2] </answer>",
        None,
        "ok",
        (),
        [3, 1, 4, 2],
    ),
    (
        "last of two answers",
        T + "<answer> [1] > [2] </answer> <answer> [3] > [1] > [4] > [2] </answer>",
        None,
        "ok",
        (),
        [3, 1, 4, 2],
    ),
    (
        "duplicates",
        T + "<answer> [3] > [1] > [3] > [4] > [2] </answer>",
        None,
        "repaired",
        ("duplicates",),
        [3, 1, 4, 2],
    ),
    ("missing", T + "<answer> [3] > [1] </answer>", None, "repaired", ("missing",), [3, 1, 2, 4]),
    (
        "out of range",
        T + "<answer> [3] > [9] > [1] > [4] > [2] </answer>",
        None,
        "repaired",
        ("out_of_range",),
        [3, 1, 4, 2],
    ),
    (
        "zero",
        T + "<answer> [0] > [3] > [1] > [4] > [2] </answer>",
        None,
        "repaired",
        ("out_of_range", "format"),
        [3, 1, 4, 2],
    ),
    (
        "all three",
        T + "<answer> [3] > [3] > [7] </answer>",
        None,
        "repaired",
        ("duplicates", "missing", "out_of_range"),
        [3, 1, 2, 4],
    ),
    ("lost bracket", T + "<answer> 3] > [1] > [4] > [2] </answer>", None, "repaired", ("format",), [3, 1, 4, 2]),
    ("lost brackets", T + "<answer> 3 > [1] > [4] > [2] </answer>", None, "repaired", ("format",), [3, 1, 4, 2]),
    ("no brackets", T + "<answer> 3 > 1 > 4 > 2 </answer>", None, "repaired", ("format",), [3, 1, 4, 2]),
    ("spaces for separators", T + "<answer> [3] [1] [4] [2] </answer>", None, "repaired", ("format",), [3, 1, 4, 2]),
    ("commas", T + "<answer> [3], [1], [4], [2] </answer>", None, "repaired", ("format",), [3, 1, 4, 2]),
    ("tight", T + "<answer>[3]>[1]>[4]>[2]</answer>", None, "repaired", ("format",), [3, 1, 4, 2]),
    (
        "trailing separator",
        T + "<answer> [3] > [1] > [4] > [2] > </answer>",
        None,
        "repaired",
        ("format",),
        [3, 1, 4, 2],
    ),
    ("ties", T + "<answer> [3] = [1] > [4] = [2] </answer>", None, "repaired", ("ties",), [3, 1, 4, 2]),
    ("scores", T + "<answer> [3](4) = [1](4) > [4](2) > [2](0) </answer>", None, "repaired", ("ties",), [3, 1, 4, 2]),
    (
        "prose around",
        T + "<answer> The order is [3] > [1] > [4] > [2]. </answer>",
        None,
        "repaired",
        ("text",),
        [3, 1, 4, 2],
    ),
    ("lines", T + "<answer>\n[3]\n[1]\n[4]\n[2]\n</answer>", None, "repaired", ("format",), [3, 1, 4, 2]),
    (
        "huge number",
        T + "<answer> [" + "9" * 5000 + "] > [3] > [1] > [4] > [2] </answer>",
        None,
        "repaired",
        ("out_of_range",),
        [3, 1, 4, 2],
    ),
    ("empty brackets", T + "<answer> [] > [] </answer>", None, "no_answer", (), None),
    ("empty answer", T + "<answer> </answer>", None, "no_answer", (), None),
    ("nothing valid", T + "<answer> [9] > [8] </answer>", None, "no_answer", (), None),
    ("refusal in answer", T + "<answer> I cannot rank these. </answer>", None, "no_answer", (), None),
    ("refusal", "I am sorry, I cannot help with that.", "stop", "no_answer", (), None),
    ("plain list without tags", "[3] > [1] > [4] > [2]", "stop", "no_answer", (), None),
    ("list behind think without tags", T + "[3] > [1] > [4] > [2]", "stop", "no_answer", (), None),
    ("answer only inside think", "<think> <answer> [3] > [1] </answer> </think> done", "stop", "no_answer", (), None),
    ("emoji", "\U0001f600\U0001f600", "stop", "no_answer", (), None),
    ("scraped web", "Home | About | 12 comments\n" * 50, "stop", "no_answer", (), None),
    ("cut in think", "<think> [3] > [1] would be", "length", "truncated", (), None),
    ("cut in think, unknown reason", "<think> [3] > [1] would be", None, "truncated", (), None),
    (
        "cut in think with a quoted answer",
        "<think> like <answer> [2] > [1] </answer> or",
        "length",
        "truncated",
        (),
        None,
    ),
    ("stopped in think", "<think> [3] > [1] and that is all", "stop", "no_answer", (), None),
    ("cut before answer", T, "length", "truncated", (), None),
    ("cut in answer", T + "<answer> [3] > [1", "length", "truncated", (), None),
    ("unclosed answer", T + "<answer> [3] > [1] > [4] > [2]", "stop", "repaired", ("format",), [3, 1, 4, 2]),
    ("empty", "", "stop", "empty", (), None),
    ("white space", " \n\t ", None, "empty", (), None),
    ("empty at the limit", "", "length", "truncated", (), None),
]


@pytest.mark.parametrize(("name", "text", "finish", "verdict", "repairs", "order"), CASES, ids=[c[0] for c in CASES])
def test_table(
    name: str, text: str, finish: str | None, verdict: str, repairs: tuple[str, ...], order: list[int] | None
) -> None:
    read = parse_lenient(text, 4, finish_reason=finish)
    assert (read.verdict, read.repairs) == (verdict, repairs)
    assert [i + 1 for i in read.order] == (order or [1, 2, 3, 4])


PLAIN: list[tuple[str, str, str, tuple[str, ...], list[int]]] = [
    ("clean", "[3] > [1] > [4] > [2]", "ok", (), [3, 1, 4, 2]),
    ("first bracket lost", "3 > [1] > [4] > [2]", "repaired", ("format",), [3, 1, 4, 2]),
    ("after thinking", "<think> [2] > [1] </think>\n\n[3] > [1] > [4] > [2]", "ok", (), [3, 1, 4, 2]),
    ("scores in round brackets", "[3](4) = [1](4) > [4](1) > [2](0)", "repaired", ("ties",), [3, 1, 4, 2]),
    (
        "digits in order, as the recorded runs were read",
        "1. [3] 2. [1] 3. [4] 4. [2]",
        "repaired",
        ("duplicates", "text"),
        [1, 3, 2, 4],
    ),
    ("nothing behind the thoughts", "<think> [2] > [1] </think>", "no_answer", (), [1, 2, 3, 4]),
    ("still thinking", "<think> [2] > [1]", "truncated", (), [1, 2, 3, 4]),
    ("refusal", "I cannot.", "no_answer", (), [1, 2, 3, 4]),
]


@pytest.mark.parametrize(("name", "text", "verdict", "repairs", "order"), PLAIN, ids=[c[0] for c in PLAIN])
def test_plain_lists(name: str, text: str, verdict: str, repairs: tuple[str, ...], order: list[int]) -> None:
    read = parse_lenient(text, 4, "rankgpt")
    assert (read.verdict, read.repairs, [i + 1 for i in read.order]) == (verdict, repairs, order)


def test_reasoning_and_answer_are_kept() -> None:
    read = parse_lenient("<think> because [2] </think> <answer> [2] > [1] </answer>", 2)
    assert (read.reasoning, read.answer) == ("because [2]", "[2] > [1]")


pieces = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "[1]",
        "[2] > ",
        "[0]",
        " > ",
        "=",
        "[99999999999]",
        "x",
        "\n",
        "9",
    ]
)


@settings(max_examples=300)
@given(
    st.lists(st.one_of(pieces, st.text(max_size=5)), max_size=30),
    st.integers(0, 30),
    st.sampled_from(["reasonrank", "rankgpt"]),
)
def test_always_a_permutation(parts: list[str], n: int, style: str) -> None:
    read = parse_lenient("".join(parts), n, style)
    assert sorted(read.order) == list(range(n))
    assert (read.verdict == "repaired") == bool(read.repairs)


@given(
    st.permutations(range(12)), st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"]), max_size=50)
)
def test_what_we_write_we_read(order: list[int], reasoning: str) -> None:
    read = parse_lenient(format_response(reasoning, order), 12)
    assert (read.verdict, list(read.order)) == ("ok", order)
    assert list(parse_lenient(format_response("", order, "nothink"), 12, "nothink").order) == order


def test_bad_parameters() -> None:
    with pytest.raises(InputError):
        parse_lenient("x", -1)
    with pytest.raises(InputError):
        parse_lenient("x", 2, "unknown")


def test_audit_table() -> None:
    rows = [
        Parsed((), "ok"),
        Parsed((), "repaired", ("missing", "format")),
        Parsed((), "truncated"),
        Parsed((), "ok"),
    ]
    table = {row.kind: (row.count, row.share) for row in audit(rows)}
    assert table["ok"] == (2, 0.5) and table["truncated"] == (1, 0.25) and table["failed"] == (0, 0.0)
    assert table["repaired"] == (1, 0.25) and table["repaired: missing"] == (1, 0.25)
    assert audit([])[0].count == 0


def test_the_share_of_valid_answers_is_the_rewards() -> None:
    chained, bare = format_response("because", [1, 0]), "<answer> [2] > [1] </answer>"
    rows = [WindowRecord("q", (0, 1), text=text, order=(1, 0)) for text in (chained, bare, None, "[2] > [1]")]
    assert parse_lenient(bare, 2).verdict == "ok"  # good enough to rank by
    assert valid_share(rows) == 0.25 and valid_share(rows, think=False) < valid_share(rows[1:2], think=False) == 1.0
    with pytest.raises(InputError, match="no window records"):
        valid_share([])


# --- real responses -------------------------------------------------------------------------------------------------
STORED = {
    ("ok",): 2919,
    ("repaired", "duplicates"): 271,
    ("repaired", "duplicates", "format"): 237,
    ("repaired", "ties"): 213,
    ("repaired", "duplicates", "missing"): 86,
    ("repaired", "missing", "out_of_range", "format"): 4,
    ("repaired", "missing"): 3,
    ("repaired", "missing", "text"): 2,
    ("repaired", "duplicates", "text"): 2,
    ("repaired", "duplicates", "missing", "text"): 2,
    ("repaired", "missing", "out_of_range", "text"): 2,
    ("repaired", "format"): 2,
    ("repaired", "duplicates", "missing", "format"): 2,
    ("repaired", "out_of_range", "format"): 1,
}


@pytest.mark.realdata
def test_real_responses(realdata: Path) -> None:
    """3,746 recorded responses: no exception, always a permutation, stable verdicts, under a millisecond each."""
    with gzip.open(realdata / "responses.jsonl.gz", "rt", encoding="utf-8") as handle:
        rows = [json.loads(line) for line in handle]
    assert len(rows) == 3746
    verdicts: Counter[tuple[str, ...]] = Counter()
    times: list[float] = []
    for row in rows:
        n = row["num_passages"]
        spent: list[float] = []
        for _ in range(3):  # the least of three, in time of this thread: a busy machine is not the reader's fault
            began = time.thread_time()
            read = parse_lenient(row["text"], n, "rankgpt")
            spent.append(time.thread_time() - began)
        times.append(min(spent))
        assert sorted(read.order) == list(range(n))
        verdicts[(read.verdict, *read.repairs)] += 1
        assert parse_lenient(row["text"], n).verdict == "no_answer"  # none of them has answer tags
        if row["flags"] == ["perfect"]:
            assert read.verdict == "ok"
    assert dict(verdicts) == STORED
    assert max(times) < 1e-3
