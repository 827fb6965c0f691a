"""Batched decoding on one GPU in which a token costs one launch: a step is captured as a CUDA graph, then replayed.

Without a graph a token of a small model costs its launches: 30 layers of some 40 kernels each, whatever the batch. The
arithmetic is that of the model's own layers over transformers' static cache. Rows of a batch stay together to the end
and each copies its prompt, so this is for models that leave room on a GPU; vLLM is for the others.

On a device without CUDA the same steps run one by one: slower than rrlib.engines.prefix, and for tests alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_LOOK = 16
"""Tokens between two looks at whether all answers are finished: each look waits for the GPU."""


_GROUPED = "rrlib_grouped"
"""Name of our attention among those of transformers."""


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    """Attention of one new token a row, in which heads that share keys are read as places of one head.

    query: (R, heads, 1, D), key and value: (R, shared heads, T, D), attention_mask: (R, 1, 1, T) -> (R, 1, heads, D).
    transformers would write keys and values out anew for every head, for each token and layer; here they are read where
    they lie. Whatever else is asked goes to its own function.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows, heads, length, size = query.shape
    if length > 1 or attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    shared = key.shape[1]
    together = query.reshape(rows, shared, heads // shared, size)  # head h reads the keys h // (heads / shared)
    out = torch.nn.functional.scaled_dot_product_attention(
        together, key, value, attn_mask=attention_mask, scale=options.get("scaling")
    )  # (R, shared, heads / shared, D)
    return out.reshape(rows, 1, heads, size), None


@contextmanager
def _grouped(config: Any) -> Iterator[None]:
    """Decode by `_attend`, whatever attention the model has (some read no mask of true and false); then it has its own
    again."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_GROUPED, _attend)
    AttentionMaskInterface.register(_GROUPED, sdpa_mask)
    own, config._attn_implementation = config._attn_implementation, _GROUPED
    try:
        yield
    finally:
        config._attn_implementation = own


class GraphDecoder:
    """A model's decoder and head, as they are or as a copy in another dtype.

    copied: decode from a bfloat16 copy, which `refresh` fills with the present weights: for a model that is trained in
    float32 under bfloat16 autocast. Only weights of the same places are read, so adapters may be part of the model.
    """

    def __init__(self, model: Any, *, copied: bool = False) -> None:
        import torch

        self.model = model
        self.parts = (model.get_decoder(), model.get_output_embeddings())
        if copied:
            self.parts = copy.deepcopy(self.parts)  # together, so that tied weights stay tied
            for part in self.parts:
                part.to(torch.bfloat16).eval().requires_grad_(False)
                if getattr(part, "is_gradient_checkpointing", False):
                    part.gradient_checkpointing_disable()
        self.copied = copied

    def refresh(self) -> None:
        """Fill the copy with the weights that the model has now."""
        import torch

        with torch.no_grad():
            for part, source in zip(
                self.parts, (self.model.get_decoder(), self.model.get_output_embeddings()), strict=True
            ):
                for ours, theirs in zip(part.parameters(), source.parameters(), strict=True):
                    ours.copy_(theirs)

    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        copies: int = 1,
        max_new_tokens: int,
        eos: Sequence[int],
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """New tokens of `copies` answers to each prompt: prompt by prompt, copies next to each other.

        prompts: token ids, none empty. eos: ids that end an answer; the one that did is the answer's last token.
        temperature: 0 is greedy, else tokens are drawn from torch's generator of the device, or, where each answer has
        a seed, by that, alike in any batch. Returns len(prompts) * copies lists.
        """
        import torch

        if self.copied:
            self.refresh()
        decoder, head = self.parts
        training = decoder.training
        decoder.eval()
        try:
            with torch.no_grad(), torch.autocast(head.weight.device.type, enabled=False), _grouped(decoder.config):
                rows = [list(prompt) for prompt in prompts for _ in range(copies)]
                return _Batch(decoder, head, rows, max_new_tokens, list(eos), temperature, seeds).run()
        finally:
            decoder.train(training)


def _mixed(x: torch.Tensor) -> torch.Tensor:
    """Whole numbers of 64 bits with all their bits mixed (SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * factor
    return x ^ (x >> 31 & (1 << 33) - 1)


def _uniform(keys: torch.Tensor, step: torch.Tensor, words: int) -> torch.Tensor:
    """Numbers from 0 to 1 that follow from a row's key, the token's column and the word: (R, 1), (1,) -> (R, V).

    A generator has a state for the whole batch, so that a row's numbers would depend on the others.
    """
    import torch

    place = step * words + torch.arange(words, device=keys.device)  # (V,)
    bits = _mixed(keys - place * 0x61C8864680B583EB) >> 40 & (1 << 24) - 1
    return (bits + 0.5) / 2.0**24


class _Batch:
    """One batch on its way: R rows, prompts padded on the left to W places, up to A new tokens."""

    def __init__(
        self,
        decoder: Any,
        head: Any,
        rows: list[list[int]],
        answer: int,
        eos: list[int],
        temperature: float,
        seeds: Sequence[int] | None,
    ) -> None:
        import torch
        from transformers import StaticCache

        self.decoder, self.head, self.answer, self.temperature = decoder, head, answer, temperature
        device = head.weight.device
        width = max(map(len, rows))
        seen = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows], device=device)  # (R, W)
        self.ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)  # (R, W)
        self.places = (seen.long().cumsum(1) - 1).clamp(min=0)  # (R, W)
        self.cache = StaticCache(config=decoder.config, max_cache_len=width + answer)
        self.view = torch.nn.functional.pad(seen, (0, answer))[:, None, None, :].contiguous()  # (R, 1, 1, W + A)
        self.ends = torch.tensor(eos, device=device)
        self.out = torch.full((len(rows), answer), -1, device=device)  # (R, A), -1 behind an answer's end
        self.at = torch.tensor([width], device=device)  # place of the next token in the cache
        self.step = torch.tensor([0], device=device)  # its column of `out`
        self.keys = None if seeds is None else _mixed(torch.tensor(seeds, device=device)[:, None])  # (R, 1)
        self.place = self.places[:, -1:] + 1  # (R, 1) its position
        self.token = self._read()[:, None]  # (R, 1)
        self.out[:, :1] = self.token
        self.step.add_(1)
        self.done = (self.token == self.ends).any(1)  # (R,)

    def _pick(self, hidden: torch.Tensor) -> torch.Tensor:
        """The next token of each row, from (R, hidden): the likeliest, or one drawn by Gumbel noise."""
        import torch

        logits = self.head(hidden).float()  # (R, V)
        if self.temperature > 0:
            drawn = torch.rand_like(logits) if self.keys is None else _uniform(self.keys, self.step, logits.shape[1])
            uniform = drawn.clamp(1e-20, 1 - 1e-7)
            logits = logits / self.temperature - (-uniform.log()).log()
        return logits.argmax(-1)

    def _read(self) -> torch.Tensor:
        """The prompts, and the first token of each answer. (R,)"""
        import torch

        width, total = self.ids.shape[1], self.view.shape[-1]
        causal = torch.ones(width, total, dtype=torch.bool, device=self.ids.device).tril()
        own = torch.eye(width, total, dtype=torch.bool, device=self.ids.device)
        mask = (causal & self.view) | own  # (R, 1, W, W + A); a padded place may look at itself, else NaN
        return self._pick(self._hidden(self.ids, mask, self.places))

    def _hidden(self, ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        out = self.decoder(
            input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=self.cache, use_cache=True
        )
        return out.last_hidden_state[:, -1]  # type: ignore[no-any-return]  # (R, hidden)

    def _advance(self) -> None:
        """One token of every row, in place: what a graph captures. A finished row goes on, unheard."""
        import torch

        self.view.index_fill_(3, self.at, True)
        drawn = self._pick(self._hidden(self.token, self.view, self.place))
        drawn = torch.where(self.done, torch.full_like(drawn, -1), drawn)  # (R,)
        self.out.index_copy_(1, self.step, drawn[:, None])
        self.done.logical_or_((drawn[:, None] == self.ends).any(1))
        self.token.copy_(drawn.clamp(min=0)[:, None])
        for counter in (self.place, self.at, self.step):
            counter.add_(1)

    def _captured(self) -> Callable[[], None]:
        """The step as a replay of its graph. Warming up moves the state, so the state is put back."""
        import torch

        layers = self.cache.layers
        state = [self.view, self.out, self.at, self.step, self.place, self.token, self.done]
        state += [layer.cumulative_length for layer in layers]
        before = [tensor.clone() for tensor in state]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._advance()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._advance()
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
        return graph.replay  # type: ignore[no-any-return]

    def run(self) -> list[list[int]]:
        """The new tokens of each row."""
        if self.answer > 1 and not bool(self.done.all()):
            advance = self._captured() if self.ids.is_cuda and self.answer > _LOOK else self._advance
            for step in range(1, self.answer):
                if step % _LOOK == 0 and bool(self.done.all()):
                    break
                advance()
        return [[token for token in row if token >= 0] for row in self.out.tolist()]
