"""Decoding by CUDA graphs (rrlib.engines.graphs): the same tokens as the prefix decoder, with and without a copy."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from rrlib.engines.graphs import GraphDecoder
from rrlib.engines.prefix import decode

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 200,
    "tie_word_embeddings": True,
}
PROMPTS = [[5, 6, 7, 8, 9], [11, 12], [20, 21, 22, 23, 24, 25, 26, 27, 28], [30]]


def small(kind: str = "llama") -> Any:
    torch.manual_seed(3)
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16)).eval()


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("eos", [[2], list(range(0, 200, 3))])
@pytest.mark.parametrize("length", [1, 2, 40])
def test_the_same_tokens_as_the_prefix_decoder(kind: str, eos: list[int], length: int) -> None:
    model = small(kind)
    expected = decode(model, PROMPTS, max_new_tokens=length, eos=eos)
    assert GraphDecoder(model).decode(PROMPTS, max_new_tokens=length, eos=eos) == expected
    assert any(len(row) < length for row in expected) == (len(eos) > 1 and length > 1) or length == 1


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_shared_keys_are_not_written_out_for_each_head(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import sdpa_attention

    widened = []
    plain = sdpa_attention.repeat_kv
    monkeypatch.setattr(sdpa_attention, "repeat_kv", lambda x, n: widened.append(x.shape[2]) or plain(x, n))
    model = small(kind)
    rows = GraphDecoder(model).decode(PROMPTS, max_new_tokens=20, eos=[2])
    assert len(widened) == 2 * 3  # keys and values of three layers, when the prompts are read
    assert model.config._attn_implementation == "sdpa"  # its own again
    model.set_attn_implementation("eager")
    assert GraphDecoder(model).decode(PROMPTS, max_new_tokens=20, eos=[2]) == rows
    assert model.config._attn_implementation == "eager"


def test_draws_come_from_the_models_distribution() -> None:
    model = small()
    with torch.no_grad():
        probabilities = model(torch.tensor([PROMPTS[1]])).logits[0, -1].softmax(-1)
    torch.manual_seed(1)
    rows = GraphDecoder(model).decode([PROMPTS[1]], copies=4000, max_new_tokens=1, eos=[2], temperature=1.0)
    counts = Counter(row[0] for row in rows)
    expected = probabilities * 4000
    drawn = torch.tensor([float(counts[token]) for token in range(200)])
    assert ((drawn - expected) ** 2 / expected.clamp(min=1e-9)).sum() < 290  # chi-square, 199 degrees: p about 1e-5


def test_a_copy_follows_the_weights_and_leaves_the_model_alone() -> None:
    model = small().train()
    decoder = GraphDecoder(model, copied=True)
    first = decoder.decode(PROMPTS, max_new_tokens=12, eos=[2])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    second = decoder.decode(PROMPTS, max_new_tokens=12, eos=[2])
    assert first != second
    assert second == GraphDecoder(small_like(model)).decode(PROMPTS, max_new_tokens=12, eos=[2])
    assert model.training and all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())
    assert decoder.parts[1].weight is decoder.parts[0].embed_tokens.weight  # still tied


def test_adapters_are_part_of_the_model() -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(small(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    rows = GraphDecoder(adapted).decode(PROMPTS, max_new_tokens=20, eos=[2])
    copied = GraphDecoder(adapted, copied=True).decode(PROMPTS, max_new_tokens=20, eos=[2])
    assert len(copied) == len(PROMPTS) and rows != GraphDecoder(small()).decode(PROMPTS, max_new_tokens=20, eos=[2])
    assert rows == decode(adapted.merge_and_unload(), PROMPTS, max_new_tokens=20, eos=[2])


def small_like(model: Any) -> Any:
    other = small()
    other.load_state_dict(model.state_dict())
    return other.to(torch.bfloat16)


@pytest.mark.gpu
def test_a_captured_graph_gives_the_same_tokens() -> None:
    model = small().to("cuda")
    expected = decode(model, PROMPTS, max_new_tokens=60, eos=[2])
    assert GraphDecoder(model).decode(PROMPTS, max_new_tokens=60, eos=[2]) == expected
