"""`rrlib bench`, plans on paper, and the whole path of params/bright-7b.yaml with the miniature's checkpoint."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from rrlib.chain.params import inputs_of, load_profile
from rrlib.cli import main
from rrlib.errors import InputError
from rrlib.evaluation import BENCHMARKS
from rrlib.plans.evaluation import paper_plan
from rrlib.plans.shapes import kv_bytes, parameters, shape_of

ROOT = Path(__file__).resolve().parents[1]
PROFILE = ROOT / "params" / "bright-7b.yaml"


def say(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["bench", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_plan_counts_windows_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    """1,384 queries x 9 windows = 12,456; weights of a 7.6B model in bfloat16; the paper's speed on one GPU."""
    code, out, _ = say(capsys, "plan", PROFILE)
    assert code == 0 and "12,456" in out and "1,384" in out and "15.2 GB" in out
    found = paper_plan(["bright"])
    assert found.windows == 12_456 and all(row["windows_query"] == 9 for row in found.rows)
    assert found.hours == pytest.approx(1384 * 1.8 * 4 / 3600, abs=0.01)
    assert found.tokens_out == 12_456 * 3172 and found.tokens_out_expected == (12_456 * 626, 12_456 * 928)
    assert paper_plan(["bright"], gpus=4).hours == pytest.approx(found.hours / 4, abs=0.01)
    assert paper_plan(["r2med"]).windows == 876 * 9 and paper_plan(["dl19"]).windows == 43 * 9
    assert paper_plan(["bright"], window=10, stride=5).windows == 1384 * 19
    assert paper_plan(["bright"], queries=5).windows == 12 * 5 * 9


def test_a_profile_is_planned_with_its_own_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Weights of 32.76e9 parameters in bfloat16, and time in proportion to the parameters; not the 7B model's."""
    text = PROFILE.read_text()
    profile = tmp_path / "bright-32b.yaml"
    profile.write_text(
        text.replace("ReasonRank-7B: liuwenhan/reasonrank-7B", "ReasonRank-32B: liuwenhan/reasonrank-32B")
        .replace("name: bright-7b", "name: bright-32b")
        .replace("{max_model_len: 32768,", "{tensor_parallel_size: 2, max_model_len: 32768,")
    )
    code, out, _ = say(capsys, "plan", profile)
    small, large = paper_plan(["bright"]), paper_plan(["bright"], model="qwen2.5-32b", gpus=2)
    assert large.seconds_query / small.seconds_query == pytest.approx(32.76 / 7.62, rel=0.005)
    assert large.weights_gb == 65.5 and small.weights_gb == 15.2 and small.seconds_query == pytest.approx(7.2)
    assert code == 0 and "65.5 GB" in out and "15.2 GB" not in out and f"{large.hours} on 2 GPU(s)" in out
    assert "15.2 GB" in say(capsys, "plan", profile, "--model", "qwen2.5-7b")[1]
    profile.write_text(profile.read_text().replace("reasonrank-32B}", "reasonrank-32B, other: qwen2.5-7b}"))
    out = say(capsys, "plan", profile)[1]
    assert "65.5 GB" in out and "15.2 GB" in out


