"""Faults that others met, at the door to providers: keys, wrappings of answers, messages, and what is known at once."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rrlib.chain.params import load_profile
from rrlib.cli import main
from rrlib.disk import check_output, replacing
from rrlib.engines.answers import UnusableAnswer, read_body, read_reply
from rrlib.engines.base import Decoding, Reply
from rrlib.engines.client import FatalCallError, OpenAIClient, RefusedCallError
from rrlib.engines.keys import Keys, clean_key, refuse_written_keys
from rrlib.engines.provider import Provider, remedy_for
from rrlib.errors import EngineError, InputError, innermost
from rrlib.records import WindowLog

ROOT = Path(__file__).resolve().parents[1]
KEY = "sk-Abc/def+0123456789=xyz"
MESSAGES = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Rank."})
GOOD = {"choices": [{"message": {"content": "[2] > [1]"}, "finish_reason": "stop"}]}


class Server(ThreadingHTTPServer):
    """Answers every POST with one status, body and content type, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self, status: int = 200, body: Any = GOOD, kind: str = "application/json") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.kind = status, kind
        self.body = body if isinstance(body, str) else json.dumps(body)
        self.paths: list[str] = []
        self.heads: list[dict[str, str]] = []
        self.asked: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.paths.append(self.path)
        self.server.heads.append({name.lower(): value for name, value in self.headers.items()})
        body = self.server.body.replace("ECHO", self.headers.get("Authorization", "")).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", self.server.kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[Server] = []

    def start(*given: Any, **options: Any) -> Server:
        servers.append(Server(*given, **options))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def chat(url: str, decoding: Decoding | None = None, **options: Any) -> Reply:
    client = OpenAIClient(url, "m", **{"backoff": 0.01, "max_retries": 1, "timeout": 10.0, **options})

    async def ask() -> Reply:
        try:
            return await client.chat(MESSAGES, decoding or Decoding(max_new_tokens=9))
        finally:
            await client.close()

    return asyncio.run(ask())


# --- secrets ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "raw",
    [f"{KEY}\r\n", f"\n{KEY}\n\n", f"\ufeff{KEY}", f'"{KEY}"\n', f" {KEY}\t", f"'{KEY}'", f"\u200b{KEY}\u200b"],
    ids=ascii,
)
def test_a_key_is_cleaned_before_use(serve: Any, raw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", raw)
    server = serve()
    assert chat(server.url, api_key_env="MY_KEY").text == "[2] > [1]"
    assert server.heads[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("raw", [f"{KEY}\nsecond", f"Bearer {KEY}", f"{KEY}\x07x", f"{KEY}\u00e9", f"{KEY}\x00"])
def test_a_key_that_no_header_carries_is_refused_and_not_shown(raw: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="MY_KEY") as caught:
        clean_key(raw, "MY_KEY")
    assert KEY not in str(caught.value) and KEY not in repr(caught.value)


FORMS = [
    KEY,
    repr(KEY),
    repr(f"Bearer {KEY}\n".encode()),
    json.dumps({"key": KEY}),
    urllib.parse.quote(KEY),
    urllib.parse.quote_plus(KEY),
    urllib.parse.quote(KEY, safe="").lower().replace("sk-abc", "sk-Abc"),
]


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_key_stays(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY + "\n")
    keys = Keys()
    keys.from_environment("MY_KEY")
    hidden = keys.hide(f"Illegal value {form} at the end")
    assert "(key)" in hidden and "0123456789" not in hidden


@pytest.mark.parametrize("key", ['a"b\\c-0123456789', "pass'word-0123456789", "a&b<c>-0123456789"])
def test_keys_with_signs_are_hidden_escaped_too(key: str) -> None:
    keys = Keys()
    keys.add(key)
    for form in (repr(key), json.dumps(key), urllib.parse.quote(key, safe=""), str(key.encode())):
        assert "0123456789" not in keys.hide(form)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, {"error": {"message": "x" * 490 + " no such key ECHO"}}),
        (400, {"error": {"message": "strange header ECHO"}}),
        (500, "broken: ECHO"),
        (200, {"error": "seen ECHO"}),
        (200, "ECHO"),
    ],
)
def test_a_server_that_quotes_the_key(serve: Any, status: int, body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(EngineError) as caught:
        chat(serve(status, body).url)
    assert "sk-Abc" not in str(caught.value)


def test_an_answer_that_quotes_the_key(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    body = {"choices": [{"message": {"content": "ECHO [1]", "reasoning": "ECHO"}, "finish_reason": "stop"}]}
    reply = chat(serve(body=body).url)
    assert (reply.text, reply.reasoning) == ("Bearer (key) [1]", "Bearer (key)")
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")  # a local server's; a word that a model may write
    assert chat(serve(body=body).url).text == "Bearer EMPTY [1]"


@pytest.mark.parametrize(
    "settings",
    [
        {"teacher_options": {"api_key": "abc-123"}},
        {"teacher_options": {"api_key_env": "sk-abc-123"}},
        {"teacher_options": {"api_key_env": "0123456789abcdef0123456789abcdef"}},
        {"options": {"provider": {"headers": {"Authorization": "Bearer abc"}}}},
        {"options": [{"x-api-key": "abc"}]},
        {"teacher": "https://host/v1?key=abc"},
        {"teacher": "https://me:abc@host/v1"},
        {"body": {"access_token": "abc"}},
    ],
)
def test_a_key_written_out_is_refused(settings: Any) -> None:
    with pytest.raises(InputError) as caught:
        refuse_written_keys(settings)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key_env": "MY_KEY_2", "headers": {"api-key": "${MY_KEY_2}", "X-Title": "rrlib"}},
        {"max_new_tokens": 3, "stop_token": "<|end|>", "prompt_cache_key": "rrlib", "search_key_env": ""},
        {"teacher": "https://host/v1?api-version=2024-10-21", "body": {"reasoning": {"effort": "low"}}},
    ],
)
def test_what_is_no_key_passes(settings: Any) -> None:
    refuse_written_keys(settings)


