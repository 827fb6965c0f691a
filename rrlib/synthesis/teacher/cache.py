"""A folder of answers, keyed by the whole request: server, model, messages, decoding settings and seed.

One file an answer, written atomically under its hash, so that any number of processes and runs may share a folder and
memory does not grow. Nothing in it is ever changed: an answer is dropped by deleting its file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rrlib.disk import read_json, write_json
from rrlib.engines.base import Decoding, Message, Reply
from rrlib.errors import StageError


class ResponseCache:
    """get(request) -> Reply or None; put(request, reply). Failed calls are never put."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StageError(f"{folder}: cannot write the cache: {error.strerror or error}") from error

    def path(self, client: Any, messages: Sequence[Message], decoding: Decoding) -> Path:
        """Where the answer to this request lies, or would lie."""
        request = {
            "server": str(getattr(client, "base_url", "")),
            "model": str(getattr(client, "model", type(client).__name__)),
            "messages": [dict(m) for m in messages],
            "decoding": asdict(decoding),
        }
        provider = getattr(client, "provider", None)
        if provider is not None and provider.settings():
            request["provider"] = provider.settings()
        settings = getattr(client, "settings", None)
        if provider is None and isinstance(settings, Mapping) and settings:  # of a teacher in this process
            request["settings"] = dict(settings)
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        return self.folder / key[:2] / f"{key[2:]}.json"

    def get(self, client: Any, messages: Sequence[Message], decoding: Decoding) -> Reply | None:
        """The stored reply, marked `cached` in its `extra`, with no seconds and no retries; None if there is none."""
        row = read_json(self.path(client, messages, decoding))
        try:
            return Reply(**{**row, "extra": {**row["extra"], "cached": True}})
        except (TypeError, KeyError):
            return None  # not there, or damaged: asked again

    def put(self, client: Any, messages: Sequence[Message], decoding: Decoding, reply: Reply) -> None:
        """Keep a reply. Raises StageError where the folder cannot be written."""
        row = {key: getattr(reply, key) for key in ("text", "reasoning", "finish_reason", "tokens_in", "tokens_out")}
        try:
            write_json(self.path(client, messages, decoding), {**row, "extra": dict(reply.extra)})
        except OSError as error:
            raise StageError(f"{self.folder}: cannot write the cache: {error.strerror or error}") from error
