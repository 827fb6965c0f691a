"""Pages and web results, for complex QA: what an accepted answer links to, and what a search engine finds (4.1, B.1).

Nothing here goes to the network unless it is told to: pages come from a file of your own (`PageFile`), and a search
provider is an interface with one generic implementation (`JsonSearch`: any engine that answers a GET with JSON). What
was fetched is appended to a store, so it is fetched once; a page that could not be had is stored with its reason.
"""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from rrlib.engines.keys import Keys, check_variable, holds_key
from rrlib.errors import EngineError, InputError
from rrlib.prompts import fill
from rrlib.synthesis.sources.html import read_html
from rrlib.synthesis.teacher.store import Store

MOST_BYTES = 5_000_000
"""Of a page; longer ones are cut."""


@dataclass(frozen=True, slots=True)
class Page:
    """A web page as plain text, paragraphs apart by an empty line."""

    url: str
    text: str
    title: str = ""


class Pages(Protocol):
    """Finds pages by address."""

    def get(self, url: str) -> Page | None: ...


class SearchProvider(Protocol):
    """Finds pages for a query, best first."""

    def search(self, query: str, k: int) -> Sequence[Page]: ...


class PageFile:
    """Pages of a JSON-lines file with `id` (the address), `text` and perhaps `title`; found by address.

    fetch: get unknown addresses from the network, and append them (or why they could not be had) to the file.
    Open it under a StoreLock where it may grow.
    """

    def __init__(self, path: str | Path, fetch: bool = False, timeout: float = 20.0) -> None:
        self.store, self.fetch, self.timeout = Store(Path(path)), fetch, timeout

    def get(self, url: str) -> Page | None:
        """The page, or None when it is not there and could not be fetched."""
        row = self.store.get(url)
        if row is None and self.fetch:
            row = fetch_page(url, self.timeout)
            self.store.append(row)
        if row is None or not row.get("text"):
            return None
        return Page(url, str(row["text"]), str(row.get("title") or ""))

    def close(self) -> None:
        """Close the file."""
        self.store.close()


def fetch_page(url: str, timeout: float = 20.0) -> dict[str, Any]:
    """A page from the network as a store record: `id`, `text` and `title`, or `id` and `error`. Never raises."""
    import httpx

    headers = {"User-Agent": "rrlib (research; one request a page)", "Accept": "text/html,text/plain"}
    try:
        with httpx.stream("GET", url, timeout=timeout, follow_redirects=True, headers=headers) as response:
            if response.status_code != 200:
                return {"id": url, "error": f"status {response.status_code}"}
            kind = response.headers.get("content-type", "").partition(";")[0].strip()
            if kind not in ("text/html", "text/plain", "application/xhtml+xml"):
                return {"id": url, "error": f"content of type {kind or 'unknown'}"}
            data = b""
            for block in response.iter_bytes():
                data += block
                if len(data) >= MOST_BYTES:
                    break
            body = data[:MOST_BYTES].decode(response.encoding or "utf-8", "replace")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return {"id": url, "error": f"{type(error).__name__}: {error}"[:300]}
    text, _, title = read_html(body) if kind != "text/plain" else (body, (), "")
    return {"id": url, "text": text, "title": title} if text else {"id": url, "error": "an empty page"}


@dataclass(frozen=True)
class JsonSearch:
    """Any search engine behind a GET that answers with JSON.

    url: with `{query}` and, where the engine takes it, `{k}`. results: dotted path to the list of results. fields:
    where a result holds `url`, `title` and `text` (a snippet will do; `pages` gets the whole text, if given). header,
    key_env: the request header that carries the key, and the environment variable that holds it.
    """

    url: str
    results: str = "results"
    fields: Mapping[str, str] = field(default_factory=lambda: {"url": "url", "title": "title", "text": "content"})
    header: str = ""
    key_env: str = ""
    pages: Pages | None = None
    timeout: float = 20.0

    def __post_init__(self) -> None:
        if "{query}" not in self.url or not self.url.startswith(("http://", "https://")):
            raise InputError(f"search address {self.url!r}", remedy="write http://host/search?q={query}&n={k}")
        if holds_key(self.url):  # the address stands in errors
            raise InputError("a search address with a key in it", remedy="send the key by a header and its variable")
        if self.key_env:
            check_variable(self.key_env)
        if self.key_env and not os.environ.get(self.key_env):
            raise InputError(f"the environment variable {self.key_env} is not set", remedy="put the engine's key there")

    def search(self, query: str, k: int) -> list[Page]:
        """The first k results with a text. Raises EngineError when the engine does not answer with JSON."""
        import httpx

        address = fill(self.url, query=urllib.parse.quote(query[:2000]), k=str(k))
        keys = Keys()
        key = keys.from_environment(self.key_env) if self.key_env else ""
        headers = {"Accept": "application/json"} | ({self.header: key} if self.header and key else {})
        try:
            response = httpx.get(address, headers=headers, timeout=self.timeout, follow_redirects=True)
            response.raise_for_status()
            answer: Any = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise EngineError(f"web search: {type(error).__name__}: {keys.hide(str(error))}") from None
        for name in filter(None, self.results.split(".")):
            answer = answer.get(name, []) if isinstance(answer, dict) else []
        pages = (self._page(row) for row in (answer if isinstance(answer, list) else []))
        return list(islice((page for page in pages if page is not None), k))

    def _page(self, row: Any) -> Page | None:
        if not isinstance(row, dict) or not row.get(self.fields["url"]):
            return None
        url = str(row[self.fields["url"]])
        page = self.pages.get(url) if self.pages is not None else None
        if page is not None:
            return page
        text = str(row.get(self.fields.get("text", "")) or "")
        return Page(url, text, str(row.get(self.fields.get("title", "")) or "")) if text.strip() else None
