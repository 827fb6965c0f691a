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
# # 01 Synthesis: from queries to training examples
#
# **The one question:** how do queries with a known answer become examples that show a model how to *reason* its way to
# a ranking?
#
# **Data:** with the default parameters everything is *synthetic*: a small written world, and a *simulated* teacher
# behind the same client interface as a real one.
# **Time:** under a minute on a CPU with the default parameters.
#
# The method is that of ReasonRank (section 4.1): a teacher looks at each query twice. Once with the answer in view, to
# say which passages are relevant. Once without it, to reason and rank. Where the two disagree, the example is dropped.

# %% [markdown]
# ## Set-up

# %%
from rrlib import plots
from rrlib.engines.base import Decoding
from rrlib.formats import read_collection, read_examples
from rrlib.params import collect
from rrlib.run import begin
from rrlib.stages import (
    check_exercise,
    consistencies,
    kept_and_dropped,
    open_corpus,
    open_teacher,
    passages_table,
    split_sizes,
)
from rrlib.synthesis.filter import filter_table
from rrlib.synthesis.pipeline import follow, synthesize

# %% [markdown]
# Every number that a profile may change stands in the next cell, and nowhere else. The defaults are the smoke profile.

# %% tags=["parameters"]
run = "smoke"  # name of the run: a folder below outputs/
seed = 7  # of everything drawn at random (integer)
interactive = False  # True shows widgets; only in Jupyter, never under papermill
corpus = "rrlib.miniature:build"  # a collection folder, or module:callable that writes one
corpus_options = {}  # more arguments for that callable (name: value)
train_queries = 200  # queries to make examples of (count)
validation_queries = 12  # queries for looking at checkpoints (count)
test_queries = 24  # queries for the final table (count)
pool = 30  # first-stage candidates of each query (passages)
teacher = "rrlib.miniature:SimulatedTeacher"  # module:callable, or base URL of an OpenAI-compatible server
teacher_model = ""  # model behind a base URL (name)
teacher_options = {}  # more arguments for the teacher (name: value)
concurrency = 8  # teacher calls in flight (count)
temperature = 0.6  # of the teacher's sampling (0 = greedy)
max_new_tokens = 4096  # longest teacher answer (tokens)
window = 10  # passages in a training list (count)
alpha = 0.4  # least NDCG@10 of a list under its own labels (0 to 1)
style = "reasonrank"  # prompt style the examples are for (name in rrlib.prompts)

# %% [markdown]
# `collect` checks the types once more; `begin` opens the folder of this stage. It is written once and for all: a stage
# with the same settings, code and inputs is never computed twice.

# %%
config = collect("01_synthesis", globals())
stage = begin(config)
stage

# %% [markdown]
# ## The collection
#
# A collection is a folder: passages, queries with their split, domain and gold answer, relevance judgements, and a
# first-stage run (here BM25). Your own corpus in the same layout goes through the same cells.

# %%
folder = open_corpus(
    stage, corpus, corpus_options, train=train_queries, validation=validation_queries, test=test_queries, pool=pool
)
collection = read_collection(folder, "train")
stage.data_kind = collection.data_kind
split_sizes(folder)

# %% [markdown]
# One query, to be followed through all steps. Read it, and then the first candidates below: the words of the query
# do not name what it asks for.
#
# **Predict:** which of the passages would help somebody who asks this?

# %%
candidates = collection.candidates(window)
example_query = candidates[0].query
print(example_query.text)
passages_table(candidates[0].passages)

# %% [markdown]
# ## The teacher is asked twice
#
# `synthesize` asks the teacher about every query: *select* (gold answer in view), then *rank* (gold answer hidden).
# Each answer is appended to a file at once, so that a run that is killed goes on where it stopped and no call is paid
# for twice.

# %%
client = open_teacher(teacher, folder, seed=seed, model=teacher_model, options=teacher_options)
settings = Decoding(max_new_tokens=max_new_tokens, temperature=temperature)
result = synthesize(
    collection,
    client,
    stage.path("teacher"),
    window=window,
    seed=seed,
    limit=train_queries,
    alpha=alpha,
    decoding=settings,
    concurrency=concurrency,
    style=style,
)
result.summary["answers"], result.summary["this_run"]

