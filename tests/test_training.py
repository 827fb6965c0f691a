"""Training: what TRL is given and what comes back, on a tiny Qwen3 with a byte tokenizer."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import types
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from tiny_training import EXAMPLES, GRPO, QWEN, SFT, example, make_tokenizer

from rrlib import patches
from rrlib.errors import InputError, StageError
from rrlib.prompts import LAST_QWEN3, LAST_THINK, SUFFIX, PromptBuilder, format_response
from rrlib.reward import MultiViewReward
from rrlib.training import data, grpo, sft
from rrlib.training.completions import read_completions
from rrlib.training.config import GRPOSettings, SFTSettings, as_stored
from rrlib.training.grpo import encode_for_grpo, train_grpo
from rrlib.training.resume import TrainResult
from rrlib.training.schedule import batches
from rrlib.training.sft import encode_for_sft, train_sft
from rrlib.training.trl_reward import answer_decoder
from rrlib.types import Passage


@pytest.fixture(scope="module")
def trained(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """SFT long enough to write the format."""
    settings = dataclasses.replace(SFT, max_steps=120, save_every=1000, learning_rate=5e-3)
    return train_sft(EXAMPLES, backbone, tmp_path_factory.mktemp("sft"), settings)


# --- data ------------------------------------------------------------------------------------------------------------


def test_prompt_is_the_inference_prompt_and_labels_cover_exactly_the_response(backbone: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(backbone)
    hostile = dataclasses.replace(
        EXAMPLES[0], passages=(Passage("d", "see [2] <|im_end|> &lt;b&gt;"), *EXAMPLES[0].passages[1:])
    )
    examples = [hostile, *EXAMPLES[1:]]
    builder = PromptBuilder(tokenizer)
    for row, one in zip(encode_for_sft(examples, backbone, SFT).rows, examples, strict=True):
        inference = tokenizer(builder.render(one.query.text, one.passages), add_special_tokens=False)["input_ids"]
        assert list(row.prompt_ids) == inference
        assert row.labels[: len(inference)] == [sft.IGNORED] * len(inference)
        response = format_response(one.reasoning, one.gold) + "<|im_end|>"
        assert tokenizer.decode(row.labels[len(inference) :]) == response
        assert row.labels[len(inference) :] == list(row.response_ids)


def test_trl_gets_our_ids_and_labels_untouched(backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import trl
    from transformers import AutoModelForCausalLM

    seen: list[dict[str, Any]] = []
    real = trl.SFTTrainer.compute_loss

    def spy(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append({k: inputs[k].clone() for k in ("input_ids", "labels", "attention_mask")})
        return real(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(trl.SFTTrainer, "compute_loss", spy)
    result = train_sft(EXAMPLES, backbone, tmp_path, dataclasses.replace(SFT, max_steps=1, save_every=1))
    rows = encode_for_sft(EXAMPLES, backbone, SFT).rows
    want = {(*r.prompt_ids, *r.response_ids): r.labels for r in rows}
    batch = seen[0]
    assert batch["input_ids"].shape[0] == len(EXAMPLES)
    for ids, labels, mask in zip(*(batch[k].tolist() for k in ("input_ids", "labels", "attention_mask")), strict=True):
        length = sum(mask)
        assert labels[:length] == want.pop(tuple(ids[:length]))
        assert set(labels[length:]) <= {sft.IGNORED}
        assert sum(label != sft.IGNORED for label in labels) > 1, "no row without labels"
    assert not want
    # The loss of the log is that of the response tokens alone, each given all before it: from plain logits, row by row.
    model, scores = AutoModelForCausalLM.from_pretrained(backbone), []
    for row in rows:
        ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
        with torch.no_grad():
            chances = model(input_ids=ids).logits[0].log_softmax(-1)
        scores += [-chances[len(row.prompt_ids) + i - 1, token].item() for i, token in enumerate(row.response_ids)]
    assert result.log[0]["loss"] == pytest.approx(sum(scores) / len(scores), abs=1e-5)


def test_too_long_examples_are_refused_by_name_or_dropped_and_counted(backbone: Path) -> None:
    examples = [*EXAMPLES, example(77, text="long " * 200)]
    with pytest.raises(InputError, match=r"1 of 9 examples are too long \(q77: prompt of \d+ tokens, limit 512\)"):
        encode_for_sft(examples, backbone, SFT)
    dropped = encode_for_sft(examples, backbone, dataclasses.replace(SFT, too_long="drop"))
    assert (dropped.dropped, len(dropped.rows)) == (1, 8)
    with pytest.raises(InputError, match="q77: prompt of"):
        encode_for_grpo(examples, backbone, GRPO)
    long_reasoning = [*EXAMPLES, example(78, reasoning="hm " * 150)]
    with pytest.raises(InputError, match="q78: prompt and response of"):
        encode_for_sft(long_reasoning, backbone, SFT)
    with pytest.raises(InputError, match="all 1 examples are too long"):
        encode_for_sft([example(77, text="long " * 200)], backbone, dataclasses.replace(SFT, too_long="drop"))


def test_the_models_own_window_is_a_limit_too(backbone: Path) -> None:
    with pytest.raises(InputError, match=r"q77: prompt of \d+ tokens, limit 1024"):
        encode_for_sft([example(77, text="long " * 200)], backbone, dataclasses.replace(SFT, max_length=23552))
    with pytest.raises(InputError, match="the model has 1024 positions"):
        encode_for_grpo(EXAMPLES, backbone, dataclasses.replace(GRPO, max_completion=3072))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"reasoning": ""}, "q0 has no reasoning"),
        ({"reasoning": "then <|im_end|> stop"}, "holds the special token"),
    ],
)
def test_examples_that_cannot_be_targets_are_named(backbone: Path, change: dict[str, str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        encode_for_sft([dataclasses.replace(EXAMPLES[0], **change)], backbone, SFT)  # type: ignore[arg-type]


def test_a_template_that_closes_a_turn_with_another_token_than_eos_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path, eos="<|endoftext|>")
    with pytest.raises(InputError, match=r"ends a turn with '<\|im_end\|>'.*'<\|endoftext\|>'"):
        data.end_of_turn(tokenizer)


@pytest.mark.parametrize(
    ("file", "style", "opening", "eos", "bos"),
    [
        ("qwen2_5.jinja", "reasonrank", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>", None),
        ("qwen3.jinja", "reasonrank", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>", None),
        ("qwen3.jinja", "reasonrank-qwen3", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>", None),
        (
            "llama3_1.jinja", "reasonrank", "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            "<|eot_id|>", "<|begin_of_text|>",
        ),
    ],
)  # fmt: skip
def test_real_chat_templates_leave_the_response_alone(
    tmp_path: Path, file: str, style: str, opening: str, eos: str, bos: str | None
) -> None:
    """Byte for byte on both sides of the boundary: the last words of the user, the opening of the assistant's turn, the
    response, its end. Qwen3's template would rewrite the think block, Llama's tokenizer would add a second BOS."""
    import trl

    template = (Path(trl.__file__).parent / "chat_templates" / file).read_text()
    tokenizer = make_tokenizer(tmp_path, eos=eos, template=template, bos=bos)
    builder = PromptBuilder(tokenizer, style)
    limits = data.Limits(900, 900, 900)
    (row,) = data.encode_examples([EXAMPLES[1]], tokenizer, builder, limits, target=sft.target).rows
    response = "<think> ok </think> <answer> [2] > [3] > [1] </answer>" + eos
    assert tokenizer.decode(row.response_ids) == response
    last = {"reasonrank": LAST_THINK, "reasonrank-qwen3": LAST_QWEN3}[style]
    whole = tokenizer.decode([*row.prompt_ids, *row.response_ids])
    assert whole.endswith(SUFFIX.format(num=3, query="x1") + last + opening + response)
    assert tokenizer.decode(row.prompt_ids) == builder.render(EXAMPLES[1].query.text, EXAMPLES[1].passages)
    assert tokenizer.decode(row.prompt_ids).count("<|begin_of_text|>") == (1 if bos else 0)
    if bos:
        assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id, "this tokenizer adds BOS by itself"
    trainer = types.SimpleNamespace(processing_class=tokenizer)
    assert grpo.RankingRollouts._tokenize_prompts(trainer, [row.prompt])[0] == [list(row.prompt_ids)]


def test_no_examples_is_refused(backbone: Path) -> None:
    with pytest.raises(InputError, match="no training examples"):
        encode_for_sft([], backbone, SFT)


# --- settings --------------------------------------------------------------------------------------------------------


def test_batch_algebra_of_the_paper() -> None:
    """verl: 16 prompts x 8 rollouts, mini-batch 8 prompts, 200 steps; on one process, and on eight."""
    one = batches(GRPOSettings())
    assert (one.accumulation, one.per_generation, one.max_steps) == (64, 128, 400)
    eight = batches(GRPOSettings(), processes=8)
    assert (eight.accumulation, eight.per_generation, eight.max_steps) == (8, 16, 400)
    assert one.save_steps % (one.per_generation // one.accumulation) == 0
    assert one.logging_steps == one.per_generation // one.accumulation == 2


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: GRPOSettings(rollouts=1), "rollouts is 1"),
        (lambda: GRPOSettings(prompts=3, rollouts=3), "do not split into 2 updates"),
        (lambda: batches(GRPOSettings(micro_batch=7)), "does not split into passes of 7"),
        (lambda: GRPOSettings(temperature=0.0), "temperature is 0.0"),
        (lambda: GRPOSettings(beta=-0.1), "beta is -0.1"),
        (lambda: SFTSettings(learning_rate=0.0), "learning_rate is 0.0"),
        (lambda: SFTSettings(epochs=0.0), "epochs is 0.0"),
        (lambda: SFTSettings(warmup=10), "warmup is 10"),
        (lambda: SFTSettings(schedule="cosin"), "schedule is 'cosin'"),
        (lambda: SFTSettings(dtype="fp16"), "dtype is 'fp16'"),  # type: ignore[arg-type]
        (lambda: SFTSettings(too_long="cut"), "too_long is 'cut'"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings_are_refused(make: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        make()


def test_too_few_examples_for_one_step(backbone: Path) -> None:
    with pytest.raises(InputError, match="8 examples for 16 prompts a step"):
        encode_for_grpo(EXAMPLES, backbone, dataclasses.replace(GRPO, prompts=16))


def test_a_reward_that_reads_another_format_is_refused(backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the reward does not read what the style 'reasonrank' writes"):
        train_grpo(EXAMPLES, backbone, tmp_path, GRPO, MultiViewReward(think=False))


# --- SFT -------------------------------------------------------------------------------------------------------------


def test_sft_learns_and_its_checkpoint_loads(trained: TrainResult) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    losses = [row["loss"] for row in trained.log]
    assert len(losses) == 120 and losses[-1] < 0.1 * losses[0]
    assert [
        json.loads(line) for line in (trained.checkpoint.parent / "log.jsonl").read_text().splitlines()
    ] == trained.log
    assert trained.n_examples == 8 and trained.dropped == 0 and trained.seconds > 0
    model = AutoModelForCausalLM.from_pretrained(trained.checkpoint)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert AutoTokenizer.from_pretrained(trained.checkpoint).chat_template == QWEN
    assert not (trained.checkpoint / "training_args.bin").exists()


def test_logits_of_labelled_positions_alone_give_the_same_loss_and_gradients(backbone: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    row = encode_for_sft(EXAMPLES, backbone, SFT).rows[0]
    ids, labels = torch.tensor([[*row.prompt_ids, *row.response_ids]]), torch.tensor([row.labels])
    found = []
    for tame in (contextlib.nullcontext, patches.tamed_trl):
        model = AutoModelForCausalLM.from_pretrained(backbone)
        add_fused_lm_head(model)
        with tame():
            loss = model(input_ids=ids, labels=labels, fused_lm_head=True).loss
        loss.backward()
        plain = torch.nn.functional.cross_entropy(model(input_ids=ids).logits[0, :-1], labels[0, 1:])
        found.append((loss.item(), model.model.layers[0].mlp.up_proj.weight.grad))
        assert loss.item() == pytest.approx(plain.item(), abs=1e-5)
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)


def test_a_missing_or_unfit_model_is_said(tmp_path: Path, backbone: Path) -> None:
    with pytest.raises(InputError, match=r"no folder .*nothing.* -> name the folder of a checkpoint, or a hub name"):
        encode_for_sft(EXAMPLES, tmp_path / "nothing", SFT)
    bare = shutil.copytree(backbone, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        encode_for_sft(EXAMPLES, bare, SFT)


def test_sft_resumes_bit_equal(backbone: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    whole = train_sft(EXAMPLES, backbone, tmp_path / "whole", dataclasses.replace(SFT, micro_batch=3))

    def kill(row: dict[str, Any]) -> None:
        if row["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sft(EXAMPLES, backbone, tmp_path / "cut", dataclasses.replace(SFT, micro_batch=3), on_log=kill)
    half = tmp_path / "cut" / "trainer" / "checkpoint-5"  # killed while it saved: must be passed over
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"torn")
    resumed = train_sft(EXAMPLES, backbone, tmp_path / "cut", dataclasses.replace(SFT, micro_batch=3))
    assert resumed.info["resumed_from"] == "checkpoint-3"
    keys = ("step", "loss", "grad_norm", "learning_rate")
    assert [[r[k] for k in keys] for r in resumed.log] == [[r[k] for k in keys] for r in whole.log]
    left, right = (load_file(r.checkpoint / "model.safetensors") for r in (whole, resumed))
    assert all((left[name] == right[name]).all() for name in left) and left.keys() == right.keys()
    rows = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_finished_is_not_trained_again_and_changed_is_refused_or_redone(backbone: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SFT, max_steps=2, save_every=1)

    def kill(row: dict[str, Any]) -> None:
        if row["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sft(EXAMPLES, backbone, tmp_path, settings, on_log=kill)
    with pytest.raises(StageError, match=r"learning_rate: was 0.01, is 0.001"):
        train_sft(EXAMPLES, backbone, tmp_path, dataclasses.replace(settings, learning_rate=1e-3))
    with pytest.raises(StageError, match="examples: was"):
        train_sft(EXAMPLES[:-1], backbone, tmp_path, settings)
    first = train_sft(EXAMPLES, backbone, tmp_path, dataclasses.replace(settings, save_every=2))  # free to change
    called: list[Any] = []
    again = train_sft(EXAMPLES, backbone, tmp_path, settings, on_log=called.append)
    assert again.log == first.log and again.seconds == first.seconds and not called
    redone = train_sft(
        EXAMPLES, backbone, tmp_path, dataclasses.replace(settings, learning_rate=1e-3), on_log=called.append
    )
    assert redone.log[1]["learning_rate"] != first.log[1]["learning_rate"] and len(called) == 2


def test_bf16_keeps_float32_weights_and_learns_below_bf16_steps(backbone: Path, tmp_path: Path) -> None:
    """At lr 1e-6 an update vanishes in bf16 weights; in float32 ones it does not."""
    import torch
    from safetensors.torch import load_file

    tiny = dataclasses.replace(
        SFT, max_steps=1, save_every=1, learning_rate=1e-6, warmup=0.0, schedule="constant", dtype="bf16"
    )
    result = train_sft(EXAMPLES, backbone, tmp_path, tiny)
    before, after = (load_file(f / "model.safetensors") for f in (backbone, result.checkpoint))
    name = "model.layers.0.mlp.up_proj.weight"
    assert after[name].dtype == torch.float32
    moved = (after[name] - before[name]).abs()
    assert 0 < moved.max() < 2e-6 and (moved > 0).float().mean() > 0.5


def test_lora_is_merged_into_a_plain_checkpoint(backbone: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    result = train_sft(EXAMPLES, backbone, tmp_path, dataclasses.replace(SFT, lora_rank=4, max_steps=3, warmup=0.0))
    before, after = (load_file(f / "model.safetensors") for f in (backbone, result.checkpoint))
    assert before.keys() == after.keys()
    assert (before["model.layers.0.mlp.up_proj.weight"] != after["model.layers.0.mlp.up_proj.weight"]).any()
    assert (before["model.embed_tokens.weight"] == after["model.embed_tokens.weight"]).all()


def test_lora_resumes_bit_equal(backbone: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    settings = dataclasses.replace(SFT, lora_rank=4, max_steps=3, save_every=2, warmup=0.0)
    whole = train_sft(EXAMPLES, backbone, tmp_path / "whole", settings)

    def kill(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sft(EXAMPLES, backbone, tmp_path / "cut", settings, on_log=kill)
    again = train_sft(EXAMPLES, backbone, tmp_path / "cut", settings)
    assert again.info["resumed_from"] == "checkpoint-2"
    assert [(r["loss"], r["grad_norm"]) for r in again.log] == [(r["loss"], r["grad_norm"]) for r in whole.log]
    left, right = (load_file(r.checkpoint / "model.safetensors") for r in (whole, again))
    assert left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)


# --- GRPO ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rolled(trained: TrainResult, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    folder = tmp_path_factory.mktemp("grpo")
    return folder, train_grpo(EXAMPLES, trained.checkpoint, folder, GRPO, MultiViewReward(k=1))


def test_grpo_runs_and_logs_views(rolled: tuple[Path, TrainResult]) -> None:
    _, result = rolled
    assert [row["step"] for row in result.log] == [2, 4]  # one row a rollout batch, two updates each
    for row in result.log:
        assert row["share/valid"] > 0, "the SFT checkpoint writes the format"
        assert math.isclose(row["share/valid"] + row["share/bad_list"] + row["share/bad_format"], 1.0)
        assert 0 <= row["view/ndcg"] <= 1 and 0 <= row["view/recall"] <= 1 and 0 < row["view/rbo"] <= 1
        for key in ("reward", "kl", "entropy", "completions/mean_length", "completions/clipped_ratio", "time/generate",
                    "frac_reward_zero_std", "clip_ratio/region_mean", "seconds"):  # fmt: skip
            assert math.isfinite(row[key]), key
        assert row["learning_rate"] == GRPO.learning_rate, "constant schedule"
    assert result.log[0]["kl"] >= 0 and result.info["completions_per_step"] == 16


def test_one_step_makes_rewarded_completions_likelier(trained: TrainResult, tmp_path: Path) -> None:
    """The sign of it all: advantages, completions and their tokens belong together after TRL's shuffle."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = dataclasses.replace(GRPO, steps=1, prompts=8, rollouts=8, micro_batch=16)
    result = train_grpo(EXAMPLES, trained.checkpoint, tmp_path, settings)
    tokenizer = AutoTokenizer.from_pretrained(trained.checkpoint)
    rows = read_completions(tmp_path).to_dict("records")

    def likelihoods(folder: Path) -> list[float]:
        model = AutoModelForCausalLM.from_pretrained(folder)
        found = []
        for row in rows:
            prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
            answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logps = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            found.append(sum(logps[len(prompt) + i - 1, token].item() for i, token in enumerate(answer)))
        return found

    moved = [
        after - before
        for before, after in zip(likelihoods(trained.checkpoint), likelihoods(result.checkpoint), strict=True)
    ]
    up = [m for m, row in zip(moved, rows, strict=True) if row["advantage"] > 0]
    down = [m for m, row in zip(moved, rows, strict=True) if row["advantage"] < 0]
    assert up and down and sum(up) / len(up) > 0 > sum(down) / len(down)


