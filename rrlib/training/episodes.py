"""Reinforcement learning on whole episodes: a rollout is a sliding-window run over a query's first candidates.

The paper trains on one window at a time, and its Recall view stands in for what comes after (section 4.2). Here the
windows of a list are sampled one after the other, each on the list as the windows before it left it, and what counts is
NDCG@10 of the final list. A group is G episodes of one query. Loss, clip, KL and averaging over tokens are those of
objective.py, the settings those of GRPO; the loop is plain PyTorch, since an episode is no group of TRL.

What a window earns is said in credit.py. An answer that cannot be read (read strictly, as the reward does) leaves its
window in its order; where the paper's reward gives -1 for it, that window alone gets -1 beside its change.

**Simplified.** One process, no LoRA, no vLLM, one pass over the list, all lists of one length. A training that was
killed begins anew.

Shapes: _TG T windows of G episodes of one query, _T of one episode, _BA B answers of at most A tokens.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rrlib.disk import append_jsonl, write_json
from rrlib.engines import prefix
from rrlib.engines.trained import write_trained
from rrlib.errors import InputError
from rrlib.prompts import PromptBuilder, format_response
from rrlib.resources import resolve
from rrlib.responses import Level, parse_strict
from rrlib.strategies import sliding_spans
from rrlib.training.alarms import LEFT_OUT
from rrlib.training.config import GRPOSettings, as_stored, choose_bf16, choose_device
from rrlib.training.credit import Span, left_behind, potential, window_advantages
from rrlib.training.data import encode_prompt, load_tokenizer, model_length
from rrlib.training.objective import grpo_loss, kl, token_mean
from rrlib.training.resume import TrainResult, begin, fingerprint, locked
from rrlib.training.schedule import batches
from rrlib.training.trainer import OnLog
from rrlib.training.trl_reward import answer_decoder
from rrlib.types import RankingExample

if TYPE_CHECKING:
    from torch import Tensor

_LOGGER = logging.getLogger("rrlib.training")

# --- episodes ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Answer:
    """One window of an episode: what was shown and sampled (token ids), how strictly valid it is, what it earned."""

    prompt: Sequence[int]
    completion: Sequence[int]
    level: Level
    change: float
    advantage: float = 0.0


@dataclass(slots=True)
class Episode:
    """A run over one query's list. order: positions in the example's passages, best first, as of now. reached: the
    potential as of now, at the end the NDCG of the final list."""

    example: RankingExample
    order: list[int]
    reached: float
    answers: list[Answer] = field(default_factory=list)

    @property
    def labels(self) -> list[int]:
        """Pointwise labels in the order of the list as of now."""
        return [self.example.relevance[i] for i in self.order]


class Sampler:
    """Samples episodes over lists of `depth` passages from the model at `path`, as it is trained. k: of the final
    NDCG. Raises InputError for a prompt that is too long, and for a style whose answers cannot be read strictly."""

    def __init__(
        self, path: str, settings: GRPOSettings, style: str, depth: int, window: int, stride: int, k: int
    ) -> None:
        self.tokenizer, self.settings, self.k = load_tokenizer(path), settings, k
        self.window, self.stride, self.spans = window, stride, sliding_spans(depth, window, stride)
        self.room = min(settings.max_prompt, model_length(path) - settings.max_completion)
        self.builder = PromptBuilder(self.tokenizer, style, settings.max_passage_tokens)
        strict = parse_strict(format_response("because", range(window), style), window, think=self.builder.style.think)
        if strict.level != Level.VALID:
            remedy = "use a style with answer tags"
            raise InputError(f"what the style {style!r} writes cannot be read ({strict.why})", remedy=remedy)

    def episodes(self, model: Any, examples: Sequence[RankingExample]) -> list[Episode]:
        """`rollouts` episodes of each example, next to each other; all of them go from window to window together."""
        copies = self.settings.rollouts
        episodes = [self._begin(example) for example in examples for _ in range(copies)]
        sampling = prefix.Sampling(self.settings.temperature)
        for t, (start, end) in enumerate(self.spans):
            shared = copies if t == 0 else 1  # all episodes of a query begin with the same window
            prompts = [self._prompt(episode, start, end) for episode in episodes[::shared]]
            completions = prefix.decode(
                model,
                [ids for _, ids in prompts],
                copies=shared,
                max_new_tokens=self.settings.max_completion,
                eos=[self.tokenizer.eos_token_id],
                sampling=sampling,
            )
            for i, (episode, completion) in enumerate(zip(episodes, completions, strict=True)):
                self._take(episode, t, prompts[i // shared], completion)
        return episodes

    def _begin(self, example: RankingExample) -> Episode:
        return Episode(example, list(range(len(example.passages))), potential(example.relevance, self.spans, self.k))

    def _prompt(self, episode: Episode, start: int, end: int) -> tuple[str, Sequence[int]]:
        query, passages = episode.example.query, [episode.example.passages[i] for i in episode.order[start:end]]
        text, ids = encode_prompt(self.tokenizer, self.builder, query.text, passages)
        if len(ids) > self.room:
            remedy = "raise max_prompt, or lower max_passage_tokens or max_completion"
            raise InputError(f"query {query.qid}: a prompt of {len(ids)} tokens, limit {self.room}", remedy=remedy)
        return text, ids

    def _take(self, episode: Episode, t: int, prompt: tuple[str, Sequence[int]], completion: Sequence[int]) -> None:
        """Put a window into the order that its answer says, and note what that changed."""
        (start, end), think = self.spans[t], self.builder.style.think
        text = answer_decoder(self.tokenizer, prompt[0], think)(list(completion))
        strict = parse_strict(text, end - start, think=think)
        if strict.order is not None:
            shown = episode.order[start:end]
            episode.order[start:end] = [shown[i] for i in strict.order]
        reached = potential(episode.labels, self.spans[t + 1 :], self.k)
        episode.answers.append(Answer(prompt[1], completion, strict.level, reached - episode.reached))
        episode.reached = reached


def judge(episodes: Sequence[Episode], rollouts: int, trace: float, divide: bool) -> None:
    """Give every window its advantage, query by query."""
    for first in range(0, len(episodes), rollouts):
        group = episodes[first : first + rollouts]
        changes_TG = np.array([[answer.change for answer in episode.answers] for episode in group]).T
        broken = [[answer.level == Level.BAD_FORMAT for answer in episode.answers] for episode in group]
        values_TG = window_advantages(changes_TG, -np.array(broken, dtype=np.float64).T, trace, divide)
        for episode, values_T in zip(group, values_TG.T, strict=True):
            for answer, value in zip(episode.answers, values_T, strict=True):
                answer.advantage = float(value)


# --- training ---------------------------------------------------------------------------------------------------------


def train_episodes(
    examples: Sequence[RankingExample],
    model: str | Path,
    output: str | Path,
    settings: GRPOSettings | None = None,
    style: str = "reasonrank",
    *,
    window: int = 20,
    stride: int = 10,
    k: int = 10,
    trace: float = 0.0,
    early_cpu_seconds: float = 0.0,
    on_log: OnLog | None = None,
) -> TrainResult:
    """Improve `model`, a checkpoint of stage one, by whole episodes.

    Parameters
    ----------
    examples: their passages are whole lists, in first-stage order and all of one length; pointwise labels alone count.
    model, output, style, on_log: as for train_grpo.
    settings: GRPO's. A step samples prompts x rollouts completions as there, so it takes prompts / windows queries.
    window, stride: of the sliding window. k: cut-off of the final NDCG. trace: see window_advantages.
    early_cpu_seconds: of this process; the last weights within them are kept too, in `output/early`, and their step is
        `early_step` of the result's info (0: none).

    Returns the final checkpoint and a log with one row a step: reward (NDCG@k of final lists), potential (at the
    start), left_behind, the shares of format levels and of windows without advantage, KL, loss, tokens of an answer,
    seconds and cpu_seconds so far. An update whose gradient is not finite is left out, told and counted
    (`updates/left_out`).
    Raises InputError for settings that it cannot follow, lists of several lengths, prompts that are too long, and
    styles whose answers cannot be read strictly;
    StageError where another process trains in the folder. Finished with the same inputs, it hands back what is there.
    """
    settings, output = settings or GRPOSettings(), Path(output)
    _check(settings, len(sliding_spans(_one_length(examples), window, stride)), len(examples))
    path = resolve(model)
    more = {"window": window, "stride": stride, "k": k, "trace": trace, "early_cpu_seconds": early_cpu_seconds}
    inputs = as_stored(fingerprint(settings, path, examples, stage="episodes", style=style, **more))
    with locked(output):
        finished, _ = begin(output, inputs)
        if finished is not None:
            return finished
        sampler = Sampler(path, settings, style, len(examples[0].passages), window, stride, k)
        return _Loop(examples, path, output, sampler, trace, early_cpu_seconds, on_log).run()


def _one_length(examples: Sequence[RankingExample]) -> int:
    lengths = sorted({len(example.passages) for example in examples})
    if len(lengths) != 1:
        raise InputError(f"lists of {lengths or 'no'} passages", remedy="give lists of one length, cut at a depth")
    return lengths[0]


def _check(settings: GRPOSettings, windows: int, examples: int) -> None:
    queries = settings.prompts // windows
    if settings.prompts % windows or not 1 <= queries <= examples:
        remedy = f"prompts is a multiple of the windows, for at most {examples} queries"
        raise InputError(f"{settings.prompts} prompts a step for lists of {windows} windows", remedy=remedy)
    if settings.use_vllm or settings.lora_rank or settings.normalize == "views" or settings.mask_truncated:
        remedy = "leave use_vllm, lora_rank, mask_truncated and normalize: views off"
        raise InputError("whole episodes are trained with the plain loss, on all weights", remedy=remedy)


class _Loop:
    """The loop itself: sample, judge, update."""

    def __init__(
        self,
        examples: Sequence[RankingExample],
        path: str,
        output: Path,
        sampler: Sampler,
        trace: float,
        early_cpu_seconds: float,
        on_log: OnLog | None,
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.examples, self.output, self.sampler, self.settings = examples, output, sampler, sampler.settings
        self.trace, self.early_cpu_seconds, self.on_log = trace, early_cpu_seconds, on_log
        self.began, self.cpu_began = time.perf_counter(), time.process_time()
        device = choose_device(self.settings)
        self.bf16 = choose_bf16(self.settings, device)
        torch.manual_seed(self.settings.seed)
        attention = self.settings.attention
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation=attention)
        if not prefix.supports(self.model):
            remedy = "use a Qwen2, Qwen3, Llama or Mistral model with full attention"
            raise InputError(f"no episodes with models of type {self.model.config.model_type!r}", remedy=remedy)
        self.model.to(device).train()
        self.reference = copy.deepcopy(self.model).eval().requires_grad_(False)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim <= 1]  # norms and biases do not decay, as in TRL
        groups = [{"params": matrices, "weight_decay": self.settings.weight_decay}, {"params": vectors}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.settings.learning_rate, weight_decay=0.0)

    def run(self) -> TrainResult:
        (self.output / "log.jsonl").unlink(missing_ok=True)  # of a training that was killed
        shutil.rmtree(self.output / "early", ignore_errors=True)
        log, early = list[dict[str, Any]](), dict[str, Any]()
        queries = self._queries()
        for step in range(1, self.settings.steps + 1):
            examples = [next(queries) for _ in range(self.settings.prompts // len(self.sampler.spans))]
            episodes = self.sampler.episodes(self.model, examples)
            judge(episodes, self.settings.rollouts, self.trace, divide=self.settings.loss != "dr_grpo")
            row = {"step": step, **summary(episodes, self.sampler.spans), **self._update(episodes)}
            row["seconds"] = round(time.perf_counter() - self.began, 3)
            row["cpu_seconds"] = round(time.process_time() - self.cpu_began, 3)
            log.append(row)
            append_jsonl(self.output / "log.jsonl", row)
            if self.on_log is not None:
                self.on_log(dict(row))
            if row["cpu_seconds"] <= self.early_cpu_seconds:
                self._save(self.output / "early")
                early = {"early_step": step}
        return self._finish(log, early)

    def _queries(self) -> Iterator[RankingExample]:
        """The examples without end, each pass in an order of its own."""
        rng = random.Random(f"{self.settings.seed}/episodes")
        while True:
            yield from rng.sample(list(self.examples), len(self.examples))

    def _update(self, episodes: Sequence[Episode]) -> dict[str, float]:
        """All updates of a step over its answers, shuffled; means of loss and KL, and how many updates were left out
        where some were (as trainer.update_guard does)."""
        import torch

        answers = [answer for episode in episodes for answer in episode.answers]
        order = torch.randperm(len(answers)).tolist()
        size, split = self.settings.micro_batch, batches(self.settings)
        parts = [[answers[i] for i in order[at : at + size]] for at in range(0, len(order), size)]
        with torch.no_grad():
            before = [(self._logprobs(self.model, part), self._logprobs(self.reference, part)) for part in parts]
        losses, divergences, left_out = [], [], 0
        for first in range(0, len(parts), split.accumulation):
            chosen = range(first, first + split.accumulation)
            tokens = sum(len(answer.completion) for i in chosen for answer in parts[i]) / split.accumulation
            for i in chosen:
                now_BA, entropy_BA, mask_BA = self._logprobs(self.model, parts[i], bool(self.settings.entropy))
                old_BA, reference_BA = before[i][0][0], before[i][1][0]
                advantage_B = torch.tensor([a.advantage for a in parts[i]], device=now_BA.device)
                loss = grpo_loss(now_BA, old_BA, reference_BA, advantage_B, mask_BA, self.settings, entropy_BA, tokens)
                (loss / split.accumulation).backward()
                losses.append(float(loss.detach()))
                divergences.append(float(token_mean(kl(now_BA.detach(), reference_BA), mask_BA, self.settings)))
            limit = self.settings.max_grad_norm or math.inf
            if torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit).isfinite():
                self.optimizer.step()
            else:
                left_out += 1
                _LOGGER.warning("the gradient of an update was not finite, and the update was left out")
            self.optimizer.zero_grad()
        means = {"loss": float(np.mean(losses)), "kl": float(np.mean(divergences))}
        return {**means, LEFT_OUT: left_out} if left_out else means

    def _logprobs(
        self, model: Any, answers: Sequence[Answer], entropy: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """(log-probabilities, entropies or None, mask) of the answers' tokens, (B, A) each."""
        import torch

        device = next(model.parameters()).device
        width, length = (max(len(getattr(a, part)) for a in answers) for part in ("prompt", "completion"))
        gaps = [(width - len(a.prompt), length - len(a.completion)) for a in answers]
        rows = [
            [0] * left + [*a.prompt, *a.completion] + [0] * right
            for a, (left, right) in zip(answers, gaps, strict=True)
        ]
        seen = [[0] * left + [1] * (width + length - left - right) + [0] * right for left, right in gaps]
        ids_BL, seen_BL = torch.tensor(rows, device=device), torch.tensor(seen, device=device)  # (B, prompt + answer)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            scores_BA, spread_BA = prefix.answer_logprobs(
                model, ids_BL, seen_BL, length, temperature=self.settings.temperature, entropy=entropy
            )
        return scores_BA, spread_BA, seen_BL[:, -length:].float()

    def _finish(self, log: list[dict[str, Any]], early: dict[str, Any]) -> TrainResult:
        self._save(self.output / "checkpoint")
        info = {**early, "device": choose_device(self.settings), "bf16": self.bf16, "style": self._style}
        seconds = float(log[-1]["seconds"])
        result = {"seconds": seconds, "n_examples": len(self.examples), "dropped": 0, "info": info}
        write_json(self.output / "result.json", result, sort_keys=True)
        return TrainResult(self.output / "checkpoint", log, seconds, len(self.examples), 0, info)

    @property
    def _style(self) -> str:
        return self.sampler.builder.style.name

    def _save(self, folder: Path) -> None:
        """Weights, tokenizer and what it was trained with; the folder appears complete."""
        part, sampler = folder.with_name(f"{folder.name}.part"), self.sampler
        shutil.rmtree(part, ignore_errors=True)
        self.model.save_pretrained(part)
        sampler.tokenizer.save_pretrained(part)
        write_trained(part, self._style, sampler.window, self.settings.max_passage_tokens, sampler.stride)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)


def summary(episodes: Sequence[Episode], spans: Sequence[Span]) -> dict[str, float]:
    """Means of a step: see train_episodes."""
    answers = [answer for episode in episodes for answer in episode.answers]
    starts = [episode.reached - sum(answer.change for answer in episode.answers) for episode in episodes]
    return {
        "reward": float(np.mean([episode.reached for episode in episodes])),
        "potential": float(np.mean(starts)),
        "left_behind": float(np.mean([left_behind(episode.labels, spans) for episode in episodes])),
        **{f"share/{level}": sum(a.level == level for a in answers) / len(answers) for level in Level},
        "windows/no_pull": float(np.mean([answer.advantage == 0 for answer in answers])),
        "tokens": float(np.mean([len(answer.completion) for answer in answers])),
    }
