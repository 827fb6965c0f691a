"""Answers from a file: a recorded run is a regression test, and a window log replays to the same run.

One JSON object a line: `{"qid": "...", "start": 80, "end": 100, "text": "..."}` (0-based, end exclusive), optionally
`positions` (windows that are not contiguous), `pass`, `sample`, `collection`, `finish_reason`, `error` and `logprobs`
(windows that were scored). A window that the file lacks keeps its order and is counted. The `settings` of a window log
(style, window, stride, passage limit, samples) are the defaults of its replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rrlib.engines.base import Decoding, Reply, Request
from rrlib.engines.trained import valid_settings
from rrlib.errors import InputError
from rrlib.formats import read_jsonl
from rrlib.records import Key, Retries, record_key

MISSING = "not in the replay file"


def _logprobs(row: Mapping[str, Any], path: str | Path, line: int) -> dict[str, float]:
    """The log-probabilities a pointwise window was scored with."""
    logprobs = row.get("logprobs") or {}
    if not isinstance(logprobs, dict) or not all(isinstance(v, int | float) for v in logprobs.values()):
        raise InputError(
            "`logprobs` is not an object of numbers", path=path, line=line, remedy='write {"word": number}'
        )
    return {str(word): float(value) for word, value in logprobs.items()}


def _check_settings(settings: Mapping[str, Any], path: str | Path, line: int) -> None:
    """Raises InputError for settings of a log that cannot be those of a run."""
    samples = settings.get("samples", 1)
    for name, fits, wanted in (
        ("samples", isinstance(samples, int) and not isinstance(samples, bool) and samples >= 1, "a number from 1 on"),
        ("fuse", isinstance(settings.get("fuse", ""), str), "the name of a fusion"),
        ("style", isinstance(settings.get("style", ""), str), "the name of a prompt style"),
        ("strategy", isinstance(settings.get("strategy") or "", str), "the name of a strategy"),
    ):
        if not fits:
            why = f"`{name}` of the settings is {settings[name]!r}"
            raise InputError(why, path=path, line=line, remedy=f"give {wanted}, or leave it out")


class ReplayEngine:
    """Looks every window up by its key; never asks a model."""

    name = "replay"
    asks_model = False
    capacity = 1 << 30

    def __init__(self, responses: str | Path) -> None:
        self.model = Path(responses).name
        self.replies: dict[Key, Reply] = {}
        self.recorded: dict[str, Any] = {}  # style, window, stride and passage limit, where the records say them
        self.recorded_strategy: str | None = None
        self.recorded_sampling: dict[str, Any] = {}  # samples and fusion, where windows were asked several times
        self.used = 0
        self._done: list[tuple[int, Reply]] = []
        retries = Retries()
        for line, row in read_jsonl(responses):
            try:
                key = record_key(row)
                tokens_in, tokens_out = (int(row.get(name) or 0) for name in ("tokens_in", "tokens_out"))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                why = f"no {error}" if isinstance(error, KeyError) else str(error)
                raise InputError(
                    f"not a window record: {why}",
                    path=responses,
                    line=line,
                    remedy='write {"qid", "start", "end", "text"} a line',
                ) from error
            text = row.get("text")
            if text is not None and not isinstance(text, str):
                raise InputError("`text` is not a string", path=responses, line=line, remedy="quote the raw response")
            right = retries.may_be(key, row.get("error") is not None)
            if key in self.replies and not (right and row.get("settings") is not None):
                sample = f", sample {key[4]}," if key[4] else ""
                raise InputError(
                    f"query {key[1]}: window {key[3][0]}-{key[3][-1] + 1} of pass {key[2]}{sample} is there twice",
                    path=responses,
                    line=line,
                    remedy="keep one record a window, or give each its `pass` or `sample`",
                )
            failed = row.get("error") if text is None or row.get("error") else None
            self.replies[key] = Reply(
                text=text or "",
                reasoning=str(row.get("reasoning") or ""),
                finish_reason=str(row.get("finish_reason") or ""),
                tokens_in=tokens_in,
                tokens_out=tokens_out,
                error=str(failed or "recorded without text") if text is None or failed else None,
                logprobs=_logprobs(row, responses, line),
            )
            settings = row.get("settings")
            if isinstance(settings, dict) and not self.recorded:
                _check_settings(settings, responses, line)
                self.recorded = valid_settings(settings)
                self.recorded_strategy = settings.get("strategy")
                self.recorded_sampling = {name: settings[name] for name in ("samples", "fuse") if name in settings}
        if not self.replies:
            raise InputError("no window records", path=responses, remedy="give a file of recorded responses")

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        """Look the requests up at once. A file without collection names serves any collection."""
        for request in requests:
            if request.key is None:
                raise InputError("replay needs the key of every window")
            reply = self.replies.get(request.key) or self.replies.get(("", *request.key[1:]))
            self.used += reply is not None
            self._done.append((request.id, reply or Reply(error=MISSING)))

    def collect(self) -> list[tuple[int, Reply]]:
        """All that was looked up since the last call."""
        done, self._done = self._done, []
        return done

    def cancel(self) -> None:
        """Forget what was looked up and not collected."""
        self._done = []

    def close(self) -> None:
        """Nothing to free."""
