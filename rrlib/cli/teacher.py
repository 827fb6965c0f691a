"""`rrlib teacher serve`: the simulated teacher as an OpenAI-compatible server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command group `teacher`."""
    group = typer.Typer(help="A teacher to ask: the simulated one, as a server.", no_args_is_help=True)
    app.add_typer(group, name="teacher")
    group.command("serve")(serve)


def serve(
    folder: Annotated[Path, typer.Argument(help="the collection it knows, as rrlib miniature build wrote it")],
    port: Annotated[int, typer.Option(help="port on 127.0.0.1; 0 = any free one", min=0, max=65535)] = 8008,
    seed: Annotated[int, typer.Option(help="of what it errs in")] = 1,
    error: Annotated[
        list[str] | None, typer.Option(help="an error rate, NAME=PROBABILITY, such as wrong_belief=0.2; repeatable")
    ] = None,
    inline_think: Annotated[
        bool, typer.Option("--inline-think", help="reasoning in <think>, not in reasoning_content")
    ] = False,
    delay: Annotated[float, typer.Option(help="seconds that an answer takes", min=0.0)] = 0.0,
    teacher: Annotated[
        str, typer.Option(help="module:callable of the teacher, called with the folder")
    ] = "rrlib.miniature:SimulatedTeacher",
) -> None:
    """Serve until Ctrl-C. Ask it as any server: base URL and model are printed.

    \b
    Example:
      rrlib miniature build world --train 100 && rrlib teacher serve world --port 8008 --error refusal=0.05
      rrlib synthesize world --base-url http://127.0.0.1:8008/v1 --model simulated-teacher --output out
    """
    from rrlib.errors import InputError
    from rrlib.resources import load_callable
    from rrlib.synthesis.teacher.serve import TeacherServer

    rates: dict[str, float] = {}
    for text in error or ():
        name, equals, value = text.partition("=")
        try:
            rates[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise InputError(f"--error {text}", remedy="write NAME=PROBABILITY, such as wrong_belief=0.2")
    server = TeacherServer(
        load_callable(teacher)(folder, seed=seed, **rates), port=port, inline_think=inline_think, delay=delay
    )
    typer.echo(f"base URL: {server.url}\nmodel:    {server.model}\nCtrl-C ends it")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
