"""The completions that a GRPO training keeps, and the spread of rewards over its groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rrlib.errors import InputError
from rrlib.reward import VIEWS

if TYPE_CHECKING:
    import pandas as pd


def read_completions(output: str | Path) -> pd.DataFrame:
    """Every kept completion of a GRPO training: step (optimiser update), prompt, completion, multi_view_reward, level,
    views, advantage. One row a completion. Raises InputError when there are none.

    A file that is being written while it is read is left out.
    """
    import pandas as pd

    files = sorted(Path(output).glob("trainer/completions/completions_*.parquet"))
    frames = []
    for file in files:
        try:
            frames.append(pd.read_parquet(file))
        except (OSError, ValueError):  # pyarrow's errors are ValueErrors
            continue
    if not frames:
        raise InputError("no completions here", path=output, remedy="name the output folder of train_grpo")
    return pd.concat(frames, ignore_index=True)


def group_means(completions: pd.DataFrame) -> pd.DataFrame:
    """Means of each group. Index: step and prompt. Columns: reward, ndcg, recall and rbo; a view counts valid
    completions only, and is missing (nan) in a group without any."""
    table = completions[["step", "prompt"]].copy()
    table["reward"] = completions["multi_view_reward"]
    for place, view in enumerate(VIEWS):
        table[view] = [json.loads(values)[place] for values in completions["views"]]
        table[view] = table[view].astype(float)
    return table.groupby(["step", "prompt"]).mean()


def group_bands(completions: pd.DataFrame, low: float = 0.1, high: float = 0.9) -> pd.DataFrame:
    """The spread over the groups (prompts) of each step: quantiles of the groups' means.

    Index: step. Columns: `<name>/low` and `<name>/high` for reward, ndcg, recall and rbo; a view counts valid
    completions only, and is missing (nan) in a step without any.
    """
    import pandas as pd

    means = group_means(completions).groupby("step")
    parts = {
        f"{name}/{end}": means[name].quantile(q)
        for name in ("reward", *VIEWS)
        for end, q in (("low", low), ("high", high))
    }
    return pd.DataFrame(parts)
