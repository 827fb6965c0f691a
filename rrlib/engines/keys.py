"""Keys: taken from the environment, cleaned before use, and hidden from whatever is shown or stored.

A key that was mounted as a file ends with a line end, one from a .env file may carry quotes or a byte order mark. HTTP
libraries print such a header in their error, so a key is cleaned or refused before any of them sees it.
"""

from __future__ import annotations

import html
import json
import logging
import os
import re
import urllib.parse
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from rrlib.errors import InputError

HIDDEN = "(key)"
"""What stands in a text in place of a key."""

SHORTEST = 4
"""Characters; shorter keys (`x`, `no`) are words of any message, and hide nothing."""

SHORTEST_IN_ANSWERS = 16
"""Characters; in what a model wrote only what can be nothing but a key is hidden: `EMPTY` may be a word there."""

_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"
_SECRET_NAME = re.compile(
    r"(?:^|[-_.])(?:key|apikey|token|secret|authorization|auth|password|passwd|cookie|credentials?|sig|signature)"
    r"(?:$|[-_.])|apikey|access_?token",
    re.IGNORECASE,
)
_HARMLESS = re.compile(r"(?:stop|eos|bos|pad|think)[-_]token|cache[-_]key|token[-_](?:limit|budget)", re.IGNORECASE)
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def clean_key(raw: str, name: str) -> str:
    """A key without what surrounds it: blanks, line ends, a byte order mark, a pair of quotes; may be empty.

    name: of the environment variable, for the message. Raises InputError, which does not show the key, where it holds
    a blank, a control character or one beyond ASCII in its middle: no header can carry that.
    """
    key = raw.strip().strip(_INVISIBLE).strip()
    if len(key) > 1 and key[0] == key[-1] and key[0] in "\"'`":
        key = key[1:-1].strip()
    if not all("!" <= character <= "~" for character in key):
        raise InputError(
            f"the key in the environment variable {name} holds a blank, a line end or a character beyond ASCII",
            remedy="store the bare key in it, on one line (it is not shown here)",
        )
    return key


def check_variable(name: str) -> None:
    """Refuse what cannot be a variable's name, such as the key itself. Raises InputError, which does not show it."""
    digits = any(character.isdigit() for character in name)
    mixed = name != name.upper() and name != name.lower()
    like_a_key = len(name) >= SHORTEST_IN_ANSWERS and (mixed or (digits and "_" not in name))
    if not _VARIABLE.fullmatch(name) or like_a_key:
        raise InputError(
            "the name of the environment variable with the key cannot be one (is it the key itself?)",
            remedy="put the key into a variable, such as OPENAI_API_KEY, and give its name",
        )


class Keys:
    """The keys that one client uses, and their removal from texts."""

    def __init__(self) -> None:
        self._forms: dict[str, None] = {}
        self._long: dict[str, None] = {}

    def from_environment(self, name: str) -> str:
        """The key in a variable, cleaned; empty where the variable is not set. It is hidden from now on."""
        check_variable(name)
        raw = os.environ.get(name) or ""
        key = clean_key(raw, name)
        for secret in (raw, key):
            self.add(secret)
        return key

    def add(self, secret: str) -> None:
        """Hide this from now on, however it is written: raw, escaped, url-encoded, as bytes or in JSON."""
        if len(secret.strip()) < SHORTEST:
            return
        forms = dict.fromkeys(_forms(secret))
        longest_first = sorted({**self._forms, **forms}, key=len, reverse=True)
        self._forms = dict.fromkeys(longest_first)
        if len(secret.strip()) >= SHORTEST_IN_ANSWERS:
            self._long = dict.fromkeys(sorted({**self._long, **forms}, key=len, reverse=True))

    def expand(self, text: str) -> str:
        """A text with `${NAME}` replaced by that variable, whose value is hidden from now on.

        Raises InputError for a variable that is not set.
        """

        def value(match: re.Match[str]) -> str:
            key = self.from_environment(match[1])
            if not key:
                raise InputError(f"the environment variable {match[1]} is not set", remedy="put the key there")
            return key

        return _REFERENCE.sub(value, text)

    def hide(self, text: str) -> str:
        """A message without any key in it. Hide first and cut then: half a key is not known for one."""
        return _without(text, self._forms)

    def hide_in_answer(self, text: str) -> str:
        """A model's text without long keys, should a server send them back."""
        return _without(text, self._long)


