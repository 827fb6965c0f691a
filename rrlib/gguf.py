"""Checkpoints in a GGUF file (the format of llama.cpp): converted once into a folder that everything else can load.

A `.gguf` path may stand wherever a model is named: `rrlib.resources.resolve` asks this module. What is changed:

- Weights are unpacked to float32, exactly the values that the file's blocks stand for (Q4_1: scale x 4 bits + least).
  Of SmolLM2-135M's, half precision would round 42% and bfloat16 79%; readers cast on load as they wish, and training
  begins from float32. The price is disk: 538 MB for the 135 million parameters of a file of 98 MB.
- The end of a turn, the padding, the special tokens and the cutting of words are mended where transformers 5.17 gets
  them wrong (see `_mend`). What was mended is logged and stands in the folder's `rrlib-gguf.json`.

Not done: files in several parts, adapters, vision towers.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rrlib.errors import InputError, MissingFileError, missing_extra

CACHE_VARIABLE = "RRLIB_CACHE"
"""Environment variable that names the folder of converted models; without it `~/.cache/rrlib`."""

RECORD = "rrlib-gguf.json"
"""File of a converted folder: name, licence and hash of its source, what was mended."""

RECIPE = 1
"""Part of a converted folder's name: raised when a change here changes what is written."""

SAMPLE = "rrlib"
"""What a rendered assistant's turn says when the template is asked how such a turn ends."""

_CONTROL = 3  # token type of the format: control (<|im_start|>, ...)
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_LOGGER = logging.getLogger("rrlib.gguf")


def cache_root() -> Path:
    """The folder of what rrlib makes once and may delete at any time."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "rrlib").expanduser()


def is_gguf(name: str | Path) -> bool:
    """Whether a model's name is that of a GGUF file."""
    return str(name).lower().endswith(".gguf")


def converted(file: str | Path) -> Path:
    """The folder with the model of a GGUF file, written by the first call: config, weights, tokenizer, record.

    Safe where several processes ask at once: one converts and the others wait. The same file gives the same bytes.
    Raises MissingFileError, MissingPackageError (package gguf), and InputError for what is no whole GGUF file or holds
    an architecture that transformers cannot read.
    """
    source = Path(file).expanduser()
    if not source.is_file():
        raise MissingFileError(f"no file {str(file)!r}", remedy="name a .gguf file on this machine")
    with open(source, "rb") as handle:
        if handle.read(4) != b"GGUF":
            raise InputError("this is not a GGUF file", path=source, remedy="name one, or a folder with config.json")
    status = source.stat()
    digest = _sha256(str(source.resolve()), status.st_size, status.st_mtime_ns)
    folder = cache_root() / "gguf" / f"{source.stem}-{digest[:12]}-{RECIPE}"

    def make(partial: Path) -> str:
        notes = _convert(source, partial, digest)
        return f"{source.name}: converted into {folder}; {'; '.join(notes) or 'nothing mended'}"

    return made_once(folder, RECORD, make)


def made_once(folder: Path, record: str, make: Callable[[Path], str]) -> Path:
    """A folder of the cache, made by whoever asks first; other processes wait for it.

    record: the file in it that is written last. make: writes into the folder that it is given, which then takes the
    place of `folder`, and returns what is logged as a warning.
    """
    if (folder / record).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / record).is_file():  # else another process wrote it while this one waited
            partial = Path(f"{folder}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            message = make(partial)
            os.replace(partial, folder)
            _LOGGER.warning("%s", message)
    return folder


@lru_cache(maxsize=32)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    """Hash of a file's content; size and time are there so that a changed file is read again."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _convert(source: Path, folder: Path, digest: str) -> list[str]:
    """Read a GGUF file and write a folder for `from_pretrained`, the record last. Returns what was mended."""
    header = _header(source)
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars of three kinds, for half a minute's work
        tokenizer, model = _load(source, str(header["general.architecture"]))
        notes = _mend(tokenizer, model, header)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    record = {
        "name": header.get("general.name"),
        "license": header.get("general.license"),
        "source_sha256": digest,
        "recipe": RECIPE,
        "transformers": version("transformers"),
        "mended": notes,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return notes


def _load(source: Path, architecture: str) -> tuple[Any, Any]:
    """Tokenizer and float32 model of a GGUF file, as transformers reads them."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise missing_extra(error.name or "transformers", "train", needed_by="a GGUF file") from error
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        # Without `dequantize` transformers 5.17 keeps the blocks packed and refuses to save them.
        unpack = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, quantization_config=unpack)
    except (OSError, ValueError, KeyError, IndexError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"transformers cannot read this model of the architecture {architecture!r}: {first_line(error)}",
            path=source,
            remedy="name a folder with config.json and weights, or a GGUF file of a llama or qwen model",
        ) from error
    return tokenizer, model


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _header(source: Path) -> dict[str, Any]:
    """The fields of a GGUF file by name, after a check that all of its tensors are there."""
    try:
        import gguf
    except ImportError as error:
        otherwise = "it alone: pip install gguf"
        raise missing_extra("the package gguf", "train", needed_by="a GGUF file", otherwise=otherwise) from error
    try:
        reader = gguf.GGUFReader(source)
        header = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise InputError(
            f"this GGUF file is cut off or damaged: {first_line(error)}", path=source, remedy="fetch it again"
        ) from error
    missing = {"general.architecture", "tokenizer.ggml.tokens"} - header.keys()
    if missing:
        raise InputError(
            f"this GGUF file has no field {min(missing)}",
            path=source,
            remedy="name the file of a language model with its tokenizer, not of an adapter or a part",
        )
    return header


