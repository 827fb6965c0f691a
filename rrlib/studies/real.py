"""The table on real language: one command makes the rows of one system on one collection and first stage.

    python -m rrlib.studies.real prior --collection entailmentbank --first-stage ai2-25
    python -m rrlib.studies.real model --system sft --checkpoint outputs/smollm2-135m/02_sft/sft/checkpoint \\
        --profile smollm2-135m --seed 7 --collection entailmentbank --first-stage ai2-25
    python -m rrlib.studies.real pages       # docs/results.md, from the file

The collections lie in the folder `collections` of RRLIB_REALDATA, or where `--data` says. Rows go to
docs/results/real.json (rrlib.studies.real_rows). Every system ranks the test queries' first candidates (25, as in
training) and is compared with the first stage by rrlib.evaluation.Experiment; what is chosen is chosen on dev.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rrlib.chain.from_profile import config_of, listwise_of, pointwise_of, sizes_of
from rrlib.chain.manifest import outputs_root
from rrlib.chain.params import Config, load_profile
from rrlib.disk import read_json
from rrlib.errors import InputError
from rrlib.evaluation import baselines
from rrlib.evaluation.benchmarks import BenchmarkData, from_collection, make_first_stage
from rrlib.evaluation.experiment import Experiment
from rrlib.evaluation.orders import RandomOrder
from rrlib.evaluation.paired import in_words, paired_rows
from rrlib.evaluation.results import ExperimentResult
from rrlib.formats import read_collection
from rrlib.prompts import get_style
from rrlib.resources import locate, profile_path, repository
from rrlib.studies.command import exit_code
from rrlib.studies.real_pages import write_pages
from rrlib.studies.real_rows import (
    COLLECTIONS,
    COMMAND,
    HEADLINE,
    TRAINED_COLLECTIONS,
    FirstStageName,
    RealRun,
    SystemName,
    costs_of,
    merge,
    put_rows,
    put_run,
    runs_path,
    table_path,
)

METRICS = (HEADLINE, "R@10", "RR@10")
DEPTH = 25
"""Candidates of a query that are ranked, as in training."""
SHUFFLES = 20
"""Random orders that the row `random` is the mean of."""
BASE = str(SystemName.FIRST_STAGE)

NO_MODEL = (*list(SystemName)[: list(SystemName).index(SystemName.ZERO_SHOT)],)
"""Systems of the table without a generative model: commands of their own."""

_FILES: Mapping[str, str] = {FirstStageName.BM25: "", FirstStageName.GIVEN: ""}
"""First stage -> name of its file in a folder, where that is another: the folder's own run."""

_LEARNED = (SystemName.PRIOR, SystemName.NEIGHBOURS, SystemName.STATIC)
"""Systems that choose something on the dev split."""

_STYLES: Mapping[str, str] = {
    SystemName.SFT_PLAIN: "nothink_tags",
    SystemName.SFT_RL_PLAIN: "nothink_tags",
    SystemName.POINTWISE: "pointwise",
    SystemName.POINTWISE_PLAIN: "pointwise_nothink",
}
"""System -> prompt style; the others have that of their profile."""


# --- data ------------------------------------------------------------------------------------------------------------


def collections_folder(given: str | Path | None = None) -> Path:
    """The folder with the collections: the argument, else `collections` in RRLIB_REALDATA. Raises InputError."""
    if given is not None:
        return Path(given)
    root = os.environ.get("RRLIB_REALDATA")
    if not root:
        raise InputError("RRLIB_REALDATA names no folder", remedy="set it, or use --data: see docs/results.md")
    return Path(root) / "collections"


def load(
    collection: str, first_stage: str, *, folder: Path, split: str = "test", depth: int = DEPTH, **sizes: Any
) -> BenchmarkData:
    """A split of a collection with the first `depth` candidates of a first stage. sizes: of windows and passages.

    Cranfield has no first stage: BM25 is made here. Raises InputError for a first stage that the collection lacks.
    """
    if first_stage not in COLLECTIONS[collection]:
        raise InputError(
            f"{collection} has no first stage {first_stage!r}", remedy=f"use {', '.join(COLLECTIONS[collection])}"
        )
    read = read_collection(folder / collection, split, first_stage=_FILES.get(first_stage, first_stage))
    data = from_collection(replace(read, name=collection), depth=depth, metrics=METRICS, **sizes)
    if collection.startswith("dl19"):
        data = replace(data, spec=replace(data.spec, relevance_level=2))
    run = make_first_stage(data, keep=False) if data.run is None else data.run
    cut = {qid: hits[:depth] for qid, hits in run.items() if qid in data.qrels}
    return replace(data, run=cut, first_stage=first_stage, split=split)


