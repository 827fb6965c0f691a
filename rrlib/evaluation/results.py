"""What an experiment found: tables, exports, and the numbers behind the figures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rrlib.errors import InputError, MissingFileError
from rrlib.evaluation.paired import p_in_words
from rrlib.evaluation.systems import Outcome
from rrlib.records import WindowRecord
from rrlib.types import Qrels, Run

if TYPE_CHECKING:
    import pandas as pd


class Origin(StrEnum):
    """Where a row of the table is from."""

    MEASURED = "measured"
    """By this experiment."""

    REPORTED = "reported"
    """By others, on the same benchmark (rrlib.evaluation.reference)."""


TABLE_COLUMNS = (
    "benchmark", "system", "source", "metric", "mean", "low", "high", "n", "baseline", "difference", "difference_low",
    "difference_high", "p", "p_floor", "p_holm", "wins", "ties", "losses", "ceiling", "gap_closed", "calls", "requests",
    "tokens_in", "tokens_out", "seconds", "latency_query_p50", "latency_query_p95", "latency_window_p50",
    "latency_window_p95", "calls_all", "seconds_all", "cost_all", "data_kind", "seed", "profile",
)  # fmt: skip
"""Fractions for metrics; costs are a query's, but those that end in `_all`; `source` is an Origin."""

VALUE_COLUMNS = ("benchmark", "qid", "system", "metric", "value")
"""Of the value of every query."""


