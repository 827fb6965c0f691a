"""The paper's profiles, held against the paper without a GPU: updates, batches, schedule, reward, TRL's arguments."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from test_training_plan import on_meta

from rrlib.chain.from_profile import config_of, grpo_settings, launch_of, reward_of, sft_settings
from rrlib.chain.params import Config, load_profile
from rrlib.plans.shapes import SHAPES, parameters
from rrlib.reward import MultiViewReward
from rrlib.training.config import GRPOSettings, SFTSettings
from rrlib.training.grpo import grpo_config
from rrlib.training.launch import sharding
from rrlib.training.schedule import batches, sft_schedule
from rrlib.training.trainer import training_arguments

ROOT = Path(__file__).resolve().parents[1]
PAPER = ("qwen2.5-7b", "qwen2.5-32b-lora", "qwen3-8b", "llama3.1-8b")
FULL = tuple(name for name in PAPER if "lora" not in name)
BILLIONS = {"qwen2.5-7b": 7.6156, "qwen2.5-32b-lora": 32.7639, "qwen3-8b": 8.1907, "llama3.1-8b": 8.0303}
"""Parameters, as the model pages state them."""


def configs(name: str) -> tuple[Config, Config]:
    profile = load_profile(ROOT / "params" / f"{name}.yaml")
    return config_of(profile, "02_sft"), config_of(profile, "03_rl")


@pytest.mark.parametrize("name", PAPER)
def test_sft_is_the_papers(name: str) -> None:
    """Section 4.2 and B.2: batch 1 x 8 a GPU, cosine with a warm-up of 0.1, cut-off 23552; 13.5k examples."""
    config, _ = configs(name)
    settings, spread = sft_settings(config), launch_of(config)
    assert (settings.micro_batch, settings.accumulation, settings.max_length) == (1, 8, 23552)
    assert (settings.schedule, settings.warmup, settings.dtype) == ("cosine", 0.1, "bf16")
    assert (settings.gradient_checkpointing, spread.processes, sharding(spread.accelerate)) == (True, 8, "full")
    lora = "lora" in name
    assert (settings.epochs, settings.learning_rate) == ((4.0, 1e-4) if lora else (5.0, 5e-6))
    assert (settings.lora_rank, settings.lora_alpha) == ((32, 32) if lora else (0, 32))
    schedule = sft_schedule(settings, 13_500, spread.total)
    assert schedule.rows_per_update == 64
    assert schedule.per_epoch == math.ceil(13_500 / 64) == 211
    assert (schedule.updates, schedule.warmup) == ((844, 85) if lora else (1055, 106))


@pytest.mark.parametrize("name", PAPER)
def test_grpo_is_the_papers(name: str) -> None:
    """Section B.2: 16 prompts, 8 rollouts, mini-batch 8, 200 steps, KL 0.001, clip 0.2, entropy 0, 20480 and 3072."""
    _, config = configs(name)
    settings, spread = grpo_settings(config), launch_of(config)
    split = batches(settings, spread.total)
    assert settings.prompts * settings.rollouts == 128, "completions of a step"
    assert split.accumulation * settings.micro_batch * spread.total == 64, "completions of an update"
    assert split.per_generation * settings.micro_batch * spread.total == 128, "one generation serves two updates"
    assert split.max_steps == 400 and split.save_steps % settings.updates == 0
    assert settings.learning_rate == (1e-5 if "lora" in name else 1e-6)
    assert (settings.lora_rank > 0) == ("lora" in name)
    assert (settings.beta, settings.clip, settings.dual_clip, settings.entropy) == (0.001, 0.2, 3.0, 0.0)
    assert (settings.max_prompt, settings.max_completion, settings.temperature) == (20480, 3072, 1.0)
    assert (settings.loss, settings.normalize, settings.mask_truncated) == ("grpo", "total", False)
    assert (settings.use_vllm, settings.vllm_mode, settings.vllm_memory) == (True, "colocate", 0.5)
    assert reward_of(config) == MultiViewReward(k=10, weights={"ndcg": 1.0, "recall": 0.2, "rbo": 0.1}, p=1.0)


@pytest.mark.parametrize("processes", [1, 2, 4, 8, 16, 64])
def test_the_updates_do_not_depend_on_the_number_of_gpus(processes: int) -> None:
    settings = grpo_settings(configs("qwen2.5-7b")[1])
    split = batches(settings, processes)
    assert split.max_steps == 400 and split.accumulation * processes == 64 and split.per_generation * processes == 128


@pytest.mark.parametrize("name", PAPER)
def test_trl_takes_the_arguments_and_leaves_none_to_its_defaults(name: str, tmp_path: Path) -> None:
    """The map from verl 0.4 to TRL 1.16, value by value, in the object that TRL trains by. (On a CPU, bf16 off and
    vLLM aside: only a GPU's own checks are missing.)"""
    from trl import SFTConfig

    sft, grpo = configs(name)
    settings = grpo_settings(grpo)
    config = grpo_config(settings, tmp_path, "cpu", False, 8)
    want: dict[str, Any] = {
        "num_generations": 8, "gradient_accumulation_steps": 8, "steps_per_generation": 16, "num_iterations": 1,
        "max_steps": 400, "lr_scheduler_type": "constant", "weight_decay": 0.01, "max_grad_norm": 1.0, "beta": 0.001,
        "use_bias_correction_kl": False, "epsilon": 0.2, "epsilon_high": 0.2, "delta": 3.0, "loss_type": "grpo",
        "scale_rewards": "group", "entropy_coef": 0.0, "temperature": 1.0, "top_p": 1.0, "top_k": 0,
        "max_completion_length": 3072, "mask_truncated_completions": False, "use_vllm": True, "vllm_mode": "colocate",
        "vllm_max_model_length": 23552, "vllm_gpu_memory_utilization": 0.5, "logging_steps": 2, "save_steps": 50,
        "vllm_importance_sampling_correction": False, "multi_objective_aggregation": "sum_then_normalize",
        "learning_rate": 1e-5 if "lora" in name else 1e-6, "gradient_checkpointing": True,
    }  # fmt: skip
    assert {key: getattr(config, key) for key in want} == want
    assert config.get_warmup_steps(400) == 0
    args = SFTConfig(**training_arguments(sft_settings(sft), tmp_path, "cpu", False), warmup_steps=0.1)
    assert args.get_warmup_steps(1055) == 106 and args.model_init_kwargs["attn_implementation"] == "sdpa"


@pytest.mark.parametrize("name", PAPER)
def test_each_names_a_model_of_the_size_that_is_meant(name: str) -> None:
    count = parameters(SHAPES[configs(name)[0].model])["total"]  # as transformers builds it: test_training_plan.py
    assert count / 1e9 == pytest.approx(BILLIONS[name], abs=5e-5)


def test_lora_parameters_are_those_that_peft_trains() -> None:
    from peft import LoraConfig, get_peft_model

    from rrlib.plans.shapes import lora_parameters

    shape = SHAPES["Qwen/Qwen2.5-32B-Instruct"]
    adapters = LoraConfig(r=32, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    small = get_peft_model(on_meta(shape, num_hidden_layers=2), adapters)
    trained = sum(p.numel() for p in small.parameters() if p.requires_grad)
    assert trained * 32 == lora_parameters(shape, 32)


@pytest.mark.parametrize(("rows", "micro", "accumulation", "epochs"), [(10, 3, 2, 1.5), (8, 8, 1, 2.0), (7, 2, 8, 1.0)])
def test_the_schedule_on_paper_is_the_trainers(
    rows: int, micro: int, accumulation: int, epochs: float, tmp_path: Path
) -> None:
    from torch.utils.data import DataLoader
    from transformers import Trainer, TrainingArguments

    settings = SFTSettings(micro_batch=micro, accumulation=accumulation, epochs=epochs)
    args = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=micro, gradient_accumulation_steps=accumulation,
        num_train_epochs=epochs, use_cpu=True, report_to="none", warmup_steps=settings.warmup,
    )  # fmt: skip
    import torch

    trainer = Trainer(torch.nn.Linear(1, 1), args)
    values = trainer.set_initial_training_values(args, DataLoader(list(range(rows)), batch_size=micro))
    schedule = sft_schedule(settings, rows)
    assert schedule.updates == values[-1] and schedule.per_epoch == values[1]
    assert schedule.warmup == args.get_warmup_steps(schedule.updates)


def test_the_defaults_of_the_settings_are_the_7b_profile() -> None:
    sft, grpo = configs("qwen2.5-7b")
    ours, theirs = SFTSettings(), sft_settings(sft)
    for key in ("learning_rate", "micro_batch", "accumulation", "epochs", "schedule", "warmup", "max_length"):
        assert getattr(ours, key) == getattr(theirs, key), key
    rl, profile = GRPOSettings(), grpo_settings(grpo)
    keys = (
        "learning_rate weight_decay prompts rollouts updates steps beta clip dual_clip entropy temperature max_prompt"
    )
    for key in [*keys.split(), "max_completion", "save_every", "loss", "normalize"]:
        assert getattr(rl, key) == getattr(profile, key), key


@pytest.mark.parametrize("name", PAPER)
def test_every_value_says_where_it_is_from(name: str) -> None:
    section = ""
    for line in (ROOT / "params" / f"{name}.yaml").read_text().splitlines():
        section = line.rstrip(":") if line and not line.startswith((" ", "#")) else section
        if (
            line.startswith("  ")
            and section in ("shared", "02_sft", "03_rl")
            and not line.lstrip().startswith("model:")
        ):
            value = line.partition(":")[0].strip()
            assert "  # " in line, f"{name}, {value}: say whose value it is"
