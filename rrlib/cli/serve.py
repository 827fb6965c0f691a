"""`rrlib serve`: a reranker as an HTTP server."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
"""What the extra `serve` brings."""
HTTP_ONLY = (
    "host",
    "port",
    "api_key_env",
    "max_body_bytes",
    "max_documents",
    "max_query_chars",
    "max_requests",
    "grace",
    "log",
)
"""The options that mean nothing to a server over standard input and output."""

OTHER_FLAGS: Mapping[str, Mapping[str, str | None]] = {"openai": {"api_key_env": "--engine-key-env", "provider": None}}
"""Engine -> option -> its flag here, where rrlib rerank has another: `--api-key-env` is the key of our own clients."""


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(serve)


def serve(
    model: Annotated[str, typer.Option(help="folder, hub name, .gguf file, or package:module/folder")] = "",
    engine: Annotated[str, typer.Option(help="transformers, vllm, openai or numpy")] = "transformers",
    host: Annotated[str, typer.Option(help="address to listen at; the default is this machine alone")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port; 0 = any free one", min=0, max=65535)] = 8000,
    name: Annotated[str, typer.Option(help="the model's name for clients; default: its folder or hub name")] = "",
    api_key_env: Annotated[str, typer.Option(help="environment variable with the key that clients must send")] = "",
    prompt: Annotated[str | None, typer.Option(help="prompt style, as in rrlib rerank")] = None,
    strategy: Annotated[str | None, typer.Option(help="as in rrlib rerank")] = None,
    window: Annotated[int | None, typer.Option(help="passages a window; default: the checkpoint's own")] = None,
    stride: Annotated[int | None, typer.Option(help="passages it moves; default: the checkpoint's own")] = None,
    passes: Annotated[int, typer.Option(help="passes over the list")] = 1,
    best: Annotated[int | None, typer.Option(help="top_down, setwise: of the best, as in rrlib rerank")] = None,
    depth: Annotated[int | None, typer.Option(help="documents to rerank of each request; default: all", min=1)] = None,
    max_new_tokens: Annotated[int, typer.Option(help="limit on generated tokens")] = 3172,
    budget: Annotated[int | None, typer.Option(help="reasoning tokens, as in rrlib rerank")] = None,
    max_passage_tokens: Annotated[
        int | None, typer.Option(help="documents are cut to this; default: the checkpoint's own, else 512", min=1)
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy")] = 0.0,
    samples: Annotated[int | None, typer.Option(help="of each window, fused; needs a temperature", min=1)] = None,
    fuse: Annotated[str | None, typer.Option(help="how samples are fused: rrf (default) or borda")] = None,
    dtype: Annotated[str | None, typer.Option(help="transformers, vllm: float32, bfloat16 or float16")] = None,
    batch_size: Annotated[int | None, typer.Option(help="transformers: rows a batch")] = None,
    max_model_len: Annotated[int | None, typer.Option(help="vllm: prompt and answer, tokens")] = None,
    base_url: Annotated[
        list[str] | None,
        typer.Option(
            help="openai: server behind this one, http://host:port/v1; again for more servers of the same model"
        ),
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="openai: that server's tokenizer")] = None,
    concurrency: Annotated[int | None, typer.Option(help="openai: calls in flight, over all servers")] = None,
    engine_key_env: Annotated[str | None, typer.Option(help="openai: environment variable with its key")] = None,
    engine_option: Annotated[
        list[str] | None,
        typer.Option(help="any other option of the engine, NAME=VALUE, as in rrlib rerank; repeatable"),
    ] = None,
    max_body_bytes: Annotated[int, typer.Option(help="of one request")] = 4_000_000,
    max_documents: Annotated[int, typer.Option(help="of one request")] = 1000,
    max_query_chars: Annotated[int, typer.Option(help="of a query")] = 10_000,
    max_requests: Annotated[int, typer.Option(help="waiting or worked on at the same time")] = 256,
    grace: Annotated[float, typer.Option(help="seconds that requests may take to finish at the end", min=0)] = 30.0,
    log: Annotated[Path | None, typer.Option(help="file to which every finished window is added")] = None,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="no HTTP: an MCP server over standard input and output, with one tool")
    ] = False,
) -> None:
    """Serve /v1/rerank (Cohere's form, as Jina and vLLM have it) and /rerank (TEI's) until Ctrl-C.

    \b
    Example:
      rrlib serve --model MODEL --engine vllm --host 127.0.0.1 --port 8000
      curl http://127.0.0.1:8000/health
    """
    asked = dict(locals())
    from rrlib.cli.rerank import standard_output
    from rrlib.engines import Decoding, check_engine_options, make_engine
    from rrlib.engines.flags import more_options
    from rrlib.errors import InputError
    from rrlib.rerank import Reranker
    from rrlib.sampling import check_sampling

    if mcp:
        _check_mcp(asked)
    else:
        _check_packages()
    if not model:
        raise InputError("--model is missing", remedy="name a folder or a hub name")
    if engine == "replay":
        raise InputError("recorded answers cannot be served", remedy="use another --engine")
    if engine == "openai" and not base_url:
        raise InputError("--base-url is missing", remedy="write --base-url http://host:port/v1")

    given = {
        "dtype": dtype, "batch_size": batch_size, "max_model_len": max_model_len, "base_url": base_url or None,
        "tokenizer": tokenizer, "concurrency": concurrency, "api_key_env": engine_key_env,
    }  # fmt: skip
    options = {option: value for option, value in given.items() if value is not None}
    more = more_options(engine, engine_option or [], OTHER_FLAGS.get(engine))
    check_engine_options(engine, options)  # now: the engine itself is made while the server already listens
    options |= more
    decoding = Decoding(max_new_tokens, temperature)
    if engine == "numpy" and temperature > 0:  # now: the engine says so at the first request
        remedy = "leave --temperature out, or use another --engine"
        raise InputError(f"the numpy engine is greedy, and --temperature is {temperature:g}", remedy=remedy)

    check_sampling(samples or 1, fuse or "rrf", temperature)

    def make() -> Reranker:
        return Reranker(
            make_engine(engine, model, **options), style=prompt, strategy=strategy, window=window, stride=stride,
            passes=passes, best=best, depth=depth, max_passage_tokens=max_passage_tokens, decoding=decoding,
            budget=budget, samples=samples, fuse=fuse,
        )  # fmt: skip

    in_a_folder = model.startswith("package:") or Path(model).expanduser().exists()
    known_as = name or (Path(model).name if in_a_folder else model)
    if mcp:
        from rrlib.adapters.mcp import make_server

        with standard_output(True):  # what engines print while they load is none of the protocol
            reranker = make()
        make_server(reranker, known_as).run()
        return
    from rrlib.serve.guard import Limits
    from rrlib.serve.server import Server

    server = Server(
        make, known_as, host=host, port=port, key=_client_key(api_key_env), grace=grace, log=log,
        limits=Limits(max_body_bytes, max_documents, max_query_chars, max_requests),
        ready=lambda: typer.echo("ready", err=True),
    )  # fmt: skip
    _say_where(server.url, known_as, host, api_key_env)
    server.run()
    typer.echo("stopped", err=True)


def _check_packages() -> None:
    from rrlib.errors import missing_extra

    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise missing_extra(" and ".join(missing), "serve", needed_by="rrlib serve")


def _check_mcp(asked: Mapping[str, Any]) -> None:
    """Refuse options of an HTTP server, some of which protect it, and a missing library, before a model is loaded."""
    import rrlib.adapters.mcp  # noqa: F401
    from rrlib.errors import InputError

    defaults = inspect.signature(serve).parameters
    idle = [name for name in HTTP_ONLY if asked[name] != defaults[name].default]
    if idle:
        flag = idle[0].replace("_", "-")
        raise InputError(f"--mcp has no use for --{flag}", remedy="leave it out: who starts the command may ask")


def _client_key(variable: str) -> str:
    from rrlib.engines.keys import Keys
    from rrlib.errors import InputError

    key = Keys().from_environment(variable) if variable else ""
    if variable and not key:
        raise InputError(f"the environment variable {variable} is not set", remedy="put the key of the server there")
    return key


def _say_where(url: str, model: str, host: str, api_key_env: str) -> None:
    import ipaddress

    typer.echo(f"{model} at {url} (loading; {url}/health answers 200 when it is ready; Ctrl-C ends it)", err=True)
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local and not api_key_env:
        typer.echo("anyone who can reach this address can use it: --api-key-env asks for a key", err=True)