@dataclass(repr=False)
class ExperimentResult:
    """The result of an experiment.

    table: one row a benchmark, system and metric (TABLE_COLUMNS), suites' means and reported rows included.
    per_query: benchmark, qid, system, metric, value. costs, audit: a row a benchmark and system that asked a model.
    notes: what was counted on the way. baseline: the system the others are compared with. outcomes: (system, benchmark)
    -> runs, window records and what was chosen.
    """

    table: pd.DataFrame
    per_query: pd.DataFrame
    costs: pd.DataFrame
    audit: pd.DataFrame
    notes: list[str]
    baseline: str
    outcomes: Mapping[tuple[str, str], Outcome] = field(default_factory=dict)
    qrels: Mapping[str, Qrels] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line: a notebook stores it beside the table, and the outcomes hold every window of every system."""
        systems, benchmarks = (list(dict.fromkeys(self.table[name])) for name in ("system", "benchmark"))
        return f"ExperimentResult({', '.join(systems)}; on {', '.join(benchmarks)})"

    def run(self, system: str, benchmark: str | None = None) -> Run:
        """The scored run of a system (of the only benchmark, if there is one)."""
        return self.outcomes[system, self._benchmark(benchmark)].run

    def ranking(self, system: str, benchmark: str | None = None) -> dict[str, list[str]]:
        """query id -> document ids, best first, as trec_eval orders them."""
        run = self.run(system, benchmark)
        order = {qid: sorted(hits, key=lambda h: (h.score, h.docid), reverse=True) for qid, hits in run.items()}
        return {qid: [hit.docid for hit in hits] for qid, hits in order.items()}

    def records(self, system: str, benchmark: str | None = None) -> list[WindowRecord]:
        """The window records of a system."""
        return list(self.outcomes[system, self._benchmark(benchmark)].records)

    def chosen(self, system: str, benchmark: str | None = None) -> dict[str, Any]:
        """What a system chose or found on the way: a weight, a threshold, the window that fitted, ..."""
        return self.outcomes[system, self._benchmark(benchmark)].info

    def _benchmark(self, name: str | None) -> str:
        names = list(dict.fromkeys(benchmark for _, benchmark in self.outcomes))
        if name is None and len(names) == 1:
            return names[0]
        if name not in names:
            raise InputError(f"no benchmark {name!r} in this experiment", remedy=f"use one of {', '.join(names)}")
        return str(name)

    def rows(self, metric: str | None = None) -> list[dict[str, Any]]:
        """Measured rows as dictionaries, for plots (system, metric, mean, low, high, n)."""
        chosen = self.table[self.table["source"] == Origin.MEASURED]
        if metric is not None:
            chosen = chosen[chosen["metric"] == metric]
        return [{str(k): v for k, v in row.items()} for row in chosen.to_dict("records")]

    def wide(self, metric: str | None = None) -> pd.DataFrame:
        """Systems x benchmarks: the mean of a metric (default: the headline), reported rows marked."""
        name = metric or str(self.table["metric"].iloc[0])
        chosen = self.table[self.table["metric"] == name].copy()
        if chosen.empty:
            raise InputError(f"no metric {name!r} in this experiment", remedy="name one of the table's")
        chosen["system"] = [
            f"{s} (reported)" if source == Origin.REPORTED else s
            for s, source in zip(chosen["system"], chosen["source"], strict=True)
        ]
        order = list(dict.fromkeys(chosen["benchmark"]))
        return chosen.pivot_table(index="system", columns="benchmark", values="mean", sort=False)[order]

    def differences(self, system: str, metric: str | None = None, benchmark: str | None = None) -> pd.Series:
        """Per query: the system's value minus the baseline's, sorted, largest first."""
        name = metric or str(self.per_query["metric"].iloc[0])
        chosen = self.per_query[
            (self.per_query["metric"] == name) & (self.per_query["benchmark"] == self._benchmark(benchmark))
        ]
        wide = chosen.pivot(index="qid", columns="system", values="value")
        if system not in wide:
            raise InputError(f"no system {system!r} in this experiment", remedy=f"use one of {', '.join(wide)}")
        return (wide[system] - wide[self.baseline]).sort_values(ascending=False, kind="stable")

    # --- exports ------------------------------------------------------------------------------------------------------
    def summary(self) -> pd.DataFrame:
        """The table as people read it: mean [interval], difference, p (Holm), win/tie/loss, share of the gap, costs."""
        import pandas as pd

        several = self.table["benchmark"].nunique() > 1
        rows = []
        for (benchmark, system, source), part in self.table.groupby(["benchmark", "system", "source"], sort=False):
            row: dict[str, str] = {"benchmark": str(benchmark)} if several else {}
            row["system"] = f"{system} (reported)" if source == Origin.REPORTED else str(system)
            for line in part.to_dict("records"):
                row[str(line["metric"])] = _cell(line["mean"], line["low"], line["high"])
            head = part.to_dict("records")[0]
            compared = not _nan(head["difference"])
            row[f"difference from {self.baseline}"] = (
                _cell(head["difference"], head["difference_low"], head["difference_high"], "+") if compared else ""
            )
            row["p (Holm)"] = p_in_words(head)
            row["w/t/l"] = f"{head['wins']:.0f}/{head['ties']:.0f}/{head['losses']:.0f}" if compared else ""
            row["gap closed"] = "" if _nan(head["gap_closed"]) else f"{head['gap_closed']:.2f}"
            row["calls"] = _number(head["calls"])
            row["tokens in"] = _number(head["tokens_in"])
            row["tokens out"] = _number(head["tokens_out"])
            row["s/query"] = "" if _nan(head["seconds"]) else f"{head['seconds']:.3f}"
            rows.append(row)
        return pd.DataFrame(rows).fillna("")

    def to_markdown(self) -> str:
        """The summary as a Markdown table."""
        frame = self.summary()
        lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
        return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines)

    def to_latex(self) -> str:
        """The summary as a LaTeX table (booktabs), special characters escaped."""
        frame = self.summary()
        frame.columns = [_tex(str(c)) for c in frame.columns]
        style = frame.style.format(lambda cell: _tex(str(cell))).hide(axis="index")
        return str(style.to_latex(hrules=True, column_format="l" * len(frame.columns)))

    def to_dict(self, values: bool = False) -> dict[str, Any]:
        """Table, costs, audit, what systems chose, and notes; nan as None. values: with the value of every query."""
        data: dict[str, Any] = {
            "baseline": self.baseline,
            "table": _plain(self.table),
            "costs": _plain(self.costs),
            "audit": _plain(self.audit),
            "chosen": [
                {"system": system, "benchmark": benchmark, **outcome.info}
                for (system, benchmark), outcome in self.outcomes.items()
                if outcome.info
            ],
            "notes": self.notes,
        }
        if values:
            data["per_query"] = [list(row) for row in self.per_query[list(VALUE_COLUMNS)].itertuples(index=False)]
        return data

    def to_json(self) -> str:
        """What `to_dict` gives, as JSON."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ExperimentResult:
        """What `to_dict(values=True)` gave, read back: tables, values and what systems chose. There are no runs and no
        window records. Raises InputError where something is missing."""
        import pandas as pd

        try:
            table = pd.DataFrame(data["table"]).reindex(columns=list(TABLE_COLUMNS))
            per_query = pd.DataFrame(data["per_query"], columns=list(VALUE_COLUMNS))
            info: dict[tuple[str, str], dict[str, Any]] = {
                (system, benchmark): {}
                for system, benchmark in zip(per_query["system"], per_query["benchmark"], strict=True)
            }
            for row in data["chosen"]:
                chosen = dict(row)
                info[chosen.pop("system"), chosen.pop("benchmark")] = chosen
            costs, audit = pd.DataFrame(data["costs"]), pd.DataFrame(data["audit"])
            outcomes = {key: Outcome({}, info=choices) for key, choices in info.items()}
            return cls(table, per_query, costs, audit, list(data["notes"]), str(data["baseline"]), outcomes)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"no whole result of an experiment: {error}", remedy="run the experiment again") from error

    @classmethod
    def load(cls, folder: str | Path) -> ExperimentResult:
        """What `save` wrote, read back (see from_dict). Raises MissingFileError where a file is not there."""
        import pandas as pd

        from rrlib.disk import read_json

        root = Path(folder)
        data, values = read_json(root / "table.json"), root / "per_query.csv.gz"
        if data is None or not values.is_file():
            raise MissingFileError(
                "no finished experiment", path=root, remedy="run it with output=, or name its folder"
            )
        texts = dict.fromkeys(VALUE_COLUMNS[:-1], str)
        frame = pd.read_csv(values, dtype=texts, keep_default_na=False)
        return cls.from_dict({**data, "per_query": frame[list(VALUE_COLUMNS)].to_numpy(dtype=object).tolist()})

    def to_csv(self) -> str:
        """The table as CSV."""
        return str(self.table.to_csv(index=False))

    def save(self, folder: str | Path) -> Path:
        """Write table.md, table.tex, table.json, table.csv and per_query.csv.gz into a folder."""
        from rrlib.formats import write_lines

        root = Path(folder)
        for name, text in (
            ("table.md", self.to_markdown()),
            ("table.tex", self.to_latex()),
            ("table.json", self.to_json()),
            ("table.csv", self.to_csv()),
            ("per_query.csv.gz", str(self.per_query.to_csv(index=False))),
        ):
            write_lines(root / name, text.rstrip("\n").split("\n"))
        return root

    def _repr_html_(self) -> str:
        """The summary, small enough for a notebook's page, its intervals and p values on one line each."""
        html = str(self.summary().to_html(index=False))
        html = re.sub(r"(?<=[\d;]) (?=\[?[-+\d])|(?<=,) (?=[-+\d])", "&nbsp;", html)
        for tag, style in (
            ("table", "font-size:0.7em"),
            ("th", "padding:0.2em 0.25em"),
            ("td", "padding:0.2em 0.25em"),
        ):
            html = re.sub(rf"<{tag}(?=[ >])", f'<{tag} style="{style}"', html)
        return html


def _nan(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def _cell(mean: float, low: float, high: float, sign: str = "") -> str:
    if _nan(low):
        return f"{mean:{sign}.3f}"
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _number(value: Any) -> str:
    return "" if _nan(value) else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _tex(text: str) -> str:
    for char in "\\&%$#_{}":
        text = text.replace(char, "\\textbackslash " if char == "\\" else f"\\{char}")
    return text.replace("~", "\\textasciitilde ").replace("^", "\\textasciicircum ")


def _plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for row in frame.to_dict("records"):
        rows.append({str(k): None if _nan(v) else v.item() if hasattr(v, "item") else v for k, v in row.items()})
    return rows
