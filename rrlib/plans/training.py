"""A memory plan on paper: what a training needs on each GPU, by part, with the formula and where it is from.

No weights, no GPU, no network. The plan is for one GPU of a training in `processes`, as the profile says; it refuses
what cannot fit. It is a sum of what must be there at the same time in the widest moment (the backward pass through one
layer, or vLLM at work); fragmentation and libraries take a share that nobody can compute, so a tenth of the GPU is left
for them.

Letters: P parameters, T trained parameters (all, or the adapters), W processes, L layers, h hidden size, w width of all
query heads, k width of the keys, f width of the MLP, n tokens of a row, b rows of a forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from rrlib.errors import InputError
from rrlib.plans.shapes import Shape, flops_per_token, kv_bytes, lora_parameters, parameters, shape_of
from rrlib.training.config import GRPOSettings, SFTSettings, choose_device
from rrlib.training.launch import Launch, sharding
from rrlib.training.schedule import batches, sft_schedule

GIB = 2**30
RESERVE = 0.1
"""Share of a GPU that is not planned with: CUDA's context, NCCL's buffers, fragmentation."""

ZERO = "ZeRO (arXiv 1910.02054), section 3.1"
RECOMPUTE = "Korthikanti et al. (arXiv 2205.05198), section 5"
MEASURED = "tensors counted in transformers 5.17"
KV = "PagedAttention (arXiv 2309.06180), section 3.1"


class Phase(StrEnum):
    """When a part is in memory."""

    ALWAYS = "always"
    """From the first step to the last."""

    UPDATE = "update"
    """In forward and backward passes only."""

    ROLLOUTS = "rollouts"
    """While completions are written only."""


@dataclass(frozen=True, slots=True)
class Part:
    """One line of a plan. bytes: on each GPU."""

    name: str
    bytes: float
    formula: str
    source: str
    phase: Phase = Phase.ALWAYS


@dataclass(frozen=True)
class Plan:
    """What a training needs. memory: bytes of one GPU; facts: batch, updates, work, as (name, text)."""

    kind: str
    model: str
    memory: float
    parts: tuple[Part, ...]
    facts: tuple[tuple[str, str], ...] = field(default=())

    @property
    def needed(self) -> float:
        """Bytes on each GPU, in the phase that needs most."""
        return self.sum(Phase.ALWAYS) + max(self.sum(Phase.UPDATE), self.sum(Phase.ROLLOUTS))

    def sum(self, phase: Phase) -> float:
        """Bytes of the parts of a phase."""
        return sum(part.bytes for part in self.parts if part.phase == phase)

    @property
    def room(self) -> float:
        """Bytes of a GPU that may be planned with."""
        return self.memory * (1 - RESERVE)

    @property
    def fits(self) -> bool:
        """Whether it does."""
        return self.needed <= self.room

    def check(self) -> Plan:
        """The plan itself. Raises InputError, with the largest parts and what helps, where it cannot fit."""
        if self.fits:
            return self
        worst = max((Phase.UPDATE, Phase.ROLLOUTS), key=self.sum)
        there = [part for part in self.parts if part.phase in (Phase.ALWAYS, worst)]
        largest = sorted(there, key=lambda part: -part.bytes)[:3]
        parts = ", ".join(f"{part.name} {part.bytes / GIB:.1f}" for part in largest)
        raise InputError(
            f"{self.kind} of {self.model} needs {self.needed / GIB:.1f} GiB on each GPU and may have "
            f"{self.room / GIB:.1f} of {self.memory / GIB:.0f} (largest: {parts})",
            remedy=_remedy(largest[0].name),
        )


_REMEDIES = {
    "weights": "use accelerate: fsdp2 with more processes, or lora_rank: 32",
    "optimiser": "use accelerate: fsdp2 with more processes, or lora_rank: 32",
    "gradients": "use accelerate: fsdp2 with more processes, or lora_rank: 32",
    "activations": "set gradient_checkpointing: true and micro_batch: 1, or lower max_length or max_passage_tokens",
    "rollouts": "set vllm_sleep: true, lower vllm_memory or raise vllm_tensor_parallel; without vLLM, lower prompts",
    "reference": "set beta: 0, or lora_rank: 32 (the adapter is turned off for the reference)",
}


def _remedy(name: str) -> str:
    return next((text for key, text in _REMEDIES.items() if name.startswith(key)), "take more or larger GPUs")


def layer_bytes(shape: Shape) -> float:
    """Bytes that one layer keeps for its backward pass, a token, under bf16 autocast with a float32 residual stream:
    8f + 28h + 2w + 4k + 4 * heads + 8. Attention that is not materialised (sdpa, flash) has no term in n * n.
    """
    return 8 * shape.mlp + 28 * shape.hidden + 2 * shape.attention_width + 4 * shape.kv_width + 4 * shape.heads + 8


def _states(shape: Shape, settings: SFTSettings | GRPOSettings, launch: Launch) -> list[Part]:
    count, shared = parameters(shape), sharding(launch.accelerate) if launch.total > 1 else "none"
    everything, W = count["total"], launch.total
    trained = lora_parameters(shape, settings.lora_rank) if settings.lora_rank else everything
    weights = 2.0 * everything + 4.0 * trained if settings.lora_rank else 4.0 * everything
    split_weights = W if shared == "full" else 1
    split_states = W if shared in ("full", "zero2") else 1
    over = " / W" if shared == "full" else ""
    base = "2P + 4T (bf16 base, float32 adapters)" if settings.lora_rank else "4P (float32, so that small steps count)"
    over_states = " / W" if split_states > 1 else ""
    parts = [
        Part("weights", weights / split_weights, base + over, ZERO),
        Part("gradients", 4.0 * trained / split_states, "4T" + over_states, ZERO, Phase.UPDATE),
        Part("optimiser states", 8.0 * trained / split_states, "8T (AdamW)" + over_states, ZERO),
    ]
    if shared == "full":
        widest = max(2 * count["layer"], count["embedding"] + count["head"])
        parts.append(Part("gathered layers", 2.0 * widest, "2 bytes * max(2 layers, embeddings)", ZERO))
    elif not settings.lora_rank and settings.gradient_checkpointing and W == 1:
        # Autocast forgets its copies when the forward pass ends, before the gradients (4T) are there. With more
        # processes this is not measured (DDP's buckets are there from the start), so both are counted.
        copies = 2.0 * max(count["layer"], count["head"])
        parts.append(Part("bf16 copies of one layer", copies, "2 bytes * max(layer, head)", MEASURED, Phase.UPDATE))
    elif not settings.lora_rank:
        parts.append(Part("bf16 copies of weights", 2.0 * everything, "2P (autocast keeps them for a pass)", MEASURED))
    return parts


def _activations(shape: Shape, checkpointing: bool, rows: int, length: int, stream: int) -> list[Part]:
    tokens, layer = rows * length, layer_bytes(shape)
    backward = tokens * (6 * shape.mlp + 8 * shape.hidden)
    if checkpointing:
        inputs = float(tokens * stream * shape.hidden * shape.layers)
        formula = f"{stream} * b * n * h * L (inputs of the layers)"
        working, sizes = tokens * layer + backward, "b * n * (14f + 36h + 2w + 4k)"
        return [
            Part("activations kept", inputs, formula, RECOMPUTE, Phase.UPDATE),
            Part("activations of one layer", working, sizes, MEASURED, Phase.UPDATE),
        ]
    every_layer = tokens * layer * shape.layers
    return [
        Part("activations kept", every_layer, "b * n * L * (8f + 28h + 2w + 4k)", MEASURED, Phase.UPDATE),
        Part("activations of the backward pass", backward, "b * n * (6f + 8h)", MEASURED, Phase.UPDATE),
    ]


def _head(shape: Shape) -> Part:
    tile = 4096.0 * shape.vocabulary * 2
    grad = 4.0 * shape.vocabulary * shape.hidden
    return Part(
        "output head",
        tile + grad,
        "2 * 4096 * vocabulary + 4 * vocabulary * h",
        "trl 1.16 kernels/chunked_logprob.py",
        Phase.UPDATE,
    )


def _row_length(limit: int, shape: Shape, longest: int, of: str) -> tuple[int, tuple[str, str]]:
    """(tokens of a row that the plan counts with, the fact that says where they are from)."""
    allowed = min(limit, shape.positions)
    if longest:
        return min(longest, allowed), ("tokens of a row", f"{min(longest, allowed)}, the longest {of}")
    return allowed, ("tokens of a row", f"{allowed}, the most that is allowed; the data may need far less")


IN_THE_DATA = "there is in the data"
ON_A_CPU = (
    "on a CPU",
    "libraries and what the process keeps are not counted; at the profile miniature's sizes the process of SFT held "
    "1.8 GiB in 24 updates, that of GRPO 2.1 GiB in 6, measured (docs/costs.md)",
)
"""The fact of a plan for the memory of a machine without a GPU: there the parts are the smaller share of the use."""


def _on_a_cpu(settings: SFTSettings | GRPOSettings, launch: Launch, memory: float) -> list[tuple[str, str]]:
    """The fact, where the plan is for this machine's own memory and the training would run on its CPU."""
    here = choose_device(settings) == "cpu" and memory == device_memory() / launch.processes
    return [ON_A_CPU] if here else []