@pytest.mark.parametrize(
    ("name", "weights", "gpus"),
    [("qwen2.5-32b-lora", "65.5 GB", 8), ("qwen2.5-7b", "15.2 GB", 1), ("smoke", "0.0 GB", 1)],
)
def test_plan_of_a_profile_has_its_evaluation(
    name: str, weights: str, gpus: int, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = str(ROOT / "params" / f"{name}.yaml")
    processes = "1" if name == "smoke" else "8"
    assert main(["plan", profile, "--gpu-memory", "80", "--processes", processes]) == 0
    evaluation = capsys.readouterr().out.partition("evaluation of ")[2]
    assert weights in evaluation and f"on {gpus} GPU(s)" in evaluation and "one query" in evaluation


def test_an_evaluation_that_does_not_fit_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = (ROOT / "params" / "qwen2.5-32b-lora.yaml").read_text()
    profile = tmp_path / "tight.yaml"
    profile.write_text(text.replace("{tensor_parallel_size: 8}", "{}").replace("name: qwen2.5-32b-lora", "name: tight"))
    assert main(["plan", str(profile), "--gpu-memory", "64", "--processes", "16"]) == 2
    told = capsys.readouterr()
    assert "takes 66 GB of 1 x 69 GB" in told.err and "more GPUs" in told.out


def test_shapes_are_those_of_the_models() -> None:
    """Parameters as published: 7.62, 32.8, 8.19 and 8.03 thousand million."""
    for name, billions in (("qwen2.5-7b", 7.62), ("qwen2.5-32b", 32.76), ("qwen3-8b", 8.19), ("llama3.1-8b", 8.03)):
        assert parameters(shape_of(name))["total"] / 1e9 == pytest.approx(billions, rel=0.003)
    assert kv_bytes(shape_of("qwen2.5-7b")) == 57_344


def test_plans_that_cannot_be(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more GPUs"):
        paper_plan(["bright"], model="qwen2.5-32b", gpu_gb=40)
    assert paper_plan(["bright"], model="qwen2.5-32b").sequences >= 1
    with pytest.raises(InputError, match="no shape"):
        paper_plan(["bright"], model="gpt")
    assert say(capsys, "plan")[0] == 2
    assert say(capsys, "plan", ROOT / "params" / "smoke.yaml")[0] == 2
    code, _, err = say(capsys, "plan", "--benchmark", "brihgt")
    assert code == 2 and "bright" in err
    assert say(capsys, "plan", "--benchmark", "bright", "--gpus", 0)[0] == 2


def test_list_and_fetch(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "beir" / "scifact" / "qrels").mkdir(parents=True)
    code, out, _ = say(capsys, "list", "--root", tmp_path)
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0 and lines["beir/scifact"].endswith("yes") and lines["bright/pony"].endswith("-")
    assert "R@100" in lines["trec-dl/2019"] and len(lines) == len(BENCHMARKS) + 2
    code, _, err = say(capsys, "fetch", "beir/robust04", "--root", tmp_path)
    assert code == 2 and "publisher" in err
    code, out, _ = say(capsys, "fetch", "miniature", "--root", tmp_path)
    assert code == 0 and (tmp_path / "miniature" / "qrels" / "test.tsv").is_file()


def test_the_profile_is_the_papers_row() -> None:
    profile = load_profile(PROFILE)
    values = profile.parameters("04_evaluation")
    assert profile.stages == ("04_evaluation",) and inputs_of("04_evaluation", values) == ()
    assert (values["window"], values["stride"], values["depth"]) == (20, 10, 100)
    assert (values["max_passage_tokens"], values["max_new_tokens"], values["temperature"]) == (512, 3172, 0.0)
    assert values["style"] == "reasonrank" and values["engine"] == "vllm" and values["benchmarks"] == ["bright"]
    assert values["checkpoints"] == {"ReasonRank-7B": "liuwenhan/reasonrank-7B"}
    longest = paper_plan(["bright"]).prompt_bound
    assert longest + 3172 <= values["engine_options"]["max_model_len"]
    assert inputs_of("04_evaluation", {"benchmarks": []}) and inputs_of("00_tour", {}) == ()


def lay_out_bright(root: Path) -> None:
    """Twelve sets of one query each, with 100 candidates, an excluded document among them, and spaces in ids."""
    topics = [
        "rivers",
        "markets",
        "robots",
        "cells",
        "minds",
        "code",
        "forests",
        "lists",
        "ponies",
        "primes",
        "sums",
        "laws",
    ]
    sets = [one for one in BENCHMARKS.values() if one.suite == "bright"]
    for topic, one in zip(topics, sets, strict=True):
        folder = root / one.name
        (folder / "qrels").mkdir(parents=True)
        (folder / "runs").mkdir()
        ids = [f"{topic}/page {i}.txt" for i in range(101)]
        texts = [f"Notes on {topic}, number {i}." for i in range(101)]
        rows = [{"_id": d, "text": t} for d, t in zip(ids, texts, strict=True)]
        (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "queries.jsonl").write_text(json.dumps({"_id": "0", "text": f"What of {topic}?"}) + "\n")
        (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n0\t{ids[50]}\t1\n")
        (folder / "excluded.tsv").write_text(f"0\t{ids[0]}\n")
        lines = "".join(f"0 Q0 {d} {i} {200 - i} reasonir\n" for i, d in enumerate(ids, 1))
        (folder / "runs" / "reasonir.trec.gz").write_bytes(gzip.compress(lines.encode()))


def test_its_whole_path_runs_with_the_miniatures_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rrlib.chain.run import run_chain

    lay_out_bright(tmp_path / "data")
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("RRLIB_DATA", str(tmp_path / "data"))
    text = PROFILE.read_text()
    changes = {
        "{ReasonRank-7B: liuwenhan/reasonrank-7B}": "{small: 'package:rrlib.miniature/reranker'}",
        "engine: vllm": "engine: transformers",
        "{max_model_len: 32768, gpu_memory_utilization: 0.9, max_num_seqs: 128}": "{}",
        "max_new_tokens: 3172": "max_new_tokens: 48",
        "name: bright-7b": "name: bright-small",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    profile = tmp_path / "bright-small.yaml"
    profile.write_text(text)
    result = run_chain(profile, live=False, echo=lambda line: None)
    stage = tmp_path / "outputs" / "bright-small" / "04_evaluation"
    rows = {(row["collection"], row["system"]): row for row in result.rows}
    assert len(rows) == 12 * 4 and {row["data_kind"] for row in result.rows} == {"real"}
    table = json.loads((stage / "experiment" / "table.json").read_text())["table"]
    suite = {row["system"]: row for row in table if row["benchmark"] == "bright" and row["source"] == "measured"}
    reported = {
        row["system"]: row["mean"] for row in table if row["benchmark"] == "bright" and row["source"] == "reported"
    }
    assert suite["small"]["n"] == 12 and suite["oracle"]["mean"] == 1.0 and reported["ReasonRank-7B"] == 0.3574
    windows = (stage / "experiment" / "small" / "windows.jsonl").read_text().splitlines()
    assert len(windows) == 12 * 9
    assert not any("/page 0.txt" in line.split('"docids"')[1].split("]")[0] for line in windows)
    skipped = run_chain(profile, live=False, echo=lambda line: None)
    assert skipped.seconds == {"04_evaluation": None}
