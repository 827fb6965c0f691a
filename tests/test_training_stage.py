"""Training by profile: settings out of a notebook's config, and `rrlib train` in the place of the notebook."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_training import EXAMPLES

from rrlib.chain.from_profile import (
    config_of,
    grpo_settings,
    launch_of,
    read_parameters,
    reward_of,
    settings_of,
    sft_settings,
    spread_of,
)
from rrlib.chain.manifest import open_stage, stage_state
from rrlib.chain.params import Config, declared_parameters, load_profile, notebook_path
from rrlib.chain.stages import train_stage
from rrlib.cli import main
from rrlib.disk import read_json
from rrlib.errors import InputError
from rrlib.formats import write_examples
from rrlib.reward import MultiViewReward
from rrlib.training.config import GRPOSettings, SFTSettings
from rrlib.training.launch import Launch

ROOT = Path(__file__).resolve().parents[1]


def config(stage: str, **changes: Any) -> Config:
    values = {name: p.default for name, p in declared_parameters(notebook_path(stage)).items()}
    assert set(changes) <= set(values)
    return Config(stage, values | changes)


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_of_the_notebooks_are_their_parameters() -> None:
    sft = sft_settings(config("02_sft", learning_rate=3e-5, lora_rank=8, too_long="drop", save_every=7, seed=3))
    assert (sft.learning_rate, sft.lora_rank, sft.too_long, sft.save_every, sft.seed) == (3e-5, 8, "drop", 7, 3)
    rl = grpo_settings(config("03_rl", rl_learning_rate=2e-6, rl_weight_decay=0.5, loss="dapo", vllm_sleep=True))
    assert (rl.learning_rate, rl.weight_decay, rl.loss, rl.vllm_sleep) == (2e-6, 0.5, "dapo", True)
    reward = reward_of(config("03_rl", reward_k=3, rbo_p=0.9))
    assert reward == MultiViewReward(k=3, p=0.9) and not reward_of(config("03_rl", style="nothink")).think
    assert launch_of(config("02_sft", processes=8, accelerate="fsdp2")) == Launch(8, "fsdp2")
    with pytest.raises(InputError, match="01_synthesis trains nothing"):
        settings_of(config("01_synthesis"))


@pytest.mark.parametrize(("stage", "kind"), [("02_sft", SFTSettings), ("03_rl", GRPOSettings)])
def test_every_setting_can_be_set_by_a_profile_or_is_known_not_to_be(stage: str, kind: type[Any]) -> None:
    """A field that no parameter reaches would stay at its default on eight GPUs, and nobody would see it."""
    from dataclasses import fields

    from rrlib.chain.from_profile import _by_field

    declared = declared_parameters(notebook_path(stage))
    not_reached = {field.name for field in fields(kind)} - set(_by_field(stage, declared))
    assert not_reached == {"max_grad_norm", "device", "keep"} | ({"max_steps"} if stage == "02_sft" else set())
    assert read_parameters(stage, declared) <= set(declared) and read_parameters("04_evaluation", {}) == set()


def test_the_command_line_adds_machines_to_the_profiles_processes() -> None:
    here = config("02_sft", processes=8, accelerate="fsdp2")
    assert spread_of(here, None) == Launch(8, "fsdp2")
    assert spread_of(here, Launch(1, nodes=2, node=1, address="a")) == Launch(8, "fsdp2", 2, 1, "a")
    assert spread_of(here, Launch(), 4) == Launch(4, "fsdp2")
    assert spread_of(here, Launch(), 1) == Launch(1, "fsdp2"), "one process can be asked for, too"


# --- rrlib train -----------------------------------------------------------------------------------------------------

PROFILE = """
name: tiny
seed: 5
shared: {window: 3, micro_batch: 4, dtype: fp32, max_passage_tokens: 64}
02_sft: {model: MODEL, epochs: 60.0, learning_rate: 5.0e-3, max_length: 512}
03_rl: {steps: 2, prompts: 2, rollouts: 4, max_prompt: 400, max_completion: 60, reward_k: 1, save_every: 1}
"""


@pytest.fixture(scope="module")
def made(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(outputs, profile): a run of which 01_synthesis is finished."""
    outputs = tmp_path_factory.mktemp("outputs")
    profile = outputs / "tiny.yaml"
    profile.write_text(PROFILE.replace("MODEL", str(backbone)))
    parameters = load_profile(profile).parameters("01_synthesis")
    with open_stage(outputs / "tiny", "01_synthesis", parameters) as stage:
        stage.data_kind = "synthetic"
        write_examples(stage.path("teacher", "examples.jsonl"), EXAMPLES)
    return outputs, profile


