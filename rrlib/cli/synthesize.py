"""`rrlib synthesize`: queries with gold answers in, training examples out; every answer kept, none paid for twice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(synthesize)


def synthesize(
    source: Annotated[Path, typer.Argument(help="a collection folder, or one that rrlib data prepare made")],
    output: Annotated[Path, typer.Option(help="folder of stores and results; run again, and it goes on there")],
    base_url: Annotated[str, typer.Option(help="an OpenAI-compatible server, http://host:port/v1")] = "",
    model: Annotated[str, typer.Option(help="model, as the server knows it")] = "",
    api_key_env: Annotated[str, typer.Option(help="environment variable with the key")] = "OPENAI_API_KEY",
    provider: Annotated[
        list[str] | None,
        typer.Option(
            help="what the server wants: max_completion_tokens, no_temperature, no_system, query.NAME=VALUE, "
            "header.NAME=VALUE, body.NAME=JSON; a value may be ${VARIABLE}; repeatable"
        ),
    ] = None,
    teacher: Annotated[
        str, typer.Option(help="module:callable in place of a server, called with the source folder")
    ] = "",
    split: Annotated[str, typer.Option(help="split of a collection")] = "train",
    window: Annotated[int, typer.Option(help="passages in a list")] = 20,
    depth: Annotated[int | None, typer.Option(help="candidates looked at a query (default: all)")] = None,
    limit: Annotated[int | None, typer.Option(help="queries at most (default: all)")] = None,
    alpha: Annotated[float, typer.Option(help="least NDCG@10 of a list under its own labels")] = 0.4,
    hard_negatives: Annotated[float, typer.Option(help="share of hard ones among the negatives")] = 0.5,
    style: Annotated[str, typer.Option(help="prompt style the examples are for")] = "reasonrank",
    seed: Annotated[int, typer.Option(help="of query order, negatives, shuffle and sampling")] = 0,
    temperature: Annotated[float, typer.Option(help="of the teacher's sampling")] = 0.6,
    max_new_tokens: Annotated[int, typer.Option(help="longest answer, reasoning included")] = 8192,
    concurrency: Annotated[int, typer.Option(help="calls in flight")] = 16,
    requests_per_minute: Annotated[float, typer.Option(help="limit of the account, 0 = none")] = 0.0,
    tokens_per_minute: Annotated[float, typer.Option(help="limit of the account, 0 = none")] = 0.0,
    timeout: Annotated[float, typer.Option(help="seconds a try")] = 600.0,
    max_retries: Annotated[int, typer.Option(help="tries after the first")] = 6,
    budget: Annotated[float | None, typer.Option(help="dollars, over all runs of this folder")] = None,
    price_in: Annotated[float | None, typer.Option(help="dollars a million tokens read")] = None,
    price_out: Annotated[float | None, typer.Option(help="dollars a million tokens written")] = None,
    prices: Annotated[Path | None, typer.Option(help="YAML of MODEL: {read: 0.5, written: 2.0}")] = None,
    cache: Annotated[Path | None, typer.Option(help="folder of answers shared between runs")] = None,
    shard: Annotated[str, typer.Option(help="a part of the queries, such as 3/8; see data merge")] = "1/1",
    expect: Annotated[int, typer.Option(help="dry run: tokens of an answer, before any is known")] = 1000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print calls and expected cost, ask nothing")] = False,
    quiet: Annotated[bool, typer.Option(help="no progress line")] = False,
) -> None:
    """Ask a teacher to select and rank, filter what contradicts itself, and write training examples.

    \b
    Examples:
      rrlib synthesize data --base-url https://api.example.org/v1 --model deepseek-reasoner --output out --dry-run
      rrlib synthesize data --base-url https://api.example.org/v1 --model deepseek-reasoner --output out \\
          --budget 20 --concurrency 64 --requests-per-minute 500
      rrlib synthesize data ... --output part3 --shard 3/8
    """
    from rrlib.engines.base import Decoding
    from rrlib.engines.client import OpenAIClient
    from rrlib.engines.provider import Provider
    from rrlib.errors import InputError
    from rrlib.plans.synthesis import plan
    from rrlib.resources import load_callable
    from rrlib.synthesis.pipeline import check_asked
    from rrlib.synthesis.pipeline import synthesize as run
    from rrlib.synthesis.sources.items import Shard
    from rrlib.synthesis.teacher.ledger import check_budget
    from rrlib.synthesis.teacher.prices import price_of
    from rrlib.synthesis.teacher.progress import ProgressBar

    if bool(teacher) == bool(base_url):
        raise InputError("give --base-url and --model, or --teacher", remedy="a server, or module:callable")
    if base_url and not model:
        raise InputError("--model is missing", remedy="name the model as the server knows it")
    settings: dict[str, Any] = {
        "split": split,
        "window": window,
        "seed": seed,
        "limit": limit,
        "depth": depth,
        "hard_negatives": hard_negatives,
        "decoding": Decoding(max_new_tokens=max_new_tokens, temperature=temperature),
        "shard": Shard.parse(shard),
        "price": _price(model, price_in, price_out, prices),
    }
    check_asked(style, alpha, concurrency, limit)
    check_budget(budget, settings["price"] or price_of(model or teacher))
    items = open_source(source, split)
    if dry_run:
        typer.echo(plan(items, model or teacher, output, expect=expect, **settings).text())
        return
    limits: dict[str, Any] = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
    if teacher:
        client = load_callable(teacher)(source, seed=seed)
    else:
        client = OpenAIClient(
            base_url, model, api_key_env, timeout, max_retries, **limits, provider=Provider.parse(provider or [])
        )
    result = run(
        items,
        client,
        output,
        alpha=alpha,
        concurrency=concurrency,
        style=style,
        budget=budget,
        cache=cache,
        progress=None if quiet else ProgressBar(),
        **settings,
    )
    typer.echo(report(result.summary))
    typer.echo(f"wrote {result.examples}", err=True)
    this_run = result.summary["this_run"]
    if this_run["failed"]:
        share = f"{this_run['failed']:,} of {this_run['calls']:,} calls ({this_run['failed'] / this_run['calls']:.1%})"
        typer.echo(f"{share} failed -> run the same command again, and they are asked again", err=True)
        raise typer.Exit(3 if this_run["failed"] == this_run["calls"] else 1)


def open_source(folder: Path, split: str) -> Any:
    """A folder of items where there is one, else a collection."""
    from rrlib.formats import read_collection
    from rrlib.synthesis.sources.items import ItemFolder

    if any((folder / name).is_file() for name in ("items.jsonl", "items.jsonl.gz")):
        return ItemFolder(folder)
    return read_collection(folder, split)


def _price(model: str, price_in: float | None, price_out: float | None, table: Path | None) -> Any:
    from rrlib.errors import InputError
    from rrlib.synthesis.teacher.prices import Price, price_of, read_prices

    if (price_in is None) != (price_out is None):
        raise InputError("give --price-in and --price-out, both", remedy="in dollars a million tokens")
    if price_in is not None and price_out is not None:
        return Price(price_in, price_out, "command line")
    return price_of(model, read_prices(table) if table is not None else None)


def report(summary: Any) -> str:
    """What came of a run, in a few lines."""
    dropped = ", ".join(f"{n:,} {why}" for why, n in summary["dropped"].items()) or "none"
    lines = [f"{summary['examples']:,} examples of {summary['queries']:,} queries; dropped: {dropped}"]
    account = summary["account"]
    if account:
        lines.append(
            f"calls: {account['calls']:,} answered ({account['cached']:,} from the cache), {account['retries']:,} "
            f"tries made again, {account['failed']:,} failed, {account['lost']:,} in flight when a run was killed"
        )
        if account["usd"] is not None:
            possible = account["possible_usd"] or 0.0  # None where only an earlier run had a price
            lines.append(f"cost: ${account['usd']:.4f}, and at most ${possible:.4f} for tries without answer")
    return "\n".join(lines)
