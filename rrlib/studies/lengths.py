"""A whole list at once, by a model that was trained for it: SFT on lists of mixed length against lists of ten.

    python -m rrlib.studies.lengths --profile miniature --seeds 7 8 --output outputs/lengths

For each seed a world and two trainings from one backbone: as many lists of training queries, as retrieved, ranked by
the same erring teacher and filtered as in the chain. One has the first ten candidates of each query, the other the
first 5, 10, 20 or 30, drawn by query. Both rank the first 10, 20 and 30 candidates of the test queries, in sliding
windows of ten and all at once, and the first 30 in windows of twenty too. A row is kept when it is ranked; called
again, the study goes on there.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rrlib.chain import stages
from rrlib.chain.from_profile import asking_of, listwise_of, sft_settings, teacher_of
from rrlib.evaluation.paired import in_words, p_in_words, paired_rows
from rrlib.evaluation.tables import align
from rrlib.formats import read_collection
from rrlib.responses import Word, valid_share
from rrlib.studies.command import exit_code
from rrlib.studies.kept import KeptStudy
from rrlib.studies.rows import METRIC, judged, mean
from rrlib.studies.setting import Setting, setting_of
from rrlib.studies.supervision import ranked_by
from rrlib.synthesis.filter import keeps, self_consistency
from rrlib.types import RankingExample

WIDE = "sliding_window 20/10"
"""Windows of twenty with stride ten, for lists that are longer."""
STRATEGIES = ("sliding_window", "full_list", WIDE)


class Arm(Word):
    """What SFT reads."""

    TEN = "lists of 10"
    MIXED = "mixed lists"


SIZES: Mapping[Arm, tuple[int, ...]] = {Arm.TEN: (10,), Arm.MIXED: (5, 10, 20, 30)}
"""Arm -> lengths of its lists, passages."""
LENGTHS = (10, 20, 30)
"""Candidates of a test query that are ranked."""


@dataclass(frozen=True)
class Row:
    """One ranking of the test queries of a seed. n: candidates. ndcg: by query. valid: share of strictly valid answers.
    tokens: read and written, of a query, mean. examples: lists that SFT read. setting: names the study."""

    seed: int
    arm: str
    strategy: str
    n: int
    ndcg: Mapping[str, float]
    valid: float
    tokens: float
    examples: int
    setting: str


class Study(KeptStudy[Row]):
    """The study in a folder."""

    kind = Row

    def run(self, seeds: Sequence[int]) -> list[Row]:
        """Make what is missing, seed by seed; the rows of these seeds."""
        self.begin()
        for seed in seeds:
            done = {(row.arm, row.strategy, row.n) for row in self.rows() if row.seed == seed}
            asked = [(s, n) for s in STRATEGIES for n in LENGTHS if s != WIDE or n > 20]
            missing = {arm: [(s, n) for s, n in asked if (arm, s, n) not in done] for arm in Arm}
            lists = self.lists(seed) if any(missing.values()) else {}
            for arm in [arm for arm in Arm if missing[arm]]:
                checkpoint = self._train(seed, arm, lists[arm])
                for strategy, n in missing[arm]:
                    row = self._rank(seed, arm, checkpoint, strategy, n, len(lists[arm]))
                    self.keep(row)
                    self.say(f"seed {seed}: {arm}, {strategy} of {n}: {METRIC} {mean(row.ndcg):.4f}")
        return [row for row in self.rows() if row.seed in seeds]

    def lists(self, seed: int) -> dict[Arm, list[RankingExample]]:
        """What each arm learns from: of a training query its first candidates, as retrieved, with the teacher's chain
        and list, if that can be read and passes the filter by the world's labels. Both arms read as many."""
        read = {arm: self._ranked(seed, arm) for arm in Arm}
        count = min(map(len, read.values()))
        return {arm: lists[:count] for arm, lists in read.items()}

    def _ranked(self, seed: int, arm: Arm) -> list[RankingExample]:
        config, folder = self.setting.config("01_synthesis", seed=seed), self.table.collection(seed)
        source, dice = read_collection(folder, "train"), random.Random(f"{seed}/lengths")
        asked = []
        for candidates in source.candidates(max(LENGTHS)):
            passages = candidates.passages[: dice.choice(SIZES[arm])]
            labels = [source.qrels[candidates.query.qid].get(p.docid, 0) for p in passages]
            meta = {"domain": source.metadata[candidates.query.qid]["domain"]}
            if any(labels):
                order = tuple(range(len(passages)))
                asked.append(RankingExample(candidates.query, passages, tuple(labels), order, "", meta))
        client, decoding = teacher_of(config, folder), asking_of(config)["decoding"]
        ranked = ranked_by(client, asked, decoding, config.concurrency, drop_faulty=True)
        worth = [self_consistency(e.gold, e.relevance, config.consistency_k) for e in ranked]
        return [e for e, value in zip(ranked, worth, strict=True) if keeps(value, config.alpha)]

    def _home(self, seed: int, arm: Arm) -> Path:
        return self.folder / f"{arm.name.lower()}-{seed}-{self.table.key}"

    def _train(self, seed: int, arm: Arm, lists: Sequence[RankingExample]) -> str:
        config = self.setting.config("02_sft", seed=seed)
        trained = stages.sft(config, lists, config.model, self._home(seed, arm) / "sft", echo=self.say)
        return str(trained.checkpoint)

    def _rank(self, seed: int, arm: Arm, checkpoint: str, strategy: str, n: int, examples: int) -> Row:
        config = self.setting.config("04_evaluation", seed=seed, depth=n)
        data = self.table.data(seed)
        data = replace(data, spec=replace(data.spec, depth=n))
        kind, _, sizes = strategy.partition(" ")
        window, stride = map(int, sizes.split("/")) if sizes else (data.spec.window, data.spec.stride)
        widest = n if kind == "full_list" else window
        system = listwise_of(config, checkpoint, strategy=kind, window=window, stride=stride)
        limit = config.max_new_tokens * widest // 10  # the profile's limit is for lists of ten
        system = replace(system, decoding=replace(system.decoding, max_new_tokens=limit))
        own = strategy.replace(" ", "-").replace("/", "-")
        name = f"{arm.name.lower()} {own} {n}"
        result = stages.evaluation(
            config,
            {name: system},
            data,
            self._home(seed, arm) / "ranked" / f"{own}-{n}",
            metrics=[METRIC],
            resamples=1,
            reported=False,
            echo=None,
        )
        records = result.records(name)
        tokens = sum(record.tokens_in + record.tokens_out for record in records) / len(data.qrels)
        ndcg = judged(data.qrels, result.run(name))
        return Row(seed, arm, strategy, n, ndcg, valid_share(records), tokens, examples, self.table.key)