def test_every_profile_of_ours_passes_and_one_with_a_key_does_not(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nseed: 1\nstages: ['01']\n01_synthesis:\n  teacher_options: {api_key: sk-0123}\n", encoding="utf-8"
    )
    text = (ROOT / "params" / "smoke.yaml").read_text(encoding="utf-8")
    assert load_profile(ROOT / "params" / "smoke.yaml").name and "name: smoke" in text
    with pytest.raises(InputError) as caught:
        load_profile(path)
    assert "sk-0123" not in str(caught.value)


# --- providers -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ([], {"max_tokens": 9, "temperature": 0.0, "top_p": 1.0}),
        (["max_completion_tokens"], {"max_completion_tokens": 9, "temperature": 0.0}),
        (["no_temperature", "max_completion_tokens"], {"max_completion_tokens": 9}),
        (["body.effort=low", 'body.chat={"think": false}'], {"effort": "low", "chat": {"think": False}}),
        (["no_system"], {"messages": [{"role": "user", "content": "Be brief.\n\nRank."}]}),
    ],
)  # fmt: skip
def test_what_a_provider_wants_is_sent(serve: Any, options: list[str], fields: dict[str, Any]) -> None:
    server = serve()
    chat(server.url, provider=Provider.parse(options))
    (asked,) = server.asked
    assert {name: asked.get(name) for name in fields} == fields
    if "no_temperature" in options:
        assert not {"temperature", "top_p", "seed", "max_tokens"} & asked.keys()
    if "max_completion_tokens" in options:
        assert "max_tokens" not in asked


@pytest.mark.parametrize(
    ("address", "provider"),
    [
        ("?api-version=2024-10-21", {}),
        ("/chat/completions?api-version=2024-10-21", {}),
        ("", {"query": {"api-version": "2024-10-21"}}),
        ("/", {"query": {"api-version": "${THE_VERSION}"}, "headers": {"X-Title": "rrlib"}}),
    ],
)
def test_addresses_and_headers(
    serve: Any, address: str, provider: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_VERSION", "2024-10-21")
    monkeypatch.setenv("AZURE_KEY", KEY + "\n")
    server = serve()
    headers = {"api-key": "${AZURE_KEY}", **provider.get("headers", {})}
    assert chat(server.url + address, api_key_env="NO_KEY_HERE", provider={**provider, "headers": headers}).text
    assert server.paths == ["/v1/chat/completions?api-version=2024-10-21"]
    assert server.heads[0]["api-key"] == KEY and "authorization" not in server.heads[0]


@pytest.mark.parametrize(
    "options",
    [["temperature"], ["query.=1"], ["header.X"], ["header.api-key=abc-123"], ["header.X Y=1"], ["body.token=abc-123"]],
)
def test_options_that_cannot_be(options: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Provider.parse(options)
    assert "abc-123" not in str(caught.value)


def choice(content: Any, **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content, **more}, "finish_reason": "stop"}]}


LIST = "[2] > [1]"
STREAM = "".join(
    f"data: {json.dumps({'choices': [{'delta': {'content': part}, 'finish_reason': end}]})}\n\n"
    for part, end in (("[2]", None), (" > [1]", None), ("", "stop"))
)


