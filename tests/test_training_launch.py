"""Several processes, and death at any step: real torchrun, gloo and SIGKILL on the miniature."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from rrlib.errors import InputError, MissingFileError, StageError
from rrlib.formats import read_collection
from rrlib.miniature import build
from rrlib.resources import resolve
from rrlib.reward import MultiViewReward
from rrlib.training import grpo, launch
from rrlib.training.config import GRPOSettings, SFTSettings
from rrlib.training.grpo import train_grpo
from rrlib.training.launch import Launch, accelerate_file, command, progress, sharding, train, write_job
from rrlib.training.resume import TrainResult, locked
from rrlib.training.sft import train_sft
from rrlib.types import RankingExample

BACKBONE, RERANKER = "package:rrlib.miniature/backbone", "package:rrlib.miniature/reranker"
ROOT = Path(__file__).resolve().parents[1]
SFT = SFTSettings(
    learning_rate=1e-3, micro_batch=4, accumulation=2, epochs=1, max_steps=6, max_length=2048, dtype="fp32",
    device="cpu", save_every=2, gradient_checkpointing=False,
)  # fmt: skip
GRPO = GRPOSettings(
    learning_rate=1e-4, micro_batch=8, prompts=4, rollouts=4, steps=3, updates=1, save_every=1, max_prompt=2048,
    max_completion=160, temperature=1.3, dtype="fp32", device="cpu", gradient_checkpointing=False, beta=0.1,
)  # fmt: skip
REWARD = MultiViewReward(k=3)


def silent(line: str) -> None:
    """Nothing of what the workers say."""


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[RankingExample]:
    """Windows of four passages of the embedded world; the gold list has the relevant passages first."""
    folder = tmp_path_factory.mktemp("world")
    build(folder, seed=3, train=24, validation=4, test=4)
    collection = read_collection(folder, "train")
    found = []
    for item in collection.candidates(4):
        grades = collection.qrels.get(item.query.qid, {})
        labels = tuple(int(grades.get(p.docid, 0) > 0) for p in item.passages)
        gold = tuple(sorted(range(len(labels)), key=lambda i: -labels[i]))
        found.append(RankingExample(item.query, item.passages, labels, gold, "So the first one."))
    return found[:16]  # whole updates: where rows are short, accelerate repeats some to give every process as many


def column(result: TrainResult, *keys: str) -> list[list[float]]:
    return [[row[key] for key in keys] for row in result.log]


def weights(result: TrainResult) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(result.checkpoint / "model.safetensors")


def distance(left: TrainResult, right: TrainResult) -> float:
    a, b = weights(left), weights(right)
    assert a.keys() == b.keys()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


def test_two_processes_train_sft_as_one_does_also_when_interrupted(
    examples: list[RankingExample], tmp_path: Path
) -> None:
    one = train(SFT, examples, BACKBONE, tmp_path / "one")
    halves = dataclasses.replace(SFT, accumulation=1)  # 2 processes x 4 rows x 1 pass = 1 process x 4 rows x 2 passes
    said: list[str] = []

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(halves, examples, BACKBONE, tmp_path / "two", launch=Launch(2), on_log=stop, echo=said.append)
    assert (tmp_path / "two" / "trainer" / "checkpoint-2" / "rng_state_1.pth").is_file()
    with pytest.raises(StageError, match="processes: was 2, is 1"):
        train(halves, examples, BACKBONE, tmp_path / "two")
    two = train(halves, examples, BACKBONE, tmp_path / "two", launch=Launch(2), echo=said.append)
    assert two.info["processes"] == 2 and two.info["resumed_from"] == "checkpoint-2"
    assert [row["step"] for row in two.log] == [1, 2, 3, 4, 5, 6]
    for (a, b), (c, d) in zip(column(one, "loss", "grad_norm"), column(two, "loss", "grad_norm"), strict=True):
        assert a == pytest.approx(c, abs=1e-3) and b == pytest.approx(d, rel=1e-3)
    assert one.log[0]["loss"] > one.log[-1]["loss"] + 0.1, "the comparison is of a model that learns"
    assert distance(one, two) < 1e-3
    assert sum("step 6/6" in line for line in said) == 1 and "torch.distributed.run" in said[0]


def recorded(
    examples: list[RankingExample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[TrainResult, Path]:
    """A GRPO training by one process, and the file of its completions."""
    turns: list[tuple[list[list[int]], list[list[int]]]] = []
    real = grpo.shared_prefix_rollouts

    def record(self: Any, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        completions, logprobs = real(self, prompt_ids, *args, **kwargs)
        turns.append((prompt_ids, completions))
        return completions, logprobs

    monkeypatch.setattr(grpo, "shared_prefix_rollouts", record)
    one = train(GRPO, examples, RERANKER, tmp_path / "one", reward=REWARD)
    (tmp_path / "turns.json").write_text(json.dumps(turns))
    assert len(turns) == len(one.log) == 3
    assert max(row["grad_norm"] for row in one.log) > 0.01, "the comparison is of a model that is moved"
    return one, tmp_path / "turns.json"


def same_course(one: TrainResult, two: TrainResult) -> None:
    """Both trainings logged the same, within 1e-3."""
    assert len(two.log) == len(one.log) and two.info["processes"] == 2
    keys = ("loss", "kl", "reward", "view/ndcg", "share/valid", "groups/no_spread", "completions/mean_length")
    for left, right in zip(one.log, two.log, strict=True):
        present = [key for key in keys if key in left]
        assert [left[key] for key in present] == pytest.approx([right[key] for key in present], abs=1e-3)
        assert left["grad_norm"] == pytest.approx(right["grad_norm"], rel=1e-3)


def test_two_processes_train_grpo_as_one_does_on_the_same_completions(
    examples: list[RankingExample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, record = recorded(examples, tmp_path, monkeypatch)

    def replay(spread: Launch, job: Path, device: str) -> list[str]:
        line = command(spread, job, device)
        at = line.index("rrlib.training.worker")
        return [*line[: at - 1], str(ROOT / "tests" / "replay_worker.py"), str(job), str(record)]

    monkeypatch.setattr(launch, "command", replay)
    two = train(GRPO, examples, RERANKER, tmp_path / "two", reward=REWARD, launch=Launch(2), echo=silent)
    same_course(one, two)
    assert distance(one, two) < 1e-4


def sharded(monkeypatch: pytest.MonkeyPatch, *record: Path) -> None:
    """Let the workers shard their weights by FSDP2, as the paper's profiles do on GPUs: see tests/fsdp_worker.py."""

    def on_cpu(spread: Launch, job: Path, device: str) -> list[str]:
        line = command(spread, job, device)
        at = line.index("rrlib.training.worker")
        return [*line[: at - 1], str(ROOT / "tests" / "fsdp_worker.py"), str(job), *map(str, record)]

    monkeypatch.setattr(launch, "command", on_cpu)