# --- systems ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """What a command asks for. systems: of the experiment, beside the first stage. sizes: of the benchmark. window: its
    window and stride (0, 0: not by windows). own: as the profile says, so that it is the row. fused, changed: see
    RealRun."""

    name: str
    profile: str
    systems: dict[str, Any]
    sizes: dict[str, Any]
    window: tuple[int, int] = (0, 0)
    own: bool = True
    fused: bool = False
    changed: Mapping[str, Any] = field(default_factory=dict)


def _without_model(args: argparse.Namespace, folder: Path) -> _Asked:
    """A row without a generative model. Those that learn read the train split, and the dev split for their choices."""
    name, sizes = SystemName(args.command), {"depth": args.depth}
    systems: dict[str, Any] = {name: str(name)}
    if name is SystemName.FIRST_STAGE:
        systems = {}
    elif name is SystemName.RANDOM:
        systems = {f"random {args.seed + i}": RandomOrder(args.seed + i) for i in range(SHUFFLES)}
    elif name is SystemName.DENSE:
        systems[name] = baselines.Dense(args.checkpoint or baselines.MINILM)
    elif name is not SystemName.ORACLE:
        train = load(args.collection, args.first_stage, folder=folder, split="train", **sizes)
        kinds = {SystemName.PRIOR: baselines.Prior, SystemName.NEIGHBOURS: baselines.Neighbours}
        systems[name] = baselines.Static(train, args.seed) if name is SystemName.STATIC else kinds[name](train)
    changed: dict[str, Any] = {} if args.depth == DEPTH else {"depth": args.depth}
    if name is SystemName.DENSE and args.checkpoint:
        changed["checkpoint"] = shown_path(args.checkpoint)
    return _Asked(name, args.profile, systems, sizes, own=not changed, changed=changed)


def _config(profile: str) -> Config:
    """04_evaluation of a profile: a file, or the name of one in params/."""
    return config_of(load_profile(profile_path(profile)), "04_evaluation")


def _packed_with(checkpoint: str) -> str:
    """The profile that a packed checkpoint says it was trained by, if it is one of ours; else empty."""
    if ":" not in checkpoint:
        return ""
    profile = str((read_json(Path(locate(checkpoint)) / "SOURCE.json") or {}).get("profile") or "none")
    return profile if profile_path(profile).is_file() else ""


def _with_model(args: argparse.Namespace) -> _Asked:
    """A reranker on the test queries; options stand before the profile's values."""
    config = _config(args.profile or _packed_with(args.checkpoint or "") or "smollm2-135m")
    values, profiles_own = config.as_dict(), sizes_of(config)
    options = {name: getattr(args, name) for name in ("window", "stride", "max_passage_tokens")}
    sizes = {**profiles_own, **{name: value for name, value in options.items() if value}, "depth": args.depth}
    usual_style = _STYLES.get(args.system, values["style"])
    style, limit = args.style or usual_style, args.max_new_tokens or values["max_new_tokens"]
    pointwise = get_style(style).words is not None
    engine = args.engine or values.get("engine", "transformers")
    engine_options = {**values["engine_options"], **json.loads(args.engine_options)}
    if engine != "transformers":
        engine_options.pop("batch_size", None)  # the profile's word to that engine
    config = Config(config.stage, {**values, "seed": args.seed, "max_new_tokens": limit})
    changes = {"style": style, "budget": args.budget, "engine": engine, "engine_options": engine_options}
    changes["with_first_stage"] = args.with_first_stage
    if args.strategy and not pointwise:
        changes["strategy"] = args.strategy
    make = pointwise_of if pointwise else listwise_of
    system = make(config, args.checkpoint or values["model"], **changes)
    window = (sizes["window"], sizes["stride"]) if system.strategy == "sliding_window" else (0, 0)
    pairs = {  # option -> as asked for, as it is in the row; engines have no part in what a row is
        "depth": (args.depth, DEPTH),
        "style": (style, usual_style),
        "strategy": (system.strategy, system.strategy if pointwise else "sliding_window"),
        "budget": (args.budget, None),
        "max_new_tokens": (limit, values["max_new_tokens"]),
    }
    if args.collection in TRAINED_COLLECTIONS:  # other texts are longer, and the command says how much of them is read
        pairs["max_passage_tokens"] = (sizes.get("max_passage_tokens"), profiles_own.get("max_passage_tokens"))
    changed = {name: asked for name, (asked, usual) in pairs.items() if asked != usual}
    own = not changed and (pointwise or window == (profiles_own["window"], profiles_own["stride"]))
    fused = args.with_first_stage
    return _Asked(args.system, config.profile, {args.system: system}, sizes, window, own and not fused, fused, changed)


