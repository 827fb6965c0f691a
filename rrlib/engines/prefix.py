"""Batched decoding that reads each prompt once, whatever the number of answers drawn from it.

transformers' `generate` copies the whole key and value cache at every token, runs a prompt through the model once for
each of its rollouts, and carries finished sequences along to the end. On a CPU with a small model that is most of the
time. Here a prompt is read once; its keys and values are shared by all its answers and never copied; the answers have
buffers of their own; prompts whose answers are all finished leave the batch. The arithmetic is that of the model's own
layers: only the attention function is exchanged, through transformers' attention interface, while this runs.

For decoder models with rotary or absolute positions and full attention (Qwen2, Qwen3, Llama and their kin); models with
sliding-window layers are left to `generate` (`supports`). Sampling: temperature, top-p, top-k, as transformers' own.

Shapes: P prompts, C copies (answers a prompt), R = P x C rows, W tokens of the longest prompt, T tokens of an answer so
far, A tokens of the longest answer, H query heads, K key and value heads, M = H / K query heads to each of them, D size
of a head, V vocabulary. Rows lie prompt by prompt: row r answers prompt r // C.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

_NAME = "rrlib_shared_prefix"
_SHRINK = 0.25
"""Share of the prompts that must be finished before the batch is made smaller: a copy costs as much as some steps."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """temperature 0 is greedy; top_p in (0, 1], top_k 0 = off."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


