"""Trains a pointwise reranker on the labels that the listwise one learns from: the rows `pointwise` of the real table.

    python -m rrlib.studies.pointwise --profile smollm2-135m-gpu --collection entailmentbank --first-stage ai2-25 \\
        --per-list 12 --set micro_batch=64 --set learning_rate=1.5e-3 --set epochs=1.2 --output outputs/pointwise
    python -m rrlib.studies.pointwise --collection entailmentbank argkp --first-stage ai2-25 stem --together ...
    python -m rrlib.studies.real model --system 'pointwise no reasoning' --checkpoint outputs/pointwise/checkpoint ...

A passage is an example: the train split's candidates as retrieved, with the human label and, in the style `pointwise`,
a chain before the word (the paper compares with Rank1, which reasons on each passage alone: section 5.5): --form. With
--together the passages of a query are one sequence (rrlib.training.together), a quarter of the tokens. Killed and run
again, it goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rrlib.chain import stages
from rrlib.chain.from_profile import config_of, sft_settings
from rrlib.chain.params import Config, check_value, load_profile
from rrlib.engines.options import read_value
from rrlib.errors import InputError
from rrlib.formats import read_collection
from rrlib.prompts import POINT_STYLES, get_style
from rrlib.resources import profile_path, resolve
from rrlib.studies.command import exit_code
from rrlib.studies.real import DEPTH, collections_folder
from rrlib.studies.real_rows import COLLECTIONS, FirstStageName
from rrlib.synthesis.chains import Form
from rrlib.synthesis.human import human_examples
from rrlib.synthesis.sources.windows import Windowing
from rrlib.training.launch import progress
from rrlib.training.mix import pointwise_examples
from rrlib.training.resume import TrainResult
from rrlib.training.together import lengthen, train_together
from rrlib.types import RankingExample


def settings(profile: str, style: str, seed: int, changes: Sequence[str]) -> Config:
    """The parameters of 02_sft of a profile, with `name=value` changes. Raises InputError for others."""
    values = config_of(load_profile(profile_path(profile)), "02_sft").as_dict()
    for change in changes:
        name, _, text = change.partition("=")
        if name not in values or not text:
            raise InputError(f"--set {change}", remedy=f"use name=value with one of {', '.join(values)}")
        value = read_value(text)
        check_value(name, value, values[name], section="--set")
        values[name] = value
    return Config("02_sft", {**values, "style": style, "seed": seed})


def train(args: argparse.Namespace) -> TrainResult:
    """Train, or go on, or hand back what is there."""
    config = settings(args.profile, args.style, args.seed, args.set)
    if len(args.collection) != len(args.first_stage):
        raise InputError(
            f"{len(args.collection)} collections and {len(args.first_stage)} first stages", remedy="name one for each"
        )
    whole = Windowing(size=args.depth, stride=args.depth, depth=args.depth)
    examples: list[RankingExample] = []
    for name, first_stage in zip(args.collection, args.first_stage, strict=True):
        run = "" if first_stage in (FirstStageName.BM25, FirstStageName.GIVEN) else first_stage  # the folder's own
        collection = read_collection(collections_folder(args.data) / name, "train", first_stage=run)
        lists = human_examples(collection, form=args.form, windowing=whole, seed=args.seed, limit=args.limit or None)
        drawn = pointwise_examples(lists, args.style, args.per_list, args.seed)
        if get_style(args.style).think and not any(example.reasoning for example in drawn):
            raise InputError(f"{name}: people wrote no chain of the form {args.form}", remedy="use a style without one")
        relevant = sum(example.relevance[0] for example in drawn)
        print(f"{name}: {len(drawn)} passages of {len(lists)} queries, {relevant} of them relevant", flush=True)
        examples += lengthen(drawn, args.lengthen, args.seed)
    if not args.together:
        return stages.sft(config, examples, resolve(config.model), args.output)
    return train_together(
        examples,
        resolve(config.model),
        args.output,
        sft_settings(config),
        args.style,
        on_log=lambda row: print(progress(row), flush=True),
    )


def parser() -> argparse.ArgumentParser:
    """The options."""
    out = argparse.ArgumentParser(prog="python -m rrlib.studies.pointwise", description="Train a pointwise reranker.")
    out.add_argument("--collection", required=True, nargs="+", choices=[*COLLECTIONS])
    out.add_argument("--first-stage", required=True, nargs="+", choices=[*FirstStageName], help="one a collection")
    out.add_argument("--profile", default="smollm2-135m", help="a name in params/, or a YAML file")
    out.add_argument("--style", default="pointwise_nothink", choices=[*POINT_STYLES])
    out.add_argument(
        "--form",
        default=str(Form.STATEMENT),
        choices=[*Form],
        help="chain of the style pointwise; one with verdicts says the word before it is asked",
    )
    out.add_argument("--per-list", type=int, default=8, help="passages a query, half of them relevant; 0: all")
    out.add_argument("--depth", type=int, default=DEPTH, help="candidates of a query that are drawn from")
    out.add_argument("--limit", type=int, default=0, help="only so many queries (0: all)")
    out.add_argument(
        "--together",
        action="store_true",
        help="a query's passages as one sequence, an update --set accumulation queries",
    )
    out.add_argument(
        "--lengthen", type=float, default=0.0, help="share of the queries whose passages stand among others"
    )
    out.add_argument("--seed", type=int, default=7)
    out.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of notebook 02")
    out.add_argument("--data", help="folder of the collections ($RRLIB_REALDATA/collections)")
    out.add_argument("--output", required=True, help="folder of the training")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Train and return the exit code: 0, 1 (it failed), 2 (bad input)."""
    args = parser().parse_args(argv)

    def work() -> None:
        result = train(args)
        numbers = ", ".join(f"{name} {value:g}" for name, value in stages.metrics_of(result).items())
        print(f"{result.checkpoint}: {result.seconds:.0f} s, {numbers}")

    return exit_code(work)


if __name__ == "__main__":
    raise SystemExit(main())
