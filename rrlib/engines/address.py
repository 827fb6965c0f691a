"""The address of a server: read as people write it, and what may be wrong with it when nobody answers there."""

from __future__ import annotations

import re
import urllib.parse
import urllib.request

from rrlib.errors import InputError

_ENDPOINTS = re.compile(r"/(?:chat/)?completions/?$")


def read_address(text: str, key_variable: str) -> tuple[str, dict[str, str]]:
    """(base URL, parameters) of an address: without an endpoint's own path, and `api-version` apart from it.

    Raises InputError where it is none, or holds what may be a key: it stands in records and in errors.
    """
    if not text.startswith(("http://", "https://")):
        shown = repr(text) if "@" not in text and "?" not in text else "that starts with neither http:// nor https://"
        raise InputError(f"base URL {shown}", remedy="write http://host:port/v1")
    address, _, query = text.strip().partition("?")
    parameters = dict(urllib.parse.parse_qsl(query.partition("#")[0], keep_blank_values=True))
    if (
        "@" in address.partition("://")[2].partition("/")[0]
        or set(parameters) - {"api-version"}
        or (query and not parameters)
    ):
        raise InputError(
            "a base URL with a user, a password or a query in it",
            remedy=f"put the key into {key_variable}, and other parameters into --provider query.NAME=VALUE",
        )
    try:
        parts = urllib.parse.urlsplit(address)
        valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or any(c.isspace() for c in address):
        raise InputError(f"base URL {address!r}", remedy="write http://host:port/v1")
    return _ENDPOINTS.sub("", address.partition("#")[0]), parameters


def health_address(base_url: str) -> str:
    """Where vLLM, SGLang, TGI and llama.cpp say how they are: /health beside /v1."""
    return re.sub(r"(?:/v\d+\w*)?/*$", "", base_url) + "/health"


def hint_of_path(base_url: str) -> str:
    """What to do about a 404 or a web page: most servers speak below /v1. Empty where the path has a version."""
    if re.search(r"/v\d+\w*(?:/|$)", urllib.parse.urlsplit(base_url).path):
        return ""
    return f" -> the address has no /v1: try {base_url.rstrip('/')}/v1"


def hint_of_redirect(location: str, asked: str) -> str:
    """What to do about an answer that sends elsewhere (keys are sent nowhere but where they were meant for): the base
    URL that it names, without a user or a query. location: as the answer says it; asked: the address of the call."""
    try:
        parts = urllib.parse.urlsplit(urllib.parse.urljoin(asked, location.strip()))
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        host = ""
    if not location.strip() or not host or parts.scheme not in ("http", "https"):
        return ", and does not say to where -> check the address"
    there = _ENDPOINTS.sub("", f"{parts.scheme}://{host}{parts.path}")
    return f" to {there} -> if that is the server you mean, give --base-url {there}"


def hint_of_proxy(base_url: str) -> str:
    """That a proxy of the environment stands before this address; empty where none does. Its own address may hold a
    password, and is not shown."""
    parts = urllib.parse.urlsplit(base_url)
    proxies = urllib.request.getproxies()
    name = next((name for name in (parts.scheme, "all") if proxies.get(name)), None)
    host = parts.hostname or ""
    if name is None or urllib.request.proxy_bypass(host):
        return ""
    variable = f"{name.upper()}_PROXY"
    return f" -> the environment sends this through a proxy ({variable}): set NO_PROXY={host} to go there directly"
