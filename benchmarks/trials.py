"""Trials over seeds: the same small world with other seeds, models trained on the same data in several forms, and
their values pooled. Used by benchmarks/pointwise.py and benchmarks/think_nothink.py; every part resumes by itself.

A seed changes everything at once: world, teacher, training and queries. Data and the forms `think` and `no-think` are
those of an ablation table (rrlib.studies.ablations): in the folder of a table whose rows are made, neither is made
again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.chain import stages
from rrlib.chain.from_profile import listwise_of, pointwise_of
from rrlib.chain.manifest import outputs_root
from rrlib.errors import InputError
from rrlib.evaluation import (
    BenchmarkData,
    Experiment,
    ExperimentResult,
    Listwise,
    Pointwise,
    from_collection,
)
from rrlib.evaluation.paired import in_words, means_in_words, paired_rows, sets_of
from rrlib.formats import read_collection
from rrlib.resources import resolve
from rrlib.studies.ablations import Table
from rrlib.studies.recipes import NO_REASONING, RECIPES
from rrlib.studies.setting import Setting, setting_of
from rrlib.training.mix import mix_styles, pointwise_examples
from rrlib.types import RankingExample

if TYPE_CHECKING:
    import pandas as pd

THINK, NOTHINK = "reasonrank", NO_REASONING
FORMS = ("think", "no-think", "mixed", "pointwise", "pointwise, no chain")
ROW_OF = {"think": "no RL", "no-think": "no reasoning, SFT"}
"""Forms that are the SFT checkpoint of a row of the ablation table: same lists, same settings, same seed."""


def arguments(doc: str | None, kind: str) -> argparse.ArgumentParser:
    """The options that both benchmarks have. kind: `pointwise` or `think`, the name of the default folder."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="smoke", help="sizes and trainings: a name in params/, or a path")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7], help="a world, a teacher and trainings each")
    parser.add_argument("--queries", type=int, default=24, help="test queries of each seed (0 = all)")
    parser.add_argument("--epochs", type=float, default=0.0, help="passes over the data (0 = the profile's)")
    where = (
        f"folder for all seeds, or one for each; that of an ablation table too. Default: {kind}-<profile> in outputs"
    )
    parser.add_argument("--output", nargs="+", default=[], metavar="FOLDER", help=where)
    return parser


def opened(
    given: argparse.Namespace, kind: str, *, share: float = 0.5, per_list: int = 0
) -> tuple[dict[int, Trials], Path]:
    """The trials of each seed, and the folder for what is said of all seeds: the only folder given, or the default one.

    Raises InputError where the folders are neither one nor as many as the seeds.
    """
    if len(given.output) > 1 and len(given.output) != len(given.seeds):
        raise InputError(
            f"{len(given.output)} folders for {len(given.seeds)} seeds",
            remedy="give --output one folder, or one for each of --seeds, in their order",
        )
    setting = setting_of(given.profile)
    if given.epochs:
        setting = setting.changed("02_sft", epochs=given.epochs)
    usual = outputs_root() / f"{kind}-{given.profile.replace('/', '-').removesuffix('.yaml')}"
    folders = [Path(folder) for folder in given.output] or [usual]
    home = folders[0] if len(folders) == 1 else usual
    folders = folders * len(given.seeds) if len(folders) == 1 else folders
    home.mkdir(parents=True, exist_ok=True)
    trials = [Trials(folder, setting, share=share, per_list=per_list) for folder in folders]
    return dict(zip(given.seeds, trials, strict=True)), home


