"""Plain run files are read query by query, to the same figures; anything else by the reader that explains itself."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from rrlib.evaluation.metrics import check_judged, per_query, per_query_of_file
from rrlib.formats import plainrun, read_run
from rrlib.formats.plainrun import NotPlain, plain_queries

METRICS = "nDCG@10 R@5 RR@3 AP P@2"


def lines(queries: int = 9, documents: int = 30, separator: str = " ") -> list[str]:
    """Unsorted, with ties, and with scores that are equal in float32 alone."""
    rng, rows = random.Random(3), []
    for q in range(queries):
        for rank, docid in enumerate(rng.sample(range(100), documents), 1):
            score = rng.choice(["3", "2.5", "1e-3", "-7.25", "16777217", "16777216", f"{rng.random():.7f}"])
            rows.append(separator.join((f"q{q}", "Q0", f"d{docid}", str(rank), score, "tag")) + "\n")
    return rows


QRELS = {f"q{q}": {f"d{d}": (d * q) % 3 for d in range(0, 100, 4)} for q in range(12)}


@pytest.mark.parametrize("separator", [" ", "\t"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_same_values_and_notes(
    tmp_path: Path, separator: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = "".join([*lines(separator=separator), separator.join(("x", "Q0", "d1", "1", "1", "tag"))]).encode()
    path = tmp_path / "run"
    path.write_bytes(gzip.compress(data) if packed else data)
    monkeypatch.setattr(plainrun, "_BLOCK", 300)  # queries lie across blocks
    monkeypatch.setattr("rrlib.evaluation.metrics.AT_ONCE", 4)
    said: list[str] = []
    expected_notes: list[str] = []
    got = per_query_of_file(QRELS, path, METRICS, None, said)
    assert got == per_query(QRELS, read_run(path), METRICS, None, expected_notes) and got is not None
    assert said == expected_notes and len(said) == 3 and sum(got["AP"].values()) > 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("q0 Q0", "q0  Q0"), ("q0 Q0", " q0 Q0"), ("tag\n", "tag \n"), ("tag\n", "tag\r\n"), ("tag\n", "tag\r"),
        ("tag\n", "a tag\n"), (" tag", ""), ("tag\n", "tag\n# a comment\n"), ("tag\n", "tag\n# a b c d e\n"),
        ("q0 Q0", "\ufeffq0 Q0"), ("q0 Q0", "qé Q0"), (" 1 ", " 0x1 "), (" 1 ", " +1 "), (" 1 ", " 1.5 "),
        (" 3 ", " nan "), (" 3 ", " inf "), (" 3 ", " 1e999 "), (" 3 ", " 1,5 "), ("q0 Q0 d", "q1 Q0 d"),
        ("q0 Q0", "q0\tQ0"), ("q0 Q0", "q\x01 Q0"), ("q0 Q0", "#0 Q0"), ("q0 ", "qid Q0 docno rank score tag\nq0 "),
        (" 1 ", " 1234567890123456789 "), ("", "{}\n"),
    ],
)  # fmt: skip
def test_what_is_not_plain_goes_to_the_other_reader(tmp_path: Path, old: str, new: str) -> None:
    text = "".join(lines())
    assert old in text
    path = tmp_path / "run"
    path.write_bytes(text.replace(old, new, 1).encode())
    with pytest.raises(NotPlain):
        list(plain_queries(path))
    assert per_query_of_file(QRELS, path, METRICS) is None


def test_a_document_twice_an_empty_file_and_no_file(tmp_path: Path) -> None:
    rows, path = lines(), tmp_path / "run"
    for text in ("".join([*rows[:5], rows[2]]), "", "\n"):
        path.write_text(text)
        with pytest.raises(NotPlain):
            list(plain_queries(path))
    path.write_bytes(gzip.compress("".join(rows).encode())[:-20])
    for place in (path, tmp_path / "none", tmp_path):
        with pytest.raises(NotPlain):
            list(plain_queries(place))


def test_what_cannot_be_judged_is_left_to_the_check(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("".join(lines()))
    for qrels in ({"q0": {"d1": 0}}, {"other": {"d1": 1}}, {"q0": {"other": 1}}):
        assert per_query_of_file(qrels, path, METRICS) is None
        with pytest.raises(Exception, match="judged"):
            check_judged(qrels, read_run(path))
