"""Loaders of the real sources, on files written here in the same formats; candidates; pages and web search."""

from __future__ import annotations

import http.server
import io
import json
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest

from rrlib.cli import main
from rrlib.errors import EngineError, InputError, MissingFileError
from rrlib.retrieval import Bm25, Dense
from rrlib.synthesis.sources import SourceQuery, stackexchange
from rrlib.synthesis.sources.candidates import cut_passages, linked_items, retrieved_items
from rrlib.synthesis.sources.html import read_html
from rrlib.synthesis.sources.items import Item, ItemFolder, Shard, item_from_json, item_to_json, write_items
from rrlib.synthesis.sources.judged import (
    read_beir,
    read_bright,
    read_bright_corpus,
    read_msmarco,
    read_triples,
    read_tsv_passages,
)
from rrlib.synthesis.sources.problems import read_leetcode, read_math, read_theorems
from rrlib.synthesis.sources.stackexchange import read_posts
from rrlib.synthesis.sources.websearch import JsonSearch, Page, PageFile, fetch_page
from rrlib.types import Passage, Query

# --- StackExchange ---------------------------------------------------------------------------------------------------


def post(number: int, kind: int, body: str, **more: Any) -> str:
    extra = "".join(f' {name}="{escape(str(value))}"' for name, value in more.items())
    return f'  <row Id="{number}" PostTypeId="{kind}" Score="3" Body="{escape(body)}"{extra} />\n'


