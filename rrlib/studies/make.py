"""Rows of the ablations from the command line, one after another; killed and started again, it goes on where it was.

    python -m rrlib.studies.make --rows "no Recall" "no RBO" --seeds 8 9 7 --output outputs/reward-rows
    python -m rrlib.studies.make --output outputs/reward-rows --keep    # finished rows to the stored ones
    python -m rrlib.studies.report --write                              # and the page of them anew

`--keep` trains nothing. It takes the rows that were made with the stored rows' settings, and refuses others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rrlib.errors import InputError
from rrlib.formats import read_jsonl, write_jsonl
from rrlib.studies.ablations import Table
from rrlib.studies.command import exit_code
from rrlib.studies.recipes import FIRST_STAGE, FULL, RECIPES
from rrlib.studies.rows import read_results
from rrlib.studies.setting import setting_of
from rrlib.studies.stored import ROWS


def keep(maker: Table, stored: Path) -> list[str]:
    """Put the finished rows of a table behind the stored ones; a sentence for each. What is there stays, unless it is
    the same without graded values.

    Raises InputError where the table has none, or where the stored full recipe was made with other settings.
    """
    finished, before = maker.results(), read_results(stored)
    if not finished:
        raise InputError("no finished rows of these settings", path=maker.path, remedy="make some with --rows")
    if any(result.row == FULL and result.setting != maker.key for result in before):
        raise InputError("the stored full recipe has other settings", path=stored, remedy="name its profile by --base")
    there = {(result.row, result.seed, result.setting): result for result in before}
    said, new = [], []
    for result in finished:
        name, known = f"{result.row}, seed {result.seed}", there.get((result.row, result.seed, result.setting))
        if known is not None and (known.graded or not result.graded or known.values != result.values):
            said.append(f"{name}: there already")
            continue
        new.append(asdict(result))
        said.append(f"{name}: kept")
    if new:  # the file is written as a whole, since it may be packed
        write_jsonl(stored, [*(row for _, row in read_jsonl(stored)), *new] if before else new)
    return said


def parser() -> argparse.ArgumentParser:
    """The options."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join((FIRST_STAGE, *RECIPES))
    top.add_argument("--rows", nargs="+", default=[], metavar="ROW", help=f"some of: {names}")
    top.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9], help="a world, a teacher and trainings each")
    top.add_argument("--output", required=True, help="folder of the rows and of what they are made from")
    top.add_argument("--base", default="miniature", help="profile whose sizes and trainings all rows share")
    top.add_argument("--unequal", action="store_true", help="leave the updates of SFT to the number of lists")
    top.add_argument("--keep", action="store_true", help="put the finished rows among the stored ones")
    top.add_argument("--stored", default=str(ROWS), help="the stored rows")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Make rows, keep them, or both; the exit code: 0, 1 (it failed), 2 (bad input)."""
    given = parser().parse_args(argv)
    say = partial(print, flush=True)

    def work() -> None:
        if not given.rows and not given.keep:
            raise InputError("nothing to do", remedy="name --rows to make, or --keep those that are finished")
        maker = Table(given.output, setting_of(given.base), say, equal_updates=not given.unequal)
        maker.fill(given.rows, given.seeds)
        if given.keep:
            for line in keep(maker, Path(given.stored)):
                say(line)

    return exit_code(work)


if __name__ == "__main__":
    raise SystemExit(main())