# --- rows ------------------------------------------------------------------------------------------------------------


def values_of(result: ExperimentResult, systems: Sequence[str], metric: str) -> list[float]:
    """The mean over some systems (one, or several shuffles) of each query's value, in the order of the qrels. Rounded
    as a run keeps them, so that a tie stays one."""
    part = result.per_query[result.per_query["metric"] == metric]
    columns = [part[part["system"] == system].set_index("qid")["value"] for system in systems]
    return [round(float(v), 6) for v in np.mean([column.to_numpy(dtype=float) for column in columns], axis=0)]


def rows_of(
    result: ExperimentResult, systems: Sequence[str], data: BenchmarkData, facts: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The rows of one system: means with bootstrap intervals over queries. facts: what all of them share."""
    rows = []
    for metric in dict.fromkeys(result.per_query["metric"]):
        figures = paired_rows({"": {"": values_of(result, systems, str(metric))}}, "")[0]
        spread = {key: round(figures[key], 6) for key in ("mean", "low", "high")}
        rows.append({**facts, "metric": str(metric), **spread, "n": figures["n"], "data_kind": data.data_kind})
    return rows


def device_name() -> str:
    """Where this process computes: the GPU, or the CPU with its threads."""
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    threads = os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count())
    return f"CPU, {threads} thread{'' if threads == '1' else 's'}"


def shown_path(text: str) -> str:
    """A checkpoint as a command shows it: from outputs/ on where it is a run's; a path elsewhere is CHECKPOINT."""
    path = Path(text)
    if ":" in text or not path.exists():
        return text  # a reference or a hub name
    parts = path.resolve().parts
    stages = [i for i, part in enumerate(parts) if part in ("02_sft", "03_rl") and i > 0]
    if stages:
        return "/".join(("outputs", *parts[stages[-1] - 1 :]))
    return text if not path.is_absolute() else "CHECKPOINT"


def shown_command(argv: Sequence[str]) -> str:
    """The command as a row holds it: without where data and tables lie on this machine."""
    words, left_out = [], {"--data", "--rows", "--output", "--device"}
    arguments = iter(argv)
    for word in arguments:
        if word.split("=")[0] in left_out:
            if "=" not in word:
                next(arguments, None)
        elif word not in ("--write", "--fresh"):
            words.append(shown_path(word) if "/" in word else word)
    return f"{COMMAND} {shlex.join(words)}"


def measure(args: argparse.Namespace, argv: Sequence[str]) -> list[dict[str, Any]]:
    """Run one system, print what came out, and write its rows (those of a trial, `--limit`, only with `--write`)."""
    folder = collections_folder(args.data)
    asked = _with_model(args) if args.command == "model" else _without_model(args, folder)
    data = load(args.collection, args.first_stage, folder=folder, **asked.sizes).limited(args.limit)
    if args.command in _LEARNED:
        dev = load(args.collection, args.first_stage, folder=folder, split="dev", **asked.sizes)
        data = replace(data, validation=dev)
    result = Experiment(
        {BASE: BASE, **asked.systems},
        data,
        baseline=BASE,
        output=_output(args, asked) if args.command == "model" else None,
        fresh=args.fresh,
        profile=asked.profile,
        reported=False,
    )
    systems = list(asked.systems) or [BASE]
    facts = {"system": asked.name, "collection": args.collection, "first_stage": args.first_stage, "seed": args.seed}
    facts |= {"profile": asked.profile, "command": shown_command(argv), "device": args.device or device_name()}
    facts["date"] = datetime.date.today().isoformat()
    rows = rows_of(result, systems, data, facts)
    window, stride = asked.window
    run = RealRun(
        **facts,
        depth=args.depth,
        values=values_of(result, systems, HEADLINE),
        window=window,
        stride=stride,
        own=asked.own,
        fused=asked.fused,
        changed=dict(asked.changed),
        chosen=result.chosen(systems[0]),
        **costs_of(result, systems[0], data),
    )
    print(said(result, rows, run))
    if args.write or not args.limit:
        target = table_path(args.rows)
        put_run(runs_path(target), run)
        if asked.own:
            put_rows(target, rows)
        print(f"written to {target}" if asked.own else f"not the row of that name: {runs_path(target)} alone")
    return rows


def _output(args: argparse.Namespace, asked: _Asked) -> Path:
    """Where the windows of a model are kept, so that the same command goes on where it was killed."""
    place = Path(args.output) if args.output else outputs_root() / "real"
    return (
        place
        / f"{args.collection}.{args.first_stage}"
        / f"{asked.profile}.{args.seed}.{'-'.join(map(str, asked.window))}"
    )


def said(result: ExperimentResult, rows: Sequence[Mapping[str, Any]], run: RealRun) -> str:
    """What a command prints: means with intervals, the difference from the first stage with its p, and the costs."""
    lines = [f"{row['metric']:8} {row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}]  n {row['n']}" for row in rows]
    base = {"": values_of(result, [BASE], HEADLINE)}
    compared = paired_rows({BASE: base, "": {"": run.values}}, BASE)[1]
    lines.append(
        f"against the first stage {in_words(compared)}, p {compared['p']:.4f}, "
        f"{compared['wins']} won, {compared['ties']} tied, {compared['losses']} lost"
    )
    if run.chosen:
        lines.append("chosen: " + json.dumps(run.chosen))
    if run.windows:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in run.verdicts.items())
        lines.append(
            f"answers: {shares}; {run.windows} a query, {run.tokens_in} tokens in and {run.tokens_out} out each"
        )
        lines.append(f"seconds a query: {run.seconds}; {run.device}")
    return f"{run.system} on {run.collection}, {run.first_stage}\n" + "\n".join(lines)


