"""The paper's questions as rows: the full recipe with one thing taken out, row by row and seed by seed.

A row is a small difference from the full recipe (paper section 5.3 and its ablation table). Everything a row shares
with another is made once: teacher's answers a seed, SFT checkpoints by their examples and style. Each part resumes by
itself (stores, trainings, window logs), and a finished row is one line in `rows.jsonl`, so a killed table goes on
where it stopped. Seeds change everything at once: world, teacher, training and queries.

The stages are those of the chain (rrlib.chain.stages), called with the base profile's parameters and the row's changes.
A row that reads other lists than the full recipe makes as many updates of SFT: of more lists a seeded sample, of fewer
lists more passes. Tables stored before that rule did not; their rows have another key, and are shown as unequal.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rrlib.chain import stages
from rrlib.chain.from_profile import (
    asking_of,
    corpus_folder,
    launch_of,
    listwise_of,
    pointwise_of,
    reward_of,
    sft_settings,
    sizes_of,
    teacher_of,
)
from rrlib.chain.params import STAGES, Config
from rrlib.disk import append_jsonl, cut_torn_tail, hash_text, read_json
from rrlib.errors import InputError, MissingFileError
from rrlib.evaluation.benchmarks import BenchmarkData, from_collection
from rrlib.formats import read_collection, read_examples, read_qrels, read_run
from rrlib.prompts import get_style
from rrlib.records import WindowRecord, read_records
from rrlib.resources import load_callable, resolve
from rrlib.responses import Verdict, valid_share
from rrlib.studies.recipes import FIRST_STAGE, FULL, RECIPES, Ranker, Recipe, Supervision
from rrlib.studies.rows import METRIC, Result, judged, mean, read_results
from rrlib.studies.setting import Setting, key_of
from rrlib.studies.supervision import labelled_by_chain, ranked_by
from rrlib.studies.teacher import teacher_ranking
from rrlib.training.mix import pointwise_examples
from rrlib.training.resume import TrainResult
from rrlib.training.schedule import epochs_for, sft_schedule
from rrlib.types import RankingExample, Run


class Table:
    """The rows of one folder: finished ones are read, missing ones are made.

    equal_updates: whether a row that reads other lists makes as many updates of SFT as the full recipe.
    gold_teacher: a teacher without errors, for the rows that learn from one (module:callable, as the profile's).
    """

    def __init__(
        self,
        folder: str | Path,
        setting: Setting,
        say: Callable[[str], None] = print,
        *,
        equal_updates: bool = True,
        gold_teacher: str = "rrlib.miniature:faultless_teacher",
    ) -> None:
        self.folder, self.setting, self.say = Path(folder), setting, say
        self.equal_updates, self.gold_teacher = equal_updates, gold_teacher
        self.key = setting.key
        self.path = self.folder / "rows.jsonl"

    def key_of(self, row: str) -> str:
        """The setting's key, or one of its own for a row that depends on more (Recipe, equal_updates, gold_teacher)."""
        more: dict[str, Any] = {}
        if row in RECIPES and self._evened(RECIPES[row]):
            more["equal_updates"] = True
        if row in RECIPES and RECIPES[row].supervision == Supervision.GOLD:
            more["gold_teacher"] = self.gold_teacher
        return key_of({**self.setting.identity(), **more}) if more else self.key

    def results(self) -> list[Result]:
        """The finished rows that were made with these settings."""
        return [result for result in read_results(self.path) if result.setting == self.key_of(result.row)]

    def fill(self, rows: Sequence[str], seeds: Sequence[int]) -> list[Result]:
        """Make what is missing of `rows` x `seeds`, seed by seed. Raises InputError for unknown rows."""
        unknown = [name for name in rows if name not in (*RECIPES, FIRST_STAGE)]
        if unknown:
            raise InputError(f"unknown rows {unknown}", remedy=f"use some of {', '.join(RECIPES)}")
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.path.is_file():
            cut_torn_tail(self.path)  # killed while it wrote a row
        done = {(r.row, r.seed) for r in self.results()}
        for seed in seeds:
            for name in rows:
                if (name, seed) in done:
                    self.say(f"seed {seed}: {name}: there already")
                    continue
                result = self._first_stage(seed) if name == FIRST_STAGE else self._make(RECIPES[name], seed)
                append_jsonl(self.path, asdict(result), sort_keys=True)
                spent = sum(result.seconds.values())
                said = f"{METRIC} {mean(result.values):.4f}, {result.valid:.1%} valid, {spent:.0f} s"
                self.say(f"seed {seed}: {name}: {said}")
        wanted = {(name, seed) for name in rows for seed in seeds}
        return [r for r in self.results() if (r.row, r.seed) in wanted]

    # --- the parts ---------------------------------------------------------------------------------------------------
    def _home(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}-{self.key}"

    def collection(self, seed: int) -> Path:
        """The collection folder of a seed, written once."""
        config = self.setting.config("01_synthesis")
        own = self._home(seed) / "collection"
        return corpus_folder(config.corpus, own, seed=seed, options=config.corpus_options, **self.setting.sizes())

    def examples(self, seed: int, recipe: Recipe) -> list[RankingExample]:
        """The teacher is asked once a seed; the filter and the choice of domains are applied to what it said."""
        config, folder = self.setting.config("01_synthesis", seed=seed), self.collection(seed)
        source, client = read_collection(folder, "train"), teacher_of(config, folder)
        result = stages.synthesis(config, source, client, self._home(seed) / "teacher", alpha=0.0)
        alpha = config.alpha if recipe.alpha is None else recipe.alpha
        return [
            example
            for example in read_examples(result.examples)
            if example.meta.get("consistency", 1.0) >= alpha
            and (not recipe.domains or example.meta["domain"] in recipe.domains)
        ]

    def _evened(self, recipe: Recipe) -> bool:
        return self.equal_updates and recipe.other_lists(self.setting.identity()["alpha"])

    def _lists(self, seed: int, recipe: Recipe) -> tuple[list[RankingExample], dict[str, Any]]:
        """(the row's lists, changes of its 02_sft). With equal updates: no more lists than the full recipe has, or as
        many passes over fewer as make its updates."""
        first = self.setting.config("02_sft")
        limit = first.sft_examples or None
        own = self.examples(seed, recipe)[:limit]
        if not self._evened(recipe):
            return own, {}
        full = len(self.examples(seed, RECIPES[FULL])[:limit])
        if len(own) < full:
            settings, processes = sft_settings(first), launch_of(first).total
            updates = sft_schedule(settings, full, processes).updates
            return own, {"epochs": epochs_for(settings, len(own), updates, processes)}
        chosen = sorted(random.Random(f"{seed}/{recipe.name}/equal updates").sample(range(len(own)), full))
        return [own[place] for place in chosen], {}

    def _taught(self, seed: int, recipe: Recipe, lists: list[RankingExample]) -> list[RankingExample]:
        """What the row's SFT reads: the lists as its supervision and its form have them."""
        config = self.setting.config("01_synthesis", seed=seed)
        if recipe.supervision == Supervision.GOLD:
            client = load_callable(self.gold_teacher)(self.collection(seed), seed=seed)
            lists = ranked_by(client, lists, asking_of(config)["decoding"], config.concurrency)
        elif recipe.ranker == Ranker.POINTWISE:
            lists = [labelled_by_chain(example) for example in lists]
        return pointwise_examples(lists) if recipe.ranker == Ranker.POINTWISE else lists

    def checkpoint(self, seed: int, recipe: Recipe, seconds: dict[str, float]) -> tuple[str, int]:
        """(the row's checkpoint, how many lists it was trained on); what was trained before is taken as it is."""
        model, count = resolve(self.setting.config("02_sft").model), 0
        if recipe.sft:
            trained, count = self._sft(seed, recipe, model)
            model, seconds["sft"] = str(trained.checkpoint), trained.seconds
        if recipe.rl:
            config = self._second(seed, recipe)
            chosen = self.examples(seed, recipe)[: config.rl_examples or None]
            reward = replace(reward_of(config), rbo_where_right=recipe.rbo_where_right)
            folder = self._home(seed) / f"grpo-{self._slug(recipe)}"
            tuned = stages.rl(config, chosen, model, folder, reward=reward, echo=self.say)
            model, count, seconds["rl"] = str(tuned.checkpoint), count or len(chosen), tuned.seconds
        return model, count

    def _sft(self, seed: int, recipe: Recipe, model: str) -> tuple[TrainResult, int]:
        """(the row's SFT, how many lists it read). An update of a pointwise row reads the passages of as many lists as
        that of a listwise one, so both make the same updates from the same passages."""
        lists, changes = self._lists(seed, recipe)
        synthesis, first = (self.setting.config(stage) for stage in ("01_synthesis", "02_sft"))
        # the profile's alpha, said or not, is one training
        alpha = None if recipe.alpha == synthesis.alpha else recipe.alpha
        parts: list[Any] = [alpha, recipe.domains, recipe.style, *(["equal updates"] if self._evened(recipe) else [])]
        if (recipe.supervision, recipe.ranker) != (Supervision.TEACHER, Ranker.LISTWISE):
            parts += [recipe.supervision, recipe.ranker]
        if recipe.ranker == Ranker.POINTWISE:
            changes |= {"accumulation": first.accumulation * synthesis.window}
        config = self.setting.config("02_sft", seed=seed, style=recipe.style, **changes)
        folder = self._home(seed) / f"sft-{hash_text(json.dumps(parts))[:8]}"
        return stages.sft(config, self._taught(seed, recipe, lists), model, folder, echo=self.say), len(lists)

    def _second(self, seed: int, recipe: Recipe) -> Config:
        """The config of the row's GRPO."""
        changes = {"reward_weights": recipe.weights, "normalize": recipe.normalize}
        said = {name: value for name, value in changes.items() if value is not None}
        return self.setting.config("03_rl", seed=seed, style=recipe.style, **said)

    def _slug(self, recipe: Recipe) -> str:
        """The name of the row's folders; rows with equal updates have their own."""
        return _slug(recipe.name) + ("-equal" if self._evened(recipe) else "")

    def data(self, seed: int, split: str = "test") -> BenchmarkData:
        """A split of a seed's collection, to be reranked with the setting's window, stride and depth."""
        return from_collection(read_collection(self.collection(seed), split), **self.sizes())

    def sizes(self) -> dict[str, Any]:
        """Fields of Benchmark: window and stride are those of the examples and of the evaluation."""
        window = self.setting.config("01_synthesis").window
        return sizes_of(self.setting.config("04_evaluation", window=window))

    def _make(self, recipe: Recipe, seed: int) -> Result:
        if recipe.ranker in (Ranker.TEACHER_WINDOWS, Ranker.TEACHER_FULL):
            return self._teacher(recipe, seed)
        seconds: dict[str, float] = {}
        model, count = self.checkpoint(seed, recipe, seconds)
        pointwise = recipe.ranker == Ranker.POINTWISE
        config = self.setting.config("04_evaluation", seed=seed, style=recipe.style)
        result = stages.evaluation(
            config,
            {recipe.name: (pointwise_of if pointwise else listwise_of)(config, model)},
            self.data(seed),
            self._home(seed) / "experiments" / self._slug(recipe),
            metrics=[METRIC],
            resamples=1,
            reported=False,
            echo=None,
        )
        seconds["rerank"] = round(float(result.costs["seconds_all"].iloc[0]), 1)
        records = result.records(recipe.name)
        return self._result(recipe.name, seed, result.run(recipe.name), *_answered(recipe, records), count, seconds)

    def _teacher(self, recipe: Recipe, seed: int) -> Result:
        """The teacher's own ranking of the test queries."""
        config, folder = self.setting.config("01_synthesis", seed=seed), self.collection(seed)
        sizes, began = self.sizes(), time.monotonic()
        made = teacher_ranking(
            teacher_of(config, folder),
            read_collection(folder, "test"),
            asking_of(config)["decoding"],
            **{name: sizes[name] for name in ("window", "stride", "depth")},
            full=recipe.ranker == Ranker.TEACHER_FULL,
            concurrency=config.concurrency,
        )
        seconds = {"rerank": round(time.monotonic() - began, 1)}
        read, tokens = made.readable / made.answers, made.tokens / made.answers
        return self._result(recipe.name, seed, made.run, read, tokens, 0, seconds)

    def _result(
        self,
        row: str,
        seed: int,
        run: Run,
        valid: float,
        tokens: float,
        examples: int,
        seconds: Mapping[str, float],
        folder: Path | None = None,
    ) -> Result:
        """A row of a ranking of the test queries. folder: of their collection; None = the seed's."""
        folder = folder or self.collection(seed)
        test, grades = read_collection(folder, "test"), folder / "graded" / "test.tsv"
        return Result(
            row=row,
            seed=seed,
            values=judged(test.qrels, run),
            valid=valid,
            tokens=tokens,
            examples=examples,
            seconds=seconds,
            data_kind=test.data_kind,
            setting=self.key_of(row),
            equal_updates=row in RECIPES and self._evened(RECIPES[row]),
            graded=judged(read_qrels(grades), run) if grades.is_file() else {},
        )

    def take(self, run: str | Path) -> list[Result]:
        """Keep the rows that a finished run of the chain has made with these very settings: first stage, backbone, SFT
        (`no RL`) and SFT with GRPO (`full`). Raises InputError where its settings are others, or where it did not rank
        what these rows rank; MissingFileError where it is not finished."""
        folder = Path(run)
        manifests = {stage: read_json(folder / stage / "manifest.json") for stage in STAGES}
        if not all(manifests.values()):
            raise MissingFileError("this run is not finished", path=folder, remedy="run the chain to its end")
        made_with = Setting({stage: manifests[stage]["match"]["parameters"] for stage in STAGES})
        seed = int(made_with.parameters["01_synthesis"]["seed"])
        if made_with.key != self.key:
            raise InputError("this run was made with other settings", path=folder, remedy="name another base profile")
        if strange := self._strange(made_with):
            remedy = "take a run without them: a row depends on them, and its key does not say so"
            raise InputError(f"this run was made with {', '.join(strange)}", path=folder, remedy=remedy)
        self.folder.mkdir(parents=True, exist_ok=True)
        done = {(r.row, r.seed) for r in self.results()}
        collection, sft_metrics = folder / "01_synthesis" / "collection", read_json(folder / "02_sft" / "metrics.json")
        out = [self._first_stage(seed, collection)]
        for row, system in (("backbone", "backbone"), ("no RL", "sft"), ("full", "sft+rl")):
            records = read_records(folder / "04_evaluation" / "windows" / f"{system}.jsonl")
            ranked = read_run(folder / "04_evaluation" / "runs" / f"{system}.trec")
            if lost := len(out[0].values.keys() - ranked.keys()):
                raise InputError(f"{system} did not rank {lost} test queries", path=folder, remedy="rank them all")
            count = 0 if row == "backbone" else int(sft_metrics["examples"])
            out.append(self._result(row, seed, ranked, *_answered(RECIPES[row], records), count, {}, collection))
        for result in out:
            if (result.row, seed) not in done:
                append_jsonl(self.path, asdict(result), sort_keys=True)
        return out

    def _strange(self, made_with: Setting) -> list[str]:
        """What a run of the chain with the table's key does otherwise than the rows that `take` keeps, in words."""
        ours = self.setting.parameters["01_synthesis"]
        rows = {
            "01_synthesis": {"style": ours["style"]},
            "02_sft": {"style": RECIPES[FULL].style},
            "03_rl": {"style": RECIPES[FULL].style},
            "04_evaluation": {
                **{"style": RECIPES[FULL].style, "window": ours["window"], "model": made_with.config("02_sft").model},
                **{"queries": 0, "checkpoints": {}, "benchmarks": []},
            },
        }
        return [
            f"{stage}.{name} {made_with.parameters[stage][name]!r}"
            for stage, wanted in rows.items()
            for name, value in wanted.items()
            if made_with.parameters[stage].get(name, value) != value
        ]

    def _first_stage(self, seed: int, folder: Path | None = None) -> Result:
        run = read_collection(folder or self.collection(seed), "test").run
        assert run is not None
        return self._result(FIRST_STAGE, seed, run, 1.0, 0.0, 0, {}, folder)


def _answered(recipe: Recipe, records: Sequence[WindowRecord]) -> tuple[float, float]:
    """(share of valid answers, their mean length in tokens). A passage's answer is valid where it could be read."""
    tokens = sum(record.tokens_out for record in records) / len(records)
    if recipe.ranker == Ranker.POINTWISE:
        return sum(record.verdict == Verdict.OK for record in records) / len(records), tokens
    return valid_share(records, think=get_style(recipe.style).think), tokens


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())
