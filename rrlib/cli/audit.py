"""`rrlib audit LOG.jsonl`: what the responses of a log were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


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
        """Count the verdicts of a log: ok, repaired by kind, no answer, truncated, empty, failed.

        Example: rrlib audit outputs/log.jsonl
        """
        from rrlib.errors import InputError
        from rrlib.formats import read_jsonl
        from rrlib.records import record_key
        from rrlib.responses import Parsed, Verdict, parse_lenient
        from rrlib.responses import audit as table

        rows: list[dict[str, Any]] = []
        read: list[Parsed] = []
        for line, row in read_jsonl(log):
            rows.append(row)
            text = row.get("text")
            if prompt is None and "verdict" in row:
                verdict: Any = str(row["verdict"])  # a log made elsewhere may hold words of its own
                read.append(Parsed((), verdict, tuple(row.get("repairs") or ())))
                continue
            try:
                n = len(row["order"]) if "order" in row else int(row.get("num_passages") or len(record_key(row)[3]))
            except (KeyError, TypeError, ValueError) as error:
                raise InputError("not a window record", path=log, line=line, remedy="give a window log") from error
            if not isinstance(text, str) or row.get("error"):
                read.append(Parsed((), Verdict.FAILED))
            else:
                read.append(parse_lenient(text, n, prompt or "reasonrank", row.get("finish_reason") or None))
        if not rows:
            raise InputError("no window records", path=log, remedy="give a window log")
        counted = table(read)
        if as_json:
            body = {r.kind: {"count": r.count, "share": r.share} for r in counted}
            typer.echo(json.dumps({"log": str(log), "windows": len(rows), "responses": body}))
            return
        typer.echo(f"{len(rows)} windows of {log}")
        for r in counted:
            typer.echo(f"  {r.kind:<24} {r.count:>7}  {100 * r.share:6.2f}%")
        tokens = sorted(int(r.get("tokens_out") or 0) for r in rows)
        seconds = sorted(float(r.get("seconds") or 0.0) for r in rows)
        middle, late = len(rows) // 2, min(len(rows) - 1, int(0.95 * len(rows)))
        typer.echo(f"  output tokens p50 {tokens[middle]}, p95 {tokens[late]}")
        typer.echo(f"  seconds a window p50 {seconds[middle]:.3f}, p95 {seconds[late]:.3f}")
