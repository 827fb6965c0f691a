"""The command line as a whole: help with examples, exit codes, and nothing heavy at the door."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from rrlib.cli import commands, main
from rrlib.errors import InputError
from rrlib.formats import read_corpus

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("command", ["rerank", "evaluate", "audit", "run", "doctor"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command in commands()
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"rrlib {command}" in text


@pytest.mark.parametrize(
    "argv",
    [
        ["nope"],
        ["rerank", "--nope"],
        ["rerank", "--depth", "many"],
        ["rerank"],
        ["rerank", "--output", "x"],
        ["rerank", "--run", "missing.trec", "--output", "x.trec", "--engine", "replay", "--responses", "y"],
        ["evaluate", "--qrels", "missing.qrels", "--run", "missing.trec"],
        ["audit", "missing.jsonl"],
        ["run", "missing.yaml"],
    ],
    ids=" ".join,
)
def test_bad_input_ends_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err
    assert "Traceback" not in captured.err
    named = [word for word in argv if word.startswith("missing")]
    assert not named or any(name in captured.err for name in named)


RUN = "q1 Q0 d1 1 2.0 x\nq1 Q0 d2 2 1.0 x\n"
QUERIES, CORPUS = "q1\ta question\n", '{"_id": "d1", "text": "one"}\n{"_id": "d2", "text": "two"}\n'


@pytest.mark.parametrize(
    ("changed", "options", "words"),
    [
        ({}, ["--stride", "30"], "stride 30"),
        ({}, ["--window", "1"], "window size 1"),
        ({}, ["--depth", "-1"], "--depth"),
        ({}, ["--prompt", "rankzephyr"], "reasonrank"),
        ({}, ["--strategy", "bubble"], "sliding_window"),
        ({}, ["--engine", "jax"], "transformers, vllm, openai, replay"),
        ({}, ["--engine", "openai"], "--base-url"),
        ({}, ["--engine", "replay"], "--responses"),
        ({}, ["--model", ""], "--model"),
        ({}, ["--model", "package:rrlib.engines/nothing"], "nothing"),
        ({"run": ""}, [], "run.trec"),
        ({"run": "q1 Q0 d1\n"}, [], "run.trec:1"),
        ({"run": "q1 Q0 d1 1 high x\n"}, [], "run.trec:1"),
        ({"run": RUN + "q1 Q0 d1 3 0.5 x\n"}, [], "run.trec:3"),
        ({"run": RUN + "q2 Q0 d1 1 0.5 x\n"}, [], "q2"),
        ({"run": RUN + "q1 Q0 d9 3 0.5 x\n"}, [], "d9"),
        ({"queries": "q1\n"}, [], "queries.tsv:1"),
        ({"corpus": "{broken\n"}, [], "corpus.jsonl:1"),
        ({"corpus": '{"_id": "d1"}\n'}, [], "corpus.jsonl:1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_reranking_input(
    changed: dict[str, str], options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"run": RUN, "queries": QUERIES, "corpus": CORPUS, **changed}
    names = {"run": "run.trec", "queries": "queries.tsv", "corpus": "corpus.jsonl"}
    argv = ["rerank", "--output", str(tmp_path / "out.trec"), "--quiet", "--model", "nowhere"]
    for key, text in files.items():
        (tmp_path / names[key]).write_text(text)
        argv += [f"--{key}", str(tmp_path / names[key])]
    assert main([*argv, *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out.trec").exists()


def test_a_model_that_cannot_be_loaded_fails_with_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.trec").write_text(RUN)
    (tmp_path / "q.tsv").write_text(QUERIES)
    (tmp_path / "c.jsonl").write_text(CORPUS)
    argv = [
        "rerank",
        "--run",
        "run.trec",
        "--queries",
        "q.tsv",
        "--corpus",
        "c.jsonl",
        "--output",
        "o",
        "--model",
        "nowhere",
    ]
    argv = [str(tmp_path / a) if (tmp_path / a).exists() or a == "o" else a for a in argv]
    assert main(argv) == 2
    assert "nowhere" in capsys.readouterr().err


def test_import_is_light() -> None:
    """`import rrlib` and `--help` load neither torch nor transformers; under 0.3 s and 1 s of processor time."""
    code = (
        "import sys, time; began = time.process_time(); import rrlib; seconds = time.process_time() - began; "
        "from rrlib.cli import main; main(['--help']); total = time.process_time(); "
        "heavy = {'torch', 'transformers', 'vllm', 'trl', 'datasets', 'pandas'} & set(sys.modules); "
        "print(seconds, total, sorted(heavy), file=sys.stderr); sys.exit(bool(heavy) or seconds > 0.3 or total > 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_is_quick() -> None:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "rrlib", "rerank", "--help"], cwd=ROOT, capture_output=True, check=True)
    assert time.perf_counter() - began < 5  # about 0.2 s on a quiet machine


def test_a_text_that_is_null_is_said(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"_id": "d1", "title": null, "text": null}\n')
    with pytest.raises(InputError, match="document \\('d1'\\) without a text: its 'text' is null"):
        read_corpus(tmp_path / "c.jsonl")
