"""`rrlib rerank`: a TREC run in, a better one out, every model response kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from rrlib.outcome import NOTHING_RANKED, outcome, report


def rerank(
    run: Annotated[Path | None, typer.Option(help="first-stage run, TREC format (.gz allowed)")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="reranked run, TREC format: a file takes its place at the end; into a pipe, or - for standard "
            "output, each query goes as it is finished. With --requests, NAME.jsonl: the requests in their new order"
        ),
    ] = None,
    queries: Annotated[Path | None, typer.Option(help="queries, TSV or JSONL")] = None,
    corpus: Annotated[Path | None, typer.Option(help="corpus, JSONL file or BEIR folder")] = None,
    requests: Annotated[
        Path | None, typer.Option(help="rank_llm request JSONL, instead of run, queries and corpus")
    ] = None,
    engine: Annotated[str, typer.Option(help="transformers, vllm, openai, replay or numpy")] = "transformers",
    model: Annotated[str, typer.Option(help="folder, hub name, .gguf file, or package:module/folder")] = "",
    prompt: Annotated[
        str | None,
        typer.Option(
            help="default: what the checkpoint was trained with, else reasonrank. One of reasonrank, "
            "reasonrank-qwen3, nothink_tags, nothink or rankgpt (plain lists); "
            "with the pointwise strategy: pointwise, pointwise_nothink or rank1"
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="sliding_window (default), full_list, pointwise (of a checkpoint trained so), top_down, setwise, "
            "tournament; `rrlib strategies` says what each costs"
        ),
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="passages a window; default: the checkpoint's own, else 20")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="passages the window moves; default: the checkpoint's own, else 10")
    ] = None,
    passes: Annotated[int, typer.Option(help="passes of the sliding window over the list, or tournaments")] = 1,
    best: Annotated[
        int | None, typer.Option(help="top_down, setwise: how many of the best to look for; default: window - stride")
    ] = None,
    depth: Annotated[int, typer.Option(help="candidates to rerank; the tail stays behind them")] = 100,
    log: Annotated[Path | None, typer.Option(help="window log, JSONL; default: OUTPUT.log.jsonl")] = None,
    fresh: Annotated[bool, typer.Option(help="begin the log anew instead of resuming")] = False,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed/--no-retry-failed", " /--keep-failed", help="on resume, ask failed windows again"),
    ] = True,
    excluded: Annotated[Path | None, typer.Option(help="documents to remove: qid and docid a line")] = None,
    responses: Annotated[Path | None, typer.Option(help="recorded responses for the replay engine")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="limit on generated tokens")] = 3172,
    budget: Annotated[
        int | None, typer.Option(help="reasoning tokens after which the block is closed and the answer asked for")
    ] = None,
    max_passage_tokens: Annotated[
        int | None,
        typer.Option(help="passages are cut to this (BEIR and TREC DL: 100); default: the checkpoint's own, else 512"),
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy")] = 0.0,
    top_p: Annotated[float, typer.Option(help="nucleus sampling")] = 1.0,
    top_k: Annotated[int, typer.Option(help="0 is off")] = 0,
    seed: Annotated[int | None, typer.Option(help="sampling seed")] = None,
    samples: Annotated[
        int | None,
        typer.Option(help="samples of each window, fused (see `rrlib confidence`); default: 1, or as recorded"),
    ] = None,
    fuse: Annotated[str | None, typer.Option(help="how samples are fused: rrf (default) or borda")] = None,
    with_first_stage: Annotated[
        bool | None,
        typer.Option(
            "--with-first-stage/--without-first-stage",
            help="fuse the model's order with the first stage's (reciprocal ranks); the answers in a log serve both. "
            "Default: as a packed checkpoint says, else without",
        ),
    ] = None,
    base_url: Annotated[
        list[str] | None,
        typer.Option(help="server of the openai engine, http://host:port/v1; again for more servers of the same model"),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="openai: the server's tokenizer; sends byte-exact prompts to /completions")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="openai: calls in flight, over all servers; default: found while it works")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="openai: environment variable with the key; default: OPENAI_API_KEY")
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            help="openai: what the server wants: max_completion_tokens, no_temperature, no_system, "
            "query.NAME=VALUE, header.NAME=VALUE, body.NAME=JSON; a value may be ${VARIABLE}; repeatable"
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="transformers, numpy: rows a batch; default: 16")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="transformers, vllm: auto (default), float32, bfloat16 or float16")
    ] = None,
    max_model_len: Annotated[int | None, typer.Option(help="vllm: prompt and answer, tokens")] = None,
    engine_option: Annotated[
        list[str] | None,
        typer.Option(help="any other option of the engine, NAME=VALUE (vllm: tensor_parallel_size=2, ...); repeatable"),
    ] = None,
    tag: Annotated[str, typer.Option(help="last column of the run")] = "rrlib",
    quiet: Annotated[bool, typer.Option(help="no progress bar")] = False,
) -> None:
    """Rerank a first-stage run. Run the same command again after a crash and it goes on where it stopped.

    Examples:

    rrlib rerank --run bm25.trec --queries q.tsv --corpus corpus.jsonl --model MODEL --output out.trec

    rrlib rerank --run bm25.trec --engine replay --responses log.jsonl --prompt rankgpt --output out.trec
    """
    from rrlib import formats
    from rrlib.disk import check_apart, check_output
    from rrlib.engines import Decoding, make_engine
    from rrlib.engines.flags import more_options
    from rrlib.engines.trained import settings_for, trained_settings
    from rrlib.errors import InputError
    from rrlib.prompts import get_style
    from rrlib.rerank import Reranker
    from rrlib.sampling import check_sampling, varies
    from rrlib.strategies import StrategySpec

    if output is None:
        raise InputError("--output is missing", remedy="name the run file to write")
    if (run is None) == (requests is None):
        raise InputError("give --run or --requests, one of them")
    rewritten = requests if output.name.endswith((".jsonl", ".jsonl.gz")) else None
    if requests is None and output.name.endswith((".jsonl", ".jsonl.gz")):
        raise InputError("--output ends in .jsonl", remedy="give --requests, whose form that is, or name a run file")
    replay = engine == "replay"
    asked = {"style": prompt, "window": window, "stride": stride, "max_passage_tokens": max_passage_tokens}
    chosen = settings_for(model, strategy, asked, warn=False)
    get_style(chosen["style"])
    notes: list[str] = []
    if chosen["strategy"] == "pointwise" and (window or stride):
        notes.append("passages are judged one by one: --window and --stride do nothing")
    if not replay:  # recorded answers bring their own
        StrategySpec(chosen["strategy"], chosen["window"], chosen["stride"], passes, best)
        check_sampling(samples or 1, fuse or "rrf", temperature, varies=varies(get_style(chosen["style"])))
    if depth < 1 or chosen["max_passage_tokens"] < 1:
        raise InputError("--depth or --max-passage-tokens is out of range", remedy="give 1 or more")
    decoding = Decoding(max_new_tokens, temperature, top_p, top_k, seed)
    if len(tag.split()) != 1 or tag != tag.strip():
        raise InputError(f"--tag {tag!r} is empty or holds a blank", remedy="a column of a run is one word")
    standard = str(output) in ("-", "/dev/stdout")
    if not standard:
        check_output(output, "output")
    if (standard or _is_pipe(output)) and log is None and not replay:
        raise InputError("--log is missing", remedy="name a file that keeps the answers: a pipe does not")
    log_path = log if log is not None else None if replay else Path(f"{output}.log.jsonl")
    if log_path is not None:
        check_output(log_path, "window log", appended=True)
    inputs = {"--run": run, "--queries": queries, "--corpus": corpus, "--requests": requests}
    inputs |= {"--excluded": excluded, "--responses": responses}
    check_apart(inputs, {"--output": None if standard else output, "--log": log_path})
    more = more_options(engine, engine_option or [])
    given = {
        "responses": responses, "base_url": base_url or None, "tokenizer": tokenizer, "concurrency": concurrency,
        "batch_size": batch_size, "dtype": dtype, "max_model_len": max_model_len, "api_key_env": api_key_env,
        "provider": provider or None,
    }  # fmt: skip
    options = _engine_options(engine, {name: value for name, value in given.items() if value is not None}) | more
    if requests is not None:
        _check_requests(requests, rewritten is not None, queries, corpus, excluded)
    if engine in ("transformers", "vllm", "numpy") and model:
        _check_model(model)
    if requests is not None:
        candidates = formats.read_requests(requests, notes=notes)
    else:
        assert run is not None
        candidates = _candidates(run, queries, corpus, excluded, replay, depth, notes)
    if not replay and not model:
        raise InputError("--model is missing", remedy="name a folder or a hub name")
    reranker = Reranker(
        make_engine(engine, model, **options),
        strategy=strategy,
        passes=passes,
        best=best,
        depth=depth,
        **asked,  # type: ignore[arg-type]
        decoding=decoding,
        log=log_path,
        fresh=fresh,
        retry_failed=retry_failed,
        progress=not quiet,
        budget=budget,
        samples=samples,
        fuse=fuse,
        with_first_stage=with_first_stage,
    )
    said = trained_settings(model), reranker.strategy.size, reranker.asks_model
    with standard_output(standard) as out:
        try:
            code, line, stream = _write(reranker, candidates, output, out, tag, said, rewritten)
        finally:
            reranker.engine.close()
    for note in notes:
        typer.echo(note, err=True)
    report(stream.counts)
    if any(map(reranker.fuses, candidates)):
        typer.echo("the order is fused with the first stage's (--without-first-stage: the model's alone)", err=True)
    if code != NOTHING_RANKED:
        typer.echo(f"wrote {output}" + (f" (log: {log_path})" if log_path is not None else ""), err=True)
    if line:
        typer.echo(line, err=True)
    if code:
        raise typer.Exit(code)


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
        formats.read_queries(queries, notes) if queries is not None else None,
        formats.read_corpus(corpus, only=needed, notes=notes) if corpus is not None else None,
        texts_required=not replay,
        notes=notes,
        texts_depth=depth,
    )


def _check_model(model: str) -> None:
    """Refuse a folder or file that is not there, before torch is imported to look for it. A hub name passes."""
    from rrlib.errors import MissingFileError
    from rrlib.resources import locate

    path = locate(model)
    a_path = path.startswith(("/", "./", "../", "~")) or path.count("/") > 1 or path.endswith((".gguf", "/"))
    if a_path and not Path(path).expanduser().exists():
        raise MissingFileError("no such model", path=model, remedy="name a folder with config.json and weights")


def _check_requests(
    requests: Path, read_again: bool, queries: Path | None, corpus: Path | None, excluded: Path | None
) -> None:
    """Refuse what does nothing beside requests, and a pipe of requests that are read again to be written anew."""
    from rrlib.errors import InputError

    for flag, path in (("--queries", queries), ("--corpus", corpus), ("--excluded", excluded)):
        if path is not None:
            remedy = "leave such candidates out of the requests" if flag == "--excluded" else "leave it out"
            raise InputError(f"{flag} does nothing with --requests", remedy=remedy)
    if read_again and requests.exists() and not (requests.is_file() or requests.is_dir()):
        remedy = "save the requests in a file: they are read again to be written in their new order"
        raise InputError("--requests is a pipe", path=requests, remedy=remedy)


def _engine_options(engine: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's options of those flags that were given. Raises InputError for one that means nothing to it."""
    from rrlib.engines import check_engine_options
    from rrlib.engines.flags import FLAGS
    from rrlib.errors import InputError

    for name in given:
        if name not in FLAGS.get(engine, ()):
            engines = " or ".join(other for other, names in FLAGS.items() if name in names)
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} does nothing with --engine {engine}", remedy=f"it is for {engines}: leave it out")
    if engine == "replay" and "responses" not in given:
        raise InputError("--responses is missing", remedy="name the file of recorded responses")
    if engine == "openai" and "base_url" not in given:
        raise InputError("--base-url is missing", remedy="write --base-url http://host:port/v1")
    options = dict(given)
    if "provider" in options:
        from rrlib.engines.provider import Provider

        options["provider"] = Provider.parse(options["provider"])
    check_engine_options(engine, options)
    return options