class Trials:
    """One folder of trials with a setting (rrlib.studies.setting.setting_of).

    share: of no-think examples in the form `mixed`. per_list: passages of each list that pointwise forms are trained on
    (0 = all).
    """

    def __init__(
        self,
        folder: str | Path,
        setting: Setting,
        *,
        share: float = 0.5,
        per_list: int = 0,
        say: Callable[[str], None] = print,
    ) -> None:
        if not 0.0 < share < 1.0:
            raise InputError(f"a share of {share}", remedy="give the share of no-think examples, between 0 and 1")
        self.folder, self.setting, self.share, self.per_list, self.say = Path(folder), setting, share, per_list, say
        self.table = Table(self.folder, setting, say)

    def examples(self, form: str, seed: int) -> list[RankingExample]:
        """The training data of a form: the same lists of the same teacher in every one."""
        lists = self.table.examples(seed, RECIPES["full"])
        if form == "think":
            return lists
        if form == "no-think":
            return mix_styles(lists, {NOTHINK: 1.0}, seed)
        if form == "mixed":
            return mix_styles(lists, {THINK: 1.0 - self.share, NOTHINK: self.share}, seed)
        style = {"pointwise": "pointwise", "pointwise, no chain": "pointwise_nothink"}.get(form)
        if style is None:
            raise InputError(f"no form {form!r}", remedy=f"use one of {', '.join(FORMS)}")
        return pointwise_examples(lists, style, self.per_list, seed)

    def checkpoint(self, form: str, seed: int) -> str:
        """The SFT checkpoint of a form, trained once; taken from the table's row where it is one (ROW_OF)."""
        if form in ROW_OF:
            seconds: dict[str, float] = {}
            model, count = self.table.checkpoint(seed, RECIPES[ROW_OF[form]], seconds)
            self.say(f"seed {seed}: {form}: {count} rows, {seconds['sft']:.0f} s of training (row {ROW_OF[form]!r})")
            return model
        rows = self.examples(form, seed)
        name = form.replace(", ", "-").replace(" ", "-") + (f"-{self.share:g}" if form == "mixed" else "")
        folder = self.folder / f"seed-{seed}" / "sft" / name
        config = self.setting.config("02_sft", seed=seed, style=THINK)
        trained = stages.sft(config, rows, resolve(config.model), folder, echo=self.say)
        self.say(f"seed {seed}: {form}: {trained.n_examples} rows, {trained.seconds:.0f} s of training")
        return str(trained.checkpoint)

    def data(self, seed: int, queries: int = 0) -> BenchmarkData:
        """The seed's test queries, its validation queries beside them."""
        folder, sizes = self.table.collection(seed), self.table.sizes()
        data = from_collection(read_collection(folder, "test"), read_collection(folder, "validation"), **sizes)
        return data.limited(queries, validation=queries)

    def listwise(self, model: str, style: str = THINK, **changes: Any) -> Listwise:
        """A listwise system of a checkpoint, on the setting's engine."""
        return listwise_of(self.setting.config("04_evaluation"), model, style=style, **changes)

    def pointwise(self, model: str, style: str = "pointwise") -> Pointwise:
        """A pointwise system of a checkpoint, on the same engine."""
        return pointwise_of(self.setting.config("04_evaluation"), model, style=style)

    def experiment(
        self, name: str, seed: int, systems: Mapping[str, Any], data: BenchmarkData, metric: str, baseline: str
    ) -> ExperimentResult:
        """One experiment of one seed; what is there is read back."""
        output = self.folder / f"seed-{seed}" / name
        return Experiment(
            systems,
            data,
            metric,
            baseline=baseline,
            seed=seed,
            output=output,
            echo=lambda t: self.say(f"seed {seed}: {t}"),
        )


def pooled(results: Mapping[int, ExperimentResult], baseline: str, metric: str) -> pd.DataFrame:
    """Systems over all seeds (rrlib.evaluation.paired: a seed is a set with queries of its own): mean with interval,
    the mean of each seed (named where a system lacks some), difference from the baseline paired by query,
    Holm-corrected p, and costs a query."""
    import pandas as pd

    every = pd.concat([result.per_query.assign(benchmark=str(seed)) for seed, result in results.items()])
    costs = pd.concat([r.costs for r in results.values()]).groupby("system", sort=False)
    rows: list[dict[str, Any]] = []
    for compared in paired_rows(sets_of(every, metric), baseline):
        row: dict[str, Any] = {key: compared[key] for key in ("system", "mean", "low", "high", "n")}
        row["seeds"] = means_in_words(compared, len(results))
        row |= {"difference": in_words(compared, 4), "p (Holm)": round(compared.get("p_holm", float("nan")), 4)}
        if compared["system"] in costs.groups:
            spent = costs.get_group(compared["system"])
            row |= {
                key: float(spent[key].mean()) for key in ("calls", "requests", "tokens_in", "tokens_out", "seconds")
            }
        rows.append(row)
    return pd.DataFrame(rows).set_index("system")


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table, numbers with at most four decimals."""
    body = frame.reset_index()
    lines: list[Sequence[Any]] = [list(body.columns), ["---"] * len(body.columns)]
    for row in body.to_numpy().tolist():
        cells = ["" if isinstance(c, float) and c != c else f"{c:.4g}" if isinstance(c, float) else str(c) for c in row]
        lines.append(cells)
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