class _Hider(logging.Filter):
    """Takes the keys of all clients that there are out of what HTTP libraries log: a key may be in an address."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: weakref.WeakSet[Keys] = weakref.WeakSet()

    def filter(self, record: logging.LogRecord) -> bool:
        """Every record passes, without a key in it."""
        try:
            said = record.getMessage()
        except (TypeError, ValueError):  # a form and values that do not fit: logging itself says so
            return True
        hidden = said
        for keys in list(self.keys):
            hidden = keys.hide(hidden)
        if hidden != said:
            record.msg, record.args = hidden, ()
        return True


_HIDER = _Hider()
_HTTP_LOGGERS = re.compile(r"(?:httpx2?|httpcore2?|openai)(?:\.|$)")


def hide_in_logs(keys: Keys) -> None:
    """Hide these keys in what the HTTP libraries log from now on, as long as their client is there."""
    _HIDER.keys.add(keys)
    for name in [*filter(_HTTP_LOGGERS.match, list(logging.root.manager.loggerDict)), "httpx", "httpx2", "openai"]:
        logging.getLogger(name).addFilter(_HIDER)  # a filter holds for its own logger alone; one twice is one


def _without(text: str, forms: Iterable[str]) -> str:
    for form in forms:
        text = text.replace(form, HIDDEN)
    return text


def _forms(secret: str) -> Iterable[str]:
    """How a text may hold a secret: as it is, stripped, and each of them escaped in the usual ways."""
    for text in (secret, secret.strip()):
        yield text
        yield repr(text)[1:-1]
        yield repr(text.encode("utf-8", "replace"))[2:-1]
        for ascii_only in (True, False):
            yield json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        for safe in ("", "/", "/:@=+"):
            for quoted in (urllib.parse.quote(text, safe, errors="replace"), urllib.parse.quote_plus(text, safe)):
                yield quoted
                yield re.sub(r"%[0-9A-F]{2}", lambda code: code[0].lower(), quoted)
        yield html.escape(text)


def refuse_written_keys(settings: Any, where: str = "") -> None:
    """Refuse a key that is written out where only its variable may be named: profiles and records keep what they hold.

    settings: options as a profile holds them, mappings and lists in any depth. Raises InputError, which names the
    place and not the key.
    """
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            place = f"{where}.{name}" if where else str(name)
            if isinstance(value, str):
                _check_setting(str(name), value, place)
            else:
                refuse_written_keys(value, place)
    elif isinstance(settings, list | tuple):
        for value in settings:
            if isinstance(value, str):
                _check_setting("", value, where)
            else:
                refuse_written_keys(value, where)


def _check_setting(name: str, value: str, place: str) -> None:
    if name.endswith("key_env"):
        if value:
            check_variable(value)
    elif is_secret_name(name) and value and not _REFERENCE.search(value):
        raise InputError(f"{place} holds a key", remedy="put the key into an environment variable and write ${NAME}")
    elif value.startswith(("http://", "https://")) and holds_key(value):
        raise InputError(f"{place}: an address with a user, a password or a key in it", remedy="leave the key out")


def is_secret_name(name: str) -> bool:
    """Whether a header, a field or a parameter of this name carries a key."""
    return bool(_SECRET_NAME.search(name)) and not _HARMLESS.search(name)


def holds_key(address: str) -> bool:
    """Whether an address has a user in it, or a parameter that carries a key written out."""
    host, _, query = address.partition("://")[2].partition("?")
    parameters = (part.partition("=") for part in query.partition("#")[0].split("&"))
    written = any(is_secret_name(name) and value and "{" not in value for name, _, value in parameters)
    return "@" in host.partition("/")[0] or written
