"""Memory plans: their arithmetic against tensors that transformers really keeps, and what they refuse."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from rrlib.chain.from_profile import plans_of
from rrlib.cli import main
from rrlib.errors import InputError
from rrlib.plans.shapes import SHAPES, SHORT, Shape, flops_per_token, kv_bytes, model_config, parameters, shape_of
from rrlib.plans.training import GIB, ON_A_CPU, device_memory, layer_bytes, plan_grpo, plan_sft, render
from rrlib.resources import SMOLLM2, resolve
from rrlib.training.config import GRPOSettings, SFTSettings
from rrlib.training.launch import Launch

ROOT = Path(__file__).resolve().parents[1]
SEVEN, THIRTY = "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-32B-Instruct"
EIGHT = Launch(8, "fsdp2")
SFT, GRPO = SFTSettings(), GRPOSettings(use_vllm=True)
PROFILES = ("qwen2.5-7b", "qwen2.5-32b-lora", "qwen3-8b", "llama3.1-8b")


def kept(shape: Shape, layers: int, length: int, checkpointing: bool, copies: bool = False) -> int:
    """Bytes of the tensors that a forward pass under bf16 autocast keeps for the backward pass, weights aside, or
    of the bf16 copies of weights alone."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(model_config(shape, num_hidden_layers=layers), attn_implementation="sdpa")
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    seen: dict[int, int] = {}
    alive: list[Any] = []

    def pack(tensor: Any) -> Any:
        of_weights = length not in tensor.shape  # a weight, or its bf16 copy, has no dimension of this length
        if (of_weights and tensor.dtype == torch.bfloat16 and tensor.dim() == 2) if copies else not of_weights:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)
        return tensor

    ids = torch.zeros((1, length), dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", torch.bfloat16):
        model.model(input_ids=ids, use_cache=False)
    return sum(seen.values())


@pytest.mark.parametrize(
    "shape",
    [Shape("qwen2", 96, 2, 6, 2, 16, 320, 128), Shape("llama", 64, 2, 4, 4, 16, 288, 128)],
    ids=lambda shape: shape.family,
)
def test_a_layer_keeps_what_the_formula_says(shape: Shape) -> None:
    length = 112
    layer = (kept(shape, 2, length, False) - kept(shape, 1, length, False)) / length
    assert layer == layer_bytes(shape)
    inputs = (kept(shape, 3, length, True) - kept(shape, 2, length, True)) / length
    assert inputs == 4 * shape.hidden


def test_with_checkpointing_no_bf16_copy_of_a_weight_outlives_the_forward_pass() -> None:
    """So copies and gradients are never there together (docs/training.md has a plan and what an H200 measured); without
    checkpointing the backward pass needs the copies."""
    shape = Shape("qwen2", 96, 2, 6, 2, 16, 320, 128)
    matrices = parameters(shape)["layer"] - 2 * 96 - (96 + 2 * 32)  # norms and the biases of q, k, v are no matrices
    assert kept(shape, 2, 112, False, copies=True) == 2 * 2 * matrices
    assert kept(shape, 2, 112, True, copies=True) == 0
    cases = ((True, 1, False), (False, 1, True), (True, 8, True))  # checkpointing, processes, whether they are counted
    for on, processes, counted in cases:
        settings = dataclasses.replace(SFT, gradient_checkpointing=on)
        plan = plan_sft(settings, SEVEN, Launch(processes), 80 * GIB)
        assert ("bf16 copies of weights" in {part.name for part in plan.parts}) is counted


def on_meta(shape: Shape, **changes: Any) -> Any:
    """The model without weights: every tensor has its shape and not one byte."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(model_config(shape, **changes))


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_counts_the_parameters_that_transformers_builds(name: str) -> None:
    shape = SHAPES[name]
    tensors = list(on_meta(shape).parameters())  # a tied matrix comes once
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert sum(tensor.numel() for tensor in tensors) == parameters(shape)["total"]


def test_a_shape_goes_by_its_hub_name_its_base_models_and_its_short_name() -> None:
    assert set(SHORT.values()) <= set(SHAPES)
    assert shape_of("smollm2-135m") is shape_of("HuggingFaceTB/SmolLM2-135M") is SHAPES[SHORT["smollm2-135m"]]
    assert parameters(shape_of("smollm2-135m"))["total"] == 134_515_008
    assert parameters(shape_of("Qwen/Qwen2.5-0.5B"))["total"] == 494_032_768


def test_parameters_and_cache_of_the_7b_model() -> None:
    seven = SHAPES[SEVEN]
    assert parameters(seven)["total"] == 7_615_616_512
    assert kv_bytes(seven) == 57_344, "2 * 28 layers * 4 heads * 128 * 2 bytes"
    assert flops_per_token(seven, 0) == pytest.approx(6 * (7_615_616_512 - 152064 * 3584))
    assert flops_per_token(seven, 8192) - flops_per_token(seven, 0) == 6 * 28 * 3584 * 8192


def test_the_plan_of_the_7b_model_on_eight_gpus() -> None:
    plan = plan_sft(SFT, SEVEN, EIGHT, 80 * GIB, 13_500)
    found = {part.name: part.bytes / GIB for part in plan.parts}
    assert found["weights"] == pytest.approx(4 * 7.6156 / 8 / 1.0737, rel=1e-3)
    assert found["optimiser states"] == pytest.approx(2 * found["weights"])
    assert found["activations kept"] == pytest.approx(2 * 23552 * 3584 * 28 / GIB)
    assert plan.fits and plan.check() is plan
    text = render(plan)
    for word in ("4P", "8T (AdamW)", "arXiv 1910.02054", "1055 (5 epochs of 13500 rows)", "= 64", "fits"):
        assert word in text


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: plan_sft(SFT, SEVEN, Launch(8), 80 * GIB), r"optimiser states 56\.7.*use accelerate: fsdp2"),
        (lambda: plan_sft(SFT, SEVEN, Launch(), 80 * GIB), "use accelerate: fsdp2"),
        (lambda: plan_sft(SFT, THIRTY, EIGHT, 80 * GIB), "SFT of Qwen/Qwen2.5-32B-Instruct needs"),
        (
            lambda: plan_sft(dataclasses.replace(SFT, gradient_checkpointing=False), SEVEN, EIGHT, 80 * GIB),
            "set gradient_checkpointing: true",
        ),
        (lambda: plan_grpo(dataclasses.replace(GRPO, vllm_memory=0.9), SEVEN, EIGHT, 80 * GIB), "lower vllm_memory"),
        (lambda: plan_grpo(GRPO, SEVEN, EIGHT, 24 * GIB), "vLLM may have 12.0 GiB.*raise vllm_tensor_parallel"),
        (lambda: plan_grpo(GRPO, THIRTY, EIGHT, 80 * GIB), "raise vllm_tensor_parallel"),
        (
            lambda: plan_grpo(dataclasses.replace(GRPO, vllm_tensor_parallel=3), SEVEN, EIGHT, 80 * GIB),
            "choose a divisor",
        ),
    ],
)
def test_what_cannot_fit_is_refused_with_what_helps(make: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        make().check()


def test_sharding_decides_what_is_divided() -> None:
    def sizes(name: str) -> dict[str, float]:
        return {part.name: part.bytes for part in plan_sft(SFT, SEVEN, Launch(8, name), 80 * GIB).parts}

    whole, zero2, full = sizes(""), sizes("zero2"), sizes("fsdp2")
    assert whole["weights"] == zero2["weights"] == 8 * full["weights"]
    assert whole["optimiser states"] == 8 * zero2["optimiser states"] == 8 * full["optimiser states"]
    assert "gathered layers" in full and "gathered layers" not in whole
    assert sizes("zero3") == full and sizes("ddp") == whole


def test_lora_trains_little_and_needs_no_reference() -> None:
    lora = dataclasses.replace(GRPO, lora_rank=32, vllm_tensor_parallel=8, vllm_sleep=True)
    plan = plan_grpo(lora, THIRTY, EIGHT, 80 * GIB)
    found = {part.name: part.bytes for part in plan.parts}
    assert "reference model" not in found and found["optimiser states"] < 0.3 * GIB
    assert plan.check().fits


@pytest.mark.parametrize("name", PROFILES)
def test_every_paper_profile_fits_its_hardware(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(ROOT / "params" / f"{name}.yaml"), "--examples", "13500"]) == 0
    shown = capsys.readouterr().out
    assert shown.count(": fits") == 2 and "of 72.00 GiB" in shown and "128" in shown
    assert ("844 (4 epochs" if "lora" in name else "1055 (5 epochs") in shown


def test_the_command_refuses_what_cannot_fit(capsys: pytest.CaptureFixture[str]) -> None:
    profile = str(ROOT / "params" / "qwen2.5-7b.yaml")
    assert main(["plan", profile, "--processes", "1"]) == 2
    told = capsys.readouterr()
    assert "DOES NOT FIT" in told.out and "SFT of Qwen/Qwen2.5-7B-Instruct needs" in told.err


def test_the_miniature_fits_anywhere_and_its_shape_comes_from_its_folder() -> None:
    sft, grpo = plans_of(ROOT / "params" / "smoke.yaml", gpu_memory=4.0)
    assert sft.fits and grpo.fits and "transformers" in dict(grpo.facts)["rollouts"]
    shape = shape_of("package:rrlib.miniature/backbone")
    assert shape.family == "qwen3" and shape.tied
    with pytest.raises(InputError, match="no shape is known"):
        shape_of("nobody/knows")


def test_a_plan_for_a_cpu_says_what_was_used_where_its_parts_are_less(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its parts leave out the libraries; the sentence has what was measured, and the page that it names has it too."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["plan", str(ROOT / "params" / "miniature.yaml")]) == 0
    shown = capsys.readouterr().out
    assert shown.count(": ".join(ON_A_CPU)) == 2
    held = [float(figure) for figure in re.findall(r"(\d\.\d) GiB", ON_A_CPU[1])]
    needed = [plan.needed / GIB for plan in plans_of(ROOT / "params" / "miniature.yaml")]
    assert len(held) == len(needed) == 2 and all(used >= planned for used, planned in zip(held, needed, strict=True))
    page = " ".join((ROOT / "docs" / "costs.md").read_text(encoding="utf-8").split())
    assert all(f"{used} GiB" in page for used in held)


def test_a_plan_for_a_gpu_says_nothing_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    here = device_memory()
    assert ON_A_CPU in plan_sft(SFT, SEVEN, Launch(), here).facts
    assert ON_A_CPU not in plan_sft(SFT, SEVEN, Launch(), 2 * here).facts, "a GPU that is said by its size"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert ON_A_CPU not in plan_grpo(dataclasses.replace(GRPO, use_vllm=False), SEVEN, EIGHT, 80 * GIB).facts


@pytest.mark.parametrize(
    ("model", "count"),
    [("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008), ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768)],
)
def test_small_models_have_the_parameters_of_their_cards(model: str, count: int) -> None:
    assert parameters(shape_of(model))["total"] == count


@pytest.mark.parametrize(
    ("name", "memory"), [("smollm2-135m", 8.0), ("smollm2-135m-quick", 8.0), ("qwen2.5-0.5b", 0.0)]
)
def test_the_profiles_of_real_questions_fit(name: str, memory: float) -> None:
    options = {"gpu_memory": memory} if memory else {}
    sft, grpo = plans_of(ROOT / "params" / f"{name}.yaml", **options)
    assert sft.fits and grpo.fits


@pytest.mark.smollm2
def test_the_shape_that_plans_know_is_the_models() -> None:
    assert shape_of(resolve(SMOLLM2)) == shape_of(SMOLLM2) == SHAPES["HuggingFaceTB/SmolLM2-135M-Instruct"]
