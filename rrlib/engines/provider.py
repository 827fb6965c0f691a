"""What one provider wants otherwise than the rest: names of fields, no temperature, no system role, headers.

Every server here speaks OpenAI's chat protocol, and each a little differently: reasoning models take
`max_completion_tokens` and no temperature, some templates know no system role, Azure wants `?api-version=`, gateways
want headers of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rrlib.engines.base import Decoding, Message
from rrlib.engines.keys import Keys, refuse_written_keys
from rrlib.errors import InputError
from rrlib.templates import without_system

LIMITS = ("max_tokens", "max_completion_tokens")
"""Names under which servers take the limit on generated tokens."""

_FORMS = "max_completion_tokens, no_temperature, no_system, query.NAME=VALUE, header.NAME=VALUE or body.NAME=JSON"


@dataclass(frozen=True)
class Provider:
    """How a server wants to be asked.

    limit_field: one of LIMITS. temperature: send the sampling settings (temperature, top_p, top_k, seed); False sends
    none. system_role: False puts the system message in front of the first user message. query, headers, body: extra
    parameters of the address, headers, and fields of the body. A value may name environment variables as `${NAME}`;
    keys may be given in no other way, since options are recorded.
    """

    limit_field: str = "max_tokens"
    temperature: bool = True
    system_role: bool = True
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.limit_field not in LIMITS:
            raise InputError(f"limit_field {self.limit_field!r}", remedy=f"use {' or '.join(LIMITS)}")
        for name in ("query", "headers", "body"):
            if not isinstance(getattr(self, name), Mapping):
                raise InputError(f"the provider's {name} are no mapping", remedy="write NAME: VALUE")
        for name in self.headers:
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", str(name)):
                raise InputError(f"no header can be named {name!r}", remedy="use letters, digits and dashes")
        for name, value in self.headers.items():
            if not all(" " <= character <= "~" for character in str(value)):
                hint = "one line of plain characters"
                raise InputError(f"the header {name} holds a line end or a character beyond ASCII", remedy=hint)
        refuse_written_keys({"query": self.query, "headers": self.headers, "body": self.body}, "provider")

    @classmethod
    def of(cls, given: Provider | Mapping[str, Any] | None) -> Provider:
        """A provider from what a profile says. Raises InputError for a name that is none of its fields."""
        if given is None or isinstance(given, Provider):
            return given or cls()
        names = tuple(cls.__dataclass_fields__)
        if unknown := sorted(set(given) - set(names)):
            raise InputError(f"a provider has no {unknown[0]!r}", remedy=f"use {', '.join(names)}")
        return cls(**given)

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Provider:
        """A provider from the options of a command line. Raises InputError that lists what can be said."""
        given: dict[str, Any] = {"query": {}, "headers": {}, "body": {}}
        flags = {
            "max_completion_tokens": ("limit_field", "max_completion_tokens"),
            "no_temperature": ("temperature", False),
            "no_system": ("system_role", False),
        }
        for text in texts:
            name, equals, value = text.partition("=")
            kind, _, inner = name.partition(".")
            home = {"query": "query", "header": "headers", "body": "body"}.get(kind)
            if name in flags and not equals:
                given[flags[name][0]] = flags[name][1]
            elif home is not None and inner and equals:
                given[home][inner] = _json(value) if home == "body" else value
            else:
                raise InputError(f"--provider {name}", remedy=f"write {_FORMS}")
        return cls(**given)

    def settings(self) -> dict[str, Any]:
        """What changes the answers, for records; empty where everything is as usual. Headers stay out."""
        changed: dict[str, Any] = {} if self.temperature else {"temperature": False}
        changed |= {} if self.system_role else {"system_role": False}
        return changed | ({"body": dict(self.body)} if self.body else {})

    def messages(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        """The messages as this server takes them."""
        return [dict(message) for message in messages] if self.system_role else without_system(messages)

    def fields(self, decoding: Decoding, stop: Sequence[str] = (), *, chat: bool = True) -> dict[str, Any]:
        """The settings of a request, as arguments of the client's `create`. /completions knows max_tokens alone."""
        limit = self.limit_field if chat else "max_tokens"
        settings: dict[str, Any] = {limit: decoding.max_new_tokens, "extra_body": {}}
        if self.temperature:
            settings |= {"temperature": decoding.temperature, "top_p": decoding.top_p}
            if decoding.top_k > 0:
                settings["extra_body"]["top_k"] = decoding.top_k
            if decoding.seed is not None:
                settings["seed"] = decoding.seed
        if stop:
            settings["stop"] = list(stop)
        return settings

    def expanded(self, keys: Keys) -> tuple[dict[str, str], dict[str, str], dict[str, Any]]:
        """(query, headers, body) with the variables that they name; their values are hidden by `keys`."""
        query = {str(name): keys.expand(str(value)) for name, value in self.query.items()}
        headers = {str(name): keys.expand(str(value)) for name, value in self.headers.items()}
        return query, headers, {str(name): _expanded(value, keys) for name, value in self.body.items()}


def _expanded(value: Any, keys: Keys) -> Any:
    if isinstance(value, str):
        return keys.expand(value)
    if isinstance(value, Mapping):
        return {name: _expanded(inner, keys) for name, inner in value.items()}
    return [_expanded(inner, keys) for inner in value] if isinstance(value, list | tuple) else value


def _json(text: str) -> Any:
    """A value as JSON, and where it is none, as the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


REMEDIES = (
    (r"max_completion_tokens", "use --provider max_completion_tokens (limit_field of the provider)"),
    (
        r"(?:temperature|top_p|seed|top_k)\b.*(?:support|deprecat|not (?:allowed|permitted))"
        r"|(?:unsupported|unknown|unrecognized).*\b(?:temperature|top_p|seed|top_k)\b",
        "use --provider no_temperature",
    ),
    (r"system.{0,20}(?:role|message|prompt|instruction)|(?:role|instruction).{0,20}system", "use --provider no_system"),
    (r"api-version|api_version", "use --provider query.api-version=VERSION"),
    (
        r"context.{0,10}(?:length|window|size)|maximum.{0,20}(?:length|tokens)|too (?:long|many tokens)"
        r"|exceeds? .*tokens",
        "use a smaller --window, --max-passage-tokens or --max-new-tokens; a query that is long by itself must be "
        "shortened",
    ),
)


def remedy_for(message: str) -> str:
    """What to do about a server's refusal, where its words tell; else an empty text."""
    return next((remedy for words, remedy in REMEDIES if re.search(words, message, re.IGNORECASE)), "")
