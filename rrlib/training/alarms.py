"""Alarms: a training that goes on without learning, or runs away, is said aloud, with what to change.

Each was seen to happen: all completions cut off gives zero gradient without a word (trl issues 5697, 6263); a group
whose rollouts earn the same teaches nothing; with or without a KL term GRPO can collapse within tens of steps
(rasbt/reasoning-from-scratch, chapter 6); a rollout engine with stale weights trains on another model's answers (trl
issue 5312). The limits are wide: an alarm is worth a look at the curves and the completions, and stops nothing.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

_LOGGER = logging.getLogger("rrlib.training")

KL_LIMIT = 1.0
"""nats a token: at this distance little of the starting checkpoint is left."""
KL_GROWTH, KL_FLOOR = 10.0, 0.2
"""KL above KL_FLOOR and KL_GROWTH times the median of the rows before."""
LENGTH_GROWTH = 2.0
"""Mean length of the completions against that of the first rows: as long again, or half as long."""
REWARD_FALL = 0.2
"""Mean reward of the last rows below that of the first ones."""
SYNC_GAP = 0.05
"""Mean absolute difference of a token's log probability between rollout engine and trainer (bf16 noise: 0.01)."""
SYNC_GROWTH, SYNC_FLOOR = 5.0, 0.02
"""The same above SYNC_FLOOR and SYNC_GROWTH times the median of the rows before: weights that one sync has missed were
seen at 0.031 after 0.001 (tests/test_training_vllm.py)."""
LEFT_OUT = "updates/left_out"
"""Key of the log: how many updates of a row were left out, since their gradient was not finite. Absent where none."""
_WINDOW = 3
"""Rows that are averaged where a single one is noise."""


