"""Small tokenizers with the chat templates of real families (from trl's collection): no hub is reached in tests."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2.5": {
        "template": "qwen2_5",
        "specials": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "eos": "<|im_end|>",
    },
    "qwen3": {"template": "qwen3", "specials": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "eos": "<|im_end|>"},
    "llama3.1": {
        "template": "llama3",
        "specials": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"],
        "eos": "<|eot_id|>",
        "bos": "<|begin_of_text|>",
    },
}


@lru_cache(maxsize=8)
def make_tokenizer(family: str) -> Any:
    """A byte-level BPE (lossless for any text) with the family's special tokens and chat template."""
    import trl
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    facts = FAMILIES[family]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=facts["specials"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["the quick brown fox jumps over the lazy dog and ranks passages by relevance"], trainer
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=facts["eos"],
        bos_token=facts.get("bos"),
        pad_token=facts["specials"][0],
        additional_special_tokens=facts["specials"],
    )
    folder = Path(trl.__file__).parent / "chat_templates"
    fast.chat_template = (folder / f"{facts['template']}.jinja").read_text(encoding="utf-8")
    return fast
