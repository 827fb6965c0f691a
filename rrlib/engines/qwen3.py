"""Qwen3 to be read: the forward pass in numpy, for small checkpoints and without torch.

As transformers computes it in float32 (Yang et al. 2025, arXiv 2505.09388): RMSNorm, rotary positions, grouped-query
attention with normed queries and keys, SwiGLU. A test holds both equal on the packaged model.

Shapes: B answers, T tokens of this call, S tokens in the cache, H heads, K key-value heads, G = H / K, D head size,
C channels, V words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rrlib.errors import InputError

Array = NDArray[Any]
REMEDY = "use --engine transformers"
NUMBERS = (
    "num_hidden_layers", "rms_norm_eps", "num_attention_heads", "num_key_value_heads", "hidden_size",
    "max_position_embeddings",
)  # fmt: skip
"""What config.json must say."""
PARTS = (
    "input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
    "self_attn.o_proj", "self_attn.q_norm", "self_attn.k_norm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
"""The tensors of a layer."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint's folder; empty where there is no such file."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return value


def read_weights(path: Path) -> dict[str, Array]:
    """The tensors of a safetensors file (float32, float16 or bfloat16) as float32."""
    import safetensors

    weights = {}
    for name, tensor in safetensors.deserialize(path.read_bytes()):
        if tensor["dtype"] == "BF16":  # numpy has no such type: the upper half of a float32
            values = (np.frombuffer(tensor["data"], np.uint16).astype(np.uint32) << 16).view(np.float32)
        elif tensor["dtype"] in ("F16", "F32"):
            values = np.frombuffer(tensor["data"], f"f{int(tensor['dtype'][1:]) // 8}").astype(np.float32)
        else:
            raise InputError(f"{name} is stored as {tensor['dtype']}", path=path, remedy=REMEDY)
        weights[name.removeprefix("model.")] = values.reshape(tensor["shape"])
    return weights


