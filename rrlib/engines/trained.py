"""What a checkpoint was trained with: prompt style, window, stride and passage limit, in a file beside its weights.

A model ranks well in the form it was trained in, so these are the defaults of a reranking, and others are warned of.
Checkpoints that rrlib packed say it in their SOURCE.json.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rrlib.disk import write_json
from rrlib.errors import InputError
from rrlib.prompts import POINT_STYLES, WINDOW_STYLES
from rrlib.resources import locate

FILE = "rrlib.json"
"""The file of a checkpoint's folder that says what it was trained with."""

SOURCE = "SOURCE.json"
"""The file of a packed checkpoint's folder: where it comes from, and under `use` how it is used."""

WITH_FIRST_STAGE = "with_first_stage"
"""The name under `use` of what `counts_first_stage` reads."""

USUAL: Mapping[str, Any] = {"style": "reasonrank", "window": 20, "stride": 10, "max_passage_tokens": 512}
"""The settings of a reranking where neither the caller nor the checkpoint says any (the paper's)."""

_LOGGER = logging.getLogger("rrlib.rerank")


def write_trained(folder: Path, style: str, window: int, max_passage_tokens: int, stride: int = 0) -> None:
    """Write the file of a checkpoint. window: passages of the longest list. stride: 0 = half of it, as in the paper."""
    stride = stride or max(window // 2, 1)
    values = {"style": style, "window": window, "stride": stride, "max_passage_tokens": max_passage_tokens}
    write_json(folder / FILE, values)


def trained_settings(model: Any) -> dict[str, Any]:
    """What a checkpoint says it was trained with, some of USUAL's names; none for a hub name or a GGUF file."""
    try:
        folder = Path(locate(model))
    except InputError:
        return {}
    said = _read(folder / FILE)
    if not said:
        source = _read(folder / SOURCE)
        stages = _mapping(source.get("stages"))
        trained = _mapping(stages.get("03_rl")) or _mapping(stages.get("02_sft"))
        said = _mapping(source.get("use")) or _mapping(trained.get("parameters"))
    window = said.get("window")
    if isinstance(window, int) and window > 1 and "stride" not in said:
        said = {**said, "stride": window // 2}
    return valid_settings(said)


def counts_first_stage(model: Any) -> bool:
    """Whether a packed checkpoint says that the first stage's order counts beside its own (`rrlib pack`)."""
    try:
        use = _read(Path(locate(getattr(model, "model", model))) / SOURCE).get("use")
    except InputError:
        return False
    return isinstance(use, dict) and use.get(WITH_FIRST_STAGE) is True


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return _mapping(value)


def _mapping(value: Any) -> dict[str, Any]:
    """A value of a file that people may have edited; empty where it is no mapping."""
    return value if isinstance(value, dict) else {}


def valid_settings(said: Mapping[str, Any]) -> dict[str, Any]:
    """Those of USUAL's names that hold a value of their kind."""
    return {name: said[name] for name in USUAL if _valid(name, said.get(name))}


def _valid(name: str, value: Any) -> bool:
    if name == "style":
        return isinstance(value, str) and (value in WINDOW_STYLES or value in POINT_STYLES)
    return isinstance(value, int) and not isinstance(value, bool) and value >= (2 if name == "window" else 1)


def settings_for(model: Any, strategy: str | None, asked: Mapping[str, Any], *, warn: bool = True) -> dict[str, Any]:
    """The settings of a reranking: what is asked for, else what the checkpoint was trained with, else USUAL; and under
    `strategy` the one asked for, else `pointwise` for a checkpoint that judges one passage, else `sliding_window`.

    model: a checkpoint, or an engine of one; recorded answers bring what they were recorded with.
    asked: some of USUAL's names; None is not asked. warn: log where other ones are asked for than it was trained with.
    Raises InputError for answers that were recorded with another strategy: their windows would be taken for others.
    """
    recorded, with_strategy = getattr(model, "recorded", None), getattr(model, "recorded_strategy", None)
    model_name = getattr(model, "model", model)
    trained = recorded or trained_settings(model_name)
    judges = not recorded and trained.get("style") in POINT_STYLES
    strategy = strategy or ("pointwise" if judges else "sliding_window")
    if trained.get("style") in POINT_STYLES and strategy != "pointwise" and not recorded and warn:
        _LOGGER.warning("%s was trained to judge single passages, and is asked for lists (%s)", model_name, strategy)
    if with_strategy is not None and with_strategy != strategy:
        raise InputError(
            f"{model_name} was recorded with the strategy {with_strategy}, and is asked with {strategy}",
            remedy=f"replay it with --strategy {with_strategy}",
        )
    if strategy == "pointwise" or trained.get("style") in POINT_STYLES:  # a judge of one passage has no window
        names = ("style", "max_passage_tokens") if strategy == "pointwise" and judges else ("max_passage_tokens",)
        trained = {name: trained[name] for name in names if name in trained}
    chosen = {name: trained.get(name, USUAL[name]) if asked.get(name) is None else asked[name] for name in USUAL}
    if asked.get("stride") is None and "stride" in trained and chosen["window"] != trained["window"]:
        chosen["stride"] = max(int(chosen["window"]) // 2, 1)
    other = [name for name in trained if asked.get(name) is not None and asked[name] != trained[name]]
    if other and warn:
        was = ", ".join(f"{name} {trained[name]}" for name in other)
        now = ", ".join(f"{name} {asked[name]}" for name in other)
        begun = "recorded" if recorded else "trained"
        _LOGGER.warning("%s was %s with %s, and is asked with %s", model_name, begun, was, now)
    return chosen | {"strategy": strategy}
