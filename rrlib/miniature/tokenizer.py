"""The miniature's tokenizer: byte-level BPE learned from the world, with the wire format held compactly.

Any text is encoded without loss (bytes are the fallback). The fixed sentences of the protocol, the identifiers
`[1]` to `[40]`, ` > ` and the four tags are single ordinary tokens: the text stays byte-exact, and a prompt spends
its tokens on the query and the passages. The chat template is of the Qwen form, without a default system message.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rrlib.errors import InputError
from rrlib.miniature.thinking import MAYBE, NO, UNKNOWN, YES, belief_text, cue_text
from rrlib.miniature.world import World
from rrlib.prompts import PREFIX, SUFFIX, WINDOW_STYLES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
IDENTIFIERS = 40
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def protocol_phrases() -> list[str]:
    """The fixed parts of the wire format, cut where a number or the query stands; no blank at either end."""
    parts: list[str] = []
    for style in WINDOW_STYLES.values():
        frame = PREFIX.split("{query}")[0] + "{query}" + SUFFIX + "{query}" + style.last
        pieces = [style.system, *frame.replace("{num}", "{query}").split("{query}")]
        parts += [piece.strip(" ") for piece in pieces]
    return list(dict.fromkeys(piece for piece in parts if len(piece) > 5))


def training_texts(world: World) -> Iterator[str]:
    """What the merges are learned from: every text of the world, the words of the reasoning, numbers and roles."""
    names = list(world.concepts)
    for _ in range(4):
        yield from (f" {text}" for text in world.texts())
        for domain in world.domains.values():
            for topic in domain.topics:
                yield f" {domain.passage_text(topic, '')}"
        for name in names:
            yield " ".join(["", name, YES, name, MAYBE, name, NO, UNKNOWN])
            yield cue_text([name, name], [name, name])
            yield belief_text(name, names[:2])
        yield " ".join(["", *map(str, range(1, 101))])
        yield "system\nuser\nassistant\n"
        yield "Ranking: Verdicts: Answer: Passages: Query:"


def train_tokenizer(world: World, vocab_size: int = 5000) -> PreTrainedTokenizerFast:
    """Learn the tokenizer; deterministic. Raises InputError if a concept's name is not one token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=4,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(training_texts(world), trainer)
    ordinary = [*TAGS, *protocol_phrases(), *(f"[{i}]" for i in range(1, IDENTIFIERS + 1)), " > "]
    model.add_tokens([AddedToken(text, special=False, normalized=False) for text in ordinary])
    split = [name for name in world.concepts if len(model.encode(f" {name}").ids) != 1]
    if split:
        raise InputError(f"not one token: {', '.join(split)}", remedy="give these concepts names of one plain word")
    return PreTrainedTokenizerFast(
        tokenizer_object=model,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
