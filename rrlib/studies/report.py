"""Words and tables of the ablations (rrlib.studies.ablations): what the rows ask and say, as frames and Markdown.

python -m rrlib.studies.report            # the stored rows, as in docs/ablations.md
python -m rrlib.studies.report --write    # and into that page
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rrlib.disk import replacing
from rrlib.errors import InputError
from rrlib.evaluation.paired import in_words, means_in_words, p_in_words, paired_rows, sets_of
from rrlib.evaluation.significance import paired_t, paired_t_power
from rrlib.resources import repository
from rrlib.studies.command import exit_code
from rrlib.studies.recipes import FIRST_STAGE, FULL, PAPER_FIRST_STAGE, RECIPES
from rrlib.studies.rows import METRIC, Result, compared_alike, mean
from rrlib.studies.stored import ROWS, STRADDLE_ROWS, stored_rows

if TYPE_CHECKING:
    import pandas as pd

WHY: Mapping[str, str] = {
    "no filter": "two trainings of one recipe lie points apart",
    "NDCG-only reward": "RBO rewards likeness to the teacher's list, and this teacher's lists are often wrong (but RBO "
    "where the list is right does no better that shows; in the other world it does); and the order by NDCG and that by "
    "Recall hardly disagree here, where relevant passages are few and verdicts have three values",
    "no reasoning": "the judgements that the chain writes down can be learned by heart in a world of 64 concepts",
    "no reasoning, SFT": "the judgements that the chain writes down can be learned by heart in a world of 64 concepts",
    "no SFT": "the backbone knows the world and part of the format already, more than a general model knows of ranking",
    "one domain": "the backbone knows all domains from its pretraining, so examples of one domain teach format and "
    "procedure for all",
    "no RL": "a teacher that errs at random leaves little to mend",
}
"""What may turn a sign in this world, said of a row only where its sign differs or cannot be told."""


def questions() -> pd.DataFrame:
    """The rows, what each leaves out, and the paper's NDCG@10 x 100 on BRIGHT."""
    import pandas as pd

    return pd.DataFrame([{"row": r.name, "what": r.what, "paper": r.paper} for r in RECIPES.values()]).set_index("row")


def row_means(results: Sequence[Result]) -> dict[str, dict[int, float]]:
    """Row -> seed -> mean, rows in the order of the table, each of its `compared_alike` results."""
    results = compared_alike(results)
    order = [FIRST_STAGE, *RECIPES]
    names = sorted({r.row for r in results}, key=lambda row: order.index(row) if row in order else len(order))
    return {name: {r.seed: mean(r.values) for r in results if r.row == name} for name in names}


def per_query_table(results: Sequence[Result]) -> pd.DataFrame:
    """The rows in the shape of `ExperimentResult.per_query`: benchmark (`seed 7`: its queries are its own), qid, system
    (the row), metric, value. Rows in the order of the table; the last result of a row and seed counts."""
    import pandas as pd

    latest = {(r.row, r.seed): r for r in compared_alike(results)}
    ordered = [latest[row, seed] for row, means in row_means(results).items() for seed in sorted(means)]
    lines = [(f"seed {r.seed}", qid, r.row, METRIC, value) for r in ordered for qid, value in r.values.items()]
    return pd.DataFrame(lines, columns=["benchmark", "qid", "system", "metric", "value"])


