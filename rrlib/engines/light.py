"""The numpy engine: small Qwen3 checkpoints, decoded greedily without torch and transformers. `rrlib demo` uses it.

Each prompt is read alone; then all answers in flight take a token at a time, and a slot that is free is filled at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rrlib.engines.base import Decoding, Reply, Request
from rrlib.engines.checkpoints import check_checkpoint, end_tokens, local_folder
from rrlib.engines.qwen3 import REMEDY, Array, Qwen3, read_json
from rrlib.errors import EngineError, InputError
from rrlib.resources import resolve
from rrlib.templates import apply_template

READ_AT_ONCE = 256
"""Tokens of a prompt in one pass: what attention holds grows with these times the prompt, not with its square."""


class LightTokenizer:
    """The part of a Hugging Face tokenizer that prompts need, from a checkpoint's tokenizer.json and chat template."""

    def __init__(self, folder: Path) -> None:
        import tokenizers

        self._words = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._words.no_padding()
        self._words.no_truncation()
        settings = read_json(folder / "tokenizer_config.json")
        self.chat_template = _template(folder, settings)
        named = {key: value for key, value in settings.items() if key.endswith("_token") and value}
        self.special_tokens = {k: v["content"] if isinstance(v, dict) else str(v) for k, v in named.items()}
        marked = (token for token in self._words.get_added_tokens_decoder().values() if token.special)
        self.all_special_tokens = list(dict.fromkeys([*self.special_tokens.values(), *(t.content for t in marked)]))
        self.all_special_ids = [self._words.token_to_id(token) for token in self.all_special_tokens]
        self.eos_token_id: int | None = self._words.token_to_id(self.special_tokens.get("eos_token", ""))

    def __call__(self, text: str, *, add_special_tokens: bool = True, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": self._words.encode(text, add_special_tokens=add_special_tokens).ids}

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False, **_: Any) -> str:
        return str(self._words.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def apply_chat_template(self, conversation: Sequence[Mapping[str, str]], **variables: Any) -> str:
        """The templated string. variables: add_generation_prompt, enable_thinking, ... as the template knows them."""
        from datetime import datetime

        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise jinja2.TemplateError(message)

        world = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        world.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        world.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
        template = world.from_string(self.chat_template or "")
        return template.render(messages=list(conversation), **self.special_tokens, **variables)


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template of a tokenizer; of several with names, the one that is the default."""
    file = folder / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")
    if isinstance(template, list) and all(isinstance(one, dict) for one in template):
        template = {one.get("name"): one.get("template") for one in template}.get("default", template)
    if template is not None and not isinstance(template, str):
        why = "`chat_template` is no text, and holds none that is named default"
        raise InputError(why, path=folder / "tokenizer_config.json", remedy="put it into chat_template.jinja as a text")
    return template


@dataclass(slots=True)
class _Row:
    """An answer on its way: the prompt's tokens, those written so far, and the limit on them."""

    request: Request
    ids: list[int]
    limit: int
    tokens: list[int] = field(default_factory=list)
    began: float = 0.0


class LightEngine:
    """A folder with a small Qwen3 checkpoint: config.json, model.safetensors, tokenizer.json, a chat template.

    batch_size: answers in flight, 1 or more. Raises InputError for any other kind of checkpoint, and for decoding that
    is not greedy.
    """

    name = "numpy"
    asks_model = True
    dtype = "float32"

    def __init__(self, model: str, *, batch_size: int = 16) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size {batch_size}", remedy="give 1 or more")
        self.model, self.batch_size, self.capacity = str(model), batch_size, 2 * batch_size
        path = resolve(model)
        folder = local_folder(path)
        if folder is None:
            raise InputError(f"the numpy engine reads folders, and {model!r} is a hub name", remedy=REMEDY)
        check_checkpoint(path, transformers=False)
        self._lm: Qwen3 | None = Qwen3(folder)
        self.tokenizer = LightTokenizer(folder)
        self.max_model_len = self._lm.positions
        self.parameters = sum(tensor.size for tensor in self._lm.weights.values())
        settings = folder / "generation_config.json"
        settings = settings if settings.is_file() else folder / "config.json"
        ends = (*end_tokens(read_json(settings).get("eos_token_id"), settings), self.tokenizer.eos_token_id)
        self._ends = {end for end in ends if end is not None}
        if not self._ends:
            remedy = "set eos_token_id in its generation_config.json, or eos_token of its tokenizer"
            raise InputError(f"{model!r} names no end of an answer", remedy=remedy)
        self._cache = self._lm.new_cache(batch_size, 0)
        self._waiting: list[_Row] = []
        self._rows: list[_Row] = []
        self._done: list[tuple[int, Reply]] = []

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        """Tokenize and queue; a prompt that does not fit the model is refused with its length."""
        if self._lm is None:
            raise EngineError("this engine is closed -> make another")
        if decoding.temperature > 0:
            raise InputError(f"the numpy engine is greedy, and temperature is {decoding.temperature}", remedy=REMEDY)
        for request in requests:
            prompt = request.prompt
            if prompt is None:
                prompt = apply_template(self.tokenizer, request.messages)
            ids = self._ids(prompt) if request.ids is None else list(request.ids)
            row = _Row(request, ids, request.max_new_tokens or decoding.max_new_tokens)
            if request.choices:
                row.limit = max(len(self._ids(choice)) for choice in request.choices)
            if len(row.ids) + row.limit > self.max_model_len:
                why = f"prompt of {len(row.ids)} + {row.limit} new tokens exceeds {self.max_model_len}"
                self._done.append((request.id, Reply(error=why, tokens_in=len(row.ids))))
            else:
                self._waiting.append(row)

    def collect(self) -> list[tuple[int, Reply]]:
        """Write a token of every answer in flight, until at least one has ended."""
        while not self._done and (self._waiting or self._rows):
            while self._waiting and len(self._rows) < self.batch_size and not self._done:
                self._begin(self._waiting.pop(0))
            if self._rows and not self._done:
                self._step()
        done, self._done = self._done, []
        return done

    def cancel(self) -> None:
        """Give up what waits and what is being written."""
        self._waiting, self._rows, self._done = [], [], []

    def close(self) -> None:
        """Drop the model."""
        self.cancel()
        self._lm = None

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _begin(self, row: _Row) -> None:
        """Read a prompt into the next slot of the cache, and write its answer's first token."""
        assert self._lm is not None
        row.began = time.perf_counter()
        if row.request.choices:
            self._done.append((row.request.id, self._score(row)))
            return
        slot = len(self._rows)
        self._widen(len(row.ids))
        (last,) = self._read(row.ids, self._cache[:, :, slot : slot + 1], 1)
        self._rows.append(row)
        row.tokens.append(int(self._lm.logits(last).argmax()))
        self._end(slot)

    def _read(self, ids: Sequence[int], cache: Array, last: int) -> Array:
        """Read tokens, block by block, into an empty cache of one answer. The output (last, C) for the last of them."""
        assert self._lm is not None
        kept: list[Array] = []
        for start in range(0, len(ids), READ_AT_ONCE):
            block = np.array([ids[start : start + READ_AT_ONCE]])  # (1, T)
            kept.append(self._lm(block, np.array([start]), cache)[0, -last:])  # (T or fewer, C)
        return np.concatenate(kept)[-last:]

    def _step(self) -> None:
        assert self._lm is not None
        rows = self._rows
        places = np.array([len(row.ids) + len(row.tokens) - 1 for row in rows])  # (B,)
        self._widen(int(places.max()) + 1)
        last = np.array([[row.tokens[-1]] for row in rows])  # (B, 1)
        hidden = self._lm(last, places, self._cache[:, :, : len(rows)])  # (B, 1, C)
        for row, token in zip(rows, self._lm.logits(hidden[:, 0]).argmax(-1).tolist(), strict=True):
            row.tokens.append(token)
        for slot in reversed(range(len(rows))):
            self._end(slot)

    def _widen(self, tokens: int) -> None:
        """Make room for so many tokens an answer, and some more: every widening copies what answers have read."""
        assert self._lm is not None
        had, rows = self._cache.shape[4], len(self._rows)
        if tokens > had:
            wide = self._lm.new_cache(self.batch_size, tokens + 255)
            wide[:, :, :rows, :, :had] = self._cache[:, :, :rows]  # slots without an answer take no memory yet
            self._cache = wide

    def _end(self, slot: int) -> None:
        """Move an answer that has ended out of its slot, and the last one in."""
        row = self._rows[slot]
        ended = row.tokens[-1] in self._ends
        written = row.tokens[:-1] if ended else row.tokens
        stop = row.request.stop
        cut = bool(stop) and any(string in self.tokenizer.decode(written) for string in stop)
        if not ended and not cut and len(row.tokens) < row.limit:
            return
        text = self.tokenizer.decode(written, skip_special_tokens=True)
        for string in stop:
            text = text.partition(string)[0]
        reply = Reply(
            text=text,
            finish_reason="stop" if ended or cut else "length",
            tokens_in=len(row.ids),
            tokens_out=len(row.tokens),
            seconds=time.perf_counter() - row.began,
        )
        self._done.append((row.request.id, reply))
        last = self._rows.pop()
        if last is not row:
            self._rows[slot] = last
            self._cache[:, :, slot] = self._cache[:, :, len(self._rows)]

    def _score(self, row: _Row) -> Reply:
        """Log-probabilities of the request's choices, a forward pass each."""
        assert self._lm is not None
        logprobs = {}
        for choice in row.request.choices:
            ids = self._ids(choice)
            fed = [*row.ids, *ids[:-1]]
            hidden = self._read(fed, self._lm.new_cache(1, len(fed)), len(ids))
            logits = self._lm.logits(hidden).astype(np.float64)  # (tokens of the choice, V)
            top = logits.max(-1, keepdims=True)
            table = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
            logprobs[choice] = float(table[np.arange(len(ids)), ids].sum())
        return Reply(tokens_in=len(row.ids), seconds=time.perf_counter() - row.began, logprobs=logprobs)
