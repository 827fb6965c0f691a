"""The paper's questions as rows: the full recipe with one thing taken out, row by row and seed by seed.

A row is a small difference from the full recipe (paper section 5.3 and its ablation table). Everything a row shares
with another is made once: teacher's answers a seed, SFT checkpoints by their examples and style. Each part resumes by
itself (stores, trainings, window logs), and a finished row is one line in `rows.jsonl`, so a killed table goes on
where it stopped. Seeds change everything at once: world, teacher, training and queries.

The stages are those of the chain (rrlib.chain.stages), called with the base profile's parameters and the row's changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rrlib.chain import stages
from rrlib.chain.from_profile import corpus_folder, grpo_settings, listwise_of, sft_settings, sizes_of, teacher_of
from rrlib.chain.params import STAGES, Config, load_profile
from rrlib.disk import append_jsonl, cut_torn_tail, hash_text, read_json
from rrlib.errors import InputError, MissingFileError
from rrlib.evaluation.benchmarks import BenchmarkData, from_collection
from rrlib.evaluation.metrics import per_query
from rrlib.formats import Collection, read_collection, read_examples, read_jsonl, read_run
from rrlib.prompts import get_style
from rrlib.records import WindowRecord, read_records
from rrlib.resources import profile_path, resolve
from rrlib.responses import valid_share
from rrlib.reward import PAPER_WEIGHTS
from rrlib.training.config import as_stored
from rrlib.types import RankingExample, Run

METRIC = "nDCG@10"


@dataclass(frozen=True)
class Recipe:
    """One row. what: in words. paper: its NDCG@10 x 100 on BRIGHT (paper section 4, ablations); None = not there.

    alpha: of the filter, and weights: of the reward's views, None = the profile's. domains: the training examples'
    domains, none = all. style: of prompts and answers. sft, rl: which trainings it has.
    """

    name: str
    what: str
    paper: float | None = None
    alpha: float | None = None
    domains: tuple[str, ...] = ()
    style: str = "reasonrank"
    sft: bool = True
    rl: bool = True
    weights: Mapping[str, float] | None = None


NO_REASONING = "nothink_tags"
FIRST_STAGE = "first stage"

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("full", "synthesis with filter, SFT, GRPO with the multi-view reward", 35.74),
        Recipe("backbone", "no training at all", sft=False, rl=False),
        Recipe("no filter", "alpha = 0: every readable list is learned from", 34.20, alpha=0.0),
        Recipe("no SFT", "GRPO on the backbone", 28.69, sft=False),
        Recipe("no RL", "SFT alone", 33.15, rl=False),
        Recipe("NDCG-only reward", "no Recall, no RBO", 34.20, weights={"ndcg": 1.0, "recall": 0.0, "rbo": 0.0}),
        Recipe("no reasoning, SFT", "SFT on the lists alone", 32.96, style=NO_REASONING, rl=False),
        Recipe("no reasoning", "SFT on the lists alone, then GRPO", 33.60, style=NO_REASONING),
        Recipe("one domain", "web search alone, as MS MARCO alone in the paper", 30.08, domains=("web-search",)),
    )
}
"""Rows in the order of the table. The paper's first stage on BRIGHT has 30.59."""

PAPER_FIRST_STAGE = 30.59


@dataclass(frozen=True)
class Setting:
    """What all rows share: the parameters of the notebooks 01 to 04, by stage; seeds are the rows' own."""

    parameters: Mapping[str, Mapping[str, Any]]

    def config(self, stage: str, **changes: Any) -> Config:
        """The parameters of a stage, with changes."""
        return Config(stage, {**self.parameters[stage], **changes})

    def changed(self, stage: str, **changes: Any) -> Setting:
        """The same with other values of some parameters of a stage."""
        return Setting({**self.parameters, stage: {**self.parameters[stage], **changes}})

    def identity(self) -> dict[str, Any]:
        """What the rows depend on, under the names and in the order of the first stored tables."""
        synthesis, first, second, last = (self.config(stage) for stage in STAGES)
        identity = {
            "corpus": synthesis.corpus,
            "sizes": self.sizes(),
            "teacher": synthesis.teacher,
            "model": first.model,
            "sft": as_stored(asdict(replace(sft_settings(first), seed=0))),
            "grpo": as_stored(asdict(replace(grpo_settings(second), seed=0))),
            "corpus_options": synthesis.corpus_options,
            "teacher_options": synthesis.teacher_options,
            "alpha": synthesis.alpha,
            "consistency_k": synthesis.consistency_k,
            "temperature": synthesis.temperature,
            "window": synthesis.window,
            "stride": last.stride,
            "depth": last.depth,
            "k": second.reward_k,
            "max_new_tokens": last.max_new_tokens,
            "engine_options": last.engine_options,
        }
        for stage, defaults in _LATER.items():
            values = self.parameters[stage]
            identity |= {f"{stage}.{name}": values[name] for name, value in defaults.items() if values[name] != value}
        return identity

    def sizes(self) -> dict[str, int]:
        """Queries of each split, and candidates of each query."""
        synthesis = self.config("01_synthesis")
        counts = {split: getattr(synthesis, f"{split}_queries") for split in ("train", "validation", "test")}
        return {**counts, "pool": synthesis.pool}

    @property
    def key(self) -> str:
        """12 hexadecimal digits that name the setting in rows and folders."""
        return hash_text(json.dumps(self.identity(), sort_keys=True, default=str))[:12]


