"""The transformers engine, prompts batched by length so that little padding is computed.

On a CPU answers are decoded by rrlib.engines.prefix where it knows the model, else by transformers' `generate`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrlib.engines import prefix
from rrlib.engines.base import Decoding, Reply, Request
from rrlib.engines.checkpoints import cannot_load, check_checkpoint, end_tokens
from rrlib.engines.graphs import GraphDecoder
from rrlib.errors import EngineError, InputError
from rrlib.resources import resolve
from rrlib.templates import apply_template


def load_tokenizer(model: str, *, here: bool = False) -> Any:
    """The tokenizer of a model folder or hub name. Raises InputError where it cannot be loaded.

    here: never ask the hub; a hub name is then found in its cache, or not at all.
    """
    from transformers import AutoTokenizer

    path = resolve(model)
    check_checkpoint(path, weights=False)
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=here)
    except Exception as error:  # of many kinds: its files are another's
        raise cannot_load("tokenizer", model, error) from error


def _load_model(model: str, dtype: Any) -> Any:
    """The model of a folder or hub name. Raises InputError where it, or a part of its weights, cannot be loaded."""
    from transformers import AutoModelForCausalLM

    try:
        lm, report = AutoModelForCausalLM.from_pretrained(
            resolve(model), dtype=dtype, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:
        raise cannot_load("model", model, error) from error
    if absent := sorted(report["missing_keys"]):
        why = f"the weights of {model!r} lack {len(absent)} of the model's tensors, such as {absent[0]}"
        raise InputError(why, remedy="fetch them again, or name a checkpoint of a causal language model")
    return lm


def _check_device(device: str) -> None:
    """Raises InputError for a device that is none, or that this machine has not: before minutes of loading."""
    import torch

    if device == "auto":
        return
    try:
        kind = torch.device(device)
    except RuntimeError:
        raise InputError(f"device {device!r}", remedy="use auto, cpu, cuda or cuda:0") from None
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind.type == "cuda" and (kind.index or 0) >= there:
        why = f"device {device!r}, and torch finds {there or 'no'} CUDA GPU{'s' * (there != 1)} here"
        raise InputError(why, remedy="use auto or cpu")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request, its prompt's ids, and what decides which others it may share a batch with."""

    request: Request
    ids: list[int]
    decoding: Decoding
    limit: int

    @property
    def seed(self) -> int | None:
        """What decides the answer beside the prompt, whichever others are in its batch; None where nothing does."""
        if self.request.seed is not None or self.decoding.seed is None:
            return self.request.seed
        return (self.decoding.seed + self.request.id) % 2**63

    @property
    def kind(self) -> tuple[Any, ...]:
        return self.decoding, self.limit, self.request.stop, self.request.choices, self.seed is None


def common_length(rows: Sequence[list[int]], least: int = 1) -> int:
    """How many first tokens all rows have in common, with at least `least` left of each."""
    if len(rows) < 2:
        return 0
    low, high = min(rows), max(rows)  # in the order of words: what these two share, all share
    room = max(min(map(len, rows)) - least, 0)
    return next((i for i in range(room) if low[i] != high[i]), room)