def whole_weights(result: TrainResult) -> dict[str, Any]:
    """Of a loaded model, so that it does not matter whether tied ones were written once or twice."""
    from transformers import AutoModelForCausalLM

    return dict(AutoModelForCausalLM.from_pretrained(result.checkpoint).state_dict())


@pytest.mark.nightly
def test_sharded_weights_train_sft_as_one_process_does_also_when_interrupted(
    examples: list[RankingExample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSDP2 with gloo: losses, a resume from sharded states, the checkpoint gathered at the end."""
    one = train(SFT, examples, BACKBONE, tmp_path / "one")
    sharded(monkeypatch)
    halves = dataclasses.replace(SFT, accumulation=1)

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(halves, examples, BACKBONE, tmp_path / "two", launch=Launch(2, "fsdp2"), on_log=stop, echo=silent)
    shards = tmp_path / "two" / "trainer" / "checkpoint-2" / "optimizer_0"
    assert {path.name for path in shards.glob("*.distcp")} == {"__0_0.distcp", "__1_0.distcp"}
    two = train(halves, examples, BACKBONE, tmp_path / "two", launch=Launch(2, "fsdp2"), echo=silent)
    assert two.info["resumed_from"] == "checkpoint-2"
    for (a, b), (c, d) in zip(column(one, "loss", "grad_norm"), column(two, "loss", "grad_norm"), strict=True):
        assert a == pytest.approx(c, abs=1e-3) and b == pytest.approx(d, rel=1e-3)
    left, right = whole_weights(one), whole_weights(two)
    assert left.keys() == right.keys()
    assert max(float((left[name] - right[name]).abs().max()) for name in left) < 1e-3


@pytest.mark.nightly
def test_sharded_weights_and_reference_train_grpo_as_one_process_does(
    examples: list[RankingExample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL alone would leave the reference of the second process to chance: see rrlib.patches."""
    one, record = recorded(examples, tmp_path, monkeypatch)
    sharded(monkeypatch, record)
    two = train(GRPO, examples, RERANKER, tmp_path / "two", reward=REWARD, launch=Launch(2, "fsdp2"), echo=silent)
    assert two.log[0]["kl"] == pytest.approx(0.0, abs=1e-5), "before the first update the policy is the reference"
    same_course(one, two)
    left, right = whole_weights(one), whole_weights(two)
    assert max(float((left[name] - right[name]).abs().max()) for name in left) < 1e-4


@pytest.mark.nightly
def test_sharded_adapters_on_a_bf16_base_are_merged(
    examples: list[RankingExample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of the 32B profile: FSDP2, LoRA, a bf16 base, gradient checkpointing."""
    import torch
    from safetensors.torch import load_file

    sharded(monkeypatch)
    lora = dataclasses.replace(
        SFT, accumulation=1, lora_rank=4, dtype="bf16", max_steps=3, save_every=2, gradient_checkpointing=True
    )
    result = train(lora, examples, BACKBONE, tmp_path, launch=Launch(2, "fsdp2"), echo=silent)
    assert result.log[-1]["loss"] < result.log[0]["loss"]
    after, before = weights(result), load_file(Path(resolve(BACKBONE)) / "model.safetensors")
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    name = "model.layers.0.mlp.up_proj.weight"
    assert before.keys() == after.keys() and (before[name].to(torch.bfloat16) != after[name]).any()


def kill_at(step: int, job: Path) -> None:
    """Run a job in a process of its own, and kill it as a machine that fails would, once it has logged this step."""
    line = [sys.executable, "-m", "rrlib.training.worker", str(job)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=env) as process:
        for text in process.stdout or ():
            if text.startswith(launch.ROW) and json.loads(text[len(launch.ROW) :])["step"] == step:
                process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("step", [1, 5])
def test_sft_killed_at_any_step_goes_on_bit_equal(
    examples: list[RankingExample], tmp_path: Path, step: int, whole_sft: TrainResult
) -> None:
    kill_at(step, write_job(SFT, examples, BACKBONE, tmp_path, "reasonrank", None))
    again = train_sft(examples, BACKBONE, tmp_path, SFT)
    assert again.info["resumed_from"] == (None if step == 1 else "checkpoint-4")
    keys = ("step", "loss", "grad_norm", "learning_rate", "mean_token_accuracy")
    assert column(again, *keys) == column(whole_sft, *keys)
    assert distance(again, whole_sft) == 0.0


@pytest.fixture(scope="module")
def whole_sft(examples: list[RankingExample], tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train_sft(examples, BACKBONE, tmp_path_factory.mktemp("whole"), SFT)


def test_grpo_killed_within_a_rollout_batch_goes_on_bit_equal(examples: list[RankingExample], tmp_path: Path) -> None:
    settings = dataclasses.replace(GRPO, updates=2, steps=4, save_every=2)
    whole = train_grpo(examples, RERANKER, tmp_path / "whole", settings, REWARD)
    kill_at(6, write_job(settings, examples, RERANKER, tmp_path / "cut", "reasonrank", REWARD))
    again = train_grpo(examples, RERANKER, tmp_path / "cut", settings, REWARD)
    assert again.info["resumed_from"] == "checkpoint-4"
    keys = ("step", "loss", "reward", "kl", "grad_norm", "completions/mean_length")
    assert column(again, *keys) == column(whole, *keys)
    assert distance(again, whole) == 0.0


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_of_a_cpu_is_torchrun_and_of_gpus_accelerate() -> None:
    job = Path("job.json")
    cpu = command(Launch(2, accelerate="fsdp2"), job, "cpu")
    assert cpu[1:] == ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone",
                       "-m", "rrlib.training.worker", "job.json"]  # fmt: skip
    gpu = command(Launch(8, "fsdp2", nodes=2, node=1, address="first", port=29501), job, "cuda")
    assert gpu[1:3] == ["-m", "accelerate.commands.launch"] and gpu[-3:] == ["-m", "rrlib.training.worker", "job.json"]
    assert gpu[gpu.index("--num_processes") + 1] == "16" and gpu[gpu.index("--machine_rank") + 1] == "1"
    assert gpu[gpu.index("--main_process_ip") + 1] == "first" and gpu[gpu.index("--main_process_port") + 1] == "29501"
    spread = command(Launch(8, nodes=2, node=0, address="first"), job, "cuda")
    assert spread[spread.index("--nnodes") + 1] == "2" and spread[spread.index("--master_addr") + 1] == "first"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Launch(0), "processes is 0"),
        (lambda: Launch(8, nodes=2), "2 nodes without an address"),
        (lambda: Launch(8, nodes=2, node=2, address="a"), "node 2 of 2 nodes"),
    ],
)
def test_bad_launches_are_refused(make: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        make()


def test_every_configuration_is_one_that_accelerate_reads() -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    names = sorted(p.stem for p in (ROOT / "params" / "accelerate").glob("*.yaml"))
    assert names == ["ddp", "fsdp2", "zero2", "zero3"]
    assert [sharding(name) for name in names] == ["none", "full", "zero2", "full"] and sharding("") == "none"
    known = set(vars(launch_command_parser().parse_args(["script"])))
    for name in names:
        read = load_config_from_file(str(accelerate_file(name)))
        assert read.mixed_precision == "bf16" and not read.use_cpu
        assert set(read.fsdp_config) <= known, "accelerate drops what it does not know without a word"
    fsdp = load_config_from_file(str(accelerate_file("fsdp2"))).fsdp_config
    assert fsdp["fsdp_version"] == 2 and fsdp["fsdp_state_dict_type"] == "SHARDED_STATE_DICT"
    with pytest.raises(MissingFileError, match="use one of ddp, fsdp2, zero2, zero3"):
        accelerate_file("fsdp3")


def test_what_a_worker_refuses_is_raised_here_as_what_it_is(examples: list[RankingExample], tmp_path: Path) -> None:
    short = dataclasses.replace(SFT, max_length=20)
    with pytest.raises(InputError, match="examples are too long"):
        train(short, examples, BACKBONE, tmp_path, launch=Launch(2), echo=silent)
    assert "RRLIB_ERROR" in (tmp_path / "launch" / "output.log").read_text()


def test_one_training_at_a_time_in_a_folder(examples: list[RankingExample], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rrlib.training.resume import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    line = [sys.executable, "-c", code, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(StageError, match="another process trains here"):
            train_sft(examples, BACKBONE, tmp_path, SFT)
        other.communicate()
    with locked(tmp_path):
        pass


def test_a_row_of_the_log_as_a_line() -> None:
    line = progress({"step": 4, "loss": 0.01234, "reward": 0.8, "seconds": 12.3, "kl": 1}, 400)
    assert line == "step 4/400  loss 0.01234  reward 0.8  KL 1  12 s"