def table(results: Sequence[Result], baseline: str = "full", resamples: int = 10_000) -> pd.DataFrame:
    """One line a row: mean over seeds, the seeds' means, and the difference to `baseline` with a 95% interval and p.

    The statistics are those of every experiment (rrlib.evaluation.paired), with the seeds as sets: differences are
    paired by query within the seeds that both rows have, the interval is a bootstrap over those queries, p that of the
    paired randomisation test, corrected by Holm over the rows. So it says how sure the difference is for these
    trainings; the column `seeds` shows how much it moves between trainings, with their names where a row lacks some.
    `p (seeds)` asks what the next training would say: a paired t-test of the seeds' means, not corrected, nan with
    fewer than two. With three it finds only what is large or very even. Without the baseline there are no differences.
    paper: difference of NDCG@10 x 100 to the paper's full recipe on BRIGHT, as reported there. updates: of SFT, as a
    share of the full recipe's (nan without SFT); a row that has results of equal updates is of those alone. graded:
    the mean by graded labels, over the seeds whose rows keep them (nan for none); in words it names them where they are
    fewer.
    """
    import pandas as pd

    results = compared_alike(results)
    if not results:
        return pd.DataFrame()
    values = sets_of(per_query_table(results), METRIC)
    seeds = len({r.seed for r in results})
    rows = paired_rows(values, baseline if baseline in values else next(iter(values)), resamples=resamples)
    baseline_means: Mapping[str, float] = next((row["by_set"] for row in rows if row["system"] == baseline), {})
    lines = []
    for row in rows:
        name = row["system"]
        own = [r for r in results if r.row == name]
        line: dict[str, Any] = {
            "row": name,
            METRIC: row["mean"],
            "seeds": means_in_words(row, seeds).replace("seed ", ""),
            "valid": sum(r.valid for r in own) / len(own) if name != FIRST_STAGE else float("nan"),
            "tokens": sum(r.tokens for r in own) / len(own),
            "n": row["n"],
            "updates": _updates(own, results),
            "graded": _mean_of([mean(r.graded) for r in own if r.graded]),
            "graded in words": _graded_in_words(own),
        }
        if "p" in row and baseline in values:
            line |= {"difference": row["difference"], "low": row["difference_low"], "high": row["difference_high"]}
            shared = [(mean, baseline_means[s]) for s, mean in row["by_set"].items() if s in baseline_means]
            line |= {"p": row["p"], "p_floor": row["p_floor"], "p (Holm)": row["p_holm"]}
            line["p (seeds)"] = paired_t(*zip(*shared, strict=True)) if len(shared) > 1 else float("nan")
        line |= _paper_difference(name, baseline)
        lines.append(line)
    return pd.DataFrame(lines).set_index("row")