def supports(model: Any) -> bool:
    """Whether this decoder can run the model: full attention in every layer, and an exchangeable attention."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    tested = getattr(config, "model_type", "") in {"qwen2", "qwen3", "llama", "mistral"}
    return tested and kinds == {"full_attention"} and not getattr(config, "sliding_window", None)


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    copies: int = 1,
    max_new_tokens: int,
    eos: Sequence[int],
    sampling: Sampling | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> list[list[int]]:
    """New tokens of `copies` answers to each prompt: prompt by prompt, copies next to each other.

    prompts: token ids, none empty. eos: ids that end an answer; the one that did is the answer's last token.
    max_new_tokens: longest answer. generator: of the sampling (None: torch's global one), or one for each answer, which
    is then drawn alike in any batch. The model is left in the mode it was in. Returns len(prompts) * copies lists.
    """
    import torch

    draw = sampling or Sampling()
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False), _attention(model):
            return _decode(model, prompts, copies, max_new_tokens, list(eos), draw, generator, device)
    finally:
        model.train(training)


def answer_logprobs(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    answer: int,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities of the last `answer` tokens of each row, with gradients; equal prompts are read once.

    input_ids, attention_mask: (rows, width); prompts are padded on the left, answers on the right, as TRL lays them
    out. Returns (log-probabilities, entropies or None), each (rows, answer), 0.0 on padding. The caller's autocast and
    grad mode hold. Not for models under gradient checkpointing.
    """
    import torch

    prompts, owner = torch.unique(input_ids[:, :-answer], dim=0, return_inverse=True)  # (P, W), (R,)
    first = torch.stack([(owner == i).nonzero()[0, 0] for i in range(len(prompts))])  # (P,) a row of each prompt
    seen = attention_mask[first, :-answer].bool()  # (P, W)
    real = attention_mask[:, -answer:].bool()  # (R, A)
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    cache = _SharedCache(seen, 1, 0)
    with _attention(model):
        places = _places(seen)
        read = decoder(input_ids=prompts, position_ids=places, past_key_values=cache, use_cache=True, shared=cache)
        # The last token of a prompt predicts the first of each of its answers.
        hidden = read.last_hidden_state[:, -1:][owner]  # (R, 1, size)
        if answer > 1:
            cache.reading, cache.owner = False, owner
            places = seen.sum(1)[owner][:, None] + torch.arange(answer - 1, device=input_ids.device)  # (R, A - 1)
            more = decoder(  # all but the last token of an answer: nothing is predicted from that
                input_ids=input_ids[:, -answer:-1],
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
                shared=cache,
            )
            hidden = torch.cat([hidden, more.last_hidden_state], 1)  # (R, A, size)
    logits = head(hidden[real]).float() / temperature  # (real tokens, V): padding has no row, V is large
    logprobs = logits.log_softmax(-1)
    chosen = logprobs.gather(1, input_ids[:, -answer:][real][:, None]).squeeze(1)  # (real tokens,)
    scores = torch.zeros(real.shape, device=real.device).masked_scatter(real, chosen)  # (R, A)
    if not entropy:
        return scores, None
    spread = -(logprobs.exp() * logprobs).sum(-1)  # (real tokens,) entropy in nats
    return scores, torch.zeros(real.shape, device=real.device).masked_scatter(real, spread)


def _decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    copies: int,
    max_new_tokens: int,
    eos: list[int],
    draw: Sampling,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    device: torch.device,
) -> list[list[int]]:
    import torch

    cache, logits = _read(model, prompts, copies, max_new_tokens, device)
    ends = torch.tensor(eos, device=device)
    position = torch.tensor([len(p) for p in prompts], device=device).repeat_interleave(
        copies
    )  # (R,) of the next token
    logits = logits.repeat_interleave(copies, 0)  # (P, V) -> (R, V): all answers to a prompt begin alike
    # The batch shrinks as prompts finish; `out` and `length` do not, and `rows` says where a row of the batch belongs.
    rows = torch.arange(len(prompts) * copies, device=device)  # (R,)
    done = torch.zeros(len(rows), dtype=torch.bool, device=device)  # (R,)
    out = torch.full((len(rows), max_new_tokens), eos[0], device=device)  # (R, A)
    length = torch.full((len(rows),), max_new_tokens, device=device)  # (R,)
    for step in range(max_new_tokens):
        token = pick(logits, draw, generator)  # (R,); a finished answer goes on drawing until its prompt leaves
        out[rows, step] = token
        ended = torch.isin(token, ends) & ~done
        length[rows[ended]] = step + 1
        done |= ended
        if bool(done.all()) or step + 1 == max_new_tokens:
            break
        gone = done.view(-1, copies).all(1)  # (P,) prompts without an open answer
        if float(gone.float().mean()) >= _SHRINK:
            stay = (~gone).nonzero().squeeze(1)  # prompts that go on
            keep = (stay[:, None] * copies + torch.arange(copies, device=device)).flatten()  # and their rows
            cache.select(stay, keep)
            rows, done, position, token = rows[keep], done[keep], position[keep], token[keep]
            if isinstance(generator, Sequence):
                generator = [generator[row] for row in keep.tolist()]
        step_out = model(
            input_ids=token[:, None],
            position_ids=position[:, None],
            past_key_values=cache,
            use_cache=True,
            shared=cache,
        )
        logits = step_out.logits[:, -1]  # (R, V)
        position = position + 1
    return [row[:n] for row, n in zip(out.tolist(), length.tolist(), strict=True)]


def _read(
    model: Any, prompts: Sequence[Sequence[int]], copies: int, room: int, device: torch.device
) -> tuple[_SharedCache, torch.Tensor]:
    """Run the prompts through the model, padded on the left; the cache, and the logits of the first new token."""
    import torch

    width = max(len(p) for p in prompts)
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)  # (P, W)
    seen = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts], device=device)  # (P, W)
    cache = _SharedCache(seen, copies, room)
    first = model(
        input_ids=ids,
        position_ids=_places(seen),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,  # (P, W, V) would be the largest tensor of all
        shared=cache,
    )
    cache.reading, cache._mask = False, None
    return cache, first.logits[:, -1]  # (P, V)


def _places(seen: torch.Tensor) -> torch.Tensor:
    """Positions of prompts padded on the left: 0, 1, ... from the first real token on; 0 on padding. (P, W)"""
    return (seen.long().cumsum(1) - 1).clamp(min=0)