# --- the command -----------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog=COMMAND, description="Rows of the table on real language.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in NO_MODEL:
        _common(commands.add_parser(name, help="a row without a generative model"))
    commands.choices[SystemName.DENSE].add_argument("--checkpoint", help="another sentence encoder: a folder")
    model = commands.add_parser("model", help="a row of a generative reranker")
    _common(model)
    names = [name for name in SystemName if name not in NO_MODEL]
    model.add_argument("--system", required=True, choices=names, help="the row's name")
    model.add_argument("--checkpoint", help="folder, hub name, .gguf file, package:... (the profile's model)")
    model.add_argument("--style", help="prompt style (as the system or the profile has it)")
    model.add_argument("--strategy", help="listwise strategy (sliding_window)")
    model.add_argument("--engine", help="transformers, vllm, ... (the profile's)")
    model.add_argument("--engine-options", default="{}", help='JSON, added to the profile\'s: {"batch_size": 32}')
    for option, what in (("window", "passages"), ("stride", "passages"), ("max-passage-tokens", "tokens")):
        model.add_argument(f"--{option}", type=int, default=0, help=f"{what}; 0: as the profile says")
    model.add_argument("--max-new-tokens", type=int, default=0, help="longest answer, tokens; 0: as the profile says")
    model.add_argument("--budget", type=int, help="reasoning tokens before the answer is asked for")
    model.add_argument("--with-first-stage", action="store_true", help="fuse the two orders: a run beside the row")
    model.add_argument("--output", help="folder of the windows (outputs/real)")
    pages = commands.add_parser("pages", help="write docs/results.md from the file")
    pages.add_argument("--merge", action="append", default=[], help="first take the rows and runs of this table too")
    pages.add_argument("--rows", help="the table (docs/results/real.json)")
    return top


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--collection", required=True, choices=[*COLLECTIONS])
    command.add_argument("--first-stage", required=True, choices=[*FirstStageName])
    command.add_argument("--seed", type=int, default=7, help="of the training, or of the shuffles")
    command.add_argument("--profile", default="", help="a name in params/, or a YAML file (a model: as it was packed)")
    command.add_argument("--depth", type=int, default=DEPTH, help="candidates of a query that are ranked")
    command.add_argument("--limit", type=int, default=0, help="only the first queries (0: all): a trial, not written")
    command.add_argument("--write", action="store_true", help="write the rows of a limited run too")
    command.add_argument("--fresh", action="store_true", help="begin anew instead of going on")
    command.add_argument("--data", help="folder of the collections ($RRLIB_REALDATA/collections)")
    command.add_argument("--rows", help="the table (docs/results/real.json)")
    command.add_argument("--device", help="what the row says of the machine")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 (it failed), 2 (bad input)."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(words)

    def work() -> None:
        if args.command == "pages":
            for other in args.merge:
                merge(Path(other), table_path(args.rows))
            for path in write_pages(table_path(args.rows), repository()):
                print(path)
        else:
            measure(args, words)

    return exit_code(work)


if __name__ == "__main__":
    raise SystemExit(main())
