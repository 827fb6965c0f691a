"""Keep the experiments of a finished run of notebook 06 with the library: what it shows with its default parameters.

    rrlib run params/efficiency.yaml
    python benchmarks/keep.py outputs/efficiency

No benchmark: it measures nothing, and without a folder it does nothing. The file is read by rrlib.studies.stored.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rrlib.disk import read_json
from rrlib.errors import MissingFileError
from rrlib.evaluation.results import ExperimentResult
from rrlib.formats import example_to_json, read_examples, write_jsonl
from rrlib.studies.stored import EXPERIMENTS, STORED

SHOWN = (
    *("train_queries", "test_queries", "queries", "sft_examples", "per_list", "epochs", "budgets", "seed"),
    *(
        "window",
        "stride",
        "depth",
        "max_passage_tokens",
        "max_new_tokens",
        "learning_rate",
        "micro_batch",
        "max_length",
    ),
    *("context_share", "model", "style", "nothink", "metrics", "resamples"),
)
"""Parameters that the stored file names: all that its figures depend on."""


def keep(run: str | Path, path: str | Path = STORED) -> Path:
    """Keep the results of a finished run of notebook 06; returns the file. Raises MissingFileError where it is not
    finished."""
    folder = Path(run)
    manifest = read_json(folder / "06_efficiency" / "manifest.json")
    if manifest is None:
        raise MissingFileError("this run is not finished", path=folder, remedy="rrlib run params/efficiency.yaml")
    results = {name: ExperimentResult.load(folder / "06_efficiency" / name) for name in EXPERIMENTS}
    examples = read_examples(folder / "01_synthesis" / "teacher" / "examples.jsonl")
    given, record = manifest["match"]["parameters"], manifest["record"]
    synthesis = read_json(folder / "01_synthesis" / "manifest.json")["match"]["parameters"]
    parameters = {**synthesis, **given}
    source = {
        "profile": given["profile"],
        "seed": given["seed"],
        "queries": results["experiment"].per_query["qid"].nunique(),
        "examples": len(examples[: given["sft_examples"] or None]),
        "data_kind": record["data_kind"],
        "date": str(record["finished"])[:10],
        "machine": f"{record['device']}, {record['threads'] or 'all'} thread(s)",
        "seconds": record["seconds"],
        "parameters": {key: parameters[key] for key in SHOWN},
    }
    lines = [source, example_to_json(examples[0])]
    lines += [{"experiment": name, **result.to_dict(values=True)} for name, result in results.items()]
    return write_jsonl(path, lines)


def main(argv: list[str] | None = None) -> None:
    """Keep the run that is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", nargs="?", help="folder of a finished run, such as outputs/efficiency")
    given = parser.parse_args(argv)
    print(keep(given.run) if given.run else "no run is named, so nothing is kept")


if __name__ == "__main__":
    main()
