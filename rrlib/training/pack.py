"""A trained checkpoint as an adapter to take away: the change of its linear weights, as matrices of a low rank.

For each linear weight, D = checkpoint - base is cut to the nearest matrix of the rank (Eckart and Young, 1936, by the
singular value decomposition) and written as B @ A in PEFT's format, bfloat16: 9.8 MB for SmolLM2-135M at rank 16. It
is exact, up to rounding, where LoRA of that rank or a lower one made the change. How much of D stays is measured after
rounding: share = 1 - |D - BA|^2 / |D|^2 (Frobenius). `rrlib.resources.resolve` opens the folder as a model.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rrlib import gguf
from rrlib.disk import read_json, write_json
from rrlib.engines.trained import WITH_FIRST_STAGE, trained_settings
from rrlib.errors import InputError
from rrlib.lora import WEIGHTS
from rrlib.prompts import POINT_STYLES, get_style
from rrlib.resources import PACKAGE, SMOLLM2, model_hash, resolve

LEAST_SHARE = 0.9
"""An adapter that holds a smaller share of the change is refused unless it is forced."""

HUB_NAMES = {SMOLLM2: "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Reference of a base -> its name on the hub, for the header that hubs read."""

_STAGES = ("01_synthesis", "02_sft", "03_rl")
_SYSTEMS = {"02_sft": "sft", "03_rl": "sft+rl"}
_USE = ("style", "window", "stride", "max_passage_tokens")


class Change(NamedTuple):
    """The change of one linear weight. down: A (rank, in); up: B (out, rank), both bfloat16. energy: |D|^2; lost:
    |D - BA|^2."""

    down: Any
    up: Any
    energy: float
    lost: float


@dataclass(frozen=True)
class Packed:
    """A packed checkpoint. share: of the change of all weights that the adapter holds; weakest: the weight of which it
    holds least, with its share. size: bytes of the weights' file."""

    folder: Path
    rank: int
    share: float
    weakest: tuple[str, float]
    size: int


