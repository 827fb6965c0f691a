"""The recipe that makes the tiny backbone from nothing: all skills together from the first step, with a curriculum.

Windows grow from 3 passages to 10, for each skill as it succeeds, and then reach 20. Loss only on predictable tokens.
AdamW, linear warm-up, constant, then linear decay; bfloat16 autocast where the machine has it. Reproducible to the
metric, not to the bit. Simplified against a real base model: it reads only the world's English.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.disk import check_output
from rrlib.errors import InputError
from rrlib.miniature.model import new_model, save_checkpoint
from rrlib.miniature.skills import SKILLS, Practice, Row
from rrlib.miniature.tokenizer import train_tokenizer
from rrlib.miniature.world import load_world

if TYPE_CHECKING:
    import torch
    from transformers import Qwen3ForCausalLM


RECORD = "pretraining.json"
GROWING = ("name", "judge", "verdict", "sort")
"""Skills with a curriculum of their own."""


@dataclass(frozen=True, slots=True)
class PretrainSettings:
    """steps of about `tokens_per_step` tokens, one skill a step; lr at its peak; a curriculum from `start` to `full`.

    raise_at: accuracy of a skill (moving average) at which its windows grow by one passage; the windows of listwise
    rows follow the smallest of naming, verdicts and sorting. longest: passages of the longest windows, which
    `long_share` of the steps use once windows are full. decay: share of the steps, at the end, in which the learning
    rate falls to a twentieth. save_every: steps between checkpoints.
    """

    steps: int = 2400
    tokens_per_step: int = 4000
    lr: float = 1.5e-3
    warmup: int = 100
    decay: float = 0.3
    weight_decay: float = 0.01
    start: int = 3
    full: int = 10
    longest: int = 20
    long_share: float = 0.15
    raise_at: float = 0.88
    weights: dict[str, float] = field(
        default_factory=lambda: {
            "name": 0.22,
            "cue": 0.08,
            "judge": 0.08,
            "verdict": 0.18,
            "sort": 0.26,
            "listwise": 0.18,
        }
    )
    save_every: int = 500
    seed: int = 17
    bf16: bool = True


RECIPE = (
    PretrainSettings(
        steps=2000,
        decay=0.0,
        weights={"name": 0.22, "cue": 0.08, "judge": 0.08, "verdict": 0.18, "sort": 0.26, "listwise": 0.18},
    ),
    # The first part leaves naming at windows of 9 and judging at 3. The second begins in the middle for all skills,
    # gives sorting the largest share, since it is learned last, and lets the learning rate fall.
    PretrainSettings(
        steps=2600,
        decay=0.5,
        start=6,
        weights={"name": 0.16, "cue": 0.06, "judge": 0.06, "verdict": 0.20, "sort": 0.28, "listwise": 0.24},
        seed=18,
    ),
    # Whole answers were practised on windows of 6 until here: the last part is at full windows.
    PretrainSettings(
        steps=700,
        lr=1.0e-3,
        decay=0.8,
        start=10,
        weights={"name": 0.08, "cue": 0.04, "judge": 0.08, "verdict": 0.26, "sort": 0.18, "listwise": 0.36},
        seed=19,
    ),
)
"""What made the committed backbone: the parts are run one after the other (`pretrain_all`)."""


def collate(practice: Practice, rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """(input ids, learned mask), both of shape (rows, longest row rounded up to 16), padded on the right."""
    import torch

    pairs = [practice.tokens(row) for row in rows]
    longest = _rounded(max(len(ids) for ids, _ in pairs), 16)
    ids = torch.zeros((len(pairs), longest), dtype=torch.long)
    learn = torch.zeros((len(pairs), longest), dtype=torch.bool)
    for i, (row_ids, row_learn) in enumerate(pairs):
        ids[i, : len(row_ids)] = torch.tensor(row_ids)
        learn[i, : len(row_learn)] = torch.tensor(row_learn)
    return ids, learn


def loss_and_accuracy(
    model: Qwen3ForCausalLM, ids: torch.Tensor, learn: torch.Tensor, bf16: bool
) -> tuple[torch.Tensor, float]:
    """Mean cross-entropy and argmax accuracy over the learned tokens, each predicted from what stands before it.

    Their number is rounded up by repeating the last one without weight: matrix kernels are compiled for each shape.
    """
    import torch

    where = learn[:, 1:].flatten().nonzero().squeeze(1)  # (N,) places of learned tokens in the flattened rows
    target = ids[:, 1:].flatten()[where]  # (N,)
    padding = _rounded(len(where), 256) - len(where)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state  # (rows, tokens, size)
        learned = hidden[:, :-1].flatten(0, 1)[torch.cat([where, where[-1:].expand(padding)])]  # (N + padding, size)
        logits = model.lm_head(learned)[: len(where)]  # (N, V)
    loss = torch.nn.functional.cross_entropy(logits.float(), target)
    return loss, float((logits.argmax(-1) == target).float().mean())


def _rounded(number: int, step: int) -> int:
    return -(-number // step) * step


def draw_size(level: int, settings: PretrainSettings, rng: random.Random) -> int:
    """How many passages the rows of a step show: half of the time as many as the level allows."""
    if level >= settings.full and rng.random() < settings.long_share:
        return rng.randint(settings.full, settings.longest)
    return level if rng.random() < 0.5 else rng.randint(1, level)


def draw_rows(practice: Practice, skill: str, size: int, tokens: int, rng: random.Random) -> list[Row]:
    """Rows of one skill and size that fill a step of about so many tokens."""
    rows = [practice.row(skill, size, rng)]
    width = _rounded(len(practice.tokens(rows[0])[0]), 16)
    return rows + [practice.row(skill, size, rng) for _ in range(min(255, max(1, tokens // width)))]


class Curriculum:
    """How long each skill's windows are (`level`, passages), by its accuracy so far (`accuracy`, a moving average)."""

    def __init__(self, settings: PretrainSettings) -> None:
        self.settings = settings
        self.accuracy = dict.fromkeys(SKILLS, 0.0)
        self.level = dict.fromkeys(SKILLS, settings.start)

    def learned(self, skill: str, size: int, accuracy: float) -> None:
        """Note the accuracy of a step. Windows shorter than the skill's level say nothing about it."""
        if size >= self.level[skill]:
            self.accuracy[skill] += 0.15 * (accuracy - self.accuracy[skill])
        raise_at, grown = self.settings.raise_at, self.level[skill] >= self.settings.full
        if skill in GROWING and self.accuracy[skill] > raise_at and not grown:
            self.level[skill], self.accuracy[skill] = self.level[skill] + 1, raise_at - 0.1
            self.level["listwise"] = min(self.level[name] for name in GROWING)

    def row(self, step: int, seconds: float, tokens: int) -> dict[str, Any]:
        """A row of the log."""
        row: dict[str, Any] = {"step": step, "seconds": round(seconds, 1), "tokens": tokens}
        row |= {name: round(value, 4) for name, value in self.accuracy.items()}
        return row | {"passages": [self.level[name] for name in SKILLS]}