def told(rows: Sequence[Row]) -> str:
    """A table a length: means over seeds, and differences to sliding windows by the model that learned from lists of
    ten, paired by query within each seed."""
    out = []
    for n in sorted({row.n for row in rows}):
        own = [row for row in rows if row.n == n]
        values: dict[str, dict[str, Any]] = {}
        for row in own:
            values.setdefault(f"{row.arm}, {row.strategy}", {})[str(row.seed)] = list(row.ndcg.values())
        lines = [["candidates", "model, strategy", METRIC, "by seed", "difference", "p (Holm)", "valid", "tokens"]]
        for line in paired_rows(values, f"{Arm.TEN}, {STRATEGIES[0]}"):
            same = [row for row in own if f"{row.arm}, {row.strategy}" == line["system"]]
            shared = [sum(getattr(row, name) for row in same) / len(same) for name in ("valid", "tokens")]
            means = " ".join(f"{value:.3f}" for value in line["by_set"].values())
            differs = [in_words(line), p_in_words(line)] if "p" in line else ["", ""]
            spread = f"{line['mean']:.3f} [{line['low']:.3f}, {line['high']:.3f}]"
            lines.append([str(n), line["system"], spread, means, *differs, f"{shared[0]:.1%}", f"{shared[1]:.0f}"])
        out.append(align(lines))
    return "\n\n".join(out)


def study_setting(profile: str, train: int, test: int) -> Setting:
    """A profile with as many candidates as the longest list, and the study's numbers of queries."""
    sizes = {"train_queries": train, "validation_queries": 0, "test_queries": test, "pool": max(LENGTHS)}
    setting = setting_of(profile).changed("01_synthesis", **sizes)
    longest = sft_settings(setting.config("02_sft")).max_length
    return setting.changed("02_sft", max_length=max(longest, 4096))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and print its tables; the exit code: 0, 1 (it failed), 2 (bad input)."""
    top = argparse.ArgumentParser(prog="python -m rrlib.studies.lengths", description=(__doc__ or "").split("\n")[0])
    top.add_argument("--profile", default="miniature", help="a name in params/, or a YAML file")
    top.add_argument("--seeds", type=int, nargs="+", default=[7, 8], help="of world, teacher, trainings, queries")
    top.add_argument("--output", required=True, help="folder of the rows and of all that is behind them")
    top.add_argument("--train", type=int, default=4000, help="training queries")
    top.add_argument("--test", type=int, default=200, help="test queries")
    args = top.parse_args(argv)

    def work() -> None:
        study = Study(args.output, study_setting(args.profile, args.train, args.test))
        print(told(study.run(args.seeds)))

    return exit_code(work)


if __name__ == "__main__":
    raise SystemExit(main())
