# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 Evaluation: did it help, and can we tell?
#
# **The one question:** how far does each stage of training lift the ranking of queries that nobody has seen, and is
# the difference more than chance?
#
# **Data:** the test split of the collection of notebook 01 (*synthetic* with the default parameters).
# **Time:** about a minute on a CPU with the default parameters.
#
# The lists are longer than the window, so the model slides: it ranks the last window, carries its best passages
# forward into the next one, and so on to the head of the list.

# %% [markdown]
# ## Set-up

# %%
from rrlib import plots
from rrlib.engines.base import Decoding
from rrlib.evaluation.tables import compare, gap_closed, oracle_run
from rrlib.formats import ranking_to_run, write_run
from rrlib.params import collect
from rrlib.rerank import Reranker
from rrlib.run import begin, write_results
from rrlib.stages import check_exercise, collection_of, comparison, cost_table, verdicts_of
from rrlib.strategies import plan, sliding_spans

# %% tags=["parameters"]
run = "smoke"  # name of the run: a folder below outputs/
profile = "smoke"  # name of the profile, written into the results
seed = 7  # of bootstrap and randomisation test (integer)
interactive = False  # True shows widgets; only in Jupyter, never under papermill
model = "package:rrlib.miniature/backbone"  # the checkpoint before training: folder, hub name or package:module/folder
style = "reasonrank"  # prompt style (name in rrlib.prompts)
engine = "transformers"  # what runs the model: transformers or vllm
engine_options = {}  # more arguments for the engine (name: value)
depth = 30  # candidates reranked; the rest keeps its place behind them (passages)
window = 10  # passages the model sees at once (count)
stride = 5  # how far the window moves (passages)
max_passage_tokens = 512  # a longer passage is cut (tokens)
max_new_tokens = 512  # longest answer (tokens)
metrics = ["nDCG@10", "R@5", "RR"]  # names of ir-measures; the first is the headline
resamples = 10000  # of bootstrap and randomisation test (count)

# %% [markdown]
# If notebooks 01 to 03 were not run yet, `begin` runs them first, at smoke size, and says so.

# %%
config = collect("04_evaluation", globals())
stage = begin(config)
test = collection_of(stage, "test")
candidates = test.candidates()
print(f"{test.name}: {len(candidates)} queries, {len(candidates[0].passages)} candidates each, {test.data_kind} data")

# %% [markdown]
# ## How the window slides
#
# **Predict:** how many windows does a list need? How many of them must wait for another?

# %%
reranker_options = {"style": style, "window": window, "stride": stride, "depth": depth}
print("windows, first to last:", sliding_spans(min(depth, len(candidates[0].passages)), window, stride))

# %% [markdown]
# All of them wait: each window begins with the winners of the one before. Different queries do not wait for each other,
# so the engine is kept full with windows of many queries.

# %% [markdown]
# ## Reranking with three checkpoints
#
# The same code, prompts and candidates; only the weights differ. Each window is logged as it ends, and a run that is
# killed goes on from its log.

# %%
checkpoints = {
    "backbone": model,
    "sft": str(stage.input("02_sft", "sft", "checkpoint")),
    "sft+rl": str(stage.input("03_rl", "grpo", "checkpoint")),
}
decoding = Decoding(max_new_tokens=max_new_tokens)
options = reranker_options | {"max_passage_tokens": max_passage_tokens, "decoding": decoding} | engine_options

# %%
rankings, records = {}, {}
for name, checkpoint in checkpoints.items():
    with stage.timed(name):
        reranker = Reranker(checkpoint, engine, log=stage.path("windows", f"{name}.jsonl"), **options)
        outcome = reranker.rerank(candidates)
        reranker.engine.close()
    rankings[name], records[name] = outcome.run(test.name), outcome.records
    write_run(stage.path("runs", f"{name}.trec"), rankings[name], name)
    print(f"{name}: {outcome.counts['windows']} windows, {stage.timings[name]:.0f} s")

# %% [markdown]
# ### Could the answers be read?
#
# **Predict:** whose answers are valid rankings: the backbone's, which never saw a whole task, or those of the trained
# ones?

