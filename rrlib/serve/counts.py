"""What the server counts, as Prometheus reads it: requests, seconds, windows by verdict, tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rrlib.records import WindowRecord
from rrlib.serve.forms import tokens_of

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Upper bounds of the histogram's buckets: a chain of thought takes seconds to minutes."""


class Counts:
    """The counters of one server, in a registry of their own. inside, in_flight: how many requests are being dealt
    with, and how many windows the engine has, at the time of asking."""

    def __init__(self, inside: Callable[[], int], in_flight: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "rrlib_requests", "POST requests by path and status", ["path", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "rrlib_request_seconds", "seconds from the headers of an answered request to the end of its answer",
            registry=self.registry, buckets=SECONDS,
        )  # fmt: skip
        self._windows = Counter("rrlib_windows", "finished windows by verdict", ["verdict"], registry=self.registry)
        self._tokens = Counter("rrlib_tokens", "tokens of the model", ["kind"], registry=self.registry)
        for name, text, value in (
            ("rrlib_requests_inside", "requests being read, waiting or worked on", inside),
            ("rrlib_windows_in_flight", "windows that the engine has", in_flight),
        ):
            Gauge(name, text, registry=self.registry).set_function(value)

    def request(self, path: str, status: int, seconds: float) -> None:
        """One request. status: of the answer; 499 where the client left before there was any."""
        self._requests.labels(path, str(status)).inc()
        if status < 400:
            self._seconds.observe(seconds)

    def records(self, records: Sequence[WindowRecord]) -> None:
        """The windows of one finished request."""
        for record in records:
            self._windows.labels(record.verdict).inc()
        for kind, tokens in zip(("read", "written"), tokens_of(records), strict=True):
            self._tokens.labels(kind).inc(tokens)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)