def _mean_of(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _graded_in_words(own: Sequence[Result]) -> str:
    """The mean by graded labels, `0.854`; of fewer seeds than the row has also their names, `0.854 (10, 11)`."""
    kept = {r.seed: mean(r.graded) for r in own if r.graded}
    named = f" ({', '.join(map(str, sorted(kept)))})" if len(kept) < len({r.seed for r in own}) else ""
    return f"{_mean_of(list(kept.values())):.3f}{named}" if kept else ""


def _updates(own: Sequence[Result], results: Sequence[Result]) -> float:
    """SFT's updates as a share of the full recipe's, over the seeds that both have."""
    recipe = RECIPES.get(own[0].row)
    full = {r.seed: r.examples for r in results if r.row == FULL}
    if recipe is None or not recipe.sft:
        return float("nan")
    if own[0].equal_updates:
        return 1.0
    return _mean_of([r.examples / full[r.seed] for r in own if full.get(r.seed)])


def power_table(results: Sequence[Result], difference: float = 0.02, baseline: str = FULL) -> pd.DataFrame:
    """What these seeds can tell: a row for each that shares two seeds or more with the baseline.

    Columns: `seeds`; `deviation` of the seeds' differences to the baseline; `power`, the chance that a paired t-test of
    so many seeds, at 0.05, finds a true `difference`; `seeds for 80%`. The deviation is itself of a few trainings, so
    the last two are a hint and no more.
    """
    import pandas as pd

    means = row_means(results)
    lines = []
    for name, by_seed in means.items():
        gaps = [value - means[baseline][seed] for seed, value in by_seed.items() if seed in means.get(baseline, {})]
        deviation = float(np.std(gaps, ddof=1)) if name != baseline and len(gaps) > 1 else 0.0
        if deviation > 0:
            power = paired_t_power(difference, deviation, len(gaps))
            seeds = next((n for n in range(2, 1000) if paired_t_power(difference, deviation, n) >= 0.8), math.inf)
            line = {"row": name, "seeds": len(gaps), "deviation": deviation, "power": power, "seeds for 80%": seeds}
            lines.append(line)
    columns = ["row", "seeds", "deviation", "power", "seeds for 80%"]
    return pd.DataFrame(lines, columns=columns).set_index("row")


def power_markdown(power: pd.DataFrame) -> str:
    """`power_table` as Markdown."""
    lines = ["| row | seeds | deviation over seeds | power for 2 points | seeds for 80% |", "|---|---|---|---|---|"]
    for name, row in power.iterrows():
        cells = [name, int(row["seeds"]), f"{row['deviation']:.3f}", f"{row['power']:.0%}", f"{row['seeds for 80%']:g}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, ""])


def _paper_difference(row: str, baseline: str) -> dict[str, float]:
    """The column `paper` of a row, in points, where the paper has both."""
    reported = {FIRST_STAGE: PAPER_FIRST_STAGE, **{name: recipe.paper for name, recipe in RECIPES.items()}}
    here, there = reported.get(row), reported.get(baseline)
    return {} if here is None or there is None or row == baseline else {"paper": round(here - there, 2)}


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """Where this table and the paper disagree, of the rows that the paper has: both differences, p over seeds, and a
    sentence on what it may come from."""
    import pandas as pd

    lines = []
    for name, row in table.iterrows():
        here, there = row.get("difference", float("nan")), row.get("paper", float("nan"))
        if here != here or there != there:
            continue
        unsure = row["low"] <= 0.0 <= row["high"]
        if unsure or (here > 0) != (there > 0):
            verdict = "cannot be told from zero here" if unsure else "another sign than the paper's"
            line = {"row": name, "here": round(here, 3), "paper": there, "verdict": verdict}
            chance = row.get("p (seeds)", float("nan"))
            lines.append(line | {"p (seeds)": round(chance, 3), "may be because": WHY.get(str(name), "")})
    columns = ["row", "here", "paper", "verdict", "p (seeds)", "may be because"]
    return pd.DataFrame(lines, columns=columns).set_index("row")


def steps_table(results: Sequence[Result]) -> pd.DataFrame:
    """Did each training help, seed by seed? One line a seed: the means of first stage, backbone, SFT and SFT with GRPO,
    then what GRPO added to SFT with a 95% interval, both steps' p (paired randomisation, uncorrected, 10,000 draws),
    the share of valid answers after SFT, and the least that a p could be (`floor`). Seeds that lack one of these rows
    are left out."""
    import pandas as pd

    by_seed: dict[int, dict[str, Result]] = {}
    for result in results:
        by_seed.setdefault(result.seed, {})[result.row] = result
    lines = []
    for seed, rows in sorted(by_seed.items()):
        if not {FIRST_STAGE, "backbone", "no RL", "full"} <= rows.keys():
            continue
        queries = sorted(rows["full"].values)
        values = {name: {"": [rows[name].values[q] for q in queries]} for name in (FIRST_STAGE, "no RL", "full")}
        by_row = {row["system"]: row for row in paired_rows(values, "no RL")}
        line: dict[str, Any] = {"seed": seed, FIRST_STAGE: by_row[FIRST_STAGE]["mean"]}
        line |= {"backbone": mean(rows["backbone"].values), "SFT": by_row["no RL"]["mean"]}
        line |= {"SFT+GRPO": by_row["full"]["mean"], "GRPO adds": in_words(by_row["full"])}
        line |= {"p, SFT": by_row[FIRST_STAGE]["p"], "p, GRPO": by_row["full"]["p"], "floor": by_row["full"]["p_floor"]}
        lines.append(line | {"valid after SFT": rows["no RL"].valid, "n": len(queries)})
    return pd.DataFrame(lines).set_index("seed") if lines else pd.DataFrame()


def markdown(table: pd.DataFrame, results: Sequence[Result]) -> str:
    """The table as Markdown, with what it is of."""
    seeds = sorted({r.seed for r in results})
    kinds = sorted({r.data_kind for r in results})
    words = f"row|{METRIC}|by seed|difference [95% interval]|p (Holm)|p (seeds)|paper (points)|valid|updates|graded|n"
    head = words.split("|")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, row in table.iterrows():
        gap = row.get("difference")
        has = gap is not None and gap == gap
        paper = row.get("paper")
        cells = [
            str(name),
            f"{row[METRIC]:.3f}",
            str(row["seeds"]),
            f"{gap:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]" if has else "",
            p_in_words(row.rename({"p (Holm)": "p_holm"}).to_dict()) if has else "",
            _p(row["p (seeds)"]) if has else "",
            f"{paper:+.2f}" if paper is not None and paper == paper else "",
            f"{row['valid']:.1%}" if row["valid"] == row["valid"] else "",
            f"{row['updates']:.0%}" if row["updates"] == row["updates"] else "",
            row["graded in words"],
            str(int(row["n"])),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    what = (
        f"Seeds {', '.join(map(str, seeds))}; {', '.join(kinds)} data, simulated teacher; {METRIC} of sliding windows."
    )
    return "\n".join([what, "", *lines, ""])


def _p(value: float) -> str:
    return "" if value != value else f"{value:.3f}" if value >= 0.0005 else "< 0.001"


def steps_markdown(steps: pd.DataFrame) -> str:
    """`steps_table` as Markdown; a p at its floor with a `<`."""
    shown = steps.drop(columns="floor")
    lines = ["| seed | " + " | ".join(map(str, shown.columns)) + " |", "|" + "---|" * (len(shown.columns) + 1)]
    for seed, row in shown.iterrows():
        cells = [str(seed)]
        for name, value in row.items():
            if isinstance(value, str):
                cells.append(value)
            elif name == "n":
                cells.append(str(int(value)))
            elif str(name).startswith("p, "):
                cells.append(p_in_words({"p": value, "p_floor": steps.loc[seed, "floor"]}, "p"))
            else:
                cells.append(f"{value:.1%}" if "valid" in str(name) else f"{value:.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def stored_page(path: str | Path = ROWS) -> str:
    """The rows of a file as Markdown, as in docs/ablations.md. Rows of unequal updates come in a table of their own
    once equal ones have taken their place. Raises MissingFileError where there are none."""
    results = stored_rows(path)
    steps = steps_table(results)
    parts = [] if steps.empty else [steps_markdown(steps)]
    parts += [markdown(table(results), results), power_markdown(power_table(results))]
    shown = compared_alike(results)
    before = [r for r in results if r not in shown]
    if before:
        rows = [*(r for r in results if r.row == FULL), *before]
        parts.append("With as many updates as there are lists, as stored before:\n\n" + markdown(table(rows), rows))
    return "\n".join(parts)


BEGIN, END = "<!-- rows: python -m rrlib.studies.report --write -->", "<!-- end of rows -->"
STRADDLE_BEGIN = "<!-- straddle rows: python -m rrlib.studies.report --write -->"
STRADDLE_END = "<!-- end of straddle rows -->"
PLACES = {(BEGIN, END): ROWS, (STRADDLE_BEGIN, STRADDLE_END): STRADDLE_ROWS}
"""Marks of a page -> the file whose rows stand between them."""


def write_page(path: str | Path) -> None:
    """Put the stored rows between the page's marks. Raises InputError where it has none of a table, or half of it."""
    text = Path(path).read_text(encoding="utf-8")
    places = {marks: rows for marks, rows in PLACES.items() if any(mark in text for mark in marks)}
    for begin, end in places or [(BEGIN, END)]:
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise InputError("no place for the rows", path=path, remedy=f"write {begin} and {end}, a line each")
    for (begin, end), rows in places.items():
        before, after = text.split(begin)[0], text.split(end)[1]
        text = f"{before}{begin}\n\n{stored_page(rows).strip()}\n\n{end}{after}"
    with replacing(Path(path)) as file:
        file.write(text.encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Print the stored rows of the usual world, or write all into the page; the exit code: 0, or 2 (no place)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", nargs="?", const=str(repository() / "docs" / "ablations.md"), metavar="PAGE")
    given = parser.parse_args(argv)
    return exit_code(lambda: write_page(given.write) if given.write else print(stored_page()))


if __name__ == "__main__":
    raise SystemExit(main())