def plan_sft(
    settings: SFTSettings,
    model: str | Path,
    launch: Launch,
    memory: float,
    examples: int = 0,
    longest: int = 0,
    of: str = IN_THE_DATA,
) -> Plan:
    """The plan of SFT. memory: bytes of one GPU. examples: to count updates with (0 = not counted). longest: tokens of
    the longest row of the data, prompt and response (0 = not known: the plan is for the limit). of: what it is the
    longest of, in words."""
    shape = shape_of(model)
    length, about_rows = _row_length(settings.max_length, shape, longest, of)
    parts = _states(shape, settings, launch)
    parts += _activations(shape, settings.gradient_checkpointing, settings.micro_batch, length, _stream(launch))
    parts.append(_head(shape))
    rows = settings.micro_batch * settings.accumulation * launch.total
    facts = [
        ("rows in an update", f"{settings.micro_batch} x {settings.accumulation} x {launch.total} processes = {rows}")
    ]
    if examples:
        schedule = sft_schedule(settings, examples, launch.total)
        facts.append(("optimiser updates", f"{schedule.updates} ({settings.epochs:g} epochs of {examples} rows)"))
        facts.append(("warm-up", f"{schedule.warmup} updates, then {settings.schedule}"))
    facts += [about_rows, ("work a token", f"{_gflop(flops_per_token(shape, length))} GFLOP at {length} tokens")]
    facts += _on_a_cpu(settings, launch, memory)
    return Plan("SFT", _label(model), memory, tuple(parts), tuple(facts))


