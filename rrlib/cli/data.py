"""`rrlib data ...`: sources into items, shards into one, examples into other formats and back, data cards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

SOURCES = ("stackexchange", "leetcode", "math", "msmarco", "bright", "beir")


def register(app: typer.Typer) -> None:
    """Add the command group `data`."""
    group = typer.Typer(help="Training data: prepare, merge, export, import, describe.", no_args_is_help=True)
    app.add_typer(group, name="data")
    group.command("prepare")(prepare)
    group.command("collection")(collection_command)
    group.command("merge")(merge_command)
    group.command("export")(export_command)
    group.command("import")(import_command)
    group.command("card")(card_command)


def prepare(
    kind: Annotated[str, typer.Argument(help=" | ".join(SOURCES))],
    source: Annotated[Path, typer.Argument(help="Posts.xml, a JSON file, queries.tsv, or a folder")],
    output: Annotated[Path, typer.Argument(help="folder to write: items.jsonl and SOURCE.json")],
    domain: Annotated[str, typer.Option(help="data set name, such as biology; it chooses the recipe")] = "",
    pages: Annotated[Path | None, typer.Option(help="stackexchange: pages, JSONL of id (address), text")] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="stackexchange: get unknown pages over the network")] = False,
    search: Annotated[str, typer.Option(help="stackexchange: web search, http://host/search?q={query}&n={k}")] = "",
    search_results: Annotated[str, typer.Option(help="dotted path to the results in the answer")] = "results",
    search_key_env: Annotated[str, typer.Option(help="environment variable with the search key")] = "",
    search_header: Annotated[str, typer.Option(help="request header for the search key")] = "Authorization",
    corpus: Annotated[Path | None, typer.Option(help="passages: JSONL, BEIR folder, .tsv, .parquet")] = None,
    theorems: Annotated[Path | None, typer.Option(help="passages: a theorem list, JSON or JSONL")] = None,
    encoder: Annotated[str, typer.Option(help="module:callable, texts -> vectors; default: BM25")] = "",
    depth: Annotated[int, typer.Option(help="candidates a query; 0 = as the recipe says", min=0)] = 0,
    qrels: Annotated[Path | None, typer.Option(help="msmarco: qrels")] = None,
    triples: Annotated[Path | None, typer.Option(help="msmarco: id triples, in place of qrels")] = None,
    split: Annotated[str | None, typer.Option(help="beir: which split; default: train")] = None,
    limit: Annotated[int | None, typer.Option(help="queries at most", min=1)] = None,
) -> None:
    """Read queries with gold answers from a real source, give them candidates, and write items for synthesize.

    \b
    Examples:
      rrlib data prepare stackexchange Posts.xml items --domain biology --pages pages.jsonl
      rrlib data prepare leetcode problems.json items --corpus bright-leetcode.jsonl
      rrlib data prepare math MATH/train items --domain math-theorem --theorems proofwiki.json
      rrlib data prepare msmarco queries.train.tsv items --qrels qrels.train.tsv --corpus collection.tsv
    """
    from itertools import chain, islice

    from rrlib.errors import InputError
    from rrlib.synthesis.sources.items import ItemFolder, write_items

    _check_kind(kind, {
        "--pages": pages, "--fetch": fetch, "--search": search, "--corpus": corpus, "--theorems": theorems,
        "--encoder": encoder, "--qrels": qrels, "--triples": triples, "--split": split,
    })  # fmt: skip
    notes: list[str] = []
    queries = islice(_queries(kind, source, domain, qrels, triples, split or "train", notes), limit)
    options = (pages, fetch, search, search_results, search_key_env, search_header)
    items = _items(
        kind, queries, domain, options, corpus or _own_corpus(kind, source), theorems, encoder, depth, output
    )
    if (first := next(items, None)) is None:  # before what is there is replaced
        remedy = "; ".join(notes) or "look whether the source has queries with answers"
        raise InputError("no items came of it", path=source, remedy=remedy)
    items = chain([first], items)
    written = write_items(output, items, name=domain or kind, data_kind="real", source=source.name, loader=kind)
    for note in notes:
        typer.echo(note, err=True)
    typer.echo(f"{len(ItemFolder(written)):,} items in {written}")


def collection_command(
    kind: Annotated[str, typer.Argument(help="entailmentbank | argkp")],
    source: Annotated[Path, typer.Argument(help="folder of the release, such as a clone of its repository")],
    output: Annotated[Path, typer.Argument(help="folder to write: BEIR layout with first stages and SOURCE.json")],
) -> None:
    """Turn a release with human labels into a collection folder, with all splits, first stages and figures.

    \b
    Example:
      rrlib data collection entailmentbank entailment_bank collections/entailmentbank
    """
    from rrlib.errors import InputError
    from rrlib.formats import read_collection
    from rrlib.synthesis.sources import argkp, entailment
    from rrlib.synthesis.sources.judged_folder import write_judged
    from rrlib.synthesis.sources.statistics import statistics, table_of_statistics

    readers = {"entailmentbank": entailment.read_entailment_bank, "argkp": argkp.read_argkp}
    if kind not in readers:
        raise InputError(f"unknown release {kind!r}", remedy=f"one of {', '.join(readers)}")
    judged = readers[kind](source)
    folder = write_judged(output, judged)
    splits = dict.fromkeys(str(metadata["split"]) for metadata in judged.metadata.values())
    rows = [statistics(read_collection(folder, split), split=split) for split in splits]
    typer.echo(table_of_statistics(rows).to_string())
    typer.echo(f"wrote {folder}; first stages: {', '.join(name or 'bm25s' for name in judged.runs)}")


def merge_command(
    output: Annotated[Path, typer.Argument(help="folder to write")],
    shards: Annotated[list[Path], typer.Argument(help="the output folders of all shards")],
    allow_failed: Annotated[bool, typer.Option("--allow-failed", help="also where calls failed for good")] = False,
) -> None:
    """Join the shards of a synthesis; refuses, and says why, unless they are provably all of one source.

    \b
    Example:
      rrlib data merge whole part1 part2 part3 part4
    """
    from rrlib.cli.synthesize import report
    from rrlib.synthesis.merge import merge

    result = merge(shards, output, allow_failed)
    typer.echo(report(result.summary))
    typer.echo(f"complete: all {result.summary['queries']:,} queries of the source, each once, in {output}")


def export_command(
    examples: Annotated[Path, typer.Argument(help="examples.jsonl")],
    output: Annotated[Path, typer.Argument(help="file, or for `released` a folder")],
    form: Annotated[str, typer.Option("--format", help="jsonl, parquet, or released (a folder)")] = "parquet",
    style: Annotated[
        str | None, typer.Option(help="released: prompt style of sft.json and rl.jsonl; default: reasonrank")
    ] = None,
) -> None:
    """Write examples in another format.

    \b
    Example:
      rrlib data export out/examples.jsonl released-data --format released
    """
    from rrlib.disk import check_apart
    from rrlib.errors import InputError
    from rrlib.synthesis.export import RELEASED, export, stream_examples

    if style is not None and form != "released":
        raise InputError(f"--style does nothing with --format {form}", remedy="it is for --format released")
    names = [output / name for name in RELEASED] if form == "released" else [output]
    check_apart({"EXAMPLES": examples}, {f"OUTPUT ({path.name})": path for path in names})
    options = {"style": style or "reasonrank"} if form == "released" else {}
    typer.echo(f"wrote {export(stream_examples(examples), output, form, **options)}")


def import_command(
    source: Annotated[Path, typer.Argument(help="the released data (folder or file), or examples of ours")],
    output: Annotated[Path, typer.Argument(help="folder to write: examples.jsonl and summary.json")],
    alpha: Annotated[float, typer.Option(help="least NDCG@10 of a list under its labels")] = 0.4,
    limit: Annotated[int | None, typer.Option(help="examples at most")] = None,
) -> None:
    """Read released training data from a local copy; notebooks take it with `import_from`.

    \b
    Example:
      rrlib data import reasonrank_data_13k imported
    """
    from rrlib.cli.synthesize import report
    from rrlib.synthesis.export import import_examples

    result = import_examples(source, output, alpha=alpha, limit=limit)
    for note in result.summary["left_out"]:
        typer.echo(note, err=True)
    typer.echo(report(result.summary))


def card_command(
    folder: Annotated[Path, typer.Argument(help="the output folder of synthesize, merge or import")],
    name: Annotated[str, typer.Option(help="name of the data set")] = "",
) -> None:
    """Print a data card: counts by domain, licences, data kind, teacher, filter.

    \b
    Example:
      rrlib data card out > DATA_CARD.md
    """
    from rrlib.synthesis.export import data_card

    typer.echo(data_card(folder, name))


def _queries(
    kind: str, source: Path, domain: str, qrels: Path | None, triples: Path | None, split: str, notes: list[str]
) -> Iterator[Any]:
    from rrlib.errors import InputError
    from rrlib.synthesis.sources import judged, problems
    from rrlib.synthesis.sources.stackexchange import read_posts

    if kind in ("stackexchange", "bright") and not domain:
        raise InputError("--domain is missing", remedy="name the site or the set, such as biology")
    if kind == "stackexchange":
        return read_posts(source, domain, notes=notes)
    if kind == "leetcode":
        return problems.read_leetcode(source, domain or "leetcode")
    if kind == "math":
        return problems.read_math(source, domain or "math-qa")
    if kind == "msmarco":
        return judged.read_msmarco(source, qrels=qrels, triples=triples, domain=domain or "ms-marco", notes=notes)
    if kind == "bright":
        examples = source / "examples" if (source / "examples").is_dir() else source
        return judged.read_bright(examples, domain, notes)
    if kind == "beir":
        return judged.read_beir(source, split, domain)
    raise InputError(f"unknown source {kind!r}", remedy=f"one of {', '.join(SOURCES)}")


def _check_kind(kind: str, given: Mapping[str, Any]) -> None:
    """Refuse options that do nothing for this kind of source."""
    from rrlib.errors import InputError

    retrieved = tuple(name for name in SOURCES if name != "stackexchange")
    of: dict[str, tuple[str, ...]] = {"--qrels": ("msmarco",), "--triples": ("msmarco",), "--split": ("beir",)}
    of |= {flag: ("stackexchange",) for flag in ("--pages", "--fetch", "--search")}
    of |= {flag: retrieved for flag in ("--corpus", "--theorems", "--encoder")}
    for flag, value in given.items():
        if value and kind in SOURCES and kind not in of[flag]:
            raise InputError(f"{flag} does nothing for {kind}", remedy=f"it is for {', '.join(of[flag])}: leave it out")


def _own_corpus(kind: str, source: Path) -> Path | None:
    """Where a source brings its own passages."""
    return source if kind == "beir" else source / "documents" if kind == "bright" and source.is_dir() else None


def _items(
    kind: str,
    queries: Iterator[Any],
    domain: str,
    options: tuple[Any, ...],
    corpus: Path | None,
    theorems: Path | None,
    encoder: str,
    depth: int,
    output: Path,
) -> Iterator[Any]:
    from rrlib.errors import InputError, MissingFileError
    from rrlib.resources import load_callable
    from rrlib.retrieval import Bm25, Dense
    from rrlib.synthesis.domains import recipe_for
    from rrlib.synthesis.sources import candidates
    from rrlib.synthesis.sources.websearch import JsonSearch, PageFile
    from rrlib.synthesis.teacher.store import StoreLock

    defaults = {"leetcode": "leetcode", "math": "math-qa", "msmarco": "ms-marco"}
    recipe = recipe_for(domain or defaults.get(kind, ""))
    if kind == "stackexchange":
        path, fetch, search, results, key_env, header = options
        if path is None and not fetch:
            raise InputError("no pages: give --pages FILE, or --fetch", remedy="see rrlib data prepare --help")
        if path is not None and not fetch and not path.is_file():
            raise MissingFileError("no such file of pages", path=path, remedy="check the path, or --fetch them into it")
        with StoreLock(output):
            pages = PageFile(path or output / "pages.jsonl", fetch)
            web = JsonSearch(search, results, header=header, key_env=key_env, pages=pages) if search else None
            yield from candidates.linked_items(queries, pages, web, depth=depth or recipe.depth)
            pages.close()
        return
    if corpus is None and theorems is None:
        raise InputError("--corpus is missing", remedy="name the passages to retrieve from, or --theorems")
    passages = _passages(corpus, theorems, domain)
    retriever = Dense(passages, load_callable(encoder)) if encoder else Bm25(passages)
    yield from candidates.retrieved_items(queries, retriever, depth or recipe.depth or 20)


def _passages(corpus: Path | None, theorems: Path | None, domain: str) -> Iterator[Any]:
    from rrlib.formats import read_corpus
    from rrlib.synthesis.sources import judged, problems

    if theorems is not None:
        yield from problems.read_theorems(theorems)
    if corpus is None:
        return
    name = corpus.name.removesuffix(".gz")
    if name.endswith(".tsv"):
        yield from judged.read_tsv_passages(corpus)
    elif name.endswith(".parquet") or (corpus.is_dir() and any(corpus.glob("*.parquet"))):
        yield from judged.read_bright_corpus(corpus, domain)
    else:
        yield from read_corpus(corpus).values()