@pytest.mark.parametrize(
    ("body", "text", "reasoning"),
    [
        (choice([{"type": "text", "text": "[2] >"}, {"type": "text", "text": " [1]"}]), LIST, ""),
        (choice([{"type": "thinking", "thinking": [{"text": "hm"}]}, {"type": "text", "text": LIST}]), LIST, "hm"),
        (choice(["[2]", " > [1]"]), LIST, ""),
        (choice({"type": "output_text", "text": LIST}), LIST, ""),
        (choice({"ranking": [2, 1]}), '{"ranking": [2, 1]}', ""),
        (choice(LIST, reasoning=[{"type": "reasoning", "text": "hm"}]), LIST, "hm"),
        (choice(None, refusal="I cannot"), "I cannot", ""),
        (choice(4), "4", ""),
        ({"choices": [{"message": LIST, "finish_reason": "stop"}]}, LIST, ""),
        ({"data": choice(LIST)}, LIST, ""),
        ([choice(LIST)], LIST, ""),
        ({"message": {"content": LIST}, "done_reason": "stop"}, LIST, ""),
        ("\ufeff" + json.dumps(choice(LIST)), LIST, ""),
        (STREAM + "data: [DONE]\n\n", LIST, ""),
    ],
)  # fmt: skip
def test_an_answer_is_read_whatever_its_wrapping(serve: Any, body: Any, text: str, reasoning: str) -> None:
    for kind in ("application/json", "text/plain"):
        server = serve(body=body, kind=kind)
        reply = chat(server.url)
        assert (reply.text, reply.reasoning, reply.finish_reason) == (text, reasoning, "stop")
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": "n/a", "completion_tokens": None}, (0, 0)),
        ({"prompt_tokens": "12", "completion_tokens": 3.0}, (12, 3)),
        ({"prompt_tokens": -1, "completion_tokens": [3]}, (0, 0)),
        ("free", (0, 0)),
        ([1, 2], (0, 0)),
        ({"input_tokens": 5, "output_tokens": 6}, (5, 6)),
    ],
)
def test_a_usage_that_is_no_number_is_no_fault(usage: Any, counts: tuple[int, int]) -> None:
    reply = read_reply(read_body(json.dumps({**choice(LIST), "usage": usage})))
    assert (reply.text, reply.tokens_in, reply.tokens_out) == (LIST, *counts)


@pytest.mark.parametrize("reason", ["length", "max_tokens", "model_length", "MAX_TOKENS"])
def test_cut_off_by_any_name(reason: str) -> None:
    body = {"choices": [{"message": {"content": LIST}, "finish_reason": reason}]}
    assert read_reply(read_body(json.dumps(body))).finish_reason == "length"


@pytest.mark.parametrize("reason", ["abort", "ABORT", "cancelled"])
@pytest.mark.parametrize("text", ["", LIST])
def test_broken_off_is_no_answer(text: str, reason: str) -> None:
    body = {"choices": [{"message": {"content": text}, "finish_reason": reason}]}
    with pytest.raises(UnusableAnswer, match="broke off"):
        read_reply(read_body(json.dumps(body)))


@pytest.mark.parametrize(
    "text", ["", "null", "[]", '{"choices": null}', "data: {broken", STREAM.rpartition("data:")[0], "5"]
)
def test_what_holds_no_answer(text: str) -> None:
    with pytest.raises(UnusableAnswer):
        read_body(text)


# --- messages --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["", "/", "/api", "/openai"])
def test_404_without_v1(serve: Any, path: str) -> None:
    server = serve(404, {"detail": "Not Found"})
    root = server.url.removesuffix("/v1")
    with pytest.raises(FatalCallError, match=r"try http.*/v1$") as caught:
        chat(root + path)
    assert "Not Found" in str(caught.value)
    with pytest.raises(FatalCallError) as caught:
        chat(server.url)
    assert "try http" not in str(caught.value)


@pytest.mark.parametrize(
    "page",
    ["<!DOCTYPE html><title>Sign in</title>", "<html><title>\nSign in </title>", " \n<HTML><TITLE>Sign in</TITLE>"],
)
@pytest.mark.parametrize("status", [200, 403])
def test_a_login_page(serve: Any, page: str, status: int) -> None:
    server = serve(status, page, kind="text/html")
    with pytest.raises(FatalCallError, match=r"a web page \('Sign in'\) instead of JSON"):
        chat(server.url, max_retries=6)
    assert len(server.asked) <= 3


