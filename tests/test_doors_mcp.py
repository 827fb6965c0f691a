"""The MCP tool, called by the client of the official package: in memory, and over the pipes of `rrlib serve --mcp`."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from scripted_engine import BEST, SHARES, TEXTS, by_gain

from rrlib.adapters.mcp import make_server
from rrlib.cli import main
from rrlib.engines import Reply

MODEL = "package:rrlib.miniature/reranker"
WHY = "In a tavern, clouds piled up each sunny afternoon, and hot soup cooled sooner beside an open window. Why?"
NOTES = ["Cabbage notes: bacteria make acid from its sugar.", "Heated fluid rises and chilled fluid descends."]


def call(reranker: Any, mode: str = "auto", **arguments: Any) -> Any:
    async def ask() -> Any:
        async with Client(make_server(reranker), mode=mode) as client:
            return await client.call_tool("rerank_passages", arguments)

    return asyncio.run(ask())


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("top_n", [None, 1, 3, 99])
def test_the_best_come_first(top_n: int | None, mode: str) -> None:
    answer = call(by_gain(), mode, query="q", passages=TEXTS, top_n=top_n)
    assert not answer.is_error
    results = answer.structured_content["results"]
    wanted = [{"index": i, "score": s, "text": TEXTS[i]} for i, s in zip(BEST, SHARES, strict=True)]
    assert results == wanted[:top_n]
    assert answer.structured_content["unread_windows"] == 0 and answer.structured_content["reasoning"] == []


def test_reasoning_where_it_is_asked_for_and_what_could_not_be_read() -> None:
    reranker = by_gain("no list at all", window=4, stride=2)
    with pytest.warns(UserWarning, match="1 of 3 windows"):
        answer = call(reranker, query="q", passages=TEXTS, return_reasoning=True).structured_content
    assert answer["unread_windows"] == 1 and answer["reasoning"].count("by gain") == 2


@pytest.mark.parametrize(
    ("reranker", "arguments", "reason"),
    [
        (by_gain(), {"query": " ", "passages": TEXTS}, "the query is empty"),
        (by_gain(), {"query": "q", "passages": ["", " "]}, "no document has a text"),
        (by_gain(), {"query": "q", "passages": TEXTS, "top_n": 0}, "top_n"),
        (by_gain(), {"query": "q"}, "passages"),
        (by_gain("no list at all"), {"query": "q", "passages": TEXTS}, "no answer of 1 could be read"),
        (by_gain(Reply(error="it broke")), {"query": "q", "passages": TEXTS}, "it broke"),
    ],
)
def test_what_cannot_be_ranked_is_an_error_with_its_reason(reranker: Any, arguments: Any, reason: str) -> None:
    answer = call(reranker, **arguments)
    assert answer.is_error and reason in answer.content[0].text


def test_nothing_in_nothing_out_and_nothing_asked() -> None:
    reranker = by_gain()
    answer = call(reranker, query="", passages=[])
    assert answer.structured_content["results"] == [] and reranker.engine.calls == 0


def test_two_calls_at_the_same_time() -> None:
    async def ask() -> list[Any]:
        async with Client(make_server(by_gain())) as client:
            calls = [{"query": f"q{i}", "passages": TEXTS[i:]} for i in range(4)]
            return await asyncio.gather(*(client.call_tool("rerank_passages", arguments) for arguments in calls))

    best = [answer.structured_content["results"][0]["text"] for answer in asyncio.run(ask())]
    assert best == ["gain 9"] * 4


def test_over_the_pipes_of_the_command() -> None:
    """The engine prints while it loads, which must not reach the client."""
    code = (
        "from rrlib.cli import main; from rrlib.engines import light; load = light.LightEngine.__init__\n"
        "def noisy(self, *given, **options): print('loading', flush=True); load(self, *given, **options)\n"
        "light.LightEngine.__init__ = noisy\n"
        f"main(['serve', '--mcp', '--model', {MODEL!r}, '--engine', 'numpy', '--name', 'notes'])"
    )
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS") if name in os.environ}

    async def ask() -> Any:
        server = StdioServerParameters(command=sys.executable, args=["-c", code], env=environment)
        async with Client(server, read_timeout_seconds=60) as client:
            (tool,) = (await client.list_tools()).tools
            return (
                tool,
                client.server_info,
                await client.call_tool("rerank_passages", {"query": WHY, "passages": NOTES}),
            )

    tool, server, answer = asyncio.run(ask())
    assert tool.name == "rerank_passages" and "reasons before it ranks" in tool.description
    assert set(tool.input_schema["properties"]) == {"query", "passages", "top_n", "return_reasoning"}
    assert tool.annotations.read_only_hint and server.name == "notes"
    assert not answer.is_error and sorted(row["index"] for row in answer.structured_content["results"]) == [0, 1]


@pytest.mark.parametrize(
    "option", [["--port", "9"], ["--host", "0.0.0.0"], ["--api-key-env", "KEY"], ["--max-documents", "9"]]
)
def test_options_of_an_http_server_are_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--mcp", "--model", MODEL, "--engine", "numpy", *option]) == 2
    assert f"--mcp has no use for {option[0]}" in capsys.readouterr().err


def test_a_model_that_is_not_there_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--mcp", "--model", "./nowhere", "--engine", "numpy"]) == 2
    assert "nowhere" in capsys.readouterr().err
