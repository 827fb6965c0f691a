"""The page of the table on real language, docs/results.md, rendered from the file.

Generated parts stand between `<!-- real NAME -->` and `<!-- end -->`; what is written by hand around them stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rrlib.chain.params import load_profile
from rrlib.errors import InputError
from rrlib.evaluation.paired import in_words, paired_rows
from rrlib.evaluation.significance import paired_t
from rrlib.formats import write_lines
from rrlib.resources import profile_path
from rrlib.studies.real_rows import COLLECTIONS, HEADLINE, WANTED, RealRun, SystemName, read_rows, read_runs, runs_path
from rrlib.studies.recipes import RECIPES

S = SystemName
TEACHER = "its teacher"
"""In a claim: the judge that made the lists which a profile learns from."""
_LISTED = "lists of a student instead of its teacher's single passages"
CLAIMS: tuple[tuple[S, str, str], ...] = (
    (S.SFT, S.ZERO_SHOT, "training on reasoning and lists"),
    (S.SFT_RL, S.SFT, "GRPO after SFT"),
    (S.SFT_RL, S.RL_ONLY, "SFT before GRPO"),
    (S.SFT_RL, S.NDCG_ONLY, "the other views of the reward"),
    (S.SFT, S.SFT_PLAIN, "the chain, after SFT"),
    (S.SFT_RL, S.SFT_RL_PLAIN, "the chain, after both"),
    (S.SFT_RL, S.ONE_DOMAIN, "the second domain"),
    (S.SFT, S.POINTWISE, "the list instead of single passages"),
    (S.POINTWISE, S.POINTWISE_PLAIN, "the chain, one passage at a time"),
    (S.SFT, S.POINTWISE_PLAIN, "lists and a chain instead of single passages without"),
    (S.POINTWISE_PLAIN, S.STATIC, "a language model that judges instead of word vectors"),
    (S.POINTWISE_PLAIN, S.DENSE, "a language model that judges instead of a sentence encoder"),
    (S.SFT_RL, S.STATIC, "a language model instead of word vectors"),
    (S.SFT_RL, S.DENSE, "a ranker that reasons instead of a sentence encoder"),
    *((system, TEACHER, _LISTED) for system in (S.SFT, S.SFT_RL, S.SFT_PLAIN, S.SFT_RL_PLAIN)),
)
"""(system, other, what the first has more): the paper's claims, and what a user would ask."""

_RECIPE: Mapping[str, str] = {
    S.SFT_RL: "full",
    S.SFT: "no RL",
    S.RL_ONLY: "no SFT",
    S.NDCG_ONLY: "NDCG-only reward",
    S.SFT_PLAIN: "no reasoning, SFT",
    S.SFT_RL_PLAIN: "no reasoning",
    S.ONE_DOMAIN: "one domain",
}
"""System -> the row of the paper's ablations (rrlib.studies.recipes)."""


def paper_difference(system: str, other: str) -> float | None:
    """What the paper reports, in points of NDCG@10 on BRIGHT; None where it has no such rows."""
    figures = [RECIPES[_RECIPE[name]].paper if name in _RECIPE else None for name in (system, other)]
    return None if figures[0] is None or figures[1] is None else round(figures[0] - figures[1], 2)


TRAINED_ON = tuple(dict.fromkeys((collection, first_stage) for _, collection, first_stage in WANTED))
"""(collection, first stage) of the table; those of COLLECTIONS beside them are texts from elsewhere."""

PACKED = ("smollm2-135m-gpu", "smollm2-135m-judge")
"""The profiles of the two judges that were packed: that of facts, and the one that went on from it."""

Rows = Sequence[Mapping[str, Any]]


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def _figure(rows: Rows) -> str:
    """Of one metric: the mean over seeds; with one seed its interval, with several the mean of each."""
    if not rows:
        return ""
    if len(rows) == 1:
        return f"{rows[0]['mean']:.3f} [{rows[0]['low']:.3f}, {rows[0]['high']:.3f}]"
    means = [row["mean"] for row in rows]
    return f"{np.mean(means):.3f} ({', '.join(f'{mean:.3f}' for mean in means)})"


