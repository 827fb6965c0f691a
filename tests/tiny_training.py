"""A tiny Qwen3 with a byte tokenizer, a few examples, and settings that take seconds: what the training tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rrlib.prompts import LAST_THINK, PREFIX, SUFFIX, SYSTEM_THINK
from rrlib.training.config import GRPOSettings, SFTSettings
from rrlib.types import Passage, Query, RankingExample

QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def make_tokenizer(folder: Path, eos: str = "<|im_end|>", template: str = QWEN, bos: str | None = None) -> Any:
    """Bytes, the tags and the fixed sentences of the wire format as single ordinary tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(SPECIALS + (LLAMA if bos else []))
    fixed = [SYSTEM_THINK, PREFIX.split("{num}")[1].split("{query}")[0], SUFFIX.split("{num}")[1] + LAST_THINK]
    ordinary = ["<think>", "</think>", "<answer>", "</answer>", *fixed]
    inner.add_tokens([AddedToken(t, normalized=False, special=False) for t in ordinary])
    if bos:
        ids = [(bos, inner.token_to_id(bos))]
        inner.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=ids)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=eos,
        pad_token="<|endoftext|>",
        bos_token=bos,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_backbone(folder: Path) -> Path:
    """A random Qwen3 of 0.1M parameters with its tokenizer, in a folder."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.set_num_threads(1)
    tokenizer = make_tokenizer(folder)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    return folder


def example(number: int, n: int = 3, reasoning: str = "ok", text: str = "a") -> RankingExample:
    passages = tuple(Passage(f"d{number}-{i}", f"{text}{i}") for i in range(n))
    gold = tuple((number + i) % n for i in range(n))
    return RankingExample(
        Query(f"q{number}", f"x{number}"), passages, tuple(int(i == gold[0]) for i in range(n)), gold, reasoning
    )


EXAMPLES = [example(i) for i in range(8)]
SFT = SFTSettings(
    learning_rate=1e-2, micro_batch=8, accumulation=1, epochs=1, max_steps=6, max_length=512, dtype="fp32",
    device="cpu", save_every=3, keep=0, gradient_checkpointing=False,
)  # fmt: skip
GRPO = GRPOSettings(
    learning_rate=1e-4, micro_batch=8, prompts=4, rollouts=4, steps=2, save_every=1, max_prompt=400, max_completion=40,
    dtype="fp32", device="cpu", keep=0, gradient_checkpointing=False,
)  # fmt: skip
