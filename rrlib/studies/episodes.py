"""Whole episodes against one window at a time: does RL on the final list pay where windows lose passages?

    python -m rrlib.studies.episodes --profile miniature --seeds 7 8 9 --output outputs/episodes

For each seed a world in which a query has more relevant passages than a window carries forward, SFT once, and from that
checkpoint two trainings of equal settings, steps and completions: the chain's own GRPO on one window at a time (the
paper's proxy), and rrlib.training.episodes. Whole episodes cost more time, so their last weights within the proxy's
time are ranked too. Time is that of the process (CPU): a clock would measure what else a machine does. Each is a row in
`rows.jsonl` when it is ranked; called again, the study goes on there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.chain import stages
from rrlib.chain.from_profile import grpo_settings, listwise_of
from rrlib.chain.params import Config
from rrlib.disk import append_jsonl, cut_torn_tail
from rrlib.evaluation.significance import t_interval
from rrlib.formats import read_jsonl
from rrlib.responses import Word, valid_share
from rrlib.strategies import sliding_spans
from rrlib.studies.command import exit_code
from rrlib.studies.kept import KeptStudy
from rrlib.studies.recipes import RECIPES
from rrlib.studies.rows import METRIC, judged, mean
from rrlib.studies.setting import Setting, setting_of
from rrlib.training.credit import best_reachable, left_behind, potential
from rrlib.training.episodes import train_episodes
from rrlib.types import RankingExample

if TYPE_CHECKING:
    import pandas as pd

POOL, RELEVANT = 25, [4, 8]
"""Candidates of a query, and how many of them are relevant. With windows of 10 and a stride of 5, four windows carry
five passages each: so a step of the profile's completions is whole episodes, and a window can lose what is relevant."""


class Arm(Word):
    """What is ranked."""

    SFT = "sft"
    """Where both trainings start."""
    WINDOW = "one window"
    """GRPO with the multi-view reward on single windows, as in the chain."""
    EPISODE = "whole episodes"
    """As many steps and completions."""
    EARLY = "whole episodes, equal time"
    """Its last weights within the CPU seconds of `one window`."""


@dataclass(frozen=True)
class Row:
    """One arm of one seed. ndcg, left_behind: by query. valid: share of strictly valid windows. steps,
    cpu_seconds: of its RL. setting: names all parameters of the study."""

    seed: int
    arm: str
    ndcg: Mapping[str, float]
    left_behind: Mapping[str, float]
    valid: float
    steps: int
    cpu_seconds: float
    setting: str