def pack(
    checkpoint: str | Path,
    output: str | Path,
    *,
    base: str,
    rank: int = 16,
    least_share: float = LEAST_SHARE,
    force: bool = False,
    data: str = "",
    rows: Sequence[Mapping[str, Any]] | None = None,
    with_first_stage: bool = False,
    note: str = "",
) -> Packed:
    """Write the difference of a checkpoint and its base as an adapter, with README.md (the card) and SOURCE.json.

    Parameters
    ----------
    checkpoint: as `resolve` takes it. Of a run of the chain, SOURCE.json tells settings, seed and results; of another
        training, the settings in its inputs.json.
    output: a new folder; it appears complete or not at all.
    base: the reference that the adapter will name; resolved here and by whoever opens the adapter.
    rank: of the matrices; a number above 0.
    least_share: in [0, 1]; a lower share of the change is refused, unless `force`.
    data: a sentence for the card: what it was trained on, under which licence.
    rows: results that prove it, as in results.json; default: those of the run.
    with_first_stage: its order is to be fused with that of a run which it reranks (rrlib.rerank).
    note: one more paragraph for the card, above its results.

    Raises InputError where the checkpoint does not come from this base, is equal to it, or differs in embeddings,
    norms or biases, which no adapter of this kind holds.
    """
    target = Path(output)
    if rank < 1 or not 0 <= least_share <= 1:
        raise InputError(
            f"rank {rank}, least share {least_share}", remedy="give a rank of 1 or more, a share of 0 to 1"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError("something is there", path=target, remedy="name a new folder, or remove it")
    changes = dict(_changes(resolve(checkpoint), resolve(base), rank))
    energy = sum(change.energy for change in changes.values())
    if not energy:
        raise InputError("the checkpoint is equal to its base", path=checkpoint, remedy="name the trained one")
    share = 1 - sum(change.lost for change in changes.values()) / energy
    weakest = min(((name, 1 - c.lost / c.energy) for name, c in changes.items() if c.energy), key=lambda w: w[1])
    if share < least_share and not force:
        raise InputError(
            f"rank {rank} holds {share:.1%} of the change, least in {weakest[0]} ({weakest[1]:.1%})",
            path=checkpoint,
            remedy=f"give a higher rank, or --force if less than {least_share:.0%} will do",
        )
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _write_adapter(part, changes, base, rank)
    packed = Packed(target, rank, share, weakest, (part / WEIGHTS).stat().st_size)
    source = _source(checkpoint, base, packed, rows)
    if with_first_stage:
        source["use"][WITH_FIRST_STAGE] = True
    write_json(part / "SOURCE.json", source)
    (part / "README.md").write_text(card(source, target, data, note), encoding="utf-8")
    if target.exists():
        target.rmdir()  # empty
    os.replace(part, target)
    return packed


# --- the matrices -----------------------------------------------------------------------------------------------------


def _changes(checkpoint: str, base: str, rank: int) -> Iterator[tuple[str, Change]]:
    """(name of a linear module, its change), for every module of a kind (q_proj, ...) of which any has changed."""
    trained, original = _weights(checkpoint), _weights(base)
    if {n: w.shape for n, w in trained.weights.items()} != {n: w.shape for n, w in original.weights.items()}:
        raise InputError(
            f"this is no checkpoint of the base {base!r}: their weights have other names or shapes",
            path=checkpoint,
            remedy="name the base that it was trained from",
        )
    differences = {}
    for name, weight in trained.weights.items():
        # LoRA on a bfloat16 base rounds all of it: that is no training, so the base is rounded alike
        differences[name] = weight.float() - original.weights[name].to(weight.dtype).float()
    changed = {name for name, difference in differences.items() if difference.any()}
    others = sorted(changed - trained.linear)
    if others:
        raise InputError(
            f"{len(others)} weights have changed that are no linear layer's, such as {others[0]}",
            path=checkpoint,
            remedy="train with lora_rank above 0, or pass the checkpoint on as it is",
        )
    kinds = {_kind(name) for name in changed}
    for name in differences:
        if name in trained.linear and _kind(name) in kinds:
            yield name.removesuffix(".weight"), low_rank(differences[name], rank)


def _kind(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]


class _Weights(NamedTuple):
    """All weights of a checkpoint by name, and the names of those that linear layers have."""

    weights: dict[str, Any]
    linear: set[str]


def _weights(folder: str) -> _Weights:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
            model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    except (OSError, ValueError, KeyError) as error:
        remedy = "name a folder with config.json and weights, or a hub name that this machine can reach"
        raise InputError(f"cannot load {folder!r}: {gguf.first_line(error)}", remedy=remedy) from error
    layers = {f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    weights = {name: weight.detach() for name, weight in model.named_parameters()}  # tied ones once, as embeddings
    return _Weights(weights, layers & weights.keys())


def low_rank(difference: Any, rank: int) -> Change:
    """The nearest matrix of the rank, its singular values shared out evenly, rounded to bfloat16.

    difference: D, float32 (out, in). A rank above that of D is filled up with zeros.
    """
    import torch

    out, width = difference.shape
    exact, count = difference.double(), min(rank, out, width)
    wide = exact.T if out > width else exact  # (small, large)
    values, vectors = torch.linalg.eigh(wide @ wide.T)  # ascending; a tenth of the time of the whole decomposition
    root = values[-count:].clamp(min=0).pow(0.25)  # of the singular values
    left = vectors[:, -count:]  # (small, count)
    right = (left.T @ wide) / root.clamp(min=1e-30).square()[:, None]  # (count, large)
    first, second = left * root, (right * root[:, None]).T
    if out > width:
        first, second = second, first
    up, down = torch.zeros(out, rank), torch.zeros(rank, width)
    up[:, :count], down[:count] = first, second.T
    up, down = up.bfloat16(), down.bfloat16()
    energy = float(difference.double().square().sum())
    return Change(down, up, energy, float((difference.double() - up.double() @ down.double()).square().sum()))


def _write_adapter(folder: Path, changes: Mapping[str, Change], base: str, rank: int) -> None:
    from peft import LoraConfig
    from safetensors.torch import save_file

    tensors = {}
    for name, change in changes.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = change.down.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = change.up.contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors writes for its owner alone
    kinds = sorted({_kind(name) for name in changes})
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=kinds, task_type="CAUSAL_LM", inference_mode=True)
    config.base_model_name_or_path = base
    config.target_modules = kinds  # a list, which is written in one order
    config.save_pretrained(str(folder))


# --- what is said of it -----------------------------------------------------------------------------------------------


def _source(
    checkpoint: str | Path, base: str, packed: Packed, rows: Sequence[Mapping[str, Any]] | None
) -> dict[str, Any]:
    """SOURCE.json: what the adapter is of, and what the run or training that made it says of itself."""
    place = Path(checkpoint)
    run, stage = place.parent.parent.parent, place.parent.parent.name
    stages: dict[str, Any] = {}
    for name in _STAGES[: _STAGES.index(stage) + 1] if stage in _STAGES else ():
        manifest = read_json(run / name / "manifest.json") or {"match": {"parameters": {}}}
        parameters = _portable(manifest["match"]["parameters"])
        metrics = read_json(run / name / "metrics.json") or {}
        stages[name] = {"hash": manifest.get("hash"), "parameters": parameters, "metrics": metrics}
    evaluated = (read_json(run / "04_evaluation" / "manifest.json") or {}).get("match", {}).get("parameters", {})
    trained = {} if stages else _portable(read_json(place.parent / "inputs.json") or {})
    info = (read_json(place.parent / "result.json") or {}).get("info", {})
    beside = {**trained_settings(place), **({"style": info["style"]} if info.get("style") else {})}
    settings = {**trained, **beside, **evaluated, **(stages[stage]["parameters"] if stages else {})}
    if rows is None:
        results = (read_json(run / "results.json") or {}).get("rows", []) if stages else []
        rows = [row for row in results if row["system"] in ("first-stage", _SYSTEMS.get(stage))]
    return {
        "base": base,
        "base_license": base_license(base),
        "checkpoint": model_hash(place),
        "rank": packed.rank,
        "dtype": "bfloat16",
        "share": round(packed.share, 6),
        "weakest": {"weight": packed.weakest[0], "share": round(packed.weakest[1], 6)},
        "profile": next((row["profile"] for row in rows if row["profile"]), run.name if stages else ""),
        "seed": settings.get("seed", next((row["seed"] for row in rows if "seed" in row), None)),
        "use": {key: settings[key] for key in _used(settings.get("style")) if settings.get(key)},
        "stages": stages,
        **({"training": trained} if trained else {}),
        "results": [dict(row) for row in rows],
    }


def _portable(value: Any) -> Any:
    """Parameters without folders of this machine."""
    if isinstance(value, Mapping):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def base_license(base: str) -> str:
    """The licence that a base states: in the record of its GGUF file, or at the head of its README.md; else empty."""
    folder = Path(resolve(base))
    record = read_json(folder / gguf.RECORD)
    if record:
        return str(record.get("license") or "")
    if not (folder / "README.md").is_file():
        return ""
    head = (folder / "README.md").read_text(encoding="utf-8").split("---")
    lines = head[1].splitlines() if len(head) > 2 and not head[0].strip() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("license:")), "")