@pytest.fixture
def run(made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setenv("RRLIB_OUTPUTS", str(made[0]))
    return made


def test_both_stages_train_in_the_place_of_their_notebooks(
    run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    outputs, profile = run
    assert main(["train", "grpo", str(profile)]) == 1, "stage 02 is not finished"
    assert "02_sft, which is not finished" in capsys.readouterr().err
    assert main(["train", "sft", str(profile)]) == 0
    out = capsys.readouterr().out
    assert "02_sft finished" in out and "step 120" in out and "checkpoint:" in out
    assert main(["train", "grpo", str(profile)]) == 0
    assert "reward" in capsys.readouterr().out
    for stage, folder in (("02_sft", "sft"), ("03_rl", "grpo")):
        manifest = read_json(outputs / "tiny" / stage / "manifest.json")
        assert manifest["record"]["data_kind"] == "synthetic"
        assert (outputs / "tiny" / stage / folder / "checkpoint" / "README.md").is_file()
        assert read_json(outputs / "tiny" / stage / "metrics.json")["trained_by"] == "rrlib train"
        loaded = load_profile(profile)
        match = __import__("rrlib.chain.manifest", fromlist=["identity"]).identity(
            outputs / "tiny", stage, loaded.parameters(stage), ("01_synthesis", "02_sft")[: 1 + (stage == "03_rl")]
        )
        assert stage_state(outputs / "tiny", stage, match) == ("finished", []), "the chain would skip it"
    assert main(["train", "sft", str(profile)]) == 0
    assert "finished and unchanged" in capsys.readouterr().out


@pytest.fixture
def short(run: tuple[Path, Path], tmp_path: Path) -> Path:
    """The same profile, trained for two updates."""
    text = run[1].read_text()
    assert "epochs: 60.0" in text
    path = tmp_path / "short.yaml"
    path.write_text(text.replace("epochs: 60.0", "epochs: 1.0"))
    return path


def test_an_open_stage_is_what_its_notebook_goes_on_with(run: tuple[Path, Path], short: Path) -> None:
    outputs, profile = run[0], short
    lines: list[str] = []
    done = train_stage("sft", profile, name="tiny", fresh=True, finish=False, echo=lines.append)
    assert not (outputs / "tiny" / "02_sft" / "manifest.json").exists()
    parameters = load_profile(profile).parameters("02_sft")
    stage = open_stage(outputs / "tiny", "02_sft", parameters, ["01_synthesis"])
    assert stage.resumed
    from rrlib.training.launch import train

    opened = config_of(load_profile(profile), "02_sft")
    called: list[Any] = []
    again = train(
        sft_settings(opened), EXAMPLES, opened.model, stage.path("sft"), style=opened.style, on_log=called.append
    )
    assert again.log == done.log and not called, "the training is not done twice"


def test_a_changed_profile_is_refused_with_its_key_and_bad_words_are_bad_input(
    run: tuple[Path, Path], short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs, profile = run[0], short
    train_stage("sft", profile, fresh=True, finish=False, echo=lambda line: None)
    changed = tmp_path / "changed.yaml"
    changed.write_text(profile.read_text().replace("5.0e-3", "4.0e-3"))
    assert main(["train", "sft", str(changed)]) == 1
    assert "parameters.learning_rate: 0.005 -> 0.004" in capsys.readouterr().err
    assert main(["train", "dpo", str(profile)]) == 2
    assert "use one of sft, grpo" in capsys.readouterr().err
    assert main(["train", "sft", str(tmp_path / "none.yaml")]) == 2
    assert main(["train", "sft", str(profile), "--nodes", "2"]) == 2
    assert "2 nodes without an address" in capsys.readouterr().err
    assert json.loads((outputs / "tiny" / "02_sft" / "sft" / "result.json").read_text())["n_examples"] == 8