class Study(KeptStudy[Row]):
    """The study in a folder."""

    kind = Row

    def run(self, seeds: Sequence[int]) -> list[Row]:
        """Make what is missing, seed by seed; the rows of these seeds."""
        self.begin()
        for seed in seeds:
            done = {row.arm for row in self.rows() if row.seed == seed}
            if done >= set(Arm):
                continue
            for arm, (checkpoint, steps, seconds) in self._train(seed).items():
                if arm not in done:
                    row = self._rank(seed, arm, checkpoint, steps, seconds)
                    self.keep(row)
                    self.say(f"seed {seed}: {arm}: {METRIC} {mean(row.ndcg):.4f}, {steps} steps, {seconds:.0f} CPU s")
        return [row for row in self.rows() if row.seed in seeds]

    def _train(self, seed: int) -> dict[Arm, tuple[str, int, float]]:
        """Arm -> (checkpoint, steps and CPU seconds of RL); what was trained before is taken as it is."""
        config = self.setting.config("03_rl", seed=seed)
        settings, spans = grpo_settings(config), self.spans
        start, _ = self.table.checkpoint(seed, RECIPES["no RL"], {})
        proxy, proxy_seconds = self._one_window(seed, config, start)
        trained = train_episodes(
            self.lists(seed),
            start,
            self._home(seed) / "episodes",
            settings,
            config.style,
            window=spans[0][1] - spans[0][0],
            stride=self.setting.config("04_evaluation").stride,
            early_cpu_seconds=proxy_seconds,
            on_log=lambda row: self.say(
                "seed {}: step {step}: {reward:.4f}, {cpu_seconds:.0f} CPU s".format(seed, **row)
            ),
        )
        arms = {
            Arm.SFT: (start, 0, 0.0),
            Arm.WINDOW: (proxy, settings.steps, proxy_seconds),
            Arm.EPISODE: (str(trained.checkpoint), settings.steps, trained.log[-1]["cpu_seconds"]),
        }
        if "early_step" in trained.info:
            step = int(trained.info["early_step"])
            early = str(trained.checkpoint.with_name("early"))
            arms[Arm.EARLY] = (early, step, trained.log[step - 1]["cpu_seconds"])
        return arms

    def _one_window(self, seed: int, config: Config, start: str) -> tuple[str, float]:
        """(checkpoint of GRPO on single windows, its CPU seconds); the seconds of each step are kept as it ends."""
        path, mark = self._home(seed) / "one-window-seconds.jsonl", time.process_time()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            cut_torn_tail(path)

        def note(row: Mapping[str, Any]) -> None:
            nonlocal mark
            before, mark = mark, time.process_time()
            append_jsonl(path, {"step": row["step"], "cpu_seconds": round(mark - before, 3)})

        examples = self.table.examples(seed, RECIPES["full"])[: config.rl_examples or None]
        trained = stages.rl(config, examples, start, self._home(seed) / "one-window", on_log=note, echo=self.say)
        spent = {row["step"]: row["cpu_seconds"] for _, row in read_jsonl(path)}  # a step after a kill counts once
        return str(trained.checkpoint), sum(spent.values())

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Of the windows over a list, in training as in the test."""
        config = self.setting.config("04_evaluation")
        return sliding_spans(POOL, config.window, config.stride)

    def lists(self, seed: int) -> list[RankingExample]:
        """The queries that the proxy trains on, each with all of its candidates in first-stage order."""
        config, data = self.setting.config("03_rl"), self.table.data(seed, "train")
        kept = self.table.examples(seed, RECIPES["full"])[: config.rl_examples or None]
        candidates = {item.query.qid: item for item in data.candidates(POOL)}
        out = []
        for qid in dict.fromkeys(example.query.qid for example in kept):
            labels = [int(data.qrels[qid].get(p.docid, 0) > 0) for p in candidates[qid].passages]
            gold = sorted(range(len(labels)), key=lambda i: -labels[i])
            out.append(RankingExample(candidates[qid].query, candidates[qid].passages, tuple(labels), tuple(gold)))
        return out

    def _home(self, seed: int) -> Path:
        return self.folder / f"arms-{seed}-{self.table.key}"

    def _rank(self, seed: int, arm: Arm, checkpoint: str, steps: int, cpu_seconds: float) -> Row:
        config, data = self.setting.config("04_evaluation", seed=seed), self.table.data(seed)
        result = stages.evaluation(
            config,
            {arm.value: listwise_of(config, checkpoint)},
            data,
            self._home(seed) / "ranked" / arm.name.lower(),
            metrics=[METRIC],
            resamples=1,
            reported=False,
            echo=None,
        )
        ndcg = judged(data.qrels, result.run(arm.value))
        lost = {
            qid: round(left_behind([data.qrels[qid].get(docid, 0) for docid in docids], self.spans), 4)
            for qid, docids in result.ranking(arm.value).items()
        }
        valid = valid_share(result.records(arm.value))
        return Row(seed, arm.value, ndcg, lost, valid, steps, cpu_seconds, self.table.key)

    def bounds(self, seed: int) -> tuple[float, float]:
        """(nDCG@10, share left behind) of windows that sort perfectly, means over the test queries of a seed."""
        data = self.table.data(seed)
        labels = [
            [int(data.qrels[item.query.qid].get(p.docid, 0) > 0) for p in item.passages]
            for item in data.candidates(POOL)
        ]
        best = [potential(row, self.spans) for row in labels]
        lost = [left_behind(best_reachable(row, self.spans), self.spans) for row in labels]
        return sum(best) / len(best), sum(lost) / len(lost)


def differences(rows: Sequence[Row], value: str = "ndcg", baseline: Arm = Arm.WINDOW) -> pd.DataFrame:
    """One line an arm: mean over seeds, the seeds' means, RL steps and CPU seconds (means); and where two seeds have
    both, the mean difference to `baseline` with its t interval over seeds (low, high). value: ndcg or left_behind."""
    import pandas as pd

    means = {(row.arm, row.seed): mean(getattr(row, value)) for row in rows}
    lines = []
    for arm in Arm:
        own = [row for row in rows if row.arm == arm]
        if not own:
            continue
        line: dict[str, Any] = {"arm": arm.value, value: sum(means[arm, row.seed] for row in own) / len(own)}
        line["seeds"] = " ".join(f"{row.seed}: {means[arm, row.seed]:.4f}" for row in own)
        line |= {name: sum(getattr(row, name) for row in own) / len(own) for name in ("valid", "steps", "cpu_seconds")}
        paired = [means[arm, row.seed] - means[baseline, row.seed] for row in own if (baseline, row.seed) in means]
        if arm != baseline and len(paired) > 1:
            found = t_interval(paired)
            line |= {"difference": found.mean, "low": found.low, "high": found.high}
        lines.append(line)
    return pd.DataFrame(lines).set_index("arm")


def study_setting(profile: str, train: int, test: int, steps: int) -> Setting:
    """A profile in the study's world: pool, relevant passages, numbers of queries, steps of RL."""
    world = {"pool": POOL, "corpus_options": {"relevant": RELEVANT}}
    sizes = {"train_queries": train, "validation_queries": 0, "test_queries": test}
    setting = setting_of(profile).changed("01_synthesis", **world, **sizes)
    return setting.changed("03_rl", steps=steps).changed("04_evaluation", depth=POOL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and print its tables; the exit code: 0, 1 (it failed), 2 (bad input)."""
    top = argparse.ArgumentParser(prog="python -m rrlib.studies.episodes", description=(__doc__ or "").split("\n")[0])
    top.add_argument("--profile", default="miniature", help="a name in params/, or a YAML file")
    top.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9], help="of world, teacher, trainings, queries")
    top.add_argument("--output", required=True, help="folder of the rows and of all that is behind them")
    top.add_argument("--train", type=int, default=4000, help="training queries")
    top.add_argument("--test", type=int, default=200, help="test queries")
    top.add_argument("--steps", type=int, default=30, help="steps of RL, of both trainings")
    args = top.parse_args(argv)

    def work() -> None:
        study = Study(args.output, study_setting(args.profile, args.train, args.test, args.steps))
        rows = study.run(args.seeds)
        for value in ("ndcg", "left_behind"):
            print(differences(rows, value).to_string(float_format="{:.4f}".format))
        for seed in args.seeds:
            best, lost = study.bounds(seed)
            print(f"seed {seed}: windows that sort perfectly: {METRIC} {best:.4f}, left behind {lost:.4f}")

    return exit_code(work)


if __name__ == "__main__":
    raise SystemExit(main())
