"""The model card that lies in every final checkpoint: what it is, from what, by which settings, and what it is not."""

from __future__ import annotations

import importlib.metadata
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rrlib.gguf import is_gguf
from rrlib.prompts import PromptStyle, get_style

_WHAT = {
    "sft": "supervised fine-tuning on a teacher's {taught}; loss on the response alone",
    "grpo": "GRPO with the multi-view ranking reward (NDCG, Recall, RBO, gated by format)",
}
_SHOWN = (
    "loss", "mean_token_accuracy", "reward", "view/ndcg", "view/recall", "view/rbo", "share/valid", "share/bad_list",
    "share/bad_format", "completions/mean_length", "completions/clipped_ratio", "kl", "entropy",
)  # fmt: skip
_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate")


@dataclass(frozen=True)
class Facts:
    """What the model card says of a training.

    stage: sft or grpo. model: the checkpoint it starts from, as given. n_examples: trained on. dropped: left out as too
    long. settings: name -> value. info: as it came out (device, longest prompt, ...).
    """

    stage: str
    model: str
    n_examples: int
    dropped: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)


def model_card(facts: Facts, log: Sequence[Mapping[str, Any]]) -> str:
    """The text of README.md, with the header that model hubs read. No time and no path of a machine stands in it.

    Raises InputError where `info` names an unknown prompt style; without one it is `reasonrank`.
    """
    base, info = _base_name(facts.model), facts.info
    name = str(info.get("style") or "reasonrank")
    style = get_style(name)
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [reranking, reasoning, rrlib]",
    ]
    if "/" in base and not facts.model.startswith("package:"):
        lines.append(f"base_model: {base}")
    lines += ["---", "", f"# {base.rpartition('/')[2]}, after {facts.stage.upper()}", ""]
    lines += [
        f"A {'listwise' if style.words is None else 'pointwise'}{' reasoning' if style.think else ''} reranker: "
        f"{_WHAT.get(facts.stage, facts.stage).format(taught=_taught(style))}. Prompt style `{name}` of rrlib; the "
        f"model answers {_answers(style)}.",
        "",
        f"Trained on {facts.n_examples} examples ({facts.dropped} left out as too long), "
        f"{info.get('steps', 0)} optimiser updates. Whoever passes this checkpoint on adds what data it was, "
        "under which licence, and how it was evaluated.",
        "",
        "## Log",
        "",
        "| | first | last |",
        "|---|---:|---:|",
        *(f"| {key} | {_number(first)} | {_number(last)} |" for key, first, last in _ends(log)),
        "",
        "## Settings",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in {**facts.settings, **info}.items() if key != "resumed_from"),
        "",
        "## Versions",
        "",
        ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "",
        "## Limits",
        "",
        "It ranks lists of the lengths and in the prompt format it was trained with. A passage is text of others: it "
        "may try to steer the ranking. Reasoning that reads well is no proof of a good ranking: measure it.",
    ]
    return "\n".join(lines) + "\n"


def _taught(style: PromptStyle) -> str:
    return ("reasoning and " if style.think else "") + ("ranked lists" if style.words is None else "judgements")


def _answers(style: PromptStyle) -> str:
    """What the model answers, and to what."""
    chain = "<think> ... </think>" if style.think else ""
    if style.words is not None:
        relevant, other = (f"`{f'{chain} {word.strip()}'.strip()}`" for word in style.words)
        return f"{relevant} or {other} to a query and one passage"
    order = "[2] > [1] > ..."
    answer = f"<answer> {order} </answer>" if style.tags else order
    return f"`{f'{chain} {answer}'.strip()}` to a query and a window of passages (method: ReasonRank, arXiv 2508.07050)"


def _base_name(model: str) -> str:
    """A hub name as it is; of a folder (also one that is gone) the end of its path, for no card names a place."""
    if is_gguf(model):
        return Path(model).name
    if model.startswith("package:") or not (Path(model).is_dir() or model.startswith(("/", "~", "."))):
        return model.removeprefix("package:")
    path = Path(os.path.abspath(model))
    return f"{path.parent.name}, {path.name}" if path.name == "checkpoint" else path.name


def _ends(log: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    ends = []
    for key in _SHOWN:
        values = [row[key] for row in log if isinstance(row.get(key), int | float) and math.isfinite(row[key])]
        if values:
            ends.append((key, float(values[0]), float(values[-1])))
    return ends


def _number(value: float) -> str:
    return f"{value:.4g}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