_LATER: Mapping[str, Mapping[str, Any]] = {
    "01_synthesis": {"max_new_tokens": 4096, "import_from": "", "import_limit": 0, "teacher_model": ""},
    "02_sft": {"sft_examples": 0},
    "03_rl": {"rl_examples": 0, "rbo_p": 1.0, "reward_weights": PAPER_WEIGHTS},
    "04_evaluation": {"max_passage_tokens": 512, "engine": "transformers", "temperature": 0.0},
}
"""Parameters that the first tables did not read, with the values that they took instead: part of the identity only
where a profile has another value, so that rows of those tables still count."""


@dataclass(frozen=True)
class Result:
    """One finished row of one seed. values: NDCG@10 by query, over all queries of the test qrels. valid: share of the
    windows with a strictly valid answer. tokens: mean answer length."""

    row: str
    seed: int
    values: dict[str, float]
    valid: float
    tokens: float
    examples: int
    seconds: Mapping[str, float]
    data_kind: str
    setting: str


class Table:
    """The rows of one folder: finished ones are read, missing ones are made."""

    def __init__(self, folder: str | Path, setting: Setting, say: Callable[[str], None] = print) -> None:
        self.folder, self.setting, self.say = Path(folder), setting, say
        self.key = setting.key
        self.path = self.folder / "rows.jsonl"

    def results(self) -> list[Result]:
        """The finished rows that were made with these settings."""
        return [result for result in read_results(self.path) if result.setting == self.key]

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
                mean = sum(result.values.values()) / len(result.values)
                spent = sum(result.seconds.values())
                self.say(f"seed {seed}: {name}: {METRIC} {mean:.4f}, {result.valid:.1%} valid, {spent:.0f} s")
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

    def checkpoint(self, seed: int, recipe: Recipe, seconds: dict[str, float]) -> tuple[str, int]:
        """(the row's checkpoint, how many examples it was trained on); what was trained before is taken as it is."""
        setting, home = self.setting, self._home(seed)
        changes = {"seed": seed, "style": recipe.style}
        first = setting.config("02_sft", **changes)
        second = setting.config("03_rl", **changes, **({"reward_weights": recipe.weights} if recipe.weights else {}))
        model, count = resolve(first.model), 0
        if not recipe.sft and not recipe.rl:
            return model, 0
        examples = self.examples(seed, recipe)
        if recipe.sft:
            chosen = examples[: first.sft_examples or None]
            # the profile's alpha, said or not, is one training
            alpha = None if recipe.alpha == setting.config("01_synthesis").alpha else recipe.alpha
            data = hash_text(json.dumps([alpha, recipe.domains, recipe.style]))[:8]
            trained = stages.sft(first, chosen, model, home / f"sft-{data}", echo=self.say)
            model, count, seconds["sft"] = str(trained.checkpoint), len(chosen), trained.seconds
        if recipe.rl:
            chosen = examples[: second.rl_examples or None]
            tuned = stages.rl(second, chosen, model, home / f"grpo-{_slug(recipe.name)}", echo=self.say)
            model, count, seconds["rl"] = str(tuned.checkpoint), count or len(chosen), tuned.seconds
        return model, count

    def data(self, seed: int, split: str = "test") -> BenchmarkData:
        """A split of a seed's collection, to be reranked with the setting's window, stride and depth."""
        return from_collection(read_collection(self.collection(seed), split), **self.sizes())

    def sizes(self) -> dict[str, Any]:
        """Fields of Benchmark: window and stride are those of the examples and of the evaluation."""
        window = self.setting.config("01_synthesis").window
        return sizes_of(self.setting.config("04_evaluation", window=window))

    def _make(self, recipe: Recipe, seed: int) -> Result:
        seconds: dict[str, float] = {}
        model, count = self.checkpoint(seed, recipe, seconds)
        config = self.setting.config("04_evaluation", seed=seed, style=recipe.style)
        result = stages.evaluation(
            config,
            {recipe.name: listwise_of(config, model)},
            self.data(seed),
            self._home(seed) / "experiments" / _slug(recipe.name),
            metrics=[METRIC],
            resamples=1,
            reported=False,
            echo=None,
        )
        seconds["rerank"] = round(float(result.costs["seconds_all"].iloc[0]), 1)
        test = read_collection(self.collection(seed), "test")
        run, records = result.run(recipe.name), result.records(recipe.name)
        return self._result(recipe, seed, test, run, records, count, seconds)

    def _result(
        self,
        recipe: Recipe,
        seed: int,
        test: Collection,
        run: Run,
        records: Sequence[WindowRecord],
        examples: int,
        seconds: Mapping[str, float],
    ) -> Result:
        return Result(
            row=recipe.name,
            seed=seed,
            values=_rounded(per_query(test.qrels, run, [METRIC])[METRIC]),
            valid=valid_share(records, think=get_style(recipe.style).think),
            tokens=sum(r.tokens_out for r in records) / len(records),
            examples=examples,
            seconds=seconds,
            data_kind=test.data_kind,
            setting=self.key,
        )

    def take(self, run: str | Path) -> list[Result]:
        """Keep the rows that a finished run of the chain has made with these very settings: first stage, backbone, SFT
        (`no RL`) and SFT with GRPO (`full`). Raises InputError where its settings are others, MissingFileError where it
        is not finished."""
        folder = Path(run)
        manifests = {stage: read_json(folder / stage / "manifest.json") for stage in STAGES}
        if not all(manifests.values()):
            raise MissingFileError("this run is not finished", path=folder, remedy="run the chain to its end")
        made_with = Setting({stage: manifests[stage]["match"]["parameters"] for stage in STAGES})
        seed = int(made_with.parameters["01_synthesis"]["seed"])
        if made_with.key != self.key:
            raise InputError("this run was made with other settings", path=folder, remedy="name another base profile")
        self.folder.mkdir(parents=True, exist_ok=True)
        done = {(r.row, r.seed) for r in self.results()}
        test = read_collection(folder / "01_synthesis" / "collection", "test")
        sft_metrics = read_json(folder / "02_sft" / "metrics.json")
        out = [self._first_stage(seed, test)]
        for row, system in (("backbone", "backbone"), ("no RL", "sft"), ("full", "sft+rl")):
            records = read_records(folder / "04_evaluation" / "windows" / f"{system}.jsonl")
            ranked = read_run(folder / "04_evaluation" / "runs" / f"{system}.trec")
            count = 0 if row == "backbone" else int(sft_metrics["examples"])
            out.append(self._result(RECIPES[row], seed, test, ranked, records, count, {}))
        for result in out:
            if (result.row, seed) not in done:
                append_jsonl(self.path, asdict(result), sort_keys=True)
        return out

    def _first_stage(self, seed: int, test: Collection | None = None) -> Result:
        test = test or read_collection(self.collection(seed), "test")
        assert test.run is not None
        values = _rounded(per_query(test.qrels, test.run, [METRIC])[METRIC])
        return Result(FIRST_STAGE, seed, values, 1.0, 0.0, 0, {}, test.data_kind, self.key)


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {qid: round(value, 4) for qid, value in values.items()}


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def read_results(path: str | Path) -> list[Result]:
    """Rows kept in a file, a line each; the last one counts where a row and seed stand twice."""
    if not Path(path).is_file():
        return []
    results = (Result(**row) for _, row in read_jsonl(path))
    return list({(result.row, result.seed, result.setting): result for result in results}.values())


def setting_of(profile: str | Path) -> Setting:
    """What all rows share: the values of a profile of the chain (a name in params/, or a path)."""
    loaded = load_profile(profile_path(profile))
    return Setting({stage: loaded.parameters(stage) for stage in STAGES})
