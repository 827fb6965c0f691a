"""The paper's questions as rows: the full recipe with one thing taken out, row by row and seed by seed.

A row is a small difference from the full recipe (paper section 5.3 and its ablation table). Everything a row shares
with another is made once: teacher's answers a seed, SFT checkpoints by their examples and style. Each part resumes by
itself (stores, trainings, window logs), and a finished row is one line in `rows.jsonl`, so a killed table goes on
where it stopped. Seeds change everything at once: world, teacher, training and queries.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.chain.params import STAGES
from rrlib.disk import cut_torn_tail, hash_text, read_json
from rrlib.engines.base import Decoding
from rrlib.errors import InputError, MissingFileError
from rrlib.evaluation.metrics import per_query
from rrlib.formats import Collection, read_collection, read_examples, read_jsonl, read_run
from rrlib.records import WindowRecord, read_records
from rrlib.resources import PACKAGE, load_callable, resolve
from rrlib.reward import PAPER_WEIGHTS, MultiViewReward
from rrlib.training.grpo import GRPOSettings, train_grpo
from rrlib.training.sft import SFTSettings, train_sft
from rrlib.types import RankingExample, Run

if TYPE_CHECKING:
    import pandas as pd

METRIC = "nDCG@10"


@dataclass(frozen=True)
class Recipe:
    """One row. what: in words. paper: its NDCG@10 x 100 on BRIGHT (paper section 4, ablations); None = not there.

    alpha: of the filter, None = the profile's. domains: the training examples' domains, none = all. style: of prompts
    and answers. sft, rl: which trainings it has. weights: of the reward's views.
    """

    name: str
    what: str
    paper: float | None = None
    alpha: float | None = None
    domains: tuple[str, ...] = ()
    style: str = "reasonrank"
    sft: bool = True
    rl: bool = True
    weights: Mapping[str, float] = field(default_factory=lambda: dict(PAPER_WEIGHTS))


NO_REASONING = "nothink_tags"
FIRST_STAGE = "first stage"

RECIPES: Mapping[str, Recipe] = {
    row.name: row
    for row in (
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
    """What all rows share: data, sizes, model and trainings. Values as in the notebooks 01 to 04.

    corpus: `module:callable` that writes a collection folder. sizes: train, validation, test, pool (counts). teacher:
    `module:callable`. alpha: of the filter; consistency_k: its cut-off. window, stride, depth: passages. k: of the
    reward, window - stride.
    """

    corpus: str
    sizes: Mapping[str, int]
    teacher: str
    model: str
    sft: SFTSettings
    grpo: GRPOSettings
    corpus_options: Mapping[str, Any] = field(default_factory=dict)
    teacher_options: Mapping[str, Any] = field(default_factory=dict)
    alpha: float = 0.4
    consistency_k: int = 10
    temperature: float = 0.6
    window: int = 10
    stride: int = 5
    depth: int = 30
    k: int = 5
    max_new_tokens: int = 512
    engine_options: Mapping[str, Any] = field(default_factory=dict)


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
        self.key = hash_text(json.dumps(asdict(setting), sort_keys=True, default=str))[:12]
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
                self._keep(result)
                mean = sum(result.values.values()) / len(result.values)
                spent = sum(result.seconds.values())
                self.say(f"seed {seed}: {name}: {METRIC} {mean:.4f}, {result.valid:.1%} valid, {spent:.0f} s")
        wanted = {(name, seed) for name in rows for seed in seeds}
        return [r for r in self.results() if (r.row, r.seed) in wanted]

    def _keep(self, result: Result) -> None:
        """Append one line, whole."""
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(asdict(result), sort_keys=True) + "\n")
            handle.flush()
            os.fsync(handle.fileno())

    # --- the parts ---------------------------------------------------------------------------------------------------
    def _home(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}-{self.key}"

    def collection(self, seed: int) -> Path:
        """The collection folder of a seed, written once."""
        folder = self._home(seed) / "collection"
        if not (folder / "SOURCE.json").is_file():
            load_callable(self.setting.corpus)(
                folder, seed=seed, **self.setting.sizes, **dict(self.setting.corpus_options)
            )
        return folder

    def examples(self, seed: int, recipe: Recipe) -> list[RankingExample]:
        """The teacher is asked once a seed; the filter and the choice of domains are applied to what it said."""
        from rrlib.synthesis.pipeline import synthesize

        s, folder = self.setting, self.collection(seed)
        result = synthesize(
            read_collection(folder, "train"),
            load_callable(s.teacher)(folder, seed=seed, **dict(s.teacher_options)),
            self._home(seed) / "teacher",
            window=s.window,
            seed=seed,
            alpha=0.0,
            k=s.consistency_k,
            decoding=Decoding(max_new_tokens=4096, temperature=s.temperature),
        )
        alpha = s.alpha if recipe.alpha is None else recipe.alpha
        return [
            example
            for example in read_examples(result.examples)
            if example.meta["consistency"] >= alpha and (not recipe.domains or example.meta["domain"] in recipe.domains)
        ]

    def checkpoint(self, seed: int, recipe: Recipe, seconds: dict[str, float]) -> tuple[str, int]:
        """(the row's checkpoint, how many examples it was trained on); what was trained before is taken as it is."""
        s, home = self.setting, self._home(seed)
        model, count = resolve(s.model), 0
        if not recipe.sft and not recipe.rl:
            return model, 0
        examples = self.examples(seed, recipe)
        count = len(examples)
        alpha = None if recipe.alpha == s.alpha else recipe.alpha  # the profile's, said or not, is one training
        same = hash_text(json.dumps([alpha, recipe.domains, recipe.style]))[:8]
        if recipe.sft:
            trained = train_sft(examples, model, home / f"sft-{same}", replace(s.sft, seed=seed), recipe.style)
            model, seconds["sft"] = str(trained.checkpoint), trained.seconds
        if recipe.rl:
            reward = MultiViewReward(k=s.k, weights=recipe.weights, think=recipe.style != NO_REASONING)
            folder = home / f"grpo-{_slug(recipe.name)}"
            tuned = train_grpo(examples, model, folder, replace(s.grpo, seed=seed), reward, recipe.style)
            model, seconds["rl"] = str(tuned.checkpoint), tuned.seconds
        return model, count

    def _make(self, recipe: Recipe, seed: int) -> Result:
        from rrlib.evaluation import Experiment, Listwise, from_collection

        s, seconds = self.setting, dict[str, float]()
        model, count = self.checkpoint(seed, recipe, seconds)
        test = read_collection(self.collection(seed), "test")
        data = from_collection(test, window=s.window, stride=s.stride, depth=s.depth)
        decoding = Decoding(max_new_tokens=s.max_new_tokens)
        system = Listwise(model, style=recipe.style, decoding=decoding, engine_options=s.engine_options)
        output = self._home(seed) / "experiments" / _slug(recipe.name)
        found = Experiment({recipe.name: system}, data, METRIC, resamples=1, reported=False, output=output)
        seconds["rerank"] = round(float(found.costs["seconds_all"].iloc[0]), 1)
        return self._result(recipe, seed, test, found.run(recipe.name), found.records(recipe.name), count, seconds)

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
        from rrlib.prompts import get_style
        from rrlib.responses import valid_share

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
        stages = ("01_synthesis", "02_sft", "03_rl", "04_evaluation")
        manifests = {stage: read_json(folder / stage / "manifest.json") for stage in stages}
        if not all(manifests.values()):
            raise MissingFileError("this run is not finished", path=folder, remedy="run the chain to its end")
        parameters = [manifests[stage]["match"]["parameters"] for stage in stages]
        seed = int(parameters[0]["seed"])
        if setting_from(*parameters) != self.setting:
            raise InputError("this run was made with other settings", path=folder, remedy="name another base profile")
        self.folder.mkdir(parents=True, exist_ok=True)
        done = {(r.row, r.seed) for r in self.results()}
        test = read_collection(folder / "01_synthesis" / "collection", "test")
        metrics = {stage: read_json(folder / stage / "metrics.json") for stage in stages}
        out = [self._first_stage(seed, test)]
        for row, system in (("backbone", "backbone"), ("no RL", "sft"), ("full", "sft+rl")):
            records = read_records(folder / "04_evaluation" / "windows" / f"{system}.jsonl")
            run_ = read_run(folder / "04_evaluation" / "runs" / f"{system}.trec")
            count = 0 if row == "backbone" else int(metrics["02_sft"]["examples"])
            out.append(self._result(RECIPES[row], seed, test, run_, records, count, {}))
        for result in out:
            if (result.row, seed) not in done:
                self._keep(result)
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
    found = {(row["row"], row["seed"], row["setting"]): Result(**row) for _, row in read_jsonl(path)}
    return list(found.values())


STORED = PACKAGE / "miniature" / "results" / "ablations.jsonl"


def stored_results() -> list[Result]:
    """The rows kept with the library: made by `rrlib run params/ablations.yaml` (docs/experiments.md has the date)."""
    results = read_results(STORED)
    if not results:
        raise MissingFileError("no stored rows", path=STORED, remedy="set stored = False, or restore it from git")
    return results


def setting_of(profile: str | Path) -> Setting:
    """What all rows share: the values of a profile of the chain (a name in params/, or a path)."""
    from rrlib.chain.params import load_profile, repository

    path = Path(profile)
    loaded = load_profile(path if path.suffix else repository() / "params" / f"{profile}.yaml")
    return setting_from(*(loaded.parameters(stage) for stage in STAGES))


def setting_from(
    synthesis: Mapping[str, Any], sft: Mapping[str, Any], rl: Mapping[str, Any], last: Mapping[str, Any]
) -> Setting:
    """What all rows share, from the parameters of notebooks 01 to 04; seeds are the rows' own."""
    from rrlib.chain.from_profile import grpo_settings, sft_settings
    from rrlib.chain.params import Config

    return Setting(
        corpus=synthesis["corpus"],
        sizes={name: synthesis[f"{name}_queries"] for name in ("train", "validation", "test")}
        | {"pool": synthesis["pool"]},
        teacher=synthesis["teacher"],
        model=sft["model"],
        sft=replace(sft_settings(Config("02_sft", sft)), seed=0),
        grpo=replace(grpo_settings(Config("03_rl", rl)), seed=0),
        corpus_options=synthesis["corpus_options"],
        teacher_options=synthesis["teacher_options"],
        alpha=synthesis["alpha"],
        consistency_k=synthesis["consistency_k"],
        temperature=synthesis["temperature"],
        window=synthesis["window"],
        stride=last["stride"],
        depth=last["depth"],
        k=rl["reward_k"],
        max_new_tokens=last["max_new_tokens"],
        engine_options=last["engine_options"],
    )


def questions() -> pd.DataFrame:
    """The rows, what each leaves out, and the paper's NDCG@10 x 100 on BRIGHT."""
    import pandas as pd

    return pd.DataFrame([{"row": r.name, "what": r.what, "paper": r.paper} for r in RECIPES.values()]).set_index("row")


def row_means(results: Sequence[Result]) -> dict[str, dict[int, float]]:
    """Row -> seed -> mean, rows in the order of the table."""
    order = [FIRST_STAGE, *RECIPES]
    names = sorted({r.row for r in results}, key=lambda row: order.index(row) if row in order else len(order))
    return {name: {r.seed: _mean(r.values) for r in results if r.row == name} for name in names}


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """Where this table and the paper disagree: the row, both differences, and a sentence on what it may come from."""
    import pandas as pd

    lines = []
    for name, row in table.iterrows():
        here, there = row.get("difference", float("nan")), row.get("paper", float("nan"))
        if here != here or there != there:
            continue
        unsure = row["low"] <= 0.0 <= row["high"]
        if unsure or (here > 0) != (there > 0):
            verdict = "cannot be told from zero here" if unsure else "another sign than the paper's"
            why = WHY.get(str(name), "")
            lines.append(
                {"row": name, "here": round(here, 3), "paper": there, "verdict": verdict, "may be because": why}
            )
    return pd.DataFrame(lines, columns=["row", "here", "paper", "verdict", "may be because"]).set_index("row")


WHY: Mapping[str, str] = {
    "no filter": "the filter takes the queries that this teacher gets wrong, and on those GRPO, whose labels were made "
    "with the answer in view, has most to mend",
    "NDCG-only reward": "RBO rewards likeness to the teacher's list, and this teacher's lists are often wrong; and the "
    "order by NDCG and that by Recall hardly disagree here, where relevant passages are few and verdicts have three "
    "values",
    "no reasoning": "the judgements that the chain writes down can be learned by heart in a world of 64 concepts",
    "no reasoning, SFT": "the judgements that the chain writes down can be learned by heart in a world of 64 concepts",
    "no SFT": "the backbone knows the world and part of the format already, more than a general model knows of ranking",
    "one domain": "the backbone knows all domains from its pretraining, so examples of one domain teach format and "
    "procedure for all",
    "no RL": "a teacher that errs at random leaves little to mend",
}
"""What may turn a sign in this world, said of a row only where its sign differs or cannot be told."""


def table(results: Sequence[Result], baseline: str = "full", resamples: int = 10_000) -> pd.DataFrame:
    """One line a row: mean over seeds, the seeds' means, and the difference to `baseline` with a 95% interval and p.

    The statistics are those of every experiment (rrlib.evaluation.paired), with the seeds as sets: differences are
    paired by query within the seeds that both rows have, the interval is a bootstrap over those queries, p that of the
    paired randomisation test, corrected by Holm over the rows. So it says how sure the difference is for these
    trainings; the column `seeds` shows how much it moves between trainings, with their names where a row lacks some.
    `p (seeds)` asks what the next training would say: a paired t-test of the seeds' means, not corrected, nan with
    fewer than two. With three it finds only what is large or very even. Without the baseline there are no differences.
    paper: difference of NDCG@10 x 100 to the paper's full recipe on BRIGHT, as reported there.
    """
    import pandas as pd

    from rrlib.evaluation.paired import means_in_words, paired_rows, sets_of
    from rrlib.evaluation.significance import paired_t

    if not results:
        return pd.DataFrame()
    values = sets_of(per_query_table(results), METRIC)
    whole = RECIPES[baseline].paper if baseline in RECIPES else None
    lines, seeds = [], len({r.seed for r in results})
    every = paired_rows(values, baseline if baseline in values else next(iter(values)), resamples=resamples)
    whole_means: Mapping[str, float] = next((f["by_set"] for f in every if f["system"] == baseline), {})
    for found in every:
        name, mine = found["system"], [r for r in results if r.row == found["system"]]
        line: dict[str, Any] = {
            "row": name,
            METRIC: found["mean"],
            "seeds": means_in_words(found, seeds).replace("seed ", ""),
            "valid": sum(r.valid for r in mine) / len(mine) if name != FIRST_STAGE else float("nan"),
            "tokens": sum(r.tokens for r in mine) / len(mine),
            "n": found["n"],
        }
        if "p" in found and baseline in values:
            line |= {
                "difference": found["difference"],
                "low": found["difference_low"],
                "high": found["difference_high"],
            }
            line |= {"p": found["p"], "p (Holm)": found["p_holm"]}
            shared = [(mean, whole_means[s]) for s, mean in found["by_set"].items() if s in whole_means]
            line["p (seeds)"] = paired_t(*zip(*shared, strict=True)) if len(shared) > 1 else float("nan")
        paper = PAPER_FIRST_STAGE if name == FIRST_STAGE else RECIPES[name].paper if name in RECIPES else None
        if paper is not None and whole is not None and name != baseline:
            line["paper"] = round(paper - whole, 2)
        lines.append(line)
    return pd.DataFrame(lines).set_index("row")


def per_query_table(results: Sequence[Result]) -> pd.DataFrame:
    """The rows in the shape of `ExperimentResult.per_query`: benchmark (`seed 7`: its queries are its own), qid, system
    (the row), metric, value. Rows in the order of the table; the last result of a row and seed counts."""
    import pandas as pd

    latest = {(r.row, r.seed): r for r in results}
    ordered = [latest[row, seed] for row, means in row_means(results).items() for seed in sorted(means)]
    lines = [(f"seed {r.seed}", qid, r.row, METRIC, value) for r in ordered for qid, value in r.values.items()]
    return pd.DataFrame(lines, columns=["benchmark", "qid", "system", "metric", "value"])


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def steps_table(results: Sequence[Result]) -> pd.DataFrame:
    """Did each training help, seed by seed? One line a seed: the means of first stage, backbone, SFT and SFT with GRPO,
    then what GRPO added to SFT with a 95% interval, both steps' p (paired randomisation, uncorrected, 10,000 draws:
    0.0001 is the least), and the share of valid answers after SFT. Seeds that lack one of these rows are left out."""
    import pandas as pd

    from rrlib.evaluation.paired import in_words, paired_rows

    by_seed: dict[int, dict[str, Result]] = {}
    for result in results:
        by_seed.setdefault(result.seed, {})[result.row] = result
    lines = []
    for seed, rows in sorted(by_seed.items()):
        if not {FIRST_STAGE, "backbone", "no RL", "full"} <= rows.keys():
            continue
        queries = sorted(rows["full"].values)
        values = {name: {"": [rows[name].values[q] for q in queries]} for name in (FIRST_STAGE, "no RL", "full")}
        found = {row["system"]: row for row in paired_rows(values, "no RL")}
        line: dict[str, Any] = {"seed": seed, FIRST_STAGE: found[FIRST_STAGE]["mean"]}
        line |= {"backbone": _mean(rows["backbone"].values), "SFT": found["no RL"]["mean"]}
        line |= {"SFT+GRPO": found["full"]["mean"], "GRPO adds": in_words(found["full"])}
        line |= {"p, SFT": found[FIRST_STAGE]["p"], "p, GRPO": found["full"]["p"]}
        lines.append(line | {"valid after SFT": rows["no RL"].valid, "n": len(queries)})
    return pd.DataFrame(lines).set_index("seed") if lines else pd.DataFrame()


def stored_page() -> str:
    """The stored rows as Markdown, as in docs/ablations.md: `python -m rrlib.studies.ablations` prints it."""
    from rrlib.studies.report import markdown, steps_markdown

    results = stored_results()
    return steps_markdown(steps_table(results)) + "\n" + markdown(table(results), results)


if __name__ == "__main__":
    print(stored_page())