def _of(rows: Rows, **wanted: str) -> Rows:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _systems(rows: Rows) -> list[tuple[str, str, str]]:
    """(system, profile, what a line calls it) in the order of the table: a recipe by its profile where systems of one
    name were trained by several."""
    profiles: dict[str, list[str]] = {name: [] for name in SystemName}
    for row in rows:
        if row["profile"] not in profiles[row["system"]]:
            profiles[row["system"]].append(row["profile"])
    return [
        (name, profile, f"{name}, `{profile}`" if len(of_system) > 1 else str(name))
        for name, of_system in profiles.items()
        for profile in sorted(of_system)
    ]


def overview(rows: Rows) -> str:
    """The table in one view: the headline metric, a line a system, a column a collection and first stage."""
    columns = [key for key in TRAINED_ON if any((r["collection"], r["first_stage"]) == key for r in rows)]
    head = ["system", *(f"{collection}, `{first_stage}`" for collection, first_stage in columns)]
    lines = []
    for system, profile, called in _systems(rows):
        own = {"system": system, "profile": profile, "metric": HEADLINE}
        places = [{"collection": collection, "first_stage": first_stage} for collection, first_stage in columns]
        if any(cells := [_figure(_of(rows, **own, **place)) for place in places]):
            lines.append([called, *cells])
    return _markdown(head, lines)


def table(rows: Rows, runs: Sequence[RealRun], collection: str, first_stage: str) -> str:
    """One collection and first stage: a line a system with all metrics, the paired difference and the costs."""
    here = [row for row in rows if (row["collection"], row["first_stage"]) == (collection, first_stage)]
    metrics = list(dict.fromkeys(row["metric"] for row in here))
    metrics.sort(key=lambda metric: metric != HEADLINE)
    behind = [run for run in runs if run.own and (run.collection, run.first_stage) == (collection, first_stage)]
    compared = _against_first_stage(behind)
    lines = []
    for system, profile, called in _systems(here):
        of_system = _of(here, system=system, profile=profile)
        figures = [_figure(_of(of_system, metric=metric)) for metric in metrics]
        gap = compared.get((system, profile), {})
        sure = [in_words(gap), f"{gap['p_holm']:.4f}"] if gap else ["", ""]
        costs = _costs([run for run in behind if (run.system, run.profile) == (system, profile)])
        devices = ", ".join(dict.fromkeys(row["device"] for row in of_system))
        lines.append([called, *figures, *sure, *costs, devices, str(max(row["n"] for row in of_system))])
    head = ["system", *metrics, "from the first stage", "p (Holm)", "valid", "tokens a query", "s a query", "device"]
    return _markdown([*head, "n"], lines)


def _mean_values(runs: Sequence[RealRun]) -> list[float]:
    """The value of each query, the mean over seeds; of the queries that all seeds have."""
    n = min(len(run.values) for run in runs)
    return [float(value) for value in np.mean([run.values[:n] for run in runs], axis=0)]


def _against_first_stage(runs: Sequence[RealRun]) -> dict[tuple[str, str], dict[str, Any]]:
    """(system, profile) -> its comparison with the first stage, paired by query, p corrected for the lines of the
    table."""
    keys = sorted({(run.system, run.profile) for run in runs})
    values = {key: _mean_values([run for run in runs if (run.system, run.profile) == key]) for key in keys}
    base = next((values.pop(key) for key in keys if key[0] == S.FIRST_STAGE), None)
    if base is None:
        return {}
    # a limited run has the first queries alone: it is compared on those
    by_name = {"\n".join(key): key for key in values}
    sets = {name: {str(len(values[key])): values[key]} for name, key in by_name.items()}
    sizes = {size for by_size in sets.values() for size in by_size}
    both = {str(S.FIRST_STAGE): {size: base[: int(size)] for size in sizes or {str(len(base))}}, **sets}
    return {by_name[row["system"]]: row for row in paired_rows(both, S.FIRST_STAGE) if "p" in row}