def dump(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "Posts.xml"
    path.write_text('\ufeff<?xml version="1.0" encoding="utf-8"?>\n<posts>\n' + "".join(rows) + "</posts>\n")
    return path


def test_stackexchange_dump(tmp_path: Path) -> None:
    link = '<p>It is <a href="https://en.wikipedia.org/wiki/Osmosis#x">osmosis</a> &amp; more.</p><p>Truly.</p>'
    own = '<p>See <a href="https://biology.stackexchange.com/q/5">this</a></p>'
    path = dump(
        tmp_path,
        post(
            1, 1, "<p>Why do cells swell?</p><pre><code>a  b</code></pre>", Title="Swelling <cells>", AcceptedAnswerId=4
        ),
        post(2, 1, "<p>No accepted answer.</p>", Title="Open"),
        post(3, 2, link, ParentId=2),
        post(4, 2, link, ParentId=1, ContentLicense="CC BY-SA 4.0"),
        post(5, 1, "<p>Own links only</p>", Title="Own", AcceptedAnswerId=6),
        post(6, 2, own, ParentId=5),
        post(7, 1, "<p>Answer is missing</p>", Title="Missing", AcceptedAnswerId=99),
        post(8, 1, "<p>q</p>", Title="Low", AcceptedAnswerId=9, ContentLicense="CC BY-SA 3.0").replace(
            '"3"', '"-2"', 1
        ),
        post(9, 2, link, ParentId=8),
    )
    notes: list[str] = []
    found = list(read_posts(path, "biology", min_score=0, notes=notes))
    assert found == [
        SourceQuery(
            "biology-1",
            "Swelling <cells>\n\nWhy do cells swell?\n\na  b",
            "It is osmosis & more.\n\nTruly.",
            "biology",
            ("https://en.wikipedia.org/wiki/Osmosis",),
            licence="CC BY-SA",
        )
    ]
    assert [note.partition(": ")[2] for note in notes] == [
        "1 accepted answers without a link were left out",
        "1 questions whose accepted answer is not in the dump were left out",
    ]
    low = {q.qid: q for q in read_posts(path, "biology")}
    assert set(low) == {"biology-1", "biology-8"} and low["biology-8"].licence == "CC BY-SA 3.0"
    assert {q.qid for q in read_posts(path, "biology", with_links=False)} == {"biology-1", "biology-5", "biology-8"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"7z\xbc\xaf\x27\x1c...", "7z x SITE"),
        (b"<posts><row Id='1'", "not XML, or cut off"),
        (b"<posts></posts>", "no <row>"),
        (b"", "not XML"),
    ],
)
def test_files_that_are_no_dump(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "Posts.xml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=told):
        list(read_posts(path, "biology"))
    with pytest.raises(MissingFileError, match="no such dump"):
        list(read_posts(tmp_path / "none.xml", "biology"))


class Endless(io.RawIOBase):
    """A dump of `rows` questions and answers that is made while it is read."""

    def __init__(self, rows: int) -> None:
        self.pieces = self._pieces(rows)
        self.buffer, self.size = b"", 0

    def _pieces(self, rows: int) -> Iterator[bytes]:
        yield b"<posts>\n"
        filler = escape(f"<p>{'words and more ' * 200}</p>")
        for i in range(rows):
            accepted = f'AcceptedAnswerId="{2 * i + 2}"'
            yield f'<row Id="{2 * i + 1}" PostTypeId="1" {accepted} Title="t" Body="{filler}"/>\n'.encode()
            body = escape(f'<a href="https://example.org/{i}">x</a>') + filler
            yield f'<row Id="{2 * i + 2}" PostTypeId="2" Body="{body}"/>\n'.encode()
        yield b"</posts>"

    def read(self, size: int = -1) -> bytes:
        while len(self.buffer) < size and (piece := next(self.pieces, b"")):
            self.buffer += piece
        out, self.buffer = self.buffer[:size], self.buffer[size:]
        self.size += len(out)
        return out


def stream(rows: int) -> tuple[int, int, int]:
    """(questions read, bytes of the dump, peak of Python's memory) for a dump that never lies on the disk."""
    source = Endless(rows)
    tracemalloc.start()
    count = sum(1 for _ in stackexchange._posts(source, Path("Posts.xml"), "biology", True, None, None))  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return count, source.size, peak


def stream_alone(rows: int) -> list[int]:
    """`stream` in a process of its own: what threads of other tests allocate would be counted too."""
    code = f"import test_synthesis_sources as sources; print(*sources.stream({rows}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


def test_a_dump_is_not_loaded() -> None:
    count, size, peak = stream_alone(1000)
    assert count == 1000 and size > 5e6 and peak < 0.5e6, (size, peak)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_gigabyte_is_not_loaded(record_property: Any) -> None:
    count, size, peak = stream_alone(175_000)
    record_property("figures", f"{size / 1e9:.2f} GB, {count} questions, Python's peak {peak / 1e6:.1f} MB")
    assert size > 1e9 and peak < 3e6


def test_html_is_read_as_far_as_it_goes() -> None:
    text, links, title = read_html(
        "<html><head><title> A  page </title><style>x{}</style></head><body><nav>menu</nav><h1>Head</h1>"
        "<p>One <b>two</b><br>three &lt;4&gt;</p><ul><li>a</li><li>b</li></ul><script>no()</script>"
        '<a href="/rel">r</a><a href="http://x.org/a#b">s</a><a href="http://x.org/a">t</a><p>broken'
    )
    assert title == "A page" and links == ("http://x.org/a",)
    assert text == "Head\n\nOne two\nthree <4>\n\na\n\nb\n\nrst\n\nbroken"
    assert read_html("") == ("", (), "") and read_html("<<<>>&nbsp;")[0] is not None
    assert read_html("<p>a<![foo[b")[0].startswith("a"), "a declaration that the parser rejects"
    assert read_html("<p>a<!-- b --><![CDATA[c]]></p>http://x.org/a")[0] == "a\n\nhttp://x.org/a"
    assert read_html("<div>" * 20_000 + "deep")[0] == "deep", "no recursion"


# --- problems and theorems -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["array", "lines", "object"])
def test_leetcode(tmp_path: Path, shape: str) -> None:
    rows = [
        {"id": 1, "title": "Two Sum", "content": "<p>Find <b>two</b>.</p>", "python": "def f(): pass", "java": "x"},
        {"slug": "b", "title": "Plain", "description": "Plain text < 3", "solution": {"python": "", "c++": "int x;"}},
    ]
    path = tmp_path / "leet.json"
    text = {
        "array": json.dumps(rows, indent=1),
        "lines": "\n".join(map(json.dumps, rows)),
        "object": json.dumps({"questions": rows}, indent=1),
    }[shape]
    path.write_text(text)
    first, second = read_leetcode(path)
    assert (first.qid, first.text, first.gold_answer) == ("leetcode-1", "Two Sum\n\nFind two.", "def f(): pass")
    assert second.qid == "leetcode-b" and second.gold_answer == "int x;" and second.text.endswith("Plain text < 3")


def test_math_as_a_folder_and_as_lines(tmp_path: Path) -> None:
    for number in (2, 10):
        (tmp_path / "MATH/algebra").mkdir(parents=True, exist_ok=True)
        row = {"problem": f"p{number}", "level": "Level 1", "type": "Algebra", "solution": f"s{number}"}
        (tmp_path / f"MATH/algebra/{number}.json").write_text(json.dumps(row))
    found = list(read_math(tmp_path / "MATH"))
    assert [(q.qid, q.text, q.gold_answer, q.domain) for q in found] == [
        ("math-qa-algebra/2", "p2", "s2", "math-qa"),
        ("math-qa-algebra/10", "p10", "s10", "math-qa"),
    ]
    lines = tmp_path / "math.jsonl"
    lines.write_text('{"problem": "p", "solution": "s"}\n')
    assert [q.qid for q in read_math(lines, "math-theorem")] == ["math-theorem-1"]


def test_theorems_as_a_list_and_as_naturalproofs(tmp_path: Path) -> None:
    flat = tmp_path / "theorems.jsonl"
    flat.write_text('{"id": 7, "title": "Euler", "statement": "a+b", "proof": "clear"}\n{"id": 8, "text": "t"}\n')
    assert list(read_theorems(flat)) == [
        Passage("theorem-7", "a+b\n\nclear", "Euler"),
        Passage("theorem-8", "t", ""),
    ]
    nested = tmp_path / "proofwiki.json"
    theorem = {"id": 0, "title": "T", "contents": ["Let x.", "Then y."], "proofs": [{"contents": ["By z."]}]}
    nested.write_text(json.dumps({"dataset": {"theorems": [theorem], "definitions": []}}))
    assert list(read_theorems(nested)) == [Passage("theorem-0", "Let x.\nThen y.\n\nBy z.", "T")]


@pytest.mark.parametrize(
    ("read", "content", "told"),
    [
        (read_leetcode, '{"id": 1, "content": "x"}\n', r"f\.json:1: a record without solution"),
        (read_leetcode, '[{"id": 1, "python": "x"}]', r"f\.json:1: a record without problem"),
        (read_math, '{"problem": "p"}\n', r"f\.json:1: a record without solution"),
        (read_theorems, '{"id": 1}\n', "a record without statement"),
        (read_theorems, "[1, 2]", "entry 1 is no object"),
        (read_leetcode, "", "the file is empty"),
        (read_leetcode, "[{", "not JSON"),
    ],
)
def test_bad_problem_files(tmp_path: Path, read: Any, content: str, told: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(content)
    with pytest.raises(InputError, match=told):
        list(read(path))


# --- judged ----------------------------------------------------------------------------------------------------------


def test_msmarco_with_qrels_and_with_triples(tmp_path: Path) -> None:
    (tmp_path / "queries.tsv").write_text("10\twhat is x\n11\tno labels\n12\twhat is y\n")
    (tmp_path / "qrels.tsv").write_text("10 0 100 1\n12 0 101 1\n")
    (tmp_path / "triples.tsv").write_text("10\t100\t200\n10\t100\t201\n12\t101\t200\n12\t102\t101\n")
    by_qrels = list(read_msmarco(tmp_path / "queries.tsv", qrels=tmp_path / "qrels.tsv"))
    assert [(q.qid, dict(q.labels)) for q in by_qrels] == [("10", {"100": 1}), ("12", {"101": 1})]
    by_triples = list(read_msmarco(tmp_path / "queries.tsv", triples=tmp_path / "triples.tsv"))
    assert dict(by_triples[0].labels) == {"100": 1, "200": 0, "201": 0}
    assert dict(by_triples[1].labels) == {"101": 1, "102": 1, "200": 0}, "a positive stays one"
    assert by_qrels[0].domain == "ms-marco" and "non-commercial" in by_qrels[0].licence
    with pytest.raises(InputError, match="one of them"):
        list(read_msmarco(tmp_path / "queries.tsv"))
    (tmp_path / "bad.tsv").write_text("10\ta query text\twith words\n")
    with pytest.raises(InputError, match=r"bad\.tsv:1: 6 fields"):
        read_triples(tmp_path / "bad.tsv")
    (tmp_path / "collection.tsv").write_text("100\tfirst text\n200\tsecond\n")
    assert list(read_tsv_passages(tmp_path / "collection.tsv"))[1] == Passage("200", "second")


def test_bright_parquet(tmp_path: Path) -> None:
    columns = {
        "query": ["why"],
        "id": ["3"],
        "gold_ids": [["d1"]],
        "excluded_ids": [["N/A"]],
        "gold_answer": ["since"],
    }
    for folder in ("examples", "documents"):
        (tmp_path / folder).mkdir()
    pq.write_table(pyarrow.table(columns), tmp_path / "examples/biology-00000-of-00001.parquet")
    leet = {**columns, "excluded_ids": [["d2", "d3"]], "gold_answer": ["N/A"]}
    pq.write_table(pyarrow.table(leet), tmp_path / "examples/leetcode-00000-of-00001.parquet")
    texts = pyarrow.table({"id": ["d1", "d2"], "content": ["one", "two"]})
    pq.write_table(texts, tmp_path / "documents/biology-00000-of-00001.parquet")
    (query,) = read_bright(tmp_path / "examples", "biology")
    assert (query.qid, query.gold_answer, dict(query.labels)) == ("biology-3", "since", {"d1": 1})
    assert query.excluded == frozenset()
    (other,) = read_bright(tmp_path / "examples", "leetcode")
    assert other.excluded == {"d2", "d3"} and other.gold_answer == ""
    assert [p.text for p in read_bright_corpus(tmp_path / "documents", "biology")] == ["one", "two"]
    with pytest.raises(MissingFileError, match="economics"):
        list(read_bright(tmp_path / "examples", "economics"))
    with pytest.raises(InputError, match="no column 'content'"):
        list(read_bright_corpus(tmp_path / "examples", "biology"))
    (tmp_path / "bad.parquet").write_text("x")
    with pytest.raises(InputError, match="not a parquet file"):
        list(read_bright(tmp_path / "bad.parquet", "biology"))


def test_beir_folder(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "text": "t"}\n')
    (tmp_path / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "x", "metadata": {"gold_answer": "g", "domain": "economics"}}\n'
        '{"_id": "q2", "text": "y"}\n'
    )
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\n")
    (query,) = read_beir(tmp_path, "train")
    assert (query.qid, query.gold_answer, query.domain, dict(query.labels)) == ("q1", "g", "economics", {"d1": 2})


# --- candidates ------------------------------------------------------------------------------------------------------


def test_pages_are_cut_at_empty_lines() -> None:
    long = "Sentence one is here. " * 30
    passages = cut_passages(f"Heading\n\n{'Body text. ' * 12}\n\n\n{long}\n\nEnd", "p", "T", least=50, most=300)
    assert (
        passages[0].docid == "p#0" and passages[0].text.startswith("Heading\nBody text.") and passages[0].title == "T"
    )
    assert [p.docid for p in passages] == [f"p#{i}" for i in range(len(passages))]
    assert all(len(p.text) <= 300 for p in passages) and passages[-1].text.endswith("End")
    assert all(p.text.endswith((".", "End")) for p in passages), "cut behind sentences"
    words = " ".join(p.text.replace("\n", " ") for p in passages).split()
    assert words == f"Heading {'Body text. ' * 12} {long} End".split(), "no word is lost"
    assert cut_passages("", "p") == [] and len(cut_passages("x" * 5000, "p", most=1000)) == 5


def test_bm25_and_dense_retrieval() -> None:
    passages = [Passage("a", "red apples grow"), Passage("b", "blue whales swim"), Passage("c", "apples and whales")]
    bm25 = Bm25(passages)
    assert [p.docid for p in bm25.search("apples", 5)] == ["c", "a"] or len(bm25.search("apples", 5)) == 2
    assert [p.docid for p in bm25.search("whales swim", 1)] == ["b"]
    assert [p.docid for p in bm25.search("whales swim", 2, frozenset({"b"}))] == ["c"]
    assert bm25.search("zebra", 3) == []

    def encode(texts: Any) -> Any:
        return np.array([[text.count("apples"), text.count("whales") + 0.1] for text in texts])

    dense = Dense(passages, encode, batch=2)
    assert [p.docid for p in dense.search("apples", 3)] == ["a", "c", "b"]
    assert [p.docid for p in dense.search("apples", 3, frozenset({"a"}))] == ["c", "b"]
    with pytest.raises(InputError, match="no passage with a text"):
        Bm25([Passage("a", " ")])
    with pytest.raises(InputError, match="shape"):
        Dense(passages, lambda texts: np.zeros(3))
    queries = [SourceQuery("a", "apples", "g", "leetcode", excluded=frozenset({"c"})), SourceQuery("q", "whales", "g")]
    items = list(retrieved_items(queries, bm25, 5))
    assert items[0].candidates == (), "not itself, not what it excludes"
    assert {p.docid for p in items[1].candidates} == {"b", "c"} and items[1].labels is None


class Web:
    def search(self, query: str, k: int) -> list[Page]:
        return [
            Page("http://web/1", "Shares words with the question, and does not help at all, whatever one does. " * 2)
        ]


def test_linked_pages_and_a_hard_pool_from_the_web(tmp_path: Path) -> None:
    text = "\n\n".join(
        f"Paragraph {i} of the page that was linked, long enough to stand alone as it is. " * 2 for i in range(3)
    )
    path = tmp_path / "pages.jsonl"
    path.write_text(
        json.dumps({"id": "http://x/a", "text": text, "title": "X"}) + '\n{"id": "http://x/b", "error": "404"}\n'
    )
    pages = PageFile(path)
    queries = [
        SourceQuery("q1", "why", "gold", "biology", ("http://x/a", "http://x/b")),
        SourceQuery("q2", "how", "gold", "biology", ("http://x/none",)),
    ]
    (item,) = linked_items(queries, pages, Web())
    pages.close()
    assert len(item.candidates) == 3 and len(item.hard_pool) == 1 and item.candidates[0].title == "X"
    assert not {p.docid for p in item.candidates} & {p.docid for p in item.hard_pool}


def test_items_go_through_their_folder(tmp_path: Path) -> None:
    item = Item(
        Query("q", "text\u2028"), (Passage("d", "t", "T"),), "biology", "gold", (Passage("w", "x"),), {"d": 1}, "CC BY"
    )
    assert item_from_json(item_to_json(item)) == item
    other = Item(Query("r", "x"))
    folder = write_items(tmp_path / "f", [item, other], name="n", data_kind="real")
    source = ItemFolder(folder)
    assert list(source) == [item, other] == list(source) and len(source) == 2 and source.name == "n"
    assert list(ItemFolder(folder, limit=1)) == [item] and len(ItemFolder(folder, limit=1)) == 1
    with pytest.raises(MissingFileError, match=r"items\.jsonl"):
        ItemFolder(tmp_path)
    (folder / "SOURCE.json").write_text("{}")
    with pytest.raises(InputError, match="data_kind"):
        ItemFolder(folder)
    for bad in (
        {"qid": "q", "query": 3},
        {"query": "x"},
        {"qid": "q", "candidates": ["x"]},
        {"qid": "q", "labels": [1]},
    ):
        with pytest.raises(InputError):
            item_from_json(bad, Path("f"), 1)


def test_shards_divide_the_queries() -> None:
    qids = [f"q{i}" for i in range(2000)]
    parts = [[q for q in qids if q in Shard(n, 8)] for n in range(1, 9)]
    assert sorted(q for part in parts for q in part) == sorted(qids) and all(200 < len(part) < 300 for part in parts)
    assert str(Shard.parse("3/8")) == "3/8" and "anything" in Shard()
    for bad in ("9/8", "0/8", "x", "1/", "-1/2"):
        with pytest.raises(InputError, match="shard"):
            Shard.parse(bad)


# --- the web ---------------------------------------------------------------------------------------------------------


class Site(http.server.BaseHTTPRequestHandler):
    seen: list[tuple[str, str | None]] = []

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        Site.seen.append((self.path, self.headers.get("X-Key")))
        kind, status = "text/html; charset=utf-8", 200
        body = b"<title>T</title><p>Hello w\xc3\xb6rld</p>"
        if self.path.startswith("/search"):
            kind = "application/json"
            rows = [{"link": "http://a", "name": "A", "snippet": "text a"}, {"link": "http://b"}, {"x": 1}, 5]
            body = json.dumps({"web": {"results": rows}}).encode()
        elif self.path == "/pdf":
            kind = "application/pdf"
        elif self.path == "/gone":
            status = 404
        elif self.path.startswith("/broken"):
            status, body = 500, b"no"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_pages_are_fetched_once_and_only_when_told_to(site: str, tmp_path: Path) -> None:
    Site.seen.clear()
    quiet = PageFile(tmp_path / "pages.jsonl")
    assert quiet.get(f"{site}/a") is None and Site.seen == []
    quiet.close()
    for _ in range(2):
        pages = PageFile(tmp_path / "pages.jsonl", fetch=True)
        assert pages.get(f"{site}/a") == Page(f"{site}/a", "Hello wörld", "T")
        assert pages.get(f"{site}/gone") is None and pages.get(f"{site}/pdf") is None
        pages.close()
    assert len(Site.seen) == 3, "what failed is not fetched again either"
    assert "error" in fetch_page("http://127.0.0.1:9/x") and "error" in fetch_page("nonsense")


def test_web_search_speaks_to_any_json_engine(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_KEY", "secret-key")
    Site.seen.clear()
    engine = JsonSearch(
        f"{site}/search?q={{query}}&n={{k}}",
        "web.results",
        {"url": "link", "title": "name", "text": "snippet"},
        header="X-Key",
        key_env="ENGINE_KEY",
    )
    assert engine.search("a b&c", 10) == [Page("http://a", "text a", "A")]
    assert Site.seen == [("/search?q=a%20b%26c&n=10", "secret-key")]
    with pytest.raises(EngineError, match="web search") as caught:
        JsonSearch(f"{site}/broken?{{query}}", key_env="ENGINE_KEY").search("q", 1)
    assert "secret-key" not in str(caught.value)
    with pytest.raises(InputError, match="search address"):
        JsonSearch(site)
    with pytest.raises(InputError, match="NO_SUCH_KEY is not set"):
        JsonSearch(f"{site}/{{query}}", key_env="NO_SUCH_KEY")


# --- the command line ------------------------------------------------------------------------------------------------


def letters(texts: Any) -> Any:
    """A dense encoder: how often each letter comes."""
    return np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], dtype=float)