class TransformersEngine:
    """Greedy or sampled generation with a causal LM.

    dtype: "auto" is float32 on a CPU and bfloat16 on a GPU. batch_size: rows a call of `generate`. max_batch_tokens:
    limit on rows x (longest prompt + new tokens), so that long windows go in smaller batches; by default 200,000 on a
    GPU and 10,000 on a CPU, where wider batches of long windows only cost memory traffic.
    """

    name = "transformers"
    asks_model = True

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        device: str = "auto",
        batch_size: int = 16,
        max_batch_tokens: int | None = None,
    ) -> None:
        import torch
        from transformers import GenerationConfig

        if batch_size < 1:
            raise InputError(f"batch_size {batch_size}", remedy="give 1 or more")
        self.model = str(model)
        _check_device(device)
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        chosen = ("bfloat16" if self.device.startswith("cuda") else "float32") if dtype == "auto" else dtype
        if not isinstance(getattr(torch, chosen, None), torch.dtype):
            raise InputError(f"dtype {dtype!r}", remedy="use auto, float32, bfloat16 or float16")
        self.dtype = chosen
        limit = 200_000 if self.device.startswith("cuda") else 10_000
        self.batch_size, self.max_batch_tokens = batch_size, max_batch_tokens or limit
        self.capacity = 4 * batch_size  # a few batches, so that prompts of like length can be put together
        check_checkpoint(resolve(model))
        self.tokenizer = load_tokenizer(model)
        self._lm = _load_model(model, getattr(torch, chosen))
        self._eos = end_tokens(self._lm.generation_config.eos_token_id, Path(resolve(model)) / "generation_config.json")
        if self.tokenizer.eos_token_id not in (*self._eos, None):
            self._eos.append(self.tokenizer.eos_token_id)
        if not self._eos:
            remedy = "set eos_token_id in its generation_config.json, or eos_token of its tokenizer"
            raise InputError(f"{model!r} names no end of an answer", remedy=remedy)
        pad = self.tokenizer.pad_token_id
        self._pad: int = self._eos[0] if pad is None else pad
        # What else a checkpoint's generation_config.json asks for (beams, guidance, limits) is none of our settings.
        self._lm.generation_config = GenerationConfig(eos_token_id=self._eos, pad_token_id=self._pad)
        self._lm.to(self.device).eval()
        self.max_model_len = int(getattr(self._lm.config, "max_position_embeddings", 1 << 30))
        self._waiting: list[_Waiting] = []
        self._refused: list[tuple[int, Reply]] = []

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        """Tokenize once and queue; a prompt that does not fit the model is refused with its length."""
        if self._lm is None:
            raise EngineError("this engine is closed -> make another")
        for request in requests:
            prompt = request.prompt
            if prompt is None:
                prompt = apply_template(self.tokenizer, request.messages)
            ids = self._ids(prompt) if request.ids is None else list(request.ids)
            new = request.max_new_tokens or decoding.max_new_tokens
            if request.choices:
                new = max(len(self._ids(choice)) for choice in request.choices)
            if len(ids) + new > self.max_model_len:
                why = f"prompt of {len(ids)} + {new} new tokens exceeds {self.max_model_len}"
                self._refused.append((request.id, Reply(error=why, tokens_in=len(ids))))
            else:
                self._waiting.append(_Waiting(request, ids, decoding, new))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def collect(self) -> list[tuple[int, Reply]]:
        """Generate one batch: the request waiting longest, and those nearest to it in length."""
        if self._refused:
            done, self._refused = self._refused, []
            return done
        if not self._waiting:
            return []
        first = self._waiting[0]
        near = sorted(self._waiting[1:], key=lambda w: abs(len(w.ids) - len(first.ids)))
        if first.request.choices:  # the passages of a query together, so that what comes before them is read once
            of_query = [w for w in near if common_length([w.ids, first.ids]) >= len(first.ids) // 2]
            near = of_query if 4 * len(of_query) >= self.batch_size else near
        batch, longest = [first], len(first.ids)
        for item in near:
            if len(batch) >= self.batch_size:
                break
            widest = max(longest, len(item.ids))
            if item.kind != first.kind:
                continue
            if (len(batch) + 1) * (widest + first.limit) > self.max_batch_tokens:
                break
            batch.append(item)
            longest = widest
        taken = {id(item.request) for item in batch}
        self._waiting = [item for item in self._waiting if id(item.request) not in taken]
        return self._score(batch) if first.request.choices else self._generate(batch)

    def _generate(self, batch: list[_Waiting]) -> list[tuple[int, Reply]]:
        decoding, stop = batch[0].decoding, batch[0].request.stop
        # A stop string of one token (the tags of most chat models) ends like an end token; others cost a search a step.
        ends = [ids[0] for text in stop if len(ids := self._ids(text)) == 1]
        search = {"stop_strings": list(stop), "tokenizer": self.tokenizer} if len(ends) < len(stop) else {}
        seeds = [item.seed for item in batch if item.seed is not None]  # of all of them, or of none
        began = time.perf_counter()
        rows = self._new_tokens([item.ids for item in batch], batch[0].limit, self._eos + ends, decoding, search, seeds)
        seconds = time.perf_counter() - began
        replies: list[tuple[int, Reply]] = []
        for item, row in zip(batch, rows, strict=True):
            end = next((i for i, token in enumerate(row) if token in self._eos or token in ends), None)
            answer = row if end is None else row[:end]
            while end is None and search and answer and answer[-1] == self._pad:  # behind a stop string
                answer = answer[:-1]
            text = self.tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            cuts = [place for string in stop if (place := text.find(string)) >= 0]
            # Seconds are the batch's: what this window waited for, not its share.
            reply = Reply(
                text=text[: min(cuts)] if cuts else text,
                finish_reason="length" if end is None and not cuts and len(answer) == item.limit else "stop",
                tokens_in=len(item.ids),
                tokens_out=len(answer) + (end is not None),
                seconds=seconds,
                extra={"batch": len(batch)},
            )
            replies.append((item.request.id, reply))
        return replies

    def _score(self, batch: list[_Waiting]) -> list[tuple[int, Reply]]:
        """Log-probabilities of the choices: one forward pass, a row for each choice that takes more than one token. The
        beginning that all rows share is read once."""
        import torch

        choices = batch[0].request.choices
        encoded = [self._ids(choice) for choice in choices]
        rows: list[list[int]] = []
        places: list[list[int]] = []  # of each request and choice: its row
        for item in batch:
            row_of: dict[tuple[int, ...], int] = {}
            for ids in encoded:
                fed = tuple(ids[:-1])
                if fed not in row_of:
                    row_of[fed] = len(rows)
                    rows.append([*item.ids, *fed])
            places.append([row_of[tuple(ids[:-1])] for ids in encoded])
        tail = max(map(len, encoded))
        shared = common_length(rows, least=tail) if prefix.supports(self._lm) else 0
        width = max(map(len, rows)) - shared
        mask = torch.tensor([[1] * shared + [0] * (width + shared - len(r)) + [1] * (len(r) - shared) for r in rows])
        inputs = torch.tensor([[self._pad] * (width + shared - len(row)) + row[shared:] for row in rows])
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
        began = time.perf_counter()
        with torch.inference_mode():
            cache = None
            if shared:
                start = torch.tensor([rows[0][:shared]], device=self.device)
                cache = self._lm(start, use_cache=True, logits_to_keep=1).past_key_values
                cache.batch_repeat_interleave(len(rows))
            out = self._lm(
                inputs.to(self.device),
                attention_mask=mask.to(self.device),
                position_ids=positions.to(self.device),
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=tail,
            )
            table = torch.log_softmax(out.logits[:, -tail:].float(), dim=-1).cpu()  # (rows, tail, vocabulary)
        seconds = time.perf_counter() - began
        replies: list[tuple[int, Reply]] = []
        for item, place in zip(batch, places, strict=True):
            logprobs: dict[str, float] = {}
            for choice, ids, row in zip(choices, encoded, place, strict=True):
                steps = zip(range(tail - len(ids), tail), ids, strict=True)
                logprobs[choice] = float(sum(table[row, step, token] for step, token in steps))
            extra = {"batch": len(batch)}
            replies.append(
                (item.request.id, Reply(tokens_in=len(item.ids), seconds=seconds, extra=extra, logprobs=logprobs))
            )
        return replies

    def _new_tokens(
        self,
        prompts: list[list[int]],
        limit: int,
        ends: list[int],
        decoding: Decoding,
        search: dict[str, Any],
        seeds: list[int],
    ) -> list[list[int]]:
        """The tokens that follow each prompt, with the ending one where there is one (padding may follow it).

        search: arguments of `generate` that look for stop strings of several tokens, or none. seeds: of each prompt's
        sampling, or none.
        """
        import torch

        drawn = seeds if decoding.temperature > 0 else []
        dice = [torch.Generator(self.device).manual_seed(seed) for seed in drawn] or None
        sampling = prefix.Sampling(decoding.temperature, decoding.top_p, max(decoding.top_k, 0))
        if self.device == "cpu" and not search and prefix.supports(self._lm):
            return prefix.decode(self._lm, prompts, max_new_tokens=limit, eos=ends, sampling=sampling, generator=dice)
        plain = decoding.temperature == 0 or (decoding.top_p >= 1.0 and decoding.top_k <= 0)
        if self.device == "cuda" and plain and not search and prefix.supports(self._lm):
            decoder = GraphDecoder(self._lm)
            heat = decoding.temperature
            return decoder.decode(prompts, max_new_tokens=limit, eos=ends, temperature=heat, seeds=drawn or None)
        width = max(map(len, prompts))
        rows = [[self._pad] * (width - len(ids)) + ids for ids in prompts]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
        with torch.inference_mode():
            out = self._lm.generate(
                torch.tensor(rows, device=self.device),
                attention_mask=torch.tensor(mask, device=self.device),
                max_new_tokens=limit,
                eos_token_id=ends,
                pad_token_id=self._pad,
                use_cache=True,
                **search,
                **(_sampling(decoding) if dice is None else _drawn(sampling, dice)),
            )
        return out[:, width:].tolist()  # type: ignore[no-any-return]

    def cancel(self) -> None:
        """Give up what waits."""
        self._waiting, self._refused = [], []

    def close(self) -> None:
        """Drop the model."""
        self.cancel()
        self._lm = None


def _sampling(decoding: Decoding) -> dict[str, Any]:
    """Every sampling setting by name, so that a checkpoint's generation_config cannot change them silently."""
    if decoding.temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "repetition_penalty": 1.0}
    return {
        "do_sample": True,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "top_k": max(decoding.top_k, 0),
        "repetition_penalty": 1.0,
    }


def _drawn(sampling: prefix.Sampling, dice: Sequence[Any]) -> dict[str, Any]:
    """Arguments of `generate` that draw each row's token from its own generator, and leave no other to choose from."""
    import torch

    def only(_: Any, scores: Any) -> Any:
        token = prefix.pick(scores, sampling, dice)[:, None]  # (R, 1)
        return torch.full_like(scores, float("-inf")).scatter(1, token, 0.0)

    return {**_sampling(Decoding()), "logits_processor": [only]}