def _used(style: str | None) -> tuple[str, ...]:
    """The settings that a checkpoint of a prompt style is asked with; a judge of one passage has no window."""
    return ("style", "max_passage_tokens") if style in POINT_STYLES else _USE


def _called(style: str) -> str:
    """What a checkpoint of a prompt style is, for its card."""
    if style not in POINT_STYLES:
        return "A listwise reasoning reranker (method: ReasonRank, arXiv 2508.07050)"
    without = "" if get_style(style).think else " without reasoning"
    return f"A pointwise reranker, which judges one passage at a time{without},"


FUSED = (
    "The order of a run which it reranks counts beside its own: the two are fused by their reciprocal ranks. "
    "`--without-first-stage`, or `with_first_stage=False`, leaves the order to the model. Plain texts have no order.",
    "",
)
"""The paragraph of a card whose checkpoint is used so."""


def card(source: Mapping[str, Any], folder: Path, data: str, note: str = "") -> str:
    """The text of README.md, with the header that hubs read; source: SOURCE.json's content; folder: of the adapter;
    data, note: as `pack` takes them."""
    base, use = str(source["base"]), dict(source["use"])
    fused = use.pop(WITH_FIRST_STAGE, False)
    hub_name = HUB_NAMES.get(base, base)
    head = ["library_name: peft", "pipeline_tag: text-generation", "tags: [reranking, reasoning, rrlib]"]
    if ":" not in hub_name and not Path(hub_name).exists():
        head.append(f"base_model: {hub_name}")
    if source["base_license"]:
        head.append(f"license: {source['base_license']}")
    packaged = folder.resolve().parent == PACKAGE / "checkpoints"
    reference = f"package:rrlib.checkpoints/{folder.name}" if packaged else folder.name
    made = f"Profile `{source['profile']}`, seed {source['seed']}; " if source["profile"] else "Settings not stated; "
    arguments = "".join(f", {key}={json.dumps(value)}" for key, value in use.items())
    lines = [
        "---", *head, "---", "", f"# {folder.name}", "",
        f"{_called(str(use.get('style', 'reasonrank')))} as an adapter: the change that training "
        f"made to the linear weights of its base, at rank {source['rank']}. It holds {source['share']:.2%} of that "
        f"change, least in `{source['weakest']['weight']}` ({source['weakest']['share']:.2%}).",
        "",
        f"- Base: `{base}`, licence: {source['base_license'] or 'look it up with the base'}.",
        f"- Data: {data or 'not stated; whoever passes this on adds what it was, and under which licence'}.",
        f"- {made}all that is recorded is in SOURCE.json.",
        "",
        "```python",
        "from rrlib import Reranker",
        "",
        f'reranker = Reranker("{reference}"{arguments})',
        'print(reranker.rank("a question", ["a passage", "another passage"]))',
        "```",
        "",
        *(FUSED if fused else ()),
        *((note, "") if note else ()),
        "## Results", "",
        *_table(source["results"]),
        "",
        "A passage is text of others: it may try to steer the ranking. Reasoning that reads well is no proof of a good "
        "ranking: measure it on your own lists.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return ["None were given: nothing here says that it ranks better than its first stage."]
    lines = ["| collection | system | metric | mean | 95% interval | queries |", "|---|---|---|---:|---|---:|"]
    for row in rows:
        numbers = f"{row['mean']:.3f} | {row['low']:.3f} to {row['high']:.3f} | {row['n']}"
        lines.append(f"| {row['collection']} | {row['system']} | {row['metric']} | {numbers} |")
    return lines