def bright_folder(folder: Path) -> None:
    for kind in ("examples", "documents"):
        (folder / kind).mkdir(parents=True)
    row = {"query": ["why osmosis"], "id": ["3"], "gold_ids": [["d1"]], "excluded_ids": [["d2"]], "gold_answer": ["s"]}
    pq.write_table(pyarrow.table(row), folder / "examples/biology-00000-of-00001.parquet")
    texts = pyarrow.table({"id": ["d1", "d2", "d3"], "content": ["osmosis in cells", "osmosis again", "osmosis"]})
    pq.write_table(texts, folder / "documents/biology-00000-of-00001.parquet")


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("kind", ["stackexchange", "leetcode", "math", "msmarco", "bright", "beir"])
def test_every_source_is_prepared_on_the_command_line(tmp_path: Path, kind: str, dense: bool) -> None:
    """A source as it is published, to items with candidates: what `rrlib synthesize` takes."""
    out, corpus = tmp_path / "items", tmp_path / "corpus.jsonl"
    corpus.write_text("".join(f'{{"_id": "d{i}", "text": "sort numbers {i} with a heap"}}\n' for i in range(5)))
    if kind == "stackexchange":
        link = '<p>As <a href="https://x.org/a">here</a>.</p>'
        question = post(1, 1, "<p>Why swell?</p>", Title="Cells", AcceptedAnswerId=2)
        source, pages = dump(tmp_path, question, post(2, 2, link, ParentId=1)), tmp_path / "pages.jsonl"
        pages.write_text(json.dumps({"id": "https://x.org/a", "text": "Osmosis. " * 30}) + "\n")
        options, gold, ids = ["--domain", "biology", "--pages", str(pages)], "As here.", 1
    elif kind == "leetcode":
        source = tmp_path / "leet.json"
        source.write_text(json.dumps([{"id": 1, "title": "Sort", "content": "<p>numbers</p>", "python": "sorted(x)"}]))
        options, gold, ids = ["--corpus", str(corpus)], "sorted(x)", 5
    elif kind == "math":
        source, theorems = tmp_path / "math.jsonl", tmp_path / "theorems.json"
        source.write_text('{"problem": "a sum of squares", "solution": "By Euler."}\n')
        theorems.write_text(json.dumps([{"id": i, "title": "Euler", "statement": f"squares {i}"} for i in range(3)]))
        options, gold, ids = ["--domain", "math-theorem", "--theorems", str(theorems)], "By Euler.", 3
    elif kind == "msmarco":
        source, qrels, collection = (tmp_path / f"{name}.tsv" for name in ("queries", "qrels", "collection"))
        source.write_text("10\twhat is osmosis\n11\tno labels\n")
        qrels.write_text("10 0 100 1\n")
        collection.write_text("100\tosmosis is a flow\n101\tosmosis\n")
        options, gold, ids = ["--qrels", str(qrels), "--corpus", str(collection)], "", 2
    elif kind == "bright":
        source = tmp_path / "bright"
        bright_folder(source)
        options, gold, ids = ["--domain", "biology"], "s", 2  # d2 is excluded
    else:
        source = tmp_path / "beir"
        (source / "qrels").mkdir(parents=True)
        corpus.rename(source / "corpus.jsonl")
        metadata = {"gold_answer": "g", "domain": "economics"}
        (source / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "sort numbers", "metadata": metadata}))
        (source / "qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t2\n")
        options, gold, ids = [], "g", 5
    options += ["--encoder", f"{__name__}:letters"] if dense else []
    if dense and kind == "stackexchange":  # pages are not retrieved
        assert main(["data", "prepare", kind, str(source), str(out), *options]) == 2
        return
    assert main(["data", "prepare", kind, str(source), str(out), *options]) == 0
    (item,) = ItemFolder(out)
    assert item.gold_answer == gold and len({p.docid for p in item.candidates}) == len(item.candidates) == ids
    assert all(p.text for p in item.candidates) and ItemFolder(out).data_kind == "real"
    assert bool(item.labels) == (kind in ("msmarco", "bright", "beir"))
