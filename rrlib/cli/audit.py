"""`rrlib audit LOG.jsonl`: what the responses of a log were."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rrlib.evaluation.faithfulness import Compared, Faithfulness
    from rrlib.responses import Parsed


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @app.command()
    def audit(
        log: Annotated[Path, typer.Argument(help="a window log, or any replay file")],
        prompt: Annotated[
            str | None, typer.Option(help="read the texts again in this style (needed where a file has no verdicts)")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print JSON and nothing else")] = False,
    ) -> None:
        """Count the verdicts of a log: ok, repaired by kind, no answer, truncated, empty, failed; and say whether the
        lists follow from the reasoning, where that can be read.

        Example: rrlib audit outputs/log.jsonl
        """
        from rrlib.errors import InputError
        from rrlib.evaluation.faithfulness import faithfulness
        from rrlib.formats import read_jsonl
        from rrlib.records import of_each_window, record_key
        from rrlib.responses import Parsed, Verdict, parse_lenient
        from rrlib.responses import audit as table

        rows: list[dict[str, Any]] = []
        read: list[Parsed] = []
        chains: list[Compared] = []
        for line, row in of_each_window(_checked(log, read_jsonl(log))):
            rows.append(row)
            text = row.get("text")
            if prompt is None and "verdict" in row:
                verdict: Any = str(row["verdict"])  # a log made elsewhere may hold words of its own
                order = tuple(row.get("order") or ())
                reasoning = str(row.get("reasoning") or "")
                read.append(Parsed(order, verdict, tuple(row.get("repairs") or ()), reasoning))
                chains += _chain(row, line, read[-1])
                continue
            try:
                n = len(row["order"]) if "order" in row else int(row.get("num_passages") or len(record_key(row)[3]))
            except (KeyError, TypeError, ValueError) as error:
                raise InputError("not a window record", path=log, line=line, remedy="give a window log") from error
            if not isinstance(text, str) or row.get("error"):
                read.append(Parsed((), Verdict.FAILED))
            else:
                read.append(parse_lenient(text, n, prompt or "reasonrank", row.get("finish_reason") or None))
                chains += _chain(row, line, read[-1])
        if not rows:
            raise InputError("no window records", path=log, remedy="give a window log")
        counted, followed = table(read), faithfulness(chains)
        if as_json:
            body = {r.kind: {"count": r.count, "share": r.share} for r in counted}
            typer.echo(
                json.dumps({"log": str(log), "windows": len(rows), "responses": body, "reasoning": _json(followed)})
            )
            return
        typer.echo(f"{len(rows)} windows of {log}")
        for r in counted:
            typer.echo(f"  {r.kind:<24} {r.count:>7}  {100 * r.share:6.2f}%")
        tokens = sorted(int(r.get("tokens_out") or 0) for r in rows)
        seconds = sorted(float(r.get("seconds") or 0.0) for r in rows)
        middle, late = len(rows) // 2, min(len(rows) - 1, int(0.95 * len(rows)))
        typer.echo(f"  output tokens p50 {tokens[middle]}, p95 {tokens[late]}")
        typer.echo(f"  seconds that a window waited p50 {seconds[middle]:.3f}, p95 {seconds[late]:.3f}")
        for said in _lines(followed):
            typer.echo(f"  {said}")


def _checked(log: Path, rows: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a log. Raises InputError, with the line, for one whose fields are not of their kind."""
    from rrlib.errors import InputError
    from rrlib.records import WIDEST

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def amount(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf

    def order(value: Any) -> bool:
        return isinstance(value, list) and all(map(whole, value)) and sorted(value) == list(range(len(value)))

    def words(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(v, str) for v in value)

    kinds: dict[str, tuple[Callable[[Any], bool], str]] = {
        "order": (order, "a list of every number from 0 to n - 1, once"),
        "repairs": (words, "a list of words"),
        "tokens_out": (amount, "a number of 0 or more"),
        "seconds": (amount, "a number of 0 or more"),
        "num_passages": (lambda value: whole(value) and 0 < value <= WIDEST, "a whole number of 1 or more"),
    }
    for line, row in rows:
        for name, (right, wanted) in kinds.items():
            if row.get(name) is not None and not right(row[name]):
                remedy = f"{name} is {wanted}: mend or remove the line"
                raise InputError(f"{name} is {row[name]!r:.60}", path=log, line=line, remedy=remedy)
        yield line, row


def _chain(row: Mapping[str, Any], line: int, read: Parsed) -> list[Compared]:
    """The chain of a record of two passages or more, held against its answer."""
    from rrlib.evaluation.faithfulness import compare
    from rrlib.responses import Verdict

    if len(read.order) < 2:
        return []
    query = f"{row.get('collection') or ''} {row['qid']}" if "qid" in row else str(line)
    answered = read.verdict in (Verdict.OK, Verdict.REPAIRED)
    return [compare(query, read.reasoning, read.order if answered else None)]


def _json(followed: Faithfulness) -> dict[str, Any]:
    """The part of the JSON object on the reasoning."""
    body: dict[str, Any] = {"compared": followed.compared, "queries": followed.queries}
    body["said"] = {str(said): count for said, count in followed.counts.items()}
    for name, value in (("agreement", followed.agreement), ("follows", followed.follows)):
        body[name] = None if value is None else {"mean": value.mean, "low": value.low, "high": value.high}
    return body


def _lines(followed: Faithfulness) -> list[str]:
    """What is said of the reasoning, where there is any."""
    from rrlib.evaluation.faithfulness import Said

    if not set(followed.counts) - {Said.NO_CHAIN, Said.NO_ANSWER}:
        return []
    lines = ["reasoning: " + ", ".join(f"{said} {followed.counts[said]}" for said in Said if followed.counts.get(said))]
    if followed.agreement is None or followed.follows is None:
        return [*lines, "no list could be held against its reasoning"]
    mean, share = followed.agreement, followed.follows
    return [
        *lines,
        f"lists agree with it by {mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}] (1: in all pairs, -1: in none); "
        f"{share.mean:.1%} [{share.low:.1%}, {share.high:.1%}] contradict it nowhere; {followed.queries} queries",
    ]
