"""`rrlib rerank`: a TREC run in, a better one out, every model response kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def rerank(
    run: Annotated[Path | None, typer.Option(help="first-stage run, TREC format (.gz allowed)")] = None,
    output: Annotated[Path | None, typer.Option(help="reranked run to write, TREC format")] = None,
    queries: Annotated[Path | None, typer.Option(help="queries, TSV or JSONL")] = None,
    corpus: Annotated[Path | None, typer.Option(help="corpus, JSONL file or BEIR folder")] = None,
    requests: Annotated[
        Path | None, typer.Option(help="rank_llm request JSONL, instead of run, queries and corpus")
    ] = None,
    engine: Annotated[str, typer.Option(help="transformers, vllm, openai or replay")] = "transformers",
    model: Annotated[str, typer.Option(help="folder, hub name, .gguf file, or package:module/folder")] = "",
    prompt: Annotated[
        str,
        typer.Option(
            help="reasonrank, reasonrank-qwen3, nothink_tags, nothink or rankgpt (plain lists); "
            "with the pointwise strategy: pointwise, pointwise_nothink or rank1"
        ),
    ] = "reasonrank",
    strategy: Annotated[str, typer.Option(help="sliding_window, full_list or pointwise")] = "sliding_window",
    window: Annotated[int, typer.Option(help="passages a window")] = 20,
    stride: Annotated[int, typer.Option(help="passages the window moves")] = 10,
    passes: Annotated[int, typer.Option(help="passes over the list")] = 1,
    depth: Annotated[int, typer.Option(help="candidates to rerank; the tail stays behind them")] = 100,
    log: Annotated[Path | None, typer.Option(help="window log, JSONL; default: OUTPUT.log.jsonl")] = None,
    fresh: Annotated[bool, typer.Option(help="begin the log anew instead of resuming")] = False,
    retry_failed: Annotated[bool, typer.Option(help="on resume, ask failed windows again")] = False,
    excluded: Annotated[Path | None, typer.Option(help="documents to remove: qid and docid a line")] = None,
    responses: Annotated[Path | None, typer.Option(help="recorded responses for the replay engine")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="limit on generated tokens")] = 3172,
    budget: Annotated[
        int | None, typer.Option(help="reasoning tokens after which the block is closed and the answer asked for")
    ] = None,
    max_passage_tokens: Annotated[int, typer.Option(help="passages are cut to this (BEIR and TREC DL: 100)")] = 512,
    temperature: Annotated[float, typer.Option(help="0 is greedy")] = 0.0,
    top_p: Annotated[float, typer.Option(help="nucleus sampling")] = 1.0,
    top_k: Annotated[int, typer.Option(help="0 is off")] = 0,
    seed: Annotated[int | None, typer.Option(help="sampling seed")] = None,
    base_url: Annotated[str | None, typer.Option(help="server of the openai engine, http://host:port/v1")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="openai: the server's tokenizer; sends byte-exact prompts to /completions")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="openai: calls in flight")] = 32,
    batch_size: Annotated[int, typer.Option(help="transformers: rows a batch")] = 16,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16")] = "auto",
    max_model_len: Annotated[int | None, typer.Option(help="vllm: prompt and answer, tokens")] = None,
    tag: Annotated[str, typer.Option(help="last column of the run")] = "rrlib",
    quiet: Annotated[bool, typer.Option(help="no progress bar")] = False,
) -> None:
    """Rerank a first-stage run. Run the same command again after a crash and it goes on where it stopped.

    Examples:

    rrlib rerank --run bm25.trec --queries q.tsv --corpus corpus.jsonl --model MODEL --output out.trec

    rrlib rerank --run bm25.trec --engine replay --responses log.jsonl --prompt rankgpt --output out.trec
    """
    from rrlib import formats
    from rrlib.engines import Decoding, make_engine
    from rrlib.errors import InputError
    from rrlib.prompts import get_style
    from rrlib.rerank import Reranker
    from rrlib.strategies import StrategySpec

    if output is None:
        raise InputError("--output is missing", remedy="name the run file to write")
    if (run is None) == (requests is None):
        raise InputError("give --run or --requests, one of them")
    get_style(prompt)
    StrategySpec(strategy, window, stride, passes)
    if depth < 0 or max_new_tokens < 1 or max_passage_tokens < 1 or temperature < 0:
        raise InputError("--depth, --max-new-tokens, --max-passage-tokens or --temperature is out of range")
    replay = engine == "replay"
    notes: list[str] = []
    if requests is not None:
        candidates = formats.read_requests(requests, notes=notes)
    else:
        assert run is not None
        candidates = _candidates(run, queries, corpus, excluded, replay, depth, notes)
    options = _engine_options(
        engine,
        responses=responses,
        base_url=base_url,
        tokenizer=tokenizer,
        concurrency=concurrency,
        batch_size=batch_size,
        dtype=dtype,
        max_model_len=max_model_len,
    )
    if not replay and not model:
        raise InputError("--model is missing", remedy="name a folder or a hub name")
    output.parent.mkdir(parents=True, exist_ok=True)
    log_path = log if log is not None else None if replay else Path(f"{output}.log.jsonl")
    if log_path is not None and responses is not None and log_path.resolve() == responses.resolve():
        raise InputError("--log and --responses are the same file", remedy="name another --log")
    reranker = Reranker(
        make_engine(engine, model, **options),
        style=prompt,
        strategy=strategy,
        window=window,
        stride=stride,
        passes=passes,
        depth=depth,
        max_passage_tokens=max_passage_tokens,
        decoding=Decoding(max_new_tokens, temperature, top_p, top_k, seed),
        log=log_path,
        fresh=fresh,
        retry_failed=retry_failed,
        progress=not quiet,
        budget=budget,
    )
    try:
        result = reranker.rerank(candidates)
    finally:
        reranker.engine.close()
    formats.write_run(output, result.run(), tag)
    for note in notes:
        typer.echo(note, err=True)
    _report(result.counts, output, log_path)


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(rerank)


def _candidates(
    run: Path,
    queries: Path | None,
    corpus: Path | None,
    excluded: Path | None,
    replay: bool,
    depth: int,
    notes: list[str],
) -> list[Any]:
    from rrlib import formats
    from rrlib.errors import InputError

    hits = formats.read_run(run, notes=notes)
    if not replay and (queries is None or corpus is None):
        raise InputError("--queries and --corpus are needed", remedy="only the replay engine does without texts")
    removed = formats.read_excluded(excluded) if excluded is not None else None
    if removed is not None:
        hits, count = formats.without_excluded(hits, removed)
        notes.extend([f"{count} excluded documents removed from the candidates"] if count else [])
    needed = {hit.docid for ranked in hits.values() for hit in ranked[:depth]}  # the tail stays as it is, unread
    return formats.make_candidates(
        hits,
        formats.read_queries(queries) if queries is not None else None,
        formats.read_corpus(corpus, only=needed) if corpus is not None else None,
        texts_required=not replay,
        notes=notes,
        texts_depth=depth,
    )


def _engine_options(engine: str, **given: Any) -> dict[str, Any]:
    from rrlib.errors import InputError

    if engine == "replay":
        if given["responses"] is None:
            raise InputError("--responses is missing", remedy="name the file of recorded responses")
        return {"responses": given["responses"]}
    if engine == "openai":
        if given["base_url"] is None:
            raise InputError("--base-url is missing", remedy="write --base-url http://host:port/v1")
        return {"base_url": given["base_url"], "tokenizer": given["tokenizer"], "concurrency": given["concurrency"]}
    if engine == "vllm":
        return {"dtype": given["dtype"], "max_model_len": given["max_model_len"]}
    return {"dtype": given["dtype"], "batch_size": given["batch_size"]}


def _report(counts: dict[str, int], output: Path, log: Path | None) -> None:
    """What happened, on standard error: failures, missing windows and repeats are said aloud."""
    parts = [f"{counts['queries']} queries", f"{counts['windows']} windows"]
    parts += [f"{counts[k]} {k.replace('_', ' ')}" for k in ("asked", "reused", "failed", "missing") if counts.get(k)]
    if counts.get("in_flight_at_kill"):
        parts.append(f"{counts['in_flight_at_kill']} were in flight when the last run was killed and were asked again")
    verdicts = {k.removeprefix("verdict_"): v for k, v in counts.items() if k.startswith("verdict_")}
    typer.echo("; ".join(parts), err=True)
    typer.echo("verdicts: " + (", ".join(f"{k} {v}" for k, v in sorted(verdicts.items())) or "none"), err=True)
    typer.echo(f"wrote {output}" + (f" (log: {log})" if log is not None else ""), err=True)
