"""The shapes of the paper's models and of two small ones, so that a plan needs no weights and no network.

Sources: the configuration files of the released checkpoints (config.json on their hub pages). What `parameters` counts
is held against models that transformers builds on the meta device (tests/test_training_plan.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrlib.errors import InputError
from rrlib.resources import SMOLLM2, resolve


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder-only transformer: sizes in numbers of elements. tied: input and output embedding are one matrix."""

    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    mlp: int
    vocabulary: int
    tied: bool = False
    positions: int = 32768

    @property
    def attention_width(self) -> int:
        """Elements of all query heads of one token."""
        return self.heads * self.head

    @property
    def kv_width(self) -> int:
        """Elements of all keys of one token (and as many of its values) in one layer."""
        return self.kv_heads * self.head


SHAPES: dict[str, Shape] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Shape("llama", 576, 30, 9, 3, 64, 1536, 49152, tied=True, positions=8192),
    "Qwen/Qwen2.5-0.5B-Instruct": Shape("qwen2", 896, 24, 14, 2, 64, 4864, 151936, tied=True),
    "Qwen/Qwen2.5-7B-Instruct": Shape("qwen2", 3584, 28, 28, 4, 128, 18944, 152064),
    "Qwen/Qwen2.5-32B-Instruct": Shape("qwen2", 5120, 64, 40, 8, 128, 27648, 152064),
    "Qwen/Qwen3-8B": Shape("qwen3", 4096, 36, 32, 8, 128, 12288, 151936, positions=40960),
    "meta-llama/Llama-3.1-8B-Instruct": Shape("llama", 4096, 32, 32, 8, 128, 14336, 128256, positions=131072),
}
"""Hub name -> shape. A base model has the shape of its instructed one."""

SHORT = {
    SMOLLM2: "HuggingFaceTB/SmolLM2-135M-Instruct",
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B-Instruct",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
    "qwen2.5-32b": "Qwen/Qwen2.5-32B-Instruct",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "llama3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "liuwenhan/reasonrank-7B": "Qwen/Qwen2.5-7B-Instruct",
    "liuwenhan/reasonrank-32B": "Qwen/Qwen2.5-32B-Instruct",
}
"""Name on the command line, reference in a profile, or released checkpoint -> hub name of the same shape."""

_CLASSES = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}


def shape_of(model: str | Path) -> Shape:
    """The shape of a name of the tables above, or of a checkpoint folder. Raises InputError for what is neither."""
    name = SHORT.get(str(model), str(model))
    for hub_name in (name, f"{name}-Instruct"):
        if hub_name in SHAPES:
            return SHAPES[hub_name]
    path = Path(resolve(name))
    if not (path / "config.json").is_file():
        raise InputError(
            f"no shape is known for the model {name!r}",
            remedy=f"name a checkpoint folder, or one of {', '.join((*SHORT, *SHAPES))}",
        )
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Shape(
        config.model_type,
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        head,
        config.intermediate_size,
        config.vocab_size,
        bool(config.tie_word_embeddings),
        config.max_position_embeddings,
    )


def model_config(shape: Shape, **changes: Any) -> Any:
    """The transformers configuration of a shape. changes: fields of the configuration, such as num_hidden_layers."""
    import transformers

    if shape.family not in _CLASSES:
        raise InputError(f"no model class for {shape.family!r}", remedy=f"use one of {', '.join(_CLASSES)}")
    values = {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head,
        "intermediate_size": shape.mlp,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": shape.positions,
    }
    return getattr(transformers, f"{_CLASSES[shape.family]}Config")(**{**values, **changes})


def parameters(shape: Shape) -> dict[str, int]:
    """Numbers of parameters: `layer` (one), `embedding`, `head` (0 where tied), `total`. By arithmetic alone.

    Biases of Qwen2's query, key and value, and Qwen3's norms of query and key, are counted.
    """
    wide, narrow, hidden = shape.attention_width, shape.kv_width, shape.hidden
    layer = hidden * (2 * wide + 2 * narrow) + 3 * hidden * shape.mlp + 2 * hidden
    layer += (wide + 2 * narrow) if shape.family == "qwen2" else 2 * shape.head if shape.family == "qwen3" else 0
    embedding = shape.vocabulary * hidden
    head = 0 if shape.tied else embedding
    return {
        "layer": layer,
        "embedding": embedding,
        "head": head,
        "total": shape.layers * layer + embedding + head + hidden,
    }


def lora_parameters(shape: Shape, rank: int) -> int:
    """Parameters of adapters of this rank on all linear layers but the output head (peft's `all-linear`)."""
    hidden, wide, narrow = shape.hidden, shape.attention_width, shape.kv_width
    sides = 2 * (hidden + wide) + 2 * (hidden + narrow) + 3 * (hidden + shape.mlp)
    return shape.layers * rank * sides


def kv_bytes(shape: Shape, element: int = 2) -> float:
    """Bytes of the key-value cache of one token: 2 * L * k * element."""
    return 2.0 * shape.layers * shape.kv_width * element


def flops_per_token(shape: Shape, length: int) -> float:
    """Floating-point operations that training spends on a token of a sequence of this length: 6 a parameter that is
    multiplied (2 forward, 4 backward; PaLM, arXiv 2204.02311, appendix B), and causal attention, which on average sees
    half of the sequence: 6 * layers * width of the queries * length. Recomputation is not counted: it is no progress.
    """
    count = parameters(shape)
    multiplied = count["total"] - (0 if shape.tied else count["embedding"])
    return 6.0 * multiplied + 6.0 * shape.layers * shape.attention_width * length