def _costs(runs: Sequence[RealRun]) -> list[str]:
    """Share of valid answers, tokens and seconds of a query; means over seeds."""
    asked = [run for run in runs if run.windows]
    valid = f"{np.mean([run.verdicts.get('ok', 0.0) for run in asked]):.1%}" if asked else ""
    tokens = f"{np.mean([run.windows * (run.tokens_in + run.tokens_out) for run in asked]):.0f}" if asked else ""
    timed = [run.seconds for run in runs if run.seconds is not None]
    return [valid, tokens, f"{np.mean(timed):.2f}" if timed else ""]


def claims(runs: Sequence[RealRun]) -> str:
    """What a part buys, paired by query over the seeds that both have, beside the paper's difference. Two trainings are
    of one profile."""
    lines = []
    for collection, first_stage in TRAINED_ON:
        here = [run for run in runs if (run.collection, run.first_stage) == (collection, first_stage)]
        for system, other, what in CLAIMS:
            for profile in sorted({run.profile for run in here if run.system == system}):
                values, others = _by_seed(here, system, profile), _by_seed(here, other, profile)
                more = what
                if other in (S.STATIC, S.DENSE, S.ZERO_SHOT, TEACHER):  # the same for every training and seed
                    untrained = [run for run in here if run.own and run.system == other]
                    if other == S.ZERO_SHOT:
                        untrained, more = _untrained(untrained, profile, what)
                    if other == TEACHER:
                        untrained = [run for run in here if run.own and _taught(run, profile)]
                    others = dict.fromkeys(values, untrained[0].values) if untrained else {}
                if seeds := sorted(values.keys() & others.keys()):
                    figures = _claim(values, others, seeds)
                    paper = paper_difference(system, other)
                    said = "" if paper is None else f"{paper:+.2f}"
                    place = [f"{collection}, `{first_stage}`", f"`{profile}`"]
                    lines.append([f"{system} - {other}", more, *place, *figures, said])
    if not lines:
        return "No two systems that a claim is about have been run yet."
    head = ["systems", "what the first has more", "on", "profile", f"{HEADLINE}, difference", "p", "p (seeds)"]
    return _markdown([*head, "paper (points)"], lines)


def _untrained(runs: Sequence[RealRun], profile: str, what: str) -> tuple[list[RealRun], str]:
    """(the zero-shot runs to compare a training with, what the training has more). Those of the model that the
    training began with; where there is none all of them, and the words say that the training began elsewhere."""
    start = _start(profile)
    same = [run for run in runs if (_model(run) == start if start else run.profile == profile)]
    if same:
        return same, what
    return list(runs), f"another start{f' (`{start}`)' if start else ''}, then {what}"


def _start(profile: str) -> str:
    """The model that SFT of a profile begins with; empty for a profile that is not in params/."""
    path = profile_path(profile) if profile else None
    return str(load_profile(path).parameters("02_sft")["model"]) if path is not None and path.is_file() else ""


def _taught(run: RealRun, profile: str) -> bool:
    """Whether a run is of the judge that made the lists which a profile learns from."""
    path = profile_path(profile) if profile and run.system == S.POINTWISE_PLAIN else None
    teacher = _teacher(path) if path is not None and path.is_file() else ""
    return bool(teacher) and teacher == _model(run)


@cache
def _teacher(profile: Path) -> str:
    """The checkpoint that teaches in a profile; empty where none does."""
    return str(load_profile(profile).parameters("01_synthesis")["teacher_options"].get("checkpoint") or "")


