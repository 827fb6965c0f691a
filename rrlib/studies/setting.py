"""What all rows of a table share: the parameters of a profile's notebooks 01 to 04, and the key that names them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rrlib.chain.from_profile import grpo_settings, sft_settings
from rrlib.chain.params import STAGES, Config, load_profile
from rrlib.disk import hash_text
from rrlib.resources import profile_path
from rrlib.reward import PAPER_WEIGHTS
from rrlib.training.config import as_stored


@dataclass(frozen=True)
class Setting:
    """What all rows share: the parameters of the notebooks 01 to 04, by stage; seeds are the rows' own."""

    parameters: Mapping[str, Mapping[str, Any]]

    def config(self, stage: str, **changes: Any) -> Config:
        """The parameters of a stage, with changes."""
        return Config(stage, {**self.parameters[stage], **changes})

    def changed(self, stage: str, **changes: Any) -> Setting:
        """The same with other values of some parameters of a stage."""
        return Setting({**self.parameters, stage: {**self.parameters[stage], **changes}})

    def identity(self) -> dict[str, Any]:
        """What the rows depend on, under the names and in the order of the first stored tables."""
        synthesis, first, second, last = (self.config(stage) for stage in STAGES)
        identity = {
            "corpus": synthesis.corpus,
            "sizes": self.sizes(),
            "teacher": synthesis.teacher,
            "model": first.model,
            "sft": as_stored(asdict(replace(sft_settings(first), seed=0))),
            "grpo": as_stored(asdict(replace(grpo_settings(second), seed=0))),
            "corpus_options": synthesis.corpus_options,
            "teacher_options": synthesis.teacher_options,
            "alpha": synthesis.alpha,
            "consistency_k": synthesis.consistency_k,
            "temperature": synthesis.temperature,
            "window": synthesis.window,
            "stride": last.stride,
            "depth": last.depth,
            "k": second.reward_k,
            "max_new_tokens": last.max_new_tokens,
            "engine_options": last.engine_options,
        }
        for stage, defaults in _LATER.items():
            values = self.parameters[stage]
            # a run from before a parameter came lacks it, and took the value that is the default here
            given = {name: values.get(name, value) for name, value in defaults.items()}
            identity |= {f"{stage}.{name}": given[name] for name, value in defaults.items() if given[name] != value}
        return identity

    def sizes(self) -> dict[str, int]:
        """Queries of each split, and candidates of each query."""
        synthesis = self.config("01_synthesis")
        counts = {split: getattr(synthesis, f"{split}_queries") for split in ("train", "validation", "test")}
        return {**counts, "pool": synthesis.pool}

    @property
    def key(self) -> str:
        """12 hexadecimal digits that name the setting in rows and folders."""
        return key_of(self.identity())


def key_of(identity: Mapping[str, Any]) -> str:
    """12 hexadecimal digits of what a row depends on."""
    return hash_text(json.dumps(identity, sort_keys=True, default=str))[:12]


_LATER: Mapping[str, Mapping[str, Any]] = {
    "01_synthesis": {"max_new_tokens": 4096, "import_from": "", "import_limit": 0, "teacher_model": ""},
    "02_sft": {"sft_examples": 0, "processes": 1, "accelerate": ""},
    "03_rl": {"rl_examples": 0, "rbo_p": 1.0, "reward_weights": PAPER_WEIGHTS, "processes": 1, "accelerate": ""},
    "04_evaluation": {
        **{"max_passage_tokens": 512, "engine": "transformers", "temperature": 0.0},
        **{"top_p": 1.0, "top_k": 0},
    },
}
"""Parameters that the first tables did not read, with the values that they took instead: part of the identity only
where a profile has another value, so that rows of those tables still count."""


def setting_of(profile: str | Path) -> Setting:
    """What all rows share: the values of a profile of the chain (a name in params/, or a path)."""
    loaded = load_profile(profile_path(profile))
    return Setting({stage: loaded.parameters(stage) for stage in STAGES})