class _SharedCache:
    """Keys and values of the prompts (one row a prompt) and of the answers (one row an answer), layer by layer.

    What transformers' models ask of a cache: `update`, `get_seq_length`. seen: (P, W), False on padding. room: tokens
    that each answer may have (0 where whole answers are read at once, and so never kept).
    """

    is_compileable = False  # transformers asks; a compiled step would want buffers of one size

    def __init__(self, seen: torch.Tensor, copies: int, room: int) -> None:
        import torch

        self.copies, self.room = copies, room
        self.reading = True  # prompts are read first, answers afterwards
        self._mask: torch.Tensor | None = None
        self.owner: torch.Tensor | None = None  # (R,) where whole answers are read: which prompt each belongs to
        self.prompt: list[tuple[torch.Tensor, torch.Tensor]] = []  # a layer: keys and values, (P, K, W, D)
        self.answer: list[tuple[torch.Tensor, torch.Tensor]] = []  # a layer: keys and values, (R, K, A, D)
        self.length: list[int] = []  # a layer: tokens of the answers so far; layers are run one after the other
        # What padding adds to an attention score: (P, W), 0 or -inf.
        self.bias = torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, float("-inf"))

    def reading_mask(self) -> torch.Tensor | None:
        """What each token of a prompt may look at, the same in every layer; None where that is all before it."""
        import torch

        if self._mask is None and bool((self.bias != 0).any()):
            width = self.bias.shape[1]
            causal = torch.ones(width, width, dtype=torch.bool, device=self.bias.device).tril()
            own = torch.eye(width, dtype=torch.bool, device=self.bias.device)
            # A padded place may look at itself: a softmax over nothing would be NaN.
            self._mask = causal & (self.bias[:, None, None, :] == 0) | own  # (P, 1, W, W)
        return self._mask

    def get_seq_length(self, layer_idx: int = 0) -> int:
        if not self.prompt:
            return 0
        return int(self.bias.shape[1]) + (self.length[0] if self.length else 0)

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """While prompts are read: keep them. Later: add one token to the answers and return those alone.

        key, value: (P, K, W, D) while reading; (R, K, 1, D) token by token; (R, K, A - 1, D) where whole answers are
        read. The model hands what is returned to `_attend`, which finds the prompt's keys in the cache itself.
        """
        if self.reading:
            # The model's keys lie token by token, so that every product with them would copy them: once is enough.
            kept = (key.contiguous(), value.contiguous()) if self.room else (key, value)
            self.prompt.append(kept)
            return kept
        if self.owner is not None:
            return key, value
        if len(self.answer) <= layer_idx:
            shape = (key.shape[0], key.shape[1], self.room, key.shape[3])  # (R, K, A, D), filled as answers grow
            self.answer.append((key.new_empty(shape), value.new_empty(shape)))
            self.length.append(0)
        keys, values = self.answer[layer_idx]
        at = self.length[layer_idx]
        keys[:, :, at] = key[:, :, 0]
        values[:, :, at] = value[:, :, 0]
        self.length[layer_idx] = at + 1
        return keys[:, :, : at + 1], values[:, :, : at + 1]  # views: nothing is copied

    def select(self, prompts: torch.Tensor, answers: torch.Tensor) -> None:
        """Go on with these prompts and answers (indices of rows)."""
        self.bias = self.bias[prompts]
        self.prompt = [(k[prompts], v[prompts]) for k, v in self.prompt]
        self.answer = [(k[answers], v[answers]) for k, v in self.answer]


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float,
    dropout: float = 0.0,
    shared: _SharedCache | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over the prompt's keys and the answer's own. query: (rows, H, tokens, D), key and value: as `update`
    returned them; returns (rows, tokens, H, D), as transformers' attention functions do.

    One softmax runs over both parts, so the result is that of the whole sequence. Query heads of one key head stand
    next to each other (head h reads key head h // M), so all that share a prompt's keys meet them in one product.
    """
    import torch

    assert shared is not None
    rows, heads, _, size = query.shape  # R, H, 1, D while answers grow
    groups = key.shape[1]  # K
    repeat = heads // groups  # M
    if shared.reading:
        mask = shared.reading_mask()
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=repeat > 1
        )
        return out.transpose(1, 2), None
    keys, values = shared.prompt[module.layer_idx]  # (P, K, W, D)
    if shared.owner is not None:
        return _attend_whole(query, key, value, keys[shared.owner], values[shared.owner], shared, scaling), None
    prompts, copies, width = keys.shape[0], shared.copies, keys.shape[2]  # P, C, W
    query = query * scaling
    # Scores against the prompt: its C answers' queries side by side, (P, K, C x M, D) @ (P, K, D, W).
    grouped = query.view(prompts, copies, groups, repeat, size).transpose(1, 2).reshape(prompts, groups, -1, size)
    seen = grouped @ keys.transpose(-1, -2) + shared.bias[:, None, None, :].to(query.dtype)  # (P, K, C x M, W)
    seen = seen.view(prompts, groups, copies, repeat, width).transpose(1, 2).reshape(rows, groups, repeat, width)
    # Scores against the answer's own tokens, a row for itself, and one softmax over the two.
    own = query.view(rows, groups, repeat, size) @ key.transpose(-1, -2)  # (R, K, M, T)
    weights = torch.cat([seen, own], -1).softmax(-1, dtype=torch.float32).to(query.dtype)  # (R, K, M, W + T)
    # The weighted values, the same way back: (P, K, C x M, W) @ (P, K, W, D), and the own ones added.
    back = weights[..., :width].view(prompts, copies, groups, repeat, width).transpose(1, 2)  # (P, K, C, M, W)
    from_prompt = back.reshape(prompts, groups, copies * repeat, width) @ values  # (P, K, C x M, D)
    from_prompt = from_prompt.view(prompts, groups, copies, repeat, size).transpose(1, 2).reshape(rows, heads, 1, size)
    out = from_prompt + (weights[..., width:] @ value).view(rows, heads, 1, size)  # (R, H, 1, D)
    return out.transpose(1, 2), None


def _attend_whole(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    shared: _SharedCache,
    scaling: float,
) -> torch.Tensor:
    """Attention of whole answers: all of the prompt, and of the answer what stands before.

    query: (R, H, T, D); key, value: (R, K, T, D) of the answers; keys, values: (R, K, W, D) of each row's prompt,
    copied, since gradients flow through them. Returns (R, T, H, D).
    """
    import torch

    assert shared.owner is not None
    tokens = query.shape[2]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril()  # (T, T)
    before = (shared.bias == 0)[shared.owner][:, None, None, :].expand(-1, 1, tokens, -1)  # (R, 1, T, W)
    mask = torch.cat([before, causal.expand(len(query), 1, tokens, tokens)], -1)  # (R, 1, T, W + T)
    out = torch.nn.functional.scaled_dot_product_attention(
        query,
        torch.cat([keys, key], 2),
        torch.cat([values, value], 2),
        attn_mask=mask,
        scale=scaling,
        enable_gqa=query.shape[1] > key.shape[1],
    )
    return out.transpose(1, 2)


@contextmanager
def _attention(model: Any) -> Iterator[None]:
    """The model with our attention function; afterwards with its own again."""
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attend)
    config = model.config
    previous = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = previous


def pick(
    logits: torch.Tensor, draw: Sampling, generator: torch.Generator | Sequence[torch.Generator] | None
) -> torch.Tensor:
    """One token a row: (R, V) -> (R,). Filters in transformers' order: temperature, top-k, top-p."""
    import torch

    if draw.temperature == 0:
        return logits.argmax(-1)
    scores = logits.float() / draw.temperature
    if draw.top_k:
        least = scores.topk(min(draw.top_k, scores.shape[-1]), -1).values[:, -1:]  # (R, 1) the k-th best
        scores = scores.masked_fill(scores < least, float("-inf"))
    if draw.top_p < 1.0:
        ordered, where = scores.sort(-1)  # (R, V), the least likely first
        low = ordered.softmax(-1).cumsum(-1) <= 1.0 - draw.top_p  # the tail that holds 1 - top_p
        low[:, -1] = False  # the likeliest token always stays
        scores = scores.masked_fill(low.scatter(1, where, low), float("-inf"))
    weights = scores.softmax(-1)
    if isinstance(generator, Sequence):
        each = zip(weights, generator, strict=True)
        return torch.cat([torch.multinomial(row, 1, generator=own) for row, own in each])
    return torch.multinomial(weights, 1, generator=generator).squeeze(1)