def _model(run: RealRun) -> str:
    """The model of a run: the one that its command names, else its profile's."""
    named = re.search(r"--checkpoint[ =](\S+)", run.command)
    return named[1] if named else _start(run.profile)


def _claim(
    values: Mapping[int, list[float]], others: Mapping[int, list[float]], seeds: Sequence[int]
) -> tuple[str, str, str]:
    """Difference with interval, p over queries, and, with several seeds, p over the seeds' means."""
    row = _compared(values, others, seeds)
    means = [[float(np.mean(by_seed[seed])) for seed in seeds] for by_seed in (values, others)]
    return in_words(row), f"{row['p']:.4f}", f"{paired_t(*means):.3f}" if len(seeds) > 1 else ""


def _by_seed(runs: Sequence[RealRun], system: str, profile: str) -> dict[int, list[float]]:
    return {run.seed: run.values for run in runs if run.own and (run.system, run.profile) == (system, profile)}


def _compared(
    values: Mapping[int, list[float]], others: Mapping[int, list[float]], seeds: Sequence[int]
) -> dict[str, Any]:
    """The difference over the queries that both have: those of all seeds are the same, so each is compared once, by
    its mean over the seeds."""
    n = min(len(by_seed[seed]) for by_seed in (values, others) for seed in seeds)
    means = [np.mean([by_seed[seed][:n] for seed in seeds], axis=0) for by_seed in (values, others)]
    return next(row for row in paired_rows({"a": {"": means[0]}, "b": {"": means[1]}}, "b") if row["system"] == "a")


def other_windows(runs: Sequence[RealRun]) -> str:
    """Runs with other windows than their profile's, beside the row of the same system and seed."""
    lines = []
    for run in (run for run in runs if not run.own and not run.fused):
        place = (run.collection, run.first_stage)
        same = _by_seed([r for r in runs if (r.collection, r.first_stage) == place], run.system, run.profile)
        gap = _compared({run.seed: run.values}, same, [run.seed]) if run.seed in same else {}
        mean = f"{np.mean(run.values):.3f}"
        sizes = f"{run.window}/{run.stride}" if run.window else "all at once"
        sizes = ", ".join([sizes, *(f"{name} {value}" for name, value in run.changed.items())])
        what = [run.system, f"{run.collection}, `{run.first_stage}`", str(run.seed), sizes]
        costs = [*_costs([run]), run.device]
        lines.append([*what, mean, in_words(gap), *costs, str(len(run.values)), f"`{run.command}`"])
    if not lines:
        return "None has been run yet."
    head = ["system", "on", "seed", "window/stride", HEADLINE, "from the profile's windows", "valid", "tokens a query"]
    return _markdown([*head, "s a query", "device", "n", "command"], lines)


def judges(runs: Sequence[RealRun]) -> str:
    """The packed judge and the one before it, query by query, on every collection that both have ranked."""
    lines = []
    for collection, stage in ((collection, stage) for collection, stages in COLLECTIONS.items() for stage in stages):
        here = [run for run in runs if (run.collection, run.first_stage) == (collection, stage)]
        facts, both = (_by_seed(here, S.POINTWISE_PLAIN, profile) for profile in PACKED)
        if seeds := sorted(facts.keys() & both.keys()):
            row = _compared(both, facts, seeds)
            means = [f"{np.mean([by_seed[seed] for seed in seeds]):.3f}" for by_seed in (facts, both)]
            lines.append([f"{collection}, `{stage}`", *means, in_words(row), f"{row['p']:.4f}", str(row["n"])])
    if not lines:
        return "None has been run yet."
    head = ["on", *(f"`{profile}`" for profile in PACKED), "difference", "p", "n"]
    return _markdown(head, lines)