def skill_scores(practice: Practice, model: Qwen3ForCausalLM, size: int, rows: int, seed: int) -> dict[str, float]:
    """Accuracy on learned tokens of fresh rows, by skill, windows of `size` passages. In full precision."""
    import torch

    scores = {}
    model.eval()
    for skill in SKILLS:
        rng = random.Random(f"{seed}/scores/{skill}")
        with torch.no_grad():
            ids, learn = collate(practice, [practice.row(skill, size, rng) for _ in range(rows)])
            scores[skill] = round(loss_and_accuracy(model, ids, learn, bf16=False)[1], 4)
    model.train()
    return scores


def pretrain(
    output: str | Path,
    settings: PretrainSettings | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
    begin: str | Path | None = None,
) -> dict[str, Any]:
    """Train the backbone and write it to `output` with `pretraining.json` (settings, log, scores). Returns that record.

    report: called with every log row. begin: a checkpoint of an earlier part to go on from, whose record is kept under
    `before`; None starts from random weights. Each part takes about 17 minutes on one quiet CPU core with bfloat16
    instructions.
    """
    import torch
    from transformers import Qwen3ForCausalLM

    settings = settings or PretrainSettings()
    if settings.steps < 1 or set(settings.weights) != set(SKILLS):
        raise InputError("pretraining needs at least one step and a weight for each skill", remedy=", ".join(SKILLS))
    check_folder(output)
    world = load_world()
    tokenizer = train_tokenizer(world)
    practice = Practice(world, tokenizer, settings.seed)
    if begin is None:
        model = new_model(tokenizer, settings.seed)
    else:
        model = Qwen3ForCausalLM.from_pretrained(begin, dtype=torch.float32)
    log: list[dict[str, Any]] = []

    def note(row: dict[str, Any]) -> None:
        log.append(row)
        if report is not None:
            report(row)

    _train(model, practice, settings, note, lambda: save_checkpoint(model, tokenizer, output))
    model.to(torch.bfloat16).to(torch.float32)  # type: ignore[arg-type]  # the scores are of what is saved
    scores = {f"{n} passages": skill_scores(practice, model, n, 64, settings.seed) for n in (5, settings.full)}
    before = json.loads((Path(begin) / RECORD).read_text(encoding="utf-8")) if begin is not None else None
    folder = save_checkpoint(model, tokenizer, output)
    record = {"settings": asdict(settings), "scores": scores, "log": log, "before": before}
    (folder / RECORD).write_text(_compact(json.dumps(record, indent=1)) + "\n", encoding="utf-8")
    return record