def plan_grpo(
    settings: GRPOSettings,
    model: str | Path,
    launch: Launch,
    memory: float,
    longest_prompt: int = 0,
    of: str = IN_THE_DATA,
) -> Plan:
    """The plan of GRPO, rollouts included. memory: bytes of one GPU. longest_prompt: tokens of the longest prompt of
    the data (0 = not known: the plan is for the limit), of: in words, of what; completions count with their limit.
    Raises InputError where vLLM's share cannot hold the weights and one longest sequence."""
    shape, split = shape_of(model), batches(settings, launch.total)
    longest = longest_prompt + settings.max_completion if longest_prompt else 0
    length, about_rows = _row_length(settings.max_prompt + settings.max_completion, shape, longest, of)
    parts = _states(shape, settings, launch)
    if settings.beta and not settings.lora_rank:
        shared = launch.total if launch.total > 1 and sharding(launch.accelerate) == "full" else 1
        formula = "4P" + (" / W" if shared > 1 else "")
        parts.append(
            Part("reference model", 4.0 * parameters(shape)["total"] / shared, formula, "trl 1.16 grpo_trainer.py")
        )
    parts += _activations(shape, settings.gradient_checkpointing, settings.micro_batch, length, _stream(launch))
    parts.append(_head(shape))
    completions = settings.prompts * settings.rollouts
    facts = [
        ("completions in a step", f"{settings.prompts} prompts x {settings.rollouts} rollouts = {completions}"),
        ("completions in an update", str(completions // settings.updates)),
        ("optimiser updates", f"{split.max_steps} ({settings.steps} steps x {settings.updates})"),
    ]
    rollouts, fact = _rollouts(settings, shape, launch, memory, length)
    return Plan(
        "GRPO",
        _label(model),
        memory,
        (*parts, *rollouts),
        (*facts, about_rows, fact, *_on_a_cpu(settings, launch, memory)),
    )


def _label(model: str | Path) -> str:
    """A hub name as it is, a folder by its last three names: no path of a machine in an executed notebook."""
    path = Path(model)
    return "/".join(path.parts[-3:]) if path.is_absolute() else str(model)


def _rollouts(
    settings: GRPOSettings, shape: Shape, launch: Launch, memory: float, length: int
) -> tuple[list[Part], tuple[str, str]]:
    if not settings.use_vllm:
        rows = -(-settings.prompts * settings.rollouts // launch.total)
        cache, formula = rows * length * kv_bytes(shape, 4), "b * n * 2 * L * k * 4 (transformers, float32)"
        part = Part("rollouts: key-value cache", cache, formula, KV, Phase.ROLLOUTS)
        return [part], ("rollouts", f"transformers, {rows} at once on each process")
    if settings.vllm_mode == "server":
        return [], ("rollouts", f"vLLM server at {settings.vllm_server}: its GPUs are not in this plan")
    split = settings.vllm_tensor_parallel
    if launch.total % split:
        raise InputError(
            f"vllm_tensor_parallel is {split}, which does not divide {launch.total} processes",
            remedy="choose a divisor",
        )
    share, weights = settings.vllm_memory * memory, 2.0 * parameters(shape)["total"] / split
    sequence = length * kv_bytes(shape) / split
    held = (share - weights) / sequence
    if held < 1:
        raise InputError(
            f"vLLM may have {share / GIB:.1f} GiB of a GPU; weights of {weights / GIB:.1f} and a sequence of {length} "
            f"tokens ({sequence / GIB:.1f}) do not fit",
            remedy="raise vllm_tensor_parallel or vllm_memory, or use vllm_mode: server",
        )
    phase = Phase.ROLLOUTS if settings.vllm_sleep else Phase.ALWAYS
    parts = [
        Part("rollouts: vLLM's weights", weights, "2P / vllm_tensor_parallel", ZERO, phase),
        Part("rollouts: key-value cache", share - weights, "vllm_memory * GPU - weights", KV, phase),
    ]
    return parts, ("rollouts", f"vLLM colocate: {held:.1f} sequences of {length} tokens fit its cache at once")


def _stream(launch: Launch) -> int:
    """Bytes of an element between layers: bf16 where the weights are sharded in bf16, float32 under autocast."""
    return 2 if launch.total > 1 and sharding(launch.accelerate) == "full" else 4


def render(plan: Plan) -> str:
    """The plan as text: a line a part (GiB, formula, source), the sum, and the facts."""
    lines = [f"{plan.kind} of {plan.model}: memory of each GPU"]
    wide = max(len(part.name) for part in plan.parts) + 2
    for part in plan.parts:
        when = "" if part.phase is Phase.ALWAYS else f"{part.phase} only: "
        lines.append(f"  {part.name:<{wide}}{_size(part.bytes):>11}  {when}{part.formula}  [{part.source}]")
    always = plan.sum(Phase.ALWAYS)
    for phase in (Phase.UPDATE, Phase.ROLLOUTS):
        if plan.sum(phase):
            lines.append(f"  {'in the ' + phase:<{wide}}{_size(always + plan.sum(phase)):>11}")
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    lines.append(
        f"  {'largest':<{wide}}{_size(plan.needed):>11}  of {_size(plan.room).strip()} that may be used "
        f"({_size(plan.memory).strip()} less {RESERVE:.0%}): {verdict}"
    )
    lines += [f"  {name}: {text}" for name, text in plan.facts]
    return "\n".join(lines)


def _gflop(count: float) -> str:
    return f"{count / 1e9:.1f}" if count >= 1e9 else f"{count / 1e9:.2g}"


def _size(count: float) -> str:
    return f"{count / GIB:.2f} GiB" if count >= 0.1 * GIB else f"{count / 2**20:.1f} MiB"


def device_memory() -> float:
    """Bytes of one GPU of this machine, or of its memory where there is none."""
    import os

    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
