"""The shape of the tiny backbone, and how it is saved: Qwen3 architecture, about 1.2 million parameters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

MAX_POSITIONS = 32768
SHARPNESS = 1.6
"""Start of the weights that scale queries and keys. Their norm bounds how sharply a head of 32 dimensions can look at
one token among some hundred; from 1.0 they take long to grow there, and copying is learned late."""


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int, hidden: int = 128, layers: int = 4) -> Qwen3ForCausalLM:
    """A fresh model, float32: hidden size a multiple of 32 (heads of 32), MLP three times as wide, tied embeddings."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        head_dim=32,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    model = Qwen3ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            torch.nn.init.constant_(parameter, SHARPNESS)
    return model


def save_checkpoint(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> Path:
    """Write model (bfloat16 safetensors, greedy generation defaults), tokenizer and chat template into one folder."""
    import copy

    import torch
    from transformers import GenerationConfig

    target = Path(folder)
    half = copy.deepcopy(model).to(torch.bfloat16)  # type: ignore[arg-type]
    half.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    half.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def pack_run(run: str | Path, output: str | Path) -> Path:
    """Write the last checkpoint of a finished run of the chain to `output` in bfloat16, with SOURCE.json: the profile,
    seed and parameters of each stage and the results table. Raises MissingFileError where the run is not finished."""
    import json

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rrlib.errors import MissingFileError

    folder = Path(run)
    checkpoint, results = folder / "03_rl" / "grpo" / "checkpoint", folder / "results.json"
    for needed in (checkpoint / "config.json", results):
        if not needed.is_file():
            raise MissingFileError("not there", path=needed, remedy="run the chain to its end first")
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    target = save_checkpoint(model, AutoTokenizer.from_pretrained(checkpoint), output)
    stages = {}
    for stage in ("01_synthesis", "02_sft", "03_rl"):
        manifest = json.loads((folder / stage / "manifest.json").read_text(encoding="utf-8"))
        metrics = json.loads((folder / stage / "metrics.json").read_text(encoding="utf-8"))
        stages[stage] = {"parameters": manifest["match"]["parameters"], "metrics": metrics}
    rows = json.loads(results.read_text(encoding="utf-8"))["rows"]
    source = {"made_by": "the chain (SFT, then GRPO)", "dtype": "bfloat16", "stages": stages, "results": rows}
    (target / "SOURCE.json").write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")
    return target
