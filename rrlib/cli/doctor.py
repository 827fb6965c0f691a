"""`rrlib doctor`: what is installed, what device, which engines can run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rrlib.doctor import Report


def render(report: Report) -> str:
    """The report as text: machine, engines, packages that are not as tested, problems with their remedies."""
    cpu, lines = report.cpu, []
    lines.append(f"rrlib {report.rrlib} on Python {report.python}, {report.platform}")
    flags = f", {' '.join(cpu['flags'])}" if cpu["flags"] else ""
    memory = f", {cpu['memory_gib']} GiB" if cpu["memory_gib"] else ""
    lines.append(f"  cpu       {cpu['name']}: {cpu['cores']} cores{memory}{flags}")
    if report.gpus:
        for gpu in report.gpus:
            lines.append(f"  gpu       {gpu['name']}, {gpu['memory_gib']} GiB, compute capability {gpu['capability']}")
    else:
        lines.append("  gpu       none that torch can use")
    threads = report.threads
    lines.append(f"  threads   torch {threads['torch']}, OMP_NUM_THREADS {threads['OMP_NUM_THREADS'] or 'not set'}")
    lines.append(f"  training  in {report.training_dtype}")
    lines.append("engines")
    for engine in report.engines:
        lines.append(f"  {engine.name:<13} {'ready' if engine.ready else 'no':<6} {engine.note}")
    lines.append("models in packages")
    for model in report.models:
        lines.append(f"  {'ready' if model.ready else 'no':<6} {model.reference} ({model.name}, {model.note})")
    lines.append("packages")
    for package in report.packages:
        missing = "optional" if package.extra else "missing"
        mark = {"ok": "", "missing": missing, "other": "not the tested version"}[package.state]
        group = f"[{package.extra}]" if package.extra else ""
        lines.append(
            f"  {package.name:<20} {package.installed or '-':<20} {package.wanted:<18} {group:<11} {mark}".rstrip()
        )
    lines.extend(f"problem: {problem}" for problem in report.problems)
    if not report.problems:
        lines.append("all that rrlib needs is here")
    return "\n".join(lines)


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @app.command()
    def doctor(
        as_json: Annotated[bool, typer.Option("--json", help="print JSON and nothing else")] = False,
    ) -> None:
        """Say what is installed (against the tested versions), what device is used, and which engines can run.

        Exit code 1 if something that rrlib cannot do without is missing or of another version.

        Example: rrlib doctor --json
        """
        from rrlib.doctor import report

        looked_up = report()
        typer.echo(json.dumps(looked_up.to_json(), indent=2) if as_json else render(looked_up))
        if looked_up.problems:
            raise typer.Exit(1)
