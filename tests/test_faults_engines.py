"""Faults of engines that a hunt found: memory, scores that are none, keys that travel, limits, seeds, checkpoints."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rrlib import Reranker
from rrlib.engines import Decoding, Reply, Request, make_engine
from rrlib.engines.answers import UnusableAnswer, read_choices, read_reply
from rrlib.engines.client import FatalCallError, OpenAIClient
from rrlib.engines.light import READ_AT_ONCE
from rrlib.engines.openai import OpenAIEngine
from rrlib.engines.retries import Patience, retry_after
from rrlib.engines.trained import trained_settings
from rrlib.errors import EngineError, InputError
from rrlib.resources import resolve
from rrlib.sampling import check_sampling
from rrlib.types import Candidates, Passage, Query

MODEL = "package:rrlib.miniature/reranker"
KEY = "gatekey-ABCDEFGHIJ0123456789"
ANSWER = "<think> x </think> <answer> [2] > [1] </answer>"

Answers = Callable[[int, str, Mapping[str, str]], tuple[int, dict[str, str], Any]]
"""(number of the call, its text, its headers) -> (status, headers, body)."""


def good(text: str = ANSWER, finish: str = "stop", **more: Any) -> tuple[int, dict[str, str], Any]:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish, **more}
    return 200, {}, {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}


class Server(ThreadingHTTPServer):
    """Answers as it is told, and keeps the headers of what it was asked."""

    daemon_threads = True

    def __init__(self, answers: Answers) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.heads, self.guard = answers, list[dict[str, str]](), threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        with self.server.guard:
            self.server.heads.append(dict(self.headers))
            number = len(self.server.heads)
        status, headers, body = self.server.answers(number, raw, dict(self.headers))
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST


@pytest.fixture
def serve() -> Iterator[Callable[[Answers], Server]]:
    servers: list[Server] = []

    def start(answers: Answers) -> Server:
        servers.append(Server(answers))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def chat(url: str, **options: Any) -> Reply:
    client = OpenAIClient(url, "m", **{"backoff": 0.001, **options})

    async def ask() -> Reply:
        try:
            return await client.chat([{"role": "user", "content": "hi"}], Decoding(max_new_tokens=100))
        finally:
            await client.close()

    return asyncio.run(ask())


def write(path: Path, value: Any) -> None:
    path.unlink(missing_ok=True)  # the copy of a packaged file may be read-only
    path.write_text(json.dumps(value))


def checkpoint(folder: Path, **changed: Any) -> Path:
    """The packaged model; changed: a JSON file's name without its end -> what it says otherwise (None: there is none,
    and in a file no such field)."""
    shutil.copytree(resolve(MODEL), folder)
    folder.chmod(0o755)
    for name, change in changed.items():
        file = folder / f"{name}.json"
        if change is None:
            file.unlink()
            continue
        values = {**json.loads(file.read_text()), **change}
        write(file, {field: value for field, value in values.items() if value is not None})
    return folder


# --- the numpy engine -------------------------------------------------------------------------------------------------
def test_memory_of_a_long_prompt_grows_with_it_and_not_with_its_square() -> None:
    engine: Any = make_engine("numpy", MODEL, batch_size=1)
    ids = np.random.default_rng(0).integers(5, 5000, 10 * READ_AT_ONCE + 3).tolist()
    word = engine.tokenizer("true", add_special_tokens=False)["input_ids"]
    fed = [*ids, *word[:-1]]
    whole = engine._lm(np.array([fed]), np.array([0]), engine._lm.new_cache(1, len(fed)))[0]
    tracemalloc.start()
    try:
        for choices in ((), ("true",)):
            engine.submit([Request(1, prompt="", ids=ids, choices=choices)], Decoding(max_new_tokens=1))
            ((_, reply),) = engine.collect()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6, "one pass over all of it takes more than 300 MB"
    read = engine._read(fed, engine._lm.new_cache(1, len(fed)), 300)
    assert read.shape == (300, whole.shape[1]) and np.abs(read - whole[-300:]).max() < 1e-3
    logits = engine._lm.logits(whole[-len(word) :]).astype(np.float64)
    table = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert reply.logprobs["true"] == pytest.approx(table[range(len(word)), word].sum(), abs=1e-3)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rope_parameters": None, "rope_scaling": {"type": "yarn", "factor": 4.0}}, "positions of type 'yarn'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "positions of type 'linear'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "positions of type 'linear'"),
        ({"rope_parameters": "x"}, "positions of type 'x'"),
        ({"layer_types": ["sliding_attention"] * 4}, "layers of the types"),
        ({"tie_word_embeddings": False}, r"lack 1 of the model's tensors, such as lm_head\.weight"),
        ({"tie_word_embeddings": None}, r"lack 1 of the model's tensors, such as lm_head\.weight"),
        ({"num_hidden_layers": 5}, r"lack 11 of the model's tensors, such as layers\.4\."),
        ({"rms_norm_eps": None}, r"config\.json: there is no `rms_norm_eps`"),
        ({"max_position_embeddings": None}, r"config\.json: there is no `max_position_embeddings`"),
        ({"num_hidden_layers": "x"}, r"config\.json: `num_hidden_layers` is 'x', no number"),
    ],
)
def test_a_checkpoint_that_would_be_computed_wrongly_is_refused(
    changed: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make_engine("numpy", str(checkpoint(tmp_path / "m", config=changed)))
    assert str(tmp_path) in str(caught.value) and caught.value.remedy


def test_the_end_of_an_answer_may_stand_in_the_config_alone(tmp_path: Path) -> None:
    folder = checkpoint(
        tmp_path / "m",
        config={"eos_token_id": [2, 9]},
        generation_config=None,
        tokenizer_config={"eos_token": None},
    )
    engine: Any = make_engine("numpy", str(folder))
    assert engine._ends == {2, 9}


@pytest.mark.parametrize("name", ["default", "tool_use"])
def test_of_several_chat_templates_the_default_is_taken(name: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    template = folder / "chat_template.jinja"
    named = [{"name": name, "template": template.read_text()}, {"name": "other", "template": "x"}]
    template.unlink()
    file = folder / "tokenizer_config.json"
    write(file, {**json.loads(file.read_text()), "chat_template": named})
    if name == "default":
        engine: Any = make_engine("numpy", str(folder))
        assert engine.tokenizer.chat_template == named[0]["template"]
    else:
        with pytest.raises(InputError, match=r"tokenizer_config\.json: `chat_template` is no text"):
            make_engine("numpy", str(folder))


# --- scores from a server ---------------------------------------------------------------------------------------------
def scored(tokens: Mapping[str, float]) -> dict[str, Any]:
    rows = [{"token": token, "logprob": value} for token, value in tokens.items()]
    content = [{"token": rows[0]["token"], "logprob": 0.0, "top_logprobs": rows}]
    return {"choices": [{"message": {"content": "x"}, "finish_reason": "length", "logprobs": {"content": content}}]}


@pytest.mark.parametrize("tokens", [{"True": -0.1, "False": -2.5}, {"The": -0.1, "Yes": -2.0}, {"<think>": 0.0}])
def test_words_that_are_not_among_the_alternatives_have_no_score(tokens: dict[str, float]) -> None:
    with pytest.raises(EngineError, match="none of the words 'true', 'false'") as caught:
        read_choices(scored(tokens), ("true", "false"))
    assert all(repr(token) in str(caught.value) for token in tokens) and " -> " in str(caught.value)


@pytest.mark.parametrize(
    ("tokens", "choices"),
    [
        ({"true": -0.1, "false": -2.5, "x": -9.0}, ("true", "false")),
        ({"true": -0.1, "x": -2.5}, ("true", "false")),  # one is missing: the least of the others is its upper bound
        ({"\u0120true": -0.1, "\u0120false": -2.5, "x": -9.0}, (" true", " false")),
        ({"\u2581true": -0.1, "\u2581false": -2.5}, ("true", "false")),
        ({" true": -0.1, " false": -2.5}, ("true", "false")),
        ({"true": -0.1, "false": -2.5}, (" true", " false")),
    ],
)
def test_words_are_known_however_a_tokenizer_shows_their_blank(
    tokens: dict[str, float], choices: tuple[str, str]
) -> None:
    assert read_choices(scored(tokens), choices).logprobs == dict(zip(choices, (-0.1, -2.5), strict=True))


def test_a_server_whose_words_are_others_is_a_failure_with_its_reason(serve: Any) -> None:
    server = serve(lambda *_: (200, {}, scored({"The": -0.1, "Yes": -2.0})))
    reranker = Reranker("m", "openai", base_url=server.url, style="pointwise_nothink", strategy="pointwise")
    with pytest.raises(EngineError, match="none of the words 'true', 'false'"):
        reranker.rank("q", ["a", "b"])
    reranker.engine.close()


# --- keys -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", [302, 307, 308])
def test_keys_do_not_follow_to_another_address(serve: Any, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE_KEY", KEY)
    other = serve(lambda *_: good())
    there = other.url.replace("127.0.0.1", "localhost")
    server = serve(lambda *_: (status, {"Location": f"{there}/chat/completions?token={KEY}"}, {}))
    provider = {"headers": {"x-api-key": "${GATE_KEY}"}}
    with pytest.raises(FatalCallError, match=f"answered {status}.*--base-url {there}$") as caught:
        chat(server.url, provider=provider)
    assert KEY not in str(caught.value) and len(server.heads) == 1
    client = OpenAIClient(server.url, "m", provider=provider)

    async def health() -> int | None:
        try:
            return await client.health(5)
        finally:
            await client.close()

    assert asyncio.run(health()) == status
    assert other.heads == []


def test_a_redirect_to_nowhere_says_so(serve: Any) -> None:
    with pytest.raises(FatalCallError, match="does not say to where -> check the address"):
        chat(serve(lambda *_: (301, {}, {})).url)


def test_a_key_of_the_address_is_in_no_log(
    serve: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GATE_KEY", KEY)
    with caplog.at_level(logging.DEBUG):
        chat(serve(lambda *_: good()).url, provider={"query": {"key": "${GATE_KEY}"}})
    assert "/v1/chat/completions?key=(key)" in caplog.text and KEY not in caplog.text


# --- answers that are none, and limits --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": "[3] > [1"}, "finish_reason": "error"},
        {"message": {"content": "[3] > [1"}, "finish_reason": "network_error"},
        {"message": {"content": "[3] > [1"}, "finish_reason": "insufficient_system_resource"},
        {"message": {"content": "[3] > [1"}, "finish_reason": "stop", "error": {"code": 502, "message": "gone"}},
    ],
)
def test_a_part_of_an_answer_is_none_and_is_asked_for_again(serve: Any, choice: dict[str, Any]) -> None:
    with pytest.raises(UnusableAnswer):
        read_reply({"choices": [choice]})
    server = serve(lambda number, *_: (200, {}, {"choices": [choice]}) if number == 1 else good())
    reply = chat(server.url)
    assert reply.text == ANSWER and reply.retries == 1


def test_a_full_context_is_an_answer_that_was_cut_off() -> None:
    body = good("[3] > [1", "model_context_window_exceeded")[2]
    assert read_reply(body).finish_reason == "length"


def test_a_server_that_is_only_full_uses_up_no_tries(serve: Any) -> None:
    server = serve(lambda number, *_: good() if number > 12 else (429, {"Retry-After": "0"}, {"error": "slow down"}))
    reply = chat(server.url, max_retries=2)
    assert reply.text == ANSWER and reply.retries == 12


def test_waiting_for_a_full_server_has_an_end(serve: Any) -> None:
    server = serve(lambda *_: (429, {"Retry-After": "0.05"}, {"error": "slow down"}))
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"slow down \(\d+ tries\)"):
        chat(server.url, max_retries=2, timeout=1.0)
    assert 1.0 <= time.monotonic() - began < 10.0


def test_calls_that_were_turned_down_together_come_back_apart() -> None:
    response = SimpleNamespace(headers={"retry-after": "2"})
    error = SimpleNamespace(status_code=429, response=response)
    state = SimpleNamespace(outcome=SimpleNamespace(exception=lambda: error), attempt_number=3, seconds_since_start=1.0)
    waits = {Patience(60.0, 0.5, 60.0).wait(state) for _ in range(20)}
    assert len(waits) > 10 and min(waits) >= 2.0
    error.response.headers["retry-after"] = "1000"
    assert 60.0 <= Patience(60.0, 0.5, 60.0).wait(state) <= 120.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("1.5", 1.5),
        ("-5", 0.0),
        ("1e400", float("inf")),
        ("nan", None),
        ("", None),
        ("soon", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 0001 07:28:00 -0000", 0.0),
    ],
)
def test_what_a_server_may_ask_to_wait(header: str, seconds: float | None) -> None:
    error = SimpleNamespace(response=SimpleNamespace(headers={"retry-after": header}))
    assert retry_after(error) == seconds


# --- a fatal answer while others are under way ------------------------------------------------------------------------
def test_what_is_in_flight_when_the_credit_ends_is_kept(serve: Any, tmp_path: Path) -> None:
    def answers(number: int, text: str, _: Any) -> tuple[int, dict[str, str], Any]:
        if "EVIL" in text:
            return 402, {}, {"error": {"message": "Insufficient Balance"}}
        time.sleep(1.0)
        return good()

    server = serve(answers)
    engine = OpenAIEngine("m", base_url=server.url, concurrency=6)
    log = tmp_path / "windows.jsonl"
    reranker = Reranker(engine, style="nothink_tags", decoding=Decoding(100), log=log)
    names = ["EVIL", *(f"good {i}" for i in range(9))]
    texts = (Passage("a", "one"), Passage("b", "two"))
    with pytest.raises(FatalCallError, match="Insufficient Balance"):
        reranker.rerank([Candidates(Query(str(i), name), texts) for i, name in enumerate(names)])
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rows) == len(server.heads) - 1 == 5 and all(row["error"] is None for row in rows)
    assert engine.capacity == 6, "the engine lives on"
    engine.close()


def test_a_fatal_answer_is_raised_when_nothing_is_pending(serve: Any) -> None:
    def answers(number: int, text: str, _: Any) -> tuple[int, dict[str, str], Any]:
        time.sleep(0.0 if "EVIL" in text else 0.7)
        return (401, {}, {}) if "EVIL" in text else good()

    server = serve(answers)
    engine = OpenAIEngine("m", base_url=server.url, concurrency=8, max_retries=0)
    ask = [Request(i, ({"role": "user", "content": "EVIL" if i == 2 else "ok"},)) for i in range(4)]
    engine.submit(ask, Decoding())
    seen: list[int] = []
    with pytest.raises(FatalCallError, match="401"):
        while True:
            seen += [number for number, _ in engine.collect()]
            engine.submit([Request(9, ({"role": "user", "content": "more"},))], Decoding())
    assert sorted(seen) == [0, 1, 3] and len(server.heads) == 4
    assert engine.collect() == []
    engine.submit([Request(10, ({"role": "user", "content": "ok"},))], Decoding())
    assert [number for number, _ in engine.collect()] == [10]
    engine.close()


# --- seeds ------------------------------------------------------------------------------------------------------------
TEXTS = ("Rank: [1] a cat [2] a dog", "Rank the [1] river [2] sea [3] lake words", "Tell me")


@pytest.fixture(scope="module")
def sampler() -> Any:
    return make_engine("transformers", MODEL, batch_size=4)


@pytest.mark.parametrize("stop", [(), ("zzqq zz",)], ids=["our own decoding", "generate"])
@pytest.mark.parametrize("decoding", [Decoding(16, 1.0, seed=7), Decoding(16, 1.0, 0.9, 20)])
def test_a_seed_decides_an_answer_whatever_is_in_its_batch(sampler: Any, decoding: Decoding, stop: Any) -> None:
    texts: set[str] = set()
    for order in ((0, 1, 2), (0,), (2, 1, 0)):
        sampler.submit([Request(i, prompt=TEXTS[i], seed=100 + i, stop=stop) for i in order], decoding)
        replies = dict(sampler.collect())
        assert len(replies) == len(order), "they share a batch all the same"
        texts.add(replies[0].text)
    assert len(texts) == 1
    sampler.submit([Request(i, prompt=TEXTS[0], seed=i, stop=stop) for i in range(4)], decoding)
    assert len({reply.text for _, reply in sampler.collect()}) > 1, "other seeds give other answers"


def drawn(device: str) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from rrlib.engines.graphs import GraphDecoder

    torch.manual_seed(3)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen3Config(**sizes, intermediate_size=96, vocab_size=200, head_dim=16, tie_word_embeddings=True)
    decoder = GraphDecoder(Qwen3ForCausalLM(config).eval().to(device))
    prompts = [[5, 6, 7, 8, 9], [11, 12], [20, 21, 22, 23]]
    options: dict[str, Any] = {"max_new_tokens": 40, "eos": [2], "temperature": 1.0}
    together = decoder.decode(prompts, seeds=[1, 2, 3], **options)
    assert decoder.decode(prompts[::-1], seeds=[3, 2, 1], **options)[::-1] == together
    assert [decoder.decode([p], seeds=[i + 1], **options)[0] for i, p in enumerate(prompts)] == together
    assert decoder.decode(prompts, seeds=[4, 5, 6], **options) != together
    many = decoder.decode([[5, 6]] * 4000, seeds=range(4000), **{**options, "max_new_tokens": 2, "eos": [199]})
    free = decoder.decode([[5, 6]], copies=4000, **{**options, "max_new_tokens": 2, "eos": [199]})
    for place in range(2):  # the same spread as torch's own generator draws
        ours, theirs = (np.bincount([row[place] for row in rows if len(row) > place], minlength=200) / 4000
                        for rows in (many, free))  # fmt: skip
        assert np.abs(ours - theirs).sum() < 0.35


def test_a_seed_decides_a_row_of_a_graph() -> None:
    drawn("cpu")


@pytest.mark.gpu
def test_a_seed_decides_a_row_of_a_captured_graph() -> None:
    drawn("cuda")


# --- what a checkpoint brings -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "asked",
    [{"num_beams": 3}, {"guidance_scale": 1.5}, {"max_time": 0.0001}],
    ids=lambda asked: next(iter(asked)),
)
def test_a_generation_config_changes_no_answer(asked: dict[str, Any], tmp_path: Path) -> None:
    engine = make_engine("transformers", str(checkpoint(tmp_path / "m", generation_config=asked)))
    texts = []
    for stop in ((), ("zzqq zz",)):  # decoded by us, and by transformers' generate
        engine.submit([Request(1, prompt=TEXTS[0], stop=stop)], Decoding(max_new_tokens=12))
        ((_, reply),) = engine.collect()
        texts.append((reply.text, reply.tokens_out, reply.finish_reason))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", ["numpy", "transformers"])
@pytest.mark.parametrize("said", ["2", "<|im_end|>", [[2]], True])
def test_an_end_that_is_no_token_id_is_refused(name: str, said: Any, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", generation_config={"eos_token_id": said})
    with pytest.raises(InputError, match=r"generation_config\.json: `eos_token_id` is .*no token id -> write"):
        make_engine(name, str(folder))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cuda"])
def test_a_device_that_is_not_there_is_known_before_loading(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from rrlib.engines import hf

    if device == "cuda":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hf, "_load_model", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(InputError, match=f"device '{device}'.* -> use auto"):
        make_engine("transformers", MODEL, device=device)


@pytest.mark.parametrize("weight_map", [["a"], "x", {"a": 5}])
def test_an_index_of_another_shape_is_refused(weight_map: Any, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    write(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    with pytest.raises(InputError, match=r"index\.json: `weight_map` does not say"):
        make_engine("numpy", str(folder))


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("SOURCE.json", {"stages": [1]}),
        ("SOURCE.json", {"stages": {"03_rl": [1]}}),
        ("SOURCE.json", {"stages": {"03_rl": {"parameters": "x"}}}),
        ("SOURCE.json", {"use": [1]}),
        ("SOURCE.json", {"use": "x"}),
        ("rrlib.json", {"style": ["x"]}),
        ("rrlib.json", {"style": {"a": 1}}),
    ],
)
def test_notes_of_another_shape_say_nothing(file: str, said: Any, tmp_path: Path) -> None:
    write(tmp_path / file, said)
    assert trained_settings(str(tmp_path)) == {}


# --- recorded answers -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"tokens_in": "abc"}, "not a window record"),
        ({"tokens_out": [1]}, "not a window record"),
        ({"tokens_in": float("inf")}, "not a window record"),
        ({"pass": float("inf")}, "not a window record"),
        ({"positions": [float("inf")]}, "not a window record"),
        ({"end": 100_001}, "not a window of 1 to 100,000 places"),
        ({"settings": {"samples": "3"}}, "`samples` of the settings is '3'"),
        ({"settings": {"samples": None}}, "`samples` of the settings is None"),
        ({"settings": {"samples": 2.5}}, r"`samples` of the settings is 2\.5"),
        ({"settings": {"samples": 0}}, "`samples` of the settings is 0"),
        ({"settings": {"style": ["x"]}}, "`style` of the settings"),
        ({"settings": {"strategy": 5}}, "`strategy` of the settings"),
        ({"settings": {"fuse": 7}}, "`fuse` of the settings"),
    ],
)
def test_recorded_answers_that_are_none_are_named_with_their_line(
    row: dict[str, Any], words: str, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    base = {"qid": "1", "start": 0, "end": 2, "text": "[2] > [1]"}
    file.write_text(json.dumps({**base, "qid": "0"}) + "\n" + json.dumps({**base, **row}) + "\n")
    with pytest.raises(InputError, match=words) as caught:
        make_engine("replay", "", responses=str(file))
    assert caught.value.line == 2 and caught.value.path == str(file) and caught.value.remedy


@pytest.mark.parametrize("samples", ["3", 2.5, True, None])
def test_samples_are_a_whole_number(samples: Any) -> None:
    with pytest.raises(InputError, match="samples"):
        check_sampling(samples, "rrf")