def _train(
    model: Qwen3ForCausalLM,
    practice: Practice,
    settings: PretrainSettings,
    note: Callable[[dict[str, Any]], None],
    save: Callable[[], Any],
) -> None:
    """Run the steps of one part. note: called with every log row; save: with every checkpoint that is due."""
    import torch

    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    rng = random.Random(f"{settings.seed}/pretraining")
    start, tokens_read = time.monotonic(), 0
    curriculum = Curriculum(settings)
    for step in range(1, settings.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * _schedule(step, settings)
        skill = rng.choices(list(settings.weights), list(settings.weights.values()))[0]
        size = draw_size(curriculum.level[skill], settings, rng)
        ids, learn = collate(practice, draw_rows(practice, skill, size, settings.tokens_per_step, rng))
        loss, accuracy = loss_and_accuracy(model, ids, learn, settings.bf16)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        tokens_read += ids.numel()
        curriculum.learned(skill, size, accuracy)
        if step % 50 == 0 or step == settings.steps:
            note(curriculum.row(step, time.monotonic() - start, tokens_read))
        if step % settings.save_every == 0:
            save()


def pretrain_all(
    output: str | Path,
    recipe: Sequence[PretrainSettings] = RECIPE,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run the parts of a recipe one after the other; the record of the last one is returned."""
    check_folder(output)
    record: dict[str, Any] = {}
    for part, settings in enumerate(recipe):
        record = pretrain(output, settings, report, begin=output if part else None)
    return record


def check_folder(output: str | Path) -> None:
    """Raise InputError where no checkpoint could be written in the end, before anything is trained."""
    if Path(output).exists() and not Path(output).is_dir():
        raise InputError("this is a file, and a checkpoint is a folder", path=output, remedy="name a new folder")
    check_output(Path(output) / RECORD, "checkpoint")


def _schedule(step: int, settings: PretrainSettings) -> float:
    left = (settings.steps - step) / max(1.0, settings.steps * settings.decay)
    return min(1.0, step / max(1, settings.warmup), max(0.05, left))


def _compact(text: str) -> str:
    """Indented JSON with its innermost lists and objects on one line each: a log row a line."""
    for inner in (r"\[[^\[\]{}]*\]", r"\{[^{}]*\}"):
        text = re.sub(inner, lambda match: " ".join(match.group().split()), text)
    return text