# %% [markdown]
# ### First look: select
#
# What the teacher was sent for our query (the end of it), and what it said. The gold answer is in the prompt.

# %%
asked = follow(stage.path("teacher"), example_query.qid)
print(asked["select"][0]["prompt"][-1]["content"][-900:])
print("\n--- the teacher:", [record["text"] for record in asked["select"]])

# %% [markdown]
# ### Second look: rank
#
# Now without the gold answer: the teacher must find out by itself what the query is after. The reasoning is what the
# student model will learn to write.
#
# **Predict:** will the passages that were selected a moment ago all stand at the top?

# %%
ranked = asked["rank"][0] if asked["rank"] else {"reasoning": "(nothing was selected)", "text": ""}
print(ranked["reasoning"])
print("\n--- the list:", ranked["text"])

# %% [markdown]
# ### One example
#
# Both labels side by side: *relevant* comes from selection (pointwise), *gold place* from ranking (listwise).

# %%
examples = read_examples(result.examples)
shown = next((e for e in examples if e.query.qid == example_query.qid), examples[0])
print(shown.query.text, "| self-consistency:", round(shown.meta["consistency"], 3))
passages_table(shown.passages, shown.relevance, shown.gold)

# %% [markdown]
# ## The self-consistency filter
#
# A list that buries the passages which the same teacher called relevant is not worth imitating. Its measure is NDCG@10
# of the list under the pointwise labels; below `alpha` the example is dropped.
#
# **Predict:** is the teacher mostly consistent, or mostly not? Where would you put the threshold?

# %%
values = consistencies(result)
stage.figure("filter", plots.consistency_histogram(values, alpha))

# %% [markdown]
# What to see: the mass at 1.0 are lists with every relevant passage on top. The lists left of the dashed line are gone
# from here on. What each threshold would keep, and why queries were lost:

# %%
print(*(f"alpha {row.alpha:.1f}: {row.kept} of {row.total} lists kept" for row in filter_table(values)), sep="\n")
kept_and_dropped(result)

# %% [markdown]
# With `interactive = True` you can leaf through the examples.

# %%
if interactive:
    from ipywidgets import IntSlider, interact

    slider = IntSlider(min=0, max=len(examples) - 1, description="example")
    interact(lambda e: passages_table(examples[e].passages, examples[e].relevance, examples[e].gold), e=slider)

# %% [markdown]
# ## Exercise: where does the best passage stand?
#
# NDCG@10 looks at the whole top ten. Write the simplest measure of consistency you can think of: 1.0 when the list
# begins with a relevant passage, else 0.0. `gold` holds positions, best first; `relevance` one label a passage.
#
# <details><summary>Hint</summary>The first entry of <code>gold</code> is a place in <code>relevance</code>.</details>


# %% tags=["exercise"]
def begins_well(gold, relevance):
    """1.0 when the first passage of the list is relevant, else 0.0."""
    return None


# %%
cases = [(([2, 0, 1], [0, 0, 1]), 1.0), (([0, 2, 1], [0, 0, 1]), 0.0), (([1, 0], [1, 1]), 1.0)]
check_exercise(begins_well, cases)

# %% [markdown]
# ## Done
#
# A stage ends with checks on what it leaves: examples there are, each list ranks its window whole, and none is below
# the threshold.

# %%
assert len(examples) >= 1, "no example was kept: lower alpha, or look at the dropped table"
assert all(sorted(e.gold) == list(range(len(e.passages))) for e in examples)
assert min(e.meta["consistency"] for e in examples) >= alpha
stage.finish(
    queries=result.summary["queries"],
    examples=len(examples),
    dropped=result.summary["dropped"],
    by_domain=result.summary["by_domain"],
    mean_consistency=round(sum(values) / len(values), 4),
)