@contextmanager
def standard_output(wanted: bool) -> Iterator[int | None]:
    """The number of standard output for the run alone: what engines print goes to standard error meanwhile."""
    if not wanted:
        yield None
        return
    own = os.dup(1)
    os.dup2(2, 1)
    try:
        yield own
    finally:
        os.dup2(own, 1)
        os.close(own)


def _is_pipe(output: Path) -> bool:
    """Whether it is there and no file: a named pipe, a shell's `>(...)`, /dev/null."""
    return output.exists() and not (output.is_file() or output.is_dir()) and output.suffix != ".gz"


def _write(
    reranker: Any,
    candidates: Sequence[Any],
    output: Path,
    number: int | None,
    tag: str,
    said: tuple[Mapping[str, Any], int, bool],
    rewritten: Path | None = None,
) -> tuple[int, str, Any]:
    """Rerank and write the run, if anything was reranked: the exit code, the last line, and what was counted.

    A file is written at the end, in the order of the candidates, and takes its place in one step. Into a pipe a query
    goes as it is finished, as soon as it is certain that there is a run. number: of standard output, where that is it.
    rewritten: the request file that is written in its new order instead, at the end.
    """
    from rrlib.formats import write_reranked, write_run
    from rrlib.formats.trec import RunPipe

    a_pipe = number is not None or (output.exists() and not output.is_file() and output.suffix != ".gz")
    piped = a_pipe and rewritten is None
    rankings: dict[str, list[str]] = {item.query.qid: [] for item in candidates if not item.collection}
    waiting: list[str] = []
    stream = reranker.stream(candidates, windows=False)
    with RunPipe(output, tag, tabs=any(" " in qid for qid in rankings), number=number) as pipe:
        for ranking in stream:
            rankings[ranking.qid] = ranking.docids
            waiting.append(ranking.qid)
            while piped and waiting and stream.tally.windows and outcome(stream, *said)[0] != NOTHING_RANKED:
                pipe.write(waiting[0], rankings.pop(waiting.pop(0)))
        code, line = outcome(stream, *said)
        if code != NOTHING_RANKED and rewritten is not None:
            write_reranked(output, rewritten, rankings)
        elif code != NOTHING_RANKED and not piped:
            write_run(output, rankings, tag)
        while code != NOTHING_RANKED and piped and waiting:
            pipe.write(waiting[0], rankings.pop(waiting.pop(0)))
    return code, line, stream
