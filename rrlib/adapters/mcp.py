"""MCP: one tool by which a model or an agent has passages put into order (`rrlib serve --mcp`)."""

from __future__ import annotations

import asyncio
from typing import Annotated

from rrlib import __version__
from rrlib.adapters.shared import PlaceRanker, missing
from rrlib.errors import EngineError, InputError
from rrlib.rerank import Reranker

try:
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp_types import ToolAnnotations
    from pydantic import BaseModel, Field
except ModuleNotFoundError as error:
    raise missing(error, "mcp", "mcp") from error


class RankedText(BaseModel):
    """A passage at its new place."""

    index: int = Field(description="place in the list of passages that was given, from 0")
    score: float = Field(description="0 to 1, for the order alone: it says the rank, not how relevant a passage is")
    text: str


class Reranked(BaseModel):
    """The answer of the tool."""

    results: list[RankedText] = Field(description="best first")
    unread_windows: int = Field(description="parts of the list that kept their order: no answer could be read there")
    reasoning: list[str] = Field(description="why, a text for each part of the list; empty unless it was asked for")


def make_server(reranker: Reranker, name: str = "rrlib") -> MCPServer:
    """An MCP server with the tool `rerank_passages`; `.run()` speaks over standard input and output.

    A query or passages that cannot be ranked, and a model that gave no order, are errors of the call (`is_error`) with
    their reason; they end nothing else.
    """
    server = MCPServer(name, version=__version__, log_level="WARNING")
    ranker = PlaceRanker(reranker)

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    async def rerank_passages(
        query: Annotated[str, Field(description="what is asked")],
        passages: Annotated[list[str], Field(description="texts to put into order, best guess first")],
        top_n: Annotated[int | None, Field(description="only the best so many", ge=1)] = None,
        return_reasoning: Annotated[bool, Field(description="say why as well")] = False,
    ) -> Reranked:
        """Put passages into order, the best answer to a query first. A model reads them and reasons before it ranks."""
        if not passages:
            return Reranked(results=[], unread_windows=0, reasoning=[])
        try:
            places, windows = await asyncio.to_thread(ranker.rank_with_windows, query, passages)
        except (InputError, EngineError) as error:
            raise ToolError(str(error)) from error
        return Reranked(
            results=[RankedText(index=p.index, score=p.score, text=passages[p.index]) for p in places[:top_n]],
            unread_windows=sum(window.unread for window in windows),
            reasoning=[window.reasoning for window in windows] if return_reasoning else [],
        )

    return server