def test_grpo_keeps_completions_whose_rewards_are_the_rewards_of_their_texts(
    rolled: tuple[Path, TrainResult],
) -> None:
    table = read_completions(rolled[0])
    assert len(table) == 32 and sorted(set(table["step"])) == [2, 4]
    reward = MultiViewReward(k=1)
    by_prompt = {row.prompt: row.example for row in encode_for_grpo(EXAMPLES, rolled[1].checkpoint, GRPO).rows}
    for row in table.to_dict("records"):
        one = by_prompt[row["prompt"]]
        assert row["multi_view_reward"] == pytest.approx(reward.score(row["completion"], one.relevance, one.gold).total)
    assert table.groupby(["step", "prompt"]).size().tolist() == [4] * 8


def test_grpo_prompt_tokens_are_the_inference_tokens(
    trained: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    seen: list[list[int]] = []
    real = grpo.shared_prefix_rollouts

    def spy(trainer: Any, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        seen.extend(prompt_ids)
        return real(trainer, prompt_ids, *args, **kwargs)

    monkeypatch.setattr(grpo, "shared_prefix_rollouts", spy)
    train_grpo(EXAMPLES, trained.checkpoint, tmp_path, dataclasses.replace(GRPO, steps=1))
    tokenizer = AutoTokenizer.from_pretrained(trained.checkpoint)
    builder = PromptBuilder(tokenizer)
    known = [
        tokenizer(builder.render(e.query.text, e.passages), add_special_tokens=False)["input_ids"] for e in EXAMPLES
    ]
    assert len(seen) == 16 and all(ids in known for ids in seen)


def test_grpo_resumes_at_a_generation_boundary_as_if_never_stopped(
    trained: TrainResult, rolled: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    def kill(row: dict[str, Any]) -> None:
        if row["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_grpo(EXAMPLES, trained.checkpoint, tmp_path, GRPO, MultiViewReward(k=1), on_log=kill)
    resumed = train_grpo(EXAMPLES, trained.checkpoint, tmp_path, GRPO, MultiViewReward(k=1))
    assert resumed.info["resumed_from"] == "checkpoint-2"
    keys = ("step", "loss", "reward", "kl", "grad_norm", "completions/mean_length")
    assert [[r[k] for k in keys] for r in resumed.log] == [[r[k] for k in keys] for r in rolled[1].log]


def test_the_reward_sees_special_tokens_and_not_the_end(backbone: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(backbone)
    decode = answer_decoder(tokenizer)
    text = "<think> a </think> <answer> [1] </answer>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert decode([*ids, tokenizer.eos_token_id, tokenizer.pad_token_id]) == text
    assert decode([tokenizer.convert_tokens_to_ids("<|im_start|>"), *ids]) == "<|im_start|>" + text
    assert decode([]) == ""


def test_all_completions_cut_off_is_said_aloud(
    backbone: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = train_grpo(EXAMPLES, backbone, tmp_path, dataclasses.replace(GRPO, steps=1, max_completion=2))
    assert result.log[0]["reward"] == -1.0 and result.log[0]["share/bad_format"] == 1.0
    assert "no group has a spread" in caplog.text


def test_nothing_is_printed(trained: TrainResult, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train_grpo(EXAMPLES, trained.checkpoint, tmp_path, dataclasses.replace(GRPO, steps=1))
    out, err = capfd.readouterr()
    assert len(out) + len(err) < 500, (out, err)


def test_grpo_with_prompts_read_once_learns_as_with_trls_own_passes(
    trained: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(GRPO, steps=2, dtype="fp32")
    ours = train_grpo(EXAMPLES, trained.checkpoint, tmp_path / "ours", settings)
    monkeypatch.setattr(grpo, "shared_prefix_logprobs", lambda *args: None)
    theirs = train_grpo(EXAMPLES, trained.checkpoint, tmp_path / "theirs", settings)
    for one, other in zip(ours.log, theirs.log, strict=True):
        for key in ("loss", "kl", "entropy", "grad_norm", "reward"):
            assert one[key] == pytest.approx(other[key], rel=2e-3, abs=1e-5), key


@pytest.mark.parametrize("engine", ["prefix", "generate"])
def test_a_rollout_engine_that_is_asked_for_is_used(
    trained: TrainResult, rolled: tuple[Path, TrainResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any
) -> None:
    """On a CPU, `auto` is `prefix`, whatever the vocabulary; `generate` leaves sampling and scoring to TRL."""
    from rrlib.training import rollouts

    used: list[str] = []
    for name in ("decode", "answer_logprobs"):
        real = getattr(rollouts.prefix, name)
        monkeypatch.setattr(
            rollouts.prefix, name, lambda *a, real=real, name=name, **k: used.append(name) or real(*a, **k)
        )
    monkeypatch.setattr(rollouts, "_VOCABULARY", 1)
    settings = dataclasses.replace(GRPO, rollout_engine=engine)
    result = train_grpo(EXAMPLES, trained.checkpoint, tmp_path, settings, MultiViewReward(k=1))
    assert set(used) == ({"decode", "answer_logprobs"} if engine == "prefix" else set())
    if engine == "prefix":
        keys = ("loss", "reward", "kl", "grad_norm", "completions/mean_length")
        assert [[r[k] for k in keys] for r in result.log] == [[r[k] for k in keys] for r in rolled[1].log]


def test_a_rollout_engine_that_cannot_run_is_refused(backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="by vLLM and by rollout_engine: prefix"):
        GRPOSettings(use_vllm=True, rollout_engine="prefix")
    other = shutil.copytree(backbone, tmp_path / "other")
    config = json.loads((other / "config.json").read_text()) | {"use_sliding_window": True, "sliding_window": 8}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="prefix does not run models of type 'qwen3'"):
        train_grpo(EXAMPLES, other, tmp_path / "out", dataclasses.replace(GRPO, rollout_engine="prefix"))


def test_a_training_that_was_stored_before_a_setting_came_goes_on(rolled: tuple[Path, TrainResult]) -> None:
    assert "rollout_engine" not in json.loads((rolled[0] / "inputs.json").read_text())
    assert as_stored({"rollout_engine": "prefix", "beta": 0.0}) == {"rollout_engine": "prefix", "beta": 0.0}
    assert as_stored({"rollout_engine": "auto", "beta": 0.0}) == {"beta": 0.0}


@pytest.mark.gpu
def test_prompts_read_once_on_a_gpu_learn_as_with_trls_own_passes(backbone: Path, tmp_path: Path) -> None:
    """With rollouts of its own each engine draws others, so what is compared is that scores and updates are sound."""
    settings = dataclasses.replace(GRPO, device="auto", dtype="bf16", rollout_engine="prefix")
    log = train_grpo(EXAMPLES, backbone, tmp_path, settings, MultiViewReward(k=1)).log
    assert abs(log[0]["kl"]) < 1e-2 and all(row["grad_norm"] < 100 for row in log), log