def fused(runs: Sequence[RealRun]) -> str:
    """Runs whose order is fused with the first stage's, beside that order and the model's alone."""
    lines = []
    for run in (run for run in runs if run.fused):
        here = [r for r in runs if r.own and (r.collection, r.first_stage) == (run.collection, run.first_stage)]
        first = next((r.values for r in here if r.system == S.FIRST_STAGE), None)
        alone = _by_seed(here, run.system, run.profile).get(run.seed)
        means = [f"{np.mean(values):.3f}" if values else "" for values in (first, alone, run.values)]
        gaps = [
            _compared({run.seed: run.values}, {run.seed: values}, [run.seed]) if values else {}
            for values in (first, alone)
        ]
        figures = [f"{in_words(gap)}, p {gap['p']:.4f}" if gap else "" for gap in gaps]
        place = f"{run.collection}, `{run.first_stage}`"
        lines.append([run.system, f"`{run.profile}`", place, str(run.seed), *means, *figures, str(len(run.values))])
    if not lines:
        return "None has been run yet."
    head = ["system", "profile", "on", "seed", "first stage", "model", "fused", "from the first stage"]
    return _markdown([*head, "from the model", "n"], lines)


def missing(rows: Rows) -> str:
    """The rows of the table that were not run, a line a collection and first stage."""
    run = {(row["system"], row["collection"], row["first_stage"]) for row in rows}
    lines = []
    for collection, first_stage in TRAINED_ON:
        names = [system for system, *place in WANTED if [collection, first_stage] == place]
        absent = [f"`{name}`" for name in names if (name, collection, first_stage) not in run]
        lines.append(f"- {collection}, `{first_stage}`: {', '.join(absent) or 'none'}")
    return "\n".join(lines)


def commands(rows: Rows) -> str:
    """The command of every row, with where and when it ran."""
    lines = []
    for row in rows:
        place = f"{row['collection']}, `{row['first_stage']}`"
        line = [row["system"], place, str(row["seed"]), f"`{row['command']}`", row["device"], row["date"]]
        if line not in lines:
            lines.append(line)
    return _markdown(["system", "on", "seed", "command", "device", "date"], lines)


def parts(rows: Rows, runs: Sequence[RealRun]) -> dict[str, str]:
    """Name of a generated part -> its Markdown."""
    places = [(collection, stage) for collection, stages in COLLECTIONS.items() for stage in stages]
    there = [place for place in places if any((r["collection"], r["first_stage"]) == place for r in rows)]

    def tables(chosen: Sequence[tuple[str, Any]]) -> str:
        shown = (f"### {name}, first stage `{stage}`\n\n{table(rows, runs, name, stage)}" for name, stage in chosen)
        return "\n\n".join(shown) or "None has been run yet."

    trained = [collection for collection, _ in TRAINED_ON]
    return {
        "overview": overview(rows),
        "tables": tables([place for place in there if place[0] in trained]),
        "claims": claims(runs),
        "windows": other_windows(runs),
        "fused": fused(runs),
        "judges": judges(runs),
        "elsewhere": tables([place for place in there if place[0] not in trained]),
        "missing": missing(rows),
        "commands": commands(rows),
    }


_PART = re.compile(r"(<!-- real (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(text: str, by_name: Mapping[str, str]) -> str:
    """A page with its generated parts made anew. Raises InputError for a part that nobody makes."""

    def filled(match: re.Match[str]) -> str:
        if match[2] not in by_name:
            raise InputError(f"no part {match[2]!r}", remedy=f"use one of {', '.join(by_name)}")
        return f"{match[1]}\n{by_name[match[2]]}\n\n{match[3]}"

    return _PART.sub(filled, text)


def write_pages(table_file: Path, root: Path) -> list[Path]:
    """Render docs/results.md of a checkout from the table; returns what was written."""
    by_name = parts(read_rows(table_file), read_runs(runs_path(table_file)))
    pages = [root / "docs" / "results.md"]
    for page in pages:
        write_lines(page, rendered(page.read_text(encoding="utf-8"), by_name).rstrip("\n").split("\n"))
    return pages
