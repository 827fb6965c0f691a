"""Which failed tries are made again, when, and how often: what an error says, and the patience of one call.

Waits are random, so that calls which were turned down together do not come back together. A server that names the
seconds to wait (429 with Retry-After) is at work and only full: such a try is not counted until the call has waited as
long as one may take.
"""

from __future__ import annotations

import email.utils
import math
import time
from typing import Any

from rrlib.engines.answers import UnusableAnswer, WebPage, read_body

TIMED_OUT = "no answer in time"


def retryable(error: BaseException) -> bool:
    """Whether the same call may be answered when it is made again."""
    import openai

    if isinstance(error, openai.APIStatusError):
        if spent(error):
            return False
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    passing = openai.APIConnectionError | openai.APIResponseValidationError | UnusableAnswer | ValueError | TimeoutError
    return isinstance(error, passing)


def spent(error: Any) -> bool:
    """Whether a 429 says that there is no credit left: waiting does not help."""
    reasons = (getattr(error, "code", None), getattr(error, "type", None))
    return error.status_code == 429 and "insufficient_quota" in reasons


def retry_after(error: Any) -> float | None:
    """Seconds that the server asks to wait, 0 or more: a number, or a date, in Retry-After; None where it says none."""
    header = getattr(getattr(error, "response", None), "headers", {}).get("retry-after")
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError, TypeError):
            return None
    return None if math.isnan(seconds) else max(seconds, 0.0)


def in_a_word(error: Any) -> str:
    """A failed try in a word or two, for the books: a status, or the kind of error."""
    status = getattr(error, "status_code", None)
    return str(status) if status is not None else TIMED_OUT if timed_out(error) else type(error).__name__


def timed_out(error: Any) -> bool:
    """Whether no answer came in time."""
    import openai

    return isinstance(error, TimeoutError | openai.APITimeoutError)


def message_of(error: Any) -> str:
    """The server's own words for an error; where it sent a web page, its title."""
    if isinstance(error.body, str) and error.body.strip() and not error.body.lstrip().startswith("<"):
        return error.body.strip()
    body = error.body if isinstance(error.body, dict) else {}
    inner = body.get("error")
    said = body.get("message") or (inner.get("message") if isinstance(inner, dict) else inner) or body.get("detail")
    if said:
        return str(said)
    try:
        read_body(error.response.text)
    except WebPage as page:
        return str(page)
    except UnusableAnswer:
        return error.response.text.strip() or str(error.message)
    return str(error.message)


class Patience:
    """How long one call goes on (of tenacity's `state`: its tries, seconds, and last outcome).

    timeout: seconds that a call turned down with a Retry-After waits before such tries count. backoff, max_wait: see
    rrlib.engines.client.OpenAIClient.
    """

    def __init__(self, timeout: float, backoff: float, max_wait: float) -> None:
        self.timeout, self.backoff, self.max_wait = timeout, backoff, max_wait
        self.uncounted = 0

    def counted(self, state: Any) -> int:
        """The tries so far that count, with this one. To be asked once after each try."""
        error = state.outcome.exception()
        full = getattr(error, "status_code", None) == 429 and retry_after(error) is not None
        if full and (state.seconds_since_start or 0.0) < self.timeout:
            self.uncounted += 1
        return int(state.attempt_number) - self.uncounted

    def wait(self, state: Any) -> float:
        """Seconds before the next try: what the server asks, up to max_wait, and a random time that grows."""
        import tenacity

        asked = retry_after(state.outcome.exception()) or 0.0
        more = tenacity.wait_random_exponential(multiplier=self.backoff, max=self.max_wait)(state)
        return min(asked, self.max_wait) + float(more)