def check_supported(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise InputError for a checkpoint that is no small, plain Qwen3."""
    ropes = [config[name] for name in ("rope_parameters", "rope_scaling") if config.get(name)]  # older ones say `type`
    kinds = [rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope for rope in ropes]
    kind = next((kind for kind in kinds if kind != "default"), "default")
    layers = config.get("layer_types") or ["full_attention"]
    for holds, what in (
        (config.get("model_type") == "qwen3", f"a model of type {config.get('model_type')!r}"),
        (kind == "default", f"rotary positions of type {kind!r}"),
        (config.get("hidden_act") == "silu", f"the activation {config.get('hidden_act')!r}"),
        (not config.get("use_sliding_window"), "attention over a sliding window"),
        (all(layer == "full_attention" for layer in layers), f"layers of the types {layers}"),
        (not config.get("attention_bias"), "attention with biases"),
        (not config.get("quantization_config"), "quantised weights"),
        ((folder / "model.safetensors").is_file(), "weights in several files, or not in model.safetensors"),
        ((folder / "tokenizer.json").is_file(), "a tokenizer without tokenizer.json"),
    ):
        if not holds:
            why = f"the numpy engine reads small Qwen3 checkpoints only, not {what}"
            raise InputError(why, path=folder, remedy=REMEDY)
    for name in NUMBERS:
        if isinstance(config.get(name), bool) or not isinstance(config.get(name), int | float):
            why = f"`{name}` is {config[name]!r}, no number" if name in config else f"there is no `{name}`"
            raise InputError(why, path=folder / "config.json", remedy=f"fetch it again, or {REMEDY}")


def check_weights(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Array]) -> None:
    """Raise InputError where a tensor of the model is not there."""
    needed = ["embed_tokens.weight", "norm.weight"]
    needed += [f"layers.{layer}.{part}.weight" for layer in range(int(config["num_hidden_layers"])) for part in PARTS]
    if not config.get("tie_word_embeddings", False):  # as Qwen3's own default
        needed.append("lm_head.weight")
    if absent := [name for name in needed if name not in weights]:
        why = f"the weights lack {len(absent)} of the model's tensors, such as {absent[0]}"
        remedy = "fetch them again; where the output is that of the input, config.json says tie_word_embeddings: true"
        raise InputError(why, path=folder / "model.safetensors", remedy=remedy)


class Qwen3:
    """The forward pass over a folder's weights, in float32. Raises InputError for another kind of checkpoint."""

    def __init__(self, folder: Path) -> None:
        config = read_json(folder / "config.json")
        check_supported(folder, config)
        self.weights = read_weights(folder / "model.safetensors")
        check_weights(folder, config, self.weights)
        self.layers, self.eps = int(config["num_hidden_layers"]), float(config["rms_norm_eps"])
        self.heads, self.kv_heads = int(config["num_attention_heads"]), int(config["num_key_value_heads"])
        self.head_size = int(config.get("head_dim") or config["hidden_size"] // self.heads)
        self.positions = int(config["max_position_embeddings"])
        theta = (config.get("rope_parameters") or {}).get("rope_theta") or config.get("rope_theta") or 10_000.0
        self.frequencies = float(theta) ** (-np.arange(0, self.head_size, 2) / self.head_size)  # (D/2,)
        tied = "lm_head.weight" not in self.weights
        self.output = self.weights["embed_tokens.weight" if tied else "lm_head.weight"]  # (V, C)

    def new_cache(self, answers: int, tokens: int) -> Array:
        """An empty cache of keys and values: (layers, 2, B, K, S, D)."""
        return np.zeros((self.layers, 2, answers, self.kv_heads, tokens, self.head_size), np.float32)

    def __call__(self, ids: Array, starts: Array, cache: Array) -> Array:
        """The last layer's output (B, T, C) for tokens (B, T) at places starts (B,) and on; the cache takes them up."""
        places = starts[:, None] + np.arange(ids.shape[1])  # (B, T)
        seen = np.arange(places.max() + 1) <= places[:, :, None]  # (B, T, S)
        mask = np.where(seen, np.float32(0), np.float32(-np.inf))[:, None, None]  # (B, 1, 1, T, S)
        angles = places[:, :, None] * self.frequencies  # (B, T, D/2)
        turn = np.cos(angles).astype(np.float32)[:, :, None], np.sin(angles).astype(np.float32)[:, :, None]
        x = self.weights["embed_tokens.weight"][ids]  # (B, T, C)
        for layer in range(self.layers):
            name = f"layers.{layer}."
            y = self._norm(x, name + "input_layernorm")
            x = x + self._attend(name + "self_attn.", y, places, turn, mask, cache[layer])
            y = self._norm(x, name + "post_attention_layernorm")
            gate = self._linear(y, name + "mlp.gate_proj")  # (B, T, hidden)
            gate = gate / (1 + np.exp(-gate)) * self._linear(y, name + "mlp.up_proj")
            x = x + self._linear(gate, name + "mlp.down_proj")
        return self._norm(x, "norm")

    def logits(self, hidden: Array) -> Array:
        """Scores of the next token (..., V) from the last layer's output (..., C)."""
        return hidden @ self.output.T

    def _attend(
        self, name: str, x: Array, places: Array, turn: tuple[Array, Array], mask: Array, cache: Array
    ) -> Array:
        """Grouped-query attention (B, T, C) -> (B, T, C) over what the cache (2, B, K, S, D) holds and takes up."""
        B, T, D, K = *places.shape, self.head_size, self.kv_heads
        q = self._linear(x, name + "q_proj").reshape(B, T, self.heads, D)
        k, v = (self._linear(x, name + part).reshape(B, T, K, D) for part in ("k_proj", "v_proj"))
        q = rotate(self._norm(q, name + "q_norm"), turn)
        rows = np.arange(B)[:, None]
        cache[0][rows, :, places] = rotate(self._norm(k, name + "k_norm"), turn)
        cache[1][rows, :, places] = v
        keys, values = cache[:, :, :, : mask.shape[-1]]  # (B, K, S, D) each
        q = q.reshape(B, T, K, -1, D).transpose(0, 2, 3, 1, 4)  # (B, K, G, T, D)
        scores = q @ keys[:, :, None].swapaxes(-1, -2) / np.float32(D**0.5) + mask  # (B, K, G, T, S)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        seen = (weights @ values[:, :, None]).transpose(0, 3, 1, 2, 4)  # (B, T, K, G, D)
        return self._linear(seen.reshape(B, T, -1), name + "o_proj")

    def _linear(self, x: Array, name: str) -> Array:
        rows = x.reshape(-1, x.shape[-1]) @ self.weights[name + ".weight"].T  # one product, not one an answer
        return rows.reshape(*x.shape[:-1], -1)

    def _norm(self, x: Array, name: str) -> Array:
        scale = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.eps))
        return self.weights[name + ".weight"] * (x * scale)


def rotate(x: Array, turn: tuple[Array, Array]) -> Array:
    """Rotary positions: x (B, T, heads, D), whose halves are turned against each other; turn: cosines and sines."""
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate((a * turn[0] - b * turn[1], b * turn[0] + a * turn[1]), axis=-1)