class AlarmKind(StrEnum):
    """What can go wrong."""

    NOT_FINITE = "not_finite"
    """Loss or gradient is no number; an update with such a gradient is left out."""
    CUT_OFF = "cut_off"
    """All completions ran into their limit."""
    NO_SPREAD = "no_spread"
    """In every group, all rollouts earn the same."""
    KL = "kl"
    """The policy is far from its start, or goes away from it fast."""
    LENGTH = "length"
    """Completions are twice as long as at first, or half as long."""
    REWARD = "reward"
    """The reward is below where it began."""
    STALE_WEIGHTS = "stale_weights"
    """The rollout engine samples from other weights than those that are trained."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """What went wrong, at which step (optimiser update), by which number of the log, and what to change."""

    kind: AlarmKind
    step: int
    key: str
    value: float
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.message} ({self.key} = {self.value:.3g}): {self.remedy}"


def _finite(row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _trail(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [value for row in rows if (value := _finite(row, key)) is not None]


def find_alarms(rows: Sequence[Mapping[str, Any]]) -> Iterator[Alarm]:
    """The alarms that the last row of a log raises, given the rows before it. Rows as in log.jsonl, SFT or GRPO."""
    row, step = rows[-1], int(rows[-1].get("step", 0))
    remedy = "lower learning_rate, or set dtype fp32"
    broken = [key for key in ("loss", "grad_norm") if isinstance(row.get(key), float) and not math.isfinite(row[key])]
    if (left_out := _finite(row, LEFT_OUT)) is not None:
        why = "the gradient of an update was not finite, and the update was left out"
        yield Alarm(AlarmKind.NOT_FINITE, step, LEFT_OUT, left_out, why, remedy)
    elif broken:
        yield Alarm(AlarmKind.NOT_FINITE, step, broken[0], row[broken[0]], f"{broken[0]} is not finite", remedy)
    if (_finite(row, "completions/clipped_ratio") or 0.0) >= 1.0:
        yield Alarm(
            AlarmKind.CUT_OFF, step, "completions/clipped_ratio", 1.0, "all completions were cut off",
            "raise max_completion, or train SFT until answers are closed",
        )  # fmt: skip
    key = "groups/no_spread" if "groups/no_spread" in row else "frac_reward_zero_std"
    if (_finite(row, key) or 0.0) >= 1.0:
        yield Alarm(
            AlarmKind.NO_SPREAD, step, key, 1.0, "no group has a spread of rewards, so nothing is learned",
            "train SFT further, raise temperature or rollouts, or choose harder prompts",
        )  # fmt: skip
    yield from _running_away(rows, row, step)
    key = "sampling/sampling_logp_difference/mean"
    gap, before = _finite(row, key), _trail(rows[:-1], key)
    limit = min(SYNC_GAP, max(SYNC_FLOOR, SYNC_GROWTH * statistics.median(before))) if before else SYNC_GAP
    if gap is not None and gap > limit:
        yield Alarm(
            AlarmKind.STALE_WEIGHTS, step, key, gap,
            "the rollouts come from other weights than those that are trained",
            "turn use_vllm off, and report the versions of vllm and trl",
        )  # fmt: skip


def _running_away(rows: Sequence[Mapping[str, Any]], row: Mapping[str, Any], step: int) -> Iterator[Alarm]:
    kl, before = _finite(row, "kl"), _trail(rows[:-1], "kl")
    grown = kl is not None and len(before) >= _WINDOW and kl > max(KL_FLOOR, KL_GROWTH * statistics.median(before))
    if kl is not None and (kl > KL_LIMIT or grown):
        yield Alarm(
            AlarmKind.KL, step, "kl", kl, "the policy runs away from its start",
            "lower rl_learning_rate or raise beta, and go back to an earlier checkpoint",
        )  # fmt: skip
    lengths = _trail(rows, "completions/mean_length")
    if len(lengths) > _WINDOW:
        ratio = lengths[-1] / max(statistics.mean(lengths[:_WINDOW]), 1e-9)
        if ratio >= LENGTH_GROWTH:
            remedy = (
                "look at the completions; lower rl_learning_rate, or use loss dr_grpo, which does not favour length"
            )
            yield Alarm(
                AlarmKind.LENGTH, step, "completions/mean_length", lengths[-1], "completions grow and grow", remedy
            )
        elif ratio <= 1 / LENGTH_GROWTH:
            remedy = "look at the completions: is the reasoning gone? lower rl_learning_rate or raise beta"
            yield Alarm(
                AlarmKind.LENGTH, step, "completions/mean_length", lengths[-1], "completions shrink and shrink", remedy
            )
    rewards = _trail(rows, "reward")
    if len(rewards) >= 3 * _WINDOW:
        fall = statistics.mean(rewards[:_WINDOW]) - statistics.mean(rewards[-_WINDOW:])
        if fall > REWARD_FALL:
            remedy = "go back to an earlier checkpoint, and lower rl_learning_rate"
            yield Alarm(AlarmKind.REWARD, step, "reward", rewards[-1], "the reward is below where it began", remedy)


class Alarms:
    """Tells each kind of alarm once, through logging and alarms.jsonl, and remembers which came."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self.alarms: dict[AlarmKind, Alarm] = {}
        self.path: Path | None = None

    def begin(self, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Start, or go on after a resume: `rows` are the log so far, and what they raised is not told again."""
        self.rows, self.alarms, self.path = [], {}, path
        path.unlink(missing_ok=True)
        for row in rows:
            self.tell(row, aloud=False)

    def tell(self, row: Mapping[str, Any], aloud: bool = True) -> list[Alarm]:
        """The alarms that are new with this row."""
        self.rows.append(row)
        new = [alarm for alarm in find_alarms(self.rows) if alarm.kind not in self.alarms]
        for alarm in new:
            self.alarms[alarm.kind] = alarm
            if aloud:
                _LOGGER.warning("%s", alarm)
            if self.path is not None:
                with open(self.path, "a", encoding="utf-8") as handle:
                    handle.write(json.dumps(asdict(alarm)) + "\n")
        return new


def read_alarms(output: str | Path) -> list[Alarm]:
    """The alarms of a training, in the order in which they came; empty when there were none."""
    path = Path(output) / "alarms.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines]
    return [Alarm(**{**row, "kind": AlarmKind(row["kind"])}) for row in rows]