@pytest.mark.parametrize(
    ("variable", "proxy", "words"),
    [
        ("http_proxy", "http://127.0.0.1:9", "HTTP_PROXY"),
        ("all_proxy", "http://me:pass-word@127.0.0.1:9", "ALL_PROXY"),
        ("http_proxy", "ftp://me:pass-word@nowhere:1", "HTTP_PROXY"),
        ("http_proxy", "socks4://me:pass-word@nowhere:1", "HTTP_PROXY"),
    ],
)
def test_a_proxy_in_the_environment_is_named(
    serve: Any, variable: str, proxy: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setenv(variable, proxy)
    with pytest.raises(EngineError, match=words) as caught:
        chat(server.url)
    assert "NO_PROXY=127.0.0.1" in str(caught.value) and "pass-word" not in str(caught.value)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    if proxy.startswith("http:"):
        assert chat(server.url).text


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Unsupported parameter: use 'max_completion_tokens' instead", "max_completion_tokens"),
        ("'temperature' does not support 0.0 with this model", "no_temperature"),
        ("Unknown parameter: seed", "no_temperature"),
        ("System role not supported", "no_system"),
        ("Missing query parameter api-version", "api-version"),
        ("This model's maximum context length is 4096 tokens", "--window"),
    ],
)
def test_a_refusal_names_its_remedy(serve: Any, said: str, remedy: str) -> None:
    assert remedy in remedy_for(said)
    with pytest.raises(RefusedCallError) as caught:
        chat(serve(400, {"error": {"message": said}}).url)
    assert said in str(caught.value) and remedy in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [{"temperature": -0.1}, {"temperature": float("nan")}, {"temperature": float("inf")}, {"top_p": 0.0},
     {"top_p": 1.5}, {"top_k": -2}, {"seed": -1}, {"seed": 2**63}, {"max_new_tokens": 0}],
)  # fmt: skip
def test_sampling_values_out_of_range(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        Decoding(**values)


@pytest.mark.parametrize(
    ("group", "code", "words"),
    [
        (ExceptionGroup("a", [ExceptionGroup("b", [InputError("no such file")])]), 2, "no such file"),
        (ExceptionGroup("a", [ValueError("other"), EngineError("server gone")]), 1, "server gone"),
        (BaseExceptionGroup("a", [KeyboardInterrupt()]), 130, "interrupted"),
        (ExceptionGroup("a", [OSError("disk full")]), 1, "disk full"),
    ],
)
def test_failures_inside_task_groups(
    group: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from rrlib import cli

    assert not isinstance(innermost(group), BaseExceptionGroup)
    assert cli._exit_code(group) == code
    assert words in capsys.readouterr().err


# --- before it is paid for, and before torch -------------------------------------------------------------------------
def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from rrlib import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rrlib {__version__}\n"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    texts = {
        "run": "q1 Q0 d1 1 2.0 x\nq1 Q0 d2 2 1.0 x\n",
        "queries": "q1\ta question\n",
        "corpus": '{"_id": "d1", "text": "one"}\n{"_id": "d2", "text": "two"}\n',
    }
    names = {"run": "run.trec", "queries": "queries.tsv", "corpus": "corpus.jsonl"}
    for name, text in texts.items():
        (tmp_path / names[name]).write_text(text)
    (tmp_path / "folder").mkdir()
    (tmp_path / "read_only").write_text("x")
    (tmp_path / "read_only").chmod(0o444)
    (tmp_path / "to_null").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    return [word for name in texts for word in (f"--{name}", str(tmp_path / names[name]))]


EARLY = [
    (["--depth", "0"], "--depth"),
    (["--depth", "-3"], "--depth"),
    (["--model", "./nowhere/model"], "no such model"),
    (["--model", "/nowhere/model"], "no such model"),
    (["--model", "nowhere.gguf"], "no such model"),
    (["--top-p", "1.5"], "top_p"),
    (["--top-k", "-7"], "top_k"),
    (["--temperature", "-1"], "temperature"),
    (["--seed", "-1"], "seed"),
    (["--tag", "two words"], "--tag"),
    (["--tag", ""], "--tag"),
    (["--tag", "a\tb"], "--tag"),
    (["--output", "{}/folder"], "is a folder"),
    (["--output", "{}/read_only"], "read-only"),
    (["--output", "{}/read_only/out.trec"], "cannot be written"),
    (["--output", "/dev/full"], "No space left"),
    (["--log", "/dev/null"], "a pipe or a device"),
    (["--log", "{}/pipe"], "a pipe or a device"),
    (["--log", "{}/to_null"], "a pipe or a device"),
    (["--log", "{}/folder"], "is a folder"),
    (["--log", "{}/out.trec"], "same file"),
]


@pytest.mark.parametrize(("options", "words"), EARLY, ids=[" ".join(options) for options, _ in EARLY])
def test_known_at_once(
    options: list[str], words: str, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def never(*args: object, **more: object) -> None:
        raise AssertionError("an engine was made")

    monkeypatch.setattr("rrlib.engines.make_engine", never)
    argv = ["rerank", *files, "--model", "some/model", "--output", str(tmp_path / "out.trec")]
    assert main([*argv, *(option.replace("{}", str(tmp_path)) for option in options)]) == 2
    assert words in capsys.readouterr().err


def test_known_before_torch(files: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from rrlib.cli import main; base = sys.argv[1:]\n"
        "for more in (['--depth', '0'], ['--model', './nowhere/m'], ['--tag', 'a b']): assert main(base + more) == 2\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    argv = ["rerank", *files, "--model", "some/model", "--output", str(tmp_path / "out.trec")]
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_links_pipes_and_devices_are_written_through(tmp_path: Path) -> None:
    target, link = tmp_path / "deep.trec", tmp_path / "link.trec"
    target.write_text("old")
    link.symlink_to(target)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    for path in (link, Path("/dev/null"), pipe):
        check_output(path, "output")
        with replacing(path) as out:
            out.write(b"new")
    reader.join(10)
    assert link.is_symlink() and target.read_text() == "new" and received == [b"new"]
    assert Path("/dev/null").is_char_device() and pipe.is_fifo()
    dangling = tmp_path / "later.trec"
    dangling.symlink_to(tmp_path / "not_yet.trec")
    with replacing(dangling) as out:
        out.write(b"new")
    assert dangling.is_symlink() and (tmp_path / "not_yet.trec").read_bytes() == b"new"


@pytest.mark.parametrize("place", ["/dev/null", "pipe", "folder"])
def test_a_window_log_is_a_file(files: list[str], tmp_path: Path, place: str) -> None:
    with pytest.raises(InputError):
        WindowLog(tmp_path / place, {})


@pytest.mark.parametrize(("words", "docs"), [(900, 2), (3000, 5), (900, 25)])
def test_a_query_that_is_itself_too_long(words: int, docs: int) -> None:
    from tokenizers_for_tests import make_tokenizer

    from rrlib.rerank import Reranker

    class Engine:
        name, model, asks_model, capacity, max_model_len = "small", "small", True, 4, 900

        def __init__(self) -> None:
            self.tokenizer = make_tokenizer("qwen2.5")

        def submit(self, requests: Any, decoding: Any) -> None:
            raise AssertionError("nothing may be asked")

        def collect(self) -> list[Any]:
            return []

        def close(self) -> None:
            pass

    reranker = Reranker(Engine(), decoding=Decoding(max_new_tokens=50))
    with pytest.raises(InputError, match="the query itself takes") as caught:
        reranker.rank("word " * words, ["a"] * docs)
    assert "shorten the query" in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://h/s?q={query}&key=abc-123", "http://me:abc-123@h/{query}", "http://h/{query}?api_key=abc-123"]
)
def test_a_search_address_holds_no_key(url: str) -> None:
    from rrlib.synthesis.sources.websearch import JsonSearch

    with pytest.raises(InputError) as caught:
        JsonSearch(url)
    assert "abc-123" not in str(caught.value)


def test_recorded_answers_bring_their_window_and_none_of_them_used_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    requests = tmp_path / "requests.jsonl"
    passages = [{"docid": f"d{i}", "score": -i, "doc": {"text": f"passage {i}"}} for i in range(12)]
    requests.write_text(json.dumps({"query": {"qid": "q", "text": "?"}, "candidates": passages}))
    log = tmp_path / "log.jsonl"
    settings = {"style": "rankgpt", "window": 6, "stride": 3, "max_passage_tokens": 512}
    reverse = " > ".join(f"[{i}]" for i in range(6, 0, -1))
    rows = [{"qid": "q", "start": s, "end": s + 6, "text": reverse, "settings": settings} for s in (6, 3, 0)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def replay(*more: str) -> tuple[int, str]:
        command = ["rerank", "--requests", str(requests), "--engine", "replay", "--responses", str(log), "--quiet"]
        code = main([*command, "--output", str(tmp_path / "out.trec"), *more])
        return code, capsys.readouterr().err + caplog.text

    code, told = replay()
    assert code == 0 and "3 windows" in told and "missing" not in told, told
    (tmp_path / "out.trec").unlink()
    code, told = replay("--window", "12", "--stride", "6")
    assert code == 3 and not (tmp_path / "out.trec").exists()
    assert "was recorded with window 6, stride 3" in told and "nothing was reranked" in told and "--window" in told