# %%
stage.figure("answers", plots.verdict_shares(verdicts_of(records)))

# %% [markdown]
# Nothing is ever lost: where no answer can be read, a window keeps its order and is counted. What it cost:

# %%
cost_table(records, stage.timings)

# %% [markdown]
# ## Results
#
# Two fixed points frame the table: the *first stage* (what we started from), and the *oracle* (the same candidates in
# the best possible order: no reranker can do better).
#
# **Predict:** which part of the way from the first stage to the oracle does each checkpoint go?

# %%
runs = {"first-stage": test.run} | {name: ranking_to_run(found) for name, found in rankings.items()}
runs["oracle"] = oracle_run(test.qrels, candidates)
notes = []
rows = compare(
    test.qrels,
    runs,
    metrics,
    baseline="first-stage",
    seed=seed,
    collection=test.name,
    profile=profile,
    data_kind=test.data_kind,
    resamples=resamples,
    notes=notes,
)
comparison(rows, metrics[0])

# %% [markdown]
# Each mean stands with its 95% bootstrap interval over queries. Differences are paired, query by query, against the
# first stage; p is that of a randomisation test, corrected (Holm) because there are several systems.

# %%
print(*notes, sep="\n")
written = [row.to_json() for row in rows]
stage.figure("means", plots.means_with_intervals(written, metrics[0]))

# %% [markdown]
# What to see: intervals that overlap do not say that there is no difference, since the comparison is paired. But an
# interval as wide as the gap says: too few queries. Is reinforcement learning better than imitation alone?

# %%
comparison(compare(test.qrels, {n: runs[n] for n in ("sft", "sft+rl")}, metrics, seed=seed), metrics[0])

# %% [markdown]
# ## What moved
#
# Every dot is a relevant passage; above the dashed line it rose.
#
# **Predict:** can a passage rise from place 30 to place 1 in one pass? Can a passage at place 1 fall to 30?

# %%
first_stage = {qid: [hit.docid for hit in hits] for qid, hits in test.run.items()}
figure = plots.relevant_movement(first_stage, rankings["sft+rl"], test.qrels, ("first stage", "sft+rl"))
stage.figure("movement", figure)

# %% [markdown]
# What to see: rising has no limit, since winners are carried along from window to window. Falling has one: a passage
# leaves the window at its tail and is not seen again, so it falls by less than one window.

# %%
if interactive:
    from ipywidgets import Dropdown, interact

    names = ("first stage", "reranked")
    menu = Dropdown(options=list(rankings), description="system")
    interact(lambda system: plots.relevant_movement(first_stage, rankings[system], test.qrels, names), system=menu)

# %% [markdown]
# ## Exercise: the share of the gap closed
#
# A gain of 0.1 is much when the oracle is near, and little when it is far. Write the share of the way from the first
# stage to the oracle that a system goes.
#
# <details><summary>Hint</summary>The way gone over the whole way.</details>


# %% tags=["exercise"]
def share_of_gap(system, first_stage, oracle):
    """(what was gained) / (what could be gained)."""
    return None


# %%
print(check_exercise(share_of_gap, [((0.5, 0.4, 0.6), 0.5), ((0.4, 0.4, 0.9), 0.0), ((0.3, 0.4, 0.6), -0.5)]))
means = {row.system: row.mean for row in rows if row.metric == metrics[0]}
for name in checkpoints:
    print(f"{name}: {gap_closed(means[name], means['first-stage'], means['oracle']):.2f} of the gap closed")

# %% [markdown]
# ## Done
#
# The stage leaves the runs, every window with its text, and the results table.

# %%
assert all(sorted(ranking) == sorted(first_stage[qid]) for found in rankings.values() for qid, ranking in found.items())
assert means["oracle"] >= max(means.values()) - 1e-9, "nothing can beat the oracle"
expected = sum(plan(reranker.strategy.start, min(depth, len(c.passages))).calls for c in candidates)
assert all(len(found) == expected for found in records.values()), "a window is missing"
write_results(stage, written)
stage.finish(queries=len(candidates), **{f"{metrics[0]} {name}": round(mean, 4) for name, mean in means.items()})
