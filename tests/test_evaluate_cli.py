"""`rrlib evaluate` as a user meets it: recorded values, clean standard output, exit codes, counts said aloud."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rrlib import cli, formats

RUN = "1 Q0 a 1 3.0 t\n1 Q0 b 2 2.0 t\n2 Q0 c 1 1.0 t\n"
QRELS = "1 0 a 1\n2 0 c 1\n2 0 d 1\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    qrels, run = tmp_path / "qrels.txt", tmp_path / "a.trec"
    qrels.write_text(QRELS)
    run.write_text(RUN)
    return qrels, run


def ask(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = cli.main(["evaluate", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def ask_json(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    code, out, _ = ask(capsys, *words, "--json")
    assert code == 0
    return json.loads(out)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "queries", "expected"),
    [
        ("economics", 103, 32.65),
        ("earth_science", 116, 43.00),
        ("robotics", 101, 20.82),
        ("psychology", 101, 39.57),
        ("sustainable_living", 108, 27.34),
        ("theoremqa_questions", 194, 33.93),
    ],
)
@pytest.mark.parametrize("form", ["as recorded", "TREC with blanks, plain run"])
def test_bright_first_stage(
    realdata: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    queries: int,
    expected: float,
    form: str,
) -> None:
    qrels = realdata / "bright" / f"{name}.qrels.tsv"
    run = realdata / "bright" / f"{name}.reasonir_gpt4cot_top100.txt.gz"
    if form != "as recorded":
        qrels = formats.write_qrels(tmp_path / "qrels.trec", formats.read_qrels(qrels))
        (tmp_path / "run").write_bytes(gzip.decompress(run.read_bytes()).replace(b"\n", b"\r\n"))
        run = tmp_path / "run"
    got = ask_json(capsys, "--qrels", qrels, "--run", run, "--metrics", "nDCG@10")
    (only,) = got["runs"]
    assert only["run"] == str(run)
    assert only["queries"] == queries
    metric = only["metrics"]["nDCG@10"]
    assert 100 * metric["mean"] == pytest.approx(expected, abs=0.005)
    assert metric["low"] < metric["mean"] < metric["high"]


@pytest.mark.realdata
def test_dl19_bm25(realdata: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = realdata / "collections" / "dl19-bm25-top100"
    got = ask_json(capsys, "--qrels", folder / "qrels/test.tsv", "--run", folder / "first_stage.trec")
    assert 100 * got["runs"][0]["metrics"]["nDCG@10"]["mean"] == pytest.approx(50.58, abs=0.005)


def test_json_has_exactly_the_documented_shape(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qrels, run = files
    other = tmp_path / "b.trec.gz"
    other.write_bytes(gzip.compress(RUN.encode()))
    got = ask_json(capsys, "--qrels", qrels, "--run", run, "--run", other, "--run", run, "--metrics", "nDCG@10 R@100")
    assert list(got) == ["runs"]
    assert [one["run"] for one in got["runs"]] == [str(run), str(other), str(run)]
    for one in got["runs"]:
        assert set(one) == {"run", "queries", "metrics"}
        assert one["queries"] == 2
        assert {name: set(value) for name, value in one["metrics"].items()} == {
            "nDCG@10": {"mean", "low", "high"},
            "R@100": {"mean", "low", "high"},
        }
        assert one["metrics"]["R@100"]["mean"] == 0.75


def test_json_with_differences(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qrels, run = files
    worse = formats.write_run(tmp_path / "w.trec", {"1": ["b", "a"], "2": ["x", "c"]}, "w")
    got = ask_json(
        capsys, "--qrels", qrels, "--run", run, "--run", worse, "--metrics", "RR", "--differences", "--seed", 3
    )
    first, second = (one["metrics"]["RR"] for one in got["runs"])
    assert set(first) == {"mean", "low", "high"}
    assert second["difference"] == {"mean": -0.5, "low": -0.5, "high": -0.5}
    assert second["p"] == 0.5  # two queries: 2 of 4 sign patterns


def test_the_table(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qrels, run = files
    worse = formats.write_run(tmp_path / "w.trec", {"1": ["b", "a"], "2": ["x", "c"]}, "w")
    code, out, err = ask(capsys, "--qrels", qrels, "--run", run, "--run", worse, "--metrics", "RR")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0][:3] == ["system", "metric", "mean"]
    assert lines[2] == ["a.trec", "RR", "1.0000", "[1.0000,", "1.0000]", "2", "-", "-", "-"]
    assert lines[3][:6] == ["w.trec", "RR", "0.5000", "[0.5000,", "0.5000]", "2"]
    assert lines[3][6:] == ["-0.5000", "[-0.5000,", "-0.5000]", "0.5000"]
    # where file names do not tell the runs apart, the paths do
    (tmp_path / "deep").mkdir()
    twin = tmp_path / "deep" / "a.trec"
    twin.write_text(RUN)
    _, out, _ = ask(capsys, "--qrels", qrels, "--run", run, "--run", twin)
    assert str(run) in out and str(twin) in out


def test_what_is_counted_goes_to_standard_error(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    qrels, run = files
    qrels.write_text(QRELS + "lost 0 a 1\nnone 0 a 0\n")
    run.write_text(RUN + "none Q0 a 1 1 t\nforeign Q0 a 1 1 t\n")
    code, out, err = ask(capsys, "--qrels", qrels, "--run", run, "--metrics", "R@100", "--json")
    assert code == 0
    value = json.loads(out)["runs"][0]
    assert value["queries"] == 4
    assert value["metrics"]["R@100"]["mean"] == pytest.approx(1.5 / 4)
    assert "1 of 4 queries of the qrels are not in the run and score 0: 'lost'" in err
    assert "1 of 4 queries of the run have no judgements and are left out: 'foreign'" in err
    assert "1 of 4 queries of the qrels have no relevant document, score 0 and count: 'none'" in err
    assert err.count(str(run)) == 3


def test_excluded_documents_and_relevance_level(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qrels, run = files
    banned = tmp_path / "excluded.tsv"
    banned.write_text("1\ta\n2\tnowhere\n")
    code, out, err = ask(capsys, "--qrels", qrels, "--run", run, "--metrics", "R@9", "--excluded", banned, "--json")
    assert code == 0
    assert json.loads(out)["runs"][0]["metrics"]["R@9"]["mean"] == 0.25
    assert f"{run}: 1 excluded documents removed" in err
    got = ask_json(capsys, "--qrels", qrels, "--run", run, "--metrics", "R@9 nDCG@10", "--relevance-level", 2)
    assert set(got["runs"][0]["metrics"]) == {"R(rel=2)@9", "nDCG@10"}
    assert got["runs"][0]["metrics"]["R(rel=2)@9"]["mean"] == 0


def test_the_seed_decides_the_interval(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    qrels, run = files
    rankings = {str(q): [f"d{(q * 7 + i) % 13}" for i in range(13)] for q in range(40)}
    formats.write_qrels(qrels, {qid: {"d3": 1} for qid in rankings})
    formats.write_run(run, rankings, "t")
    words = ["--qrels", qrels, "--run", run, "--metrics", "RR"]
    assert ask_json(capsys, *words, "--seed", 1) == ask_json(capsys, *words, "--seed", 1)
    assert ask_json(capsys, *words, "--seed", 1) != ask_json(capsys, *words, "--seed", 2)


LINE = "1 Q0 a 1 3.0 t\n"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "the run is empty"),
        (b"\n \n\t\n", "the run is empty"),
        # mtime=0: the bytes are in the name of the test, which must be the same in every process
        (gzip.compress(b"", mtime=0), "the run is empty"),
        (None, "no such file"),
        (b"\x7fELF\x02\x01\x01\x00\x00", ":1: binary data"),
        (LINE.encode() + b"\x89PNG\r\n\x1a\n\x00\x00", ":2: "),
        (LINE.encode() + b"1 Q0 b 2 2.0\n", ":2: 5 fields"),
        (b"1 Q0 a 1 high t\n", ":1: the score 'high'"),
        (b"1 Q0 a 1 nan t\n", ":1: the score 'nan'"),
        (b"1 Q0 a 1 -inf t\n", ":1: the score '-inf'"),
        (b"1 Q0 a 1 1e999 t\n", ":1: the score '1e999'"),
        (b"1 Q0 a 1 1_0 t\n", ":1: the score '1_0'"),
        (b"1 Q0 a first 1 t\n", ":1: the rank 'first'"),
        (f"{LINE}2 Q0 a 1 1 t\n1 Q0 a 2 2.0 t\n".encode(), ":3: query 1: document 'a' a second time (first on line 1)"),
        (gzip.compress(LINE.encode(), mtime=0)[:-9], "cut off"),
        ("1 Q0 dé 1 1 t\n".encode("latin-1"), ":1: not UTF-8"),
    ],
)
def test_bad_runs_end_with_exit_code_2_and_the_name_of_the_file(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], content: bytes | None, part: str
) -> None:
    qrels, good = files
    bad = good.with_name("bad.trec")
    if content is not None:
        bad.write_bytes(content)
    code, out, err = ask(capsys, "--qrels", qrels, "--run", good, "--run", bad, "--json")
    assert (code, out) == (2, "")
    assert str(bad) in err and part in err and " -> " in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--metrics", "ndcg@10"], "did you mean nDCG@10?"),
        (["--metrics", "nDCG@0"], "cut-off"),
        (["--metrics", ""], "no metric"),
        (["--relevance-level", "0"], "relevance-level 0"),
        (["--seed", "-1"], "--seed -1"),
        (["--resamples", "0"], "--resamples 0"),
        (["--excluded", "nowhere.tsv"], "nowhere.tsv: no such file"),
        (["--seed", "x"], "--seed"),
        (["--nonsense"], "nonsense"),
    ],
)
def test_bad_options_end_with_exit_code_2(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], words: list[str], part: str
) -> None:
    qrels, run = files
    code, out, err = ask(capsys, "--qrels", qrels, "--run", run, *words)
    assert (code, out) == (2, "")
    assert part in err


def test_missing_options_and_help(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, "--qrels", files[0])[0] == 2
    assert ask(capsys, "--run", files[1])[0] == 2
    code, out, _ = ask(capsys, "--help")
    assert code == 0 and "rrlib evaluate --qrels" in out and "--relevance-level" in out


def test_as_a_process_it_prints_one_object_and_needs_no_torch(files: tuple[Path, Path]) -> None:
    qrels, run = files
    words = [sys.executable, "-X", "importtime", "-m", "rrlib", "evaluate", "--qrels", qrels, "--run", run, "--json"]
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"runs"}
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert "ir_measures" in loaded
    assert not loaded & {"torch", "transformers", "pandas", "seaborn", "matplotlib"}