# --- what transformers gets wrong -------------------------------------------------------------------------------------
def _mend(tokenizer: Any, model: Any, header: dict[str, Any]) -> list[str]:
    """Correct tokenizer and configuration in place. Returns a sentence for each correction.

    For a llama with a byte-level vocabulary, transformers 5.17 (integrations/ggml.py, GGUFLlamaConverter) takes the
    first token of a turn for its end, forgets the padding, and cuts words as GPT-2 does whatever the file says.
    """
    tokens, notes = header["tokenizer.ggml.tokens"], []
    end = turn_end(tokenizer) or _token(tokens, header.get("tokenizer.ggml.eos_token_id"))
    if end and tokenizer.eos_token != end:
        notes.append(f"a turn ends with {end}, as its template says, and not with {tokenizer.eos_token}")
        tokenizer.eos_token = end
    begin = _token(tokens, header.get("tokenizer.ggml.bos_token_id"))
    if begin and tokenizer.bos_token != begin:
        notes.append(f"a text begins with {begin} and not with {tokenizer.bos_token}")
        tokenizer.bos_token = begin
    pad = _token(tokens, header.get("tokenizer.ggml.padding_token_id")) or tokenizer.eos_token
    if tokenizer.pad_token != pad:
        notes.append(f"padding is {pad}")
        tokenizer.pad_token = pad
    notes += _mend_words(tokenizer, header)
    kinds = header.get("tokenizer.ggml.token_type", [])
    control = [token for token, kind in zip(tokens, kinds, strict=False) if kind == _CONTROL]
    others = [token for token in control if token not in tokenizer.all_special_tokens]
    if others:  # so that passages cannot smuggle them in: prompts break what the tokenizer calls special
        tokenizer.add_special_tokens({"extra_special_tokens": others})
        notes.append(f"{len(others)} more control tokens are special")
    tokenizer.clean_up_tokenization_spaces = False  # for word pieces; it would eat spaces before punctuation
    tokenizer.init_kwargs["clean_up_tokenization_spaces"] = False
    for name in ("is_local", "local_files_only"):  # of this machine, and saved with the rest
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.model_max_length = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        config.bos_token_id = tokenizer.bos_token_id
    return notes


def _token(tokens: list[str], index: int | None) -> str | None:
    return None if index is None or not 0 <= index < len(tokens) else tokens[index]


def turn_end(tokenizer: Any) -> str | None:
    """The special token that follows an assistant's turn in the chat template, or None where there is none."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": SAMPLE}, {"role": "assistant", "content": SAMPLE}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    tail = text[text.rindex(SAMPLE) + len(SAMPLE) :].lstrip()
    specials = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return max((token for token in specials if tail.startswith(token)), key=len, default=None)


def _mend_words(tokenizer: Any, header: dict[str, Any]) -> list[str]:
    """Cut text into words as the file says (`tokenizer.ggml.pre`), and put tokens together without losing a space.

    With GPT-2's words for all, "a  1" would not be the tokens of training; and a decoder made for SentencePiece takes
    the leading space off a continuation.
    """
    from tokenizers import Regex, decoders
    from tokenizers import pre_tokenizers as cut

    if header["general.architecture"] != "llama" or header.get("tokenizer.ggml.model") != "gpt2":
        return []  # transformers has a converter of its own for these
    backend, kind = tokenizer.backend_tokenizer, header.get("tokenizer.ggml.pre", "default")
    backend.decoder = decoders.ByteLevel()
    if kind == "smollm":
        digits = cut.Digits(individual_digits=True)
        backend.pre_tokenizer = cut.Sequence([digits, cut.ByteLevel(add_prefix_space=False, use_regex=True)])
    elif kind == "llama-bpe":
        split = cut.Split(Regex(_LLAMA3), "isolated", invert=False)
        backend.pre_tokenizer = cut.Sequence([split, cut.ByteLevel(add_prefix_space=False, use_regex=False)])
    elif kind not in ("default", "gpt-2"):
        return [f"words are cut as in GPT-2, although the file says {kind!r}: compare a few prompts' tokens"]
    return [f"words are cut and joined as in {kind!r}"]
