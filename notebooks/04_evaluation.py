# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
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
# **Data:** the test split of the collection of notebook 01 (*synthetic* with the default parameters), or any benchmark
# that a profile names (*real*).
# **Time:** about a minute on a CPU with the default parameters.
#
# The lists are longer than the window, so the model slides: it ranks the last window, carries its best passages
# forward into the next one, and so on to the head of the list.

# %% [markdown]
# ## Set-up

# %%
from rrlib.chain import stages
from rrlib.chain.from_profile import listwise_of
from rrlib.chain.params import collect
from rrlib.chain.results import SYSTEMS, result_rows, write_results
from rrlib.chain.run import begin
from rrlib.evaluation import Interpolated, plan_experiment
from rrlib.formats import write_jsonl, write_run
from rrlib.lesson import sentences, shown, thread, trust
from rrlib.lesson.exercises import check_exercise
from rrlib.lesson.explain import by_labels
from rrlib.lesson.plots import basics as plots
from rrlib.lesson.plots import evaluation as figures
from rrlib.lesson.plots import tour as lesson_plots
from rrlib.lesson.plots import trust as trust_plots
from rrlib.lesson.tables import against, length_table, length_verdicts, pool_holds, verdicts_of, window_traces
from rrlib.strategies import StrategySpec, drive, plan, sliding_spans, sliding_window

# %% tags=["parameters"]
run = "smoke"  # name of the run: a folder below outputs/
profile = "smoke"  # name of the profile, written into the results
seed = 7  # of bootstrap and randomisation test (integer)
interactive = False  # True shows widgets; only in Jupyter, never under papermill
benchmarks = []  # names such as bright or beir/scifact; none: the test split of notebook 01 (names)
checkpoints = {}  # systems to compare (name: folder or hub name); none: those of notebooks 02 and 03
data_root = ""  # folder of the benchmarks' local copies; empty: the environment variable RRLIB_DATA
first_stage = ""  # run of each benchmark to rerank (file name in its runs/, without ending); empty: its only one
fetch = False  # True gets benchmarks that are missing from the network
queries = 0  # queries of each benchmark, from the first on, for trials (count; 0: all)
model = "package:rrlib.miniature/backbone"  # the checkpoint before training: folder, hub name or package:module/folder
style = "reasonrank"  # prompt style (name in rrlib.prompts)
engine = "transformers"  # what runs the model: transformers or vllm
engine_options = {}  # more arguments for the engine (name: value)
depth = 30  # candidates reranked; the rest keeps its place behind them (passages)
window = 10  # passages the model sees at once (count)
stride = 5  # how far the window moves (passages)
max_passage_tokens = 512  # a longer passage is cut (tokens; 0: the benchmark's own limit)
max_new_tokens = 512  # longest answer (tokens)
temperature = 0.0  # of decoding; 0 is greedy (number)
top_p = 1.0  # of sampling: the likeliest tokens that together have this probability (0 to 1)
top_k = 0  # of sampling: so many of the likeliest tokens (count; 0: all)
metrics = ["nDCG@10", "R@5", "RR"]  # names of ir-measures; the first is the headline
mix = True  # also mix the last checkpoint with the first stage (weight chosen on validation queries)
samples = 3  # of each window, to see how far they agree (count, 2 or more)
sample_temperature = 1.0  # of these samples (number above 0)
trust_queries = 4  # queries whose windows are sampled, and asked again behind other reasoning (count; 0: all)
other_strategies = ["top_down", "tournament"]  # asked of the same queries (names in rrlib.strategies)
resamples = 10000  # of bootstrap and randomisation test (count)

# %% [markdown]
# If notebooks 01 to 03 were not run yet, `begin` runs them first, at smoke size, and says so.

# %%
config = collect("04_evaluation", globals())
stage = begin(config)
data = stages.evaluation_data(stage, config)
for benchmark in data:
    print(
        f"{benchmark.name}: {len(benchmark.qrels)} queries, candidates of {benchmark.first_stage}, "
        f"{benchmark.data_kind} data"
    )

# %% [markdown]
# ## How the window slides
#
# **Predict:** how many windows does a list need? How many of them must wait for another?

# %%
longest = max(len(hits[:depth]) for benchmark in data for hits in benchmark.need_run().values())
print("windows, first to last:", sliding_spans(longest, window, stride))

# %% [markdown]
# All of them wait: each window begins with the winners of the one before. Different queries do not wait for each other,
# so the engine is kept full with windows of many queries.

# %% [markdown]
# ## The systems
#
# The same code, prompts and candidates; only the weights differ. Around them stand what a sceptic asks for: the *first
# stage* (what we started from), a *random* order, the *oracle* (the same candidates in the best possible order: no
# reranker can do better), and the last checkpoint mixed with the first stage, with a weight chosen on validation
# queries, never on the test queries.

# %%
trained = stages.chain_checkpoints(stage, config)
models = {name: listwise_of(config, path) for name, path in trained.items()}
last = list(models)[-1]
mixed = {f"{last} + first stage": Interpolated(last, metric=metrics[0])}
mixed = mixed if mix and all(benchmark.validation for benchmark in data) else {}
systems = {"first-stage": "first-stage", "random": "random", **models, **mixed, "oracle": "oracle"}

# %% [markdown]
# Everything is checked before any model is loaded: texts that are missing, queries without judgements, prompts that are
# too long. What it will take is known then too: calls exactly, tokens as upper bounds.

# %%
with shown.Counting("systems checked"):
    planned = plan_experiment(systems, data)
shown.table(planned.set_index(["benchmark", "system"]).astype("Int64"))

# %% [markdown]
# ## One call
#
# Each window is logged as it ends, and a run that is killed goes on from its log. A second run reads what is there.

# %%
logs, calls = (stage.path("experiment"), "*/windows*.jsonl"), int(planned["calls"].sum())
with stage.timed("experiment"), shown.Counting("windows", calls, logs=logs):
    result = stages.evaluation(config, systems, data, stage.path("experiment"))

# %% [markdown]
# ### Could the answers be read?
#
# **Predict:** whose answers are valid rankings: those of the checkpoint before training, of the trained ones, of both?

# %%
records = {name: [r for benchmark in data for r in result.records(name, benchmark.name)] for name in models}
shares = verdicts_of(records)
as_written = {name: of.get("ok", 0.0) for name, of in shares.items()}
shown.say(sentences.valid_words(shares), trust.form_kept_words(as_written))
stage.figure("answers", plots.verdict_shares(shares))

# %% [markdown]
# Nothing is ever lost: where no answer can be read, a window keeps its order and is counted. (02 and 03 tried one
# window of each validation query; here are all windows of the test queries, so the shares may differ.) What it cost,
# per query (`seconds` is the wall clock over all queries, `latency` what one query or window waits for). Both depend on
# what else the machine does meanwhile: where two systems read and write as many tokens and their seconds differ, it is
# the machine that differed, not the model.

# %%
costs = result.costs.set_index(["benchmark", "system"])
shown.table(costs[[name for name in costs if not name.endswith("_all") and name != "requests"]].round(3))

# %% [markdown]
# ## Results
#
# **Predict:** which part of the way from the first stage to the oracle does each checkpoint go?

# %%
mixtures = [f"{name}: weight {result.chosen(name, data[0].name).get('weight')}" for name in mixed]
print(*result.notes, *(mixtures or ["no mixture: no validation queries, or not asked"]), sep="\n")
shown.table(result.summary().set_index("system"))

# %% [markdown]
# Each mean stands with its 95% bootstrap interval over queries. Differences are paired, query by query, against the
# first stage; p is that of a randomisation test, corrected (Holm) because there are several systems; w/t/l counts the
# queries won, tied and lost. A `<` before it means that no draw of the test was as extreme, so p is only known to
# lie below. Rows marked *reported* are the paper's figures, for benchmarks that it reports. The line above the table
# has the weight of the mixture: 1 is the reranker alone, 0 the first stage, and the smallest of equally good ones is
# taken.

# %%
first = data[0].name
rows = [row for row in result.rows(metrics[0]) if row["benchmark"] == first]
stage.figure("means", plots.means_with_intervals(rows, metrics[0]))

# %% [markdown]
# What to see: intervals that overlap do not say that there is no difference, since the comparison is paired. But an
# interval as wide as the gap says: too few queries. Is the last checkpoint better than the one before it?

# %%
shown.table(against(result, list(models)[-2] if len(models) > 1 else "first-stage", [last]))

# %% [markdown]
# ### The red thread: the whole list
#
# The query that 01 chose, whose window 02 and 03 followed, ends here: all of its candidates, reranked window by window.
# (It is of the training split, so it is in no table of this notebook, and proves nothing. With other benchmarks or
# checkpoints than the chain's own there is no thread.)
#
# **Predict:** where do its relevant passages stand now?

# %%
whole = None
if not benchmarks and not checkpoints:
    asking = {"engine": engine, "style": style, **models[last].sizes(data[0]), **engine_options}
    asking["decoding"] = models[last].decoding
    followed = thread.thread_of(stage.run_dir)
    with shown.Counting("whole lists reranked", len(trained)) as count:
        whole = thread.whole_list(followed, stages.collection_of(stage, "train"), trained, asking, count)
shown.say(thread.end_words(whole))
"" if whole is None else shown.table(whole)

# %% [markdown]
# What to see: here the thread ends. The teacher's list for this query agreed least with its own labels, of all lists
# that were kept. SFT was shown that list. GRPO is paid by labels; whether by those of this query, 03 says. What the
# line above says of one query of the training split, the tables of this notebook say of all test queries.

# %% [markdown]
# ## Who gains, who loses
#
# A mean hides its queries. Here each query is a bar: what it gained or lost against the first stage.
#
# **Predict:** does a better mean mean that no query got worse?

# %%
gaps = {name: list(result.differences(name, metrics[0], first)) for name in models}
stage.figure("differences", figures.sorted_differences(gaps, "first stage", metrics[0]))

# %% [markdown]
# What to see: bars below zero are queries that got worse; a better mean says nothing of them. A system that helps many
# and hurts few is another thing than one that helps and hurts as many.

# %% [markdown]
# ## Does thinking longer help?
#
# **Predict:** are the queries with long answers ranked better, or worse?

# %%
lengths = length_table(result, list(models), metrics[0])
stage.figure("lengths", figures.length_and_quality(lengths, metrics[0]))

# %%
shown.table(length_verdicts(lengths))

# %% [markdown]
# What to see: where a system's dots stand in a narrow column, it writes about equally much for every query (a chain
# with a verdict for each passage, as in the embedded world, is such a form). A correlation there is of a few tokens,
# and none of thinking longer; the table says so. Else a slope says that length and quality go together, not that one
# makes the other: difficult queries may both need more words and fail more often. Notebook 06 cuts the chain short to
# find out.

# %% [markdown]
# ## What moved
#
# The rank of every relevant passage after each window, from the tail of the list to its head.
#
# **Predict:** can a passage rise from the last place to the first in one pass? Can the first fall to the last?

# %%
before = result.ranking("first-stage", first)
traces = window_traces(result.records(last, first), before, data[0].qrels)
stage.figure("windows", figures.window_movement(traces, f"Relevant passages through the windows: {last}"))

# %%
after = result.ranking(last, first)
stage.figure("movement", plots.relevant_movement(before, after, data[0].qrels, ("first stage", last)))

# %% [markdown]
# What to see: rising has no limit, since winners are carried along from window to window. Falling has one: a passage
# leaves the window at its tail and is not seen again, so it falls by less than one window.

# %% [markdown]
# ### One query at a time
#
# **Predict:** when a query gains much, does one passage rise far, or do all of its relevant passages rise together?

# %%
shown.say(sentences.rise_words(before, after, data[0].qrels))
stage.figure("queries", lesson_plots.run_compare(before, after, data[0].qrels, labels=("first stage", last)))

# %% [markdown]
# What to see: on the right are all candidates of the query that gained most. Its relevant passages (thick lines) cross
# the others on their way up. With `interactive = True` you can choose the query, and the two systems.

# %%
if interactive:
    from rrlib.lesson import widgets

    rankings = {"first stage": before, **{name: result.ranking(name, first) for name in models}}
    widgets.show(widgets.run_compare(rankings, data[0].qrels, baseline="first stage", queries=data[0].queries))

# %% [markdown]
# ## The same model, other strategies
#
# The window slides because a list is longer than what the model reads at once. There are other ways to put the same
# question: `top_down` looks for a pivot in the first window and holds the others against it, `tournament` lets the best
# of each window meet (`docs/strategies.md`). Here the last checkpoint ranks the first `trust_queries` queries in each
# of them. A strategy pays with calls, with rounds that wait for each other, and with tokens; 06 counts those of more.
#
# **Predict:** which one waits least? And will the same model rank equally well in all of them?

# %%
few, ways = data[0].limited(trust_queries, trust_queries), {"sliding_window": systems[last]}
ways |= {name: listwise_of(config, trained[last], strategy=name) for name in other_strategies}
with stage.timed("strategies"), shown.Counting("windows", logs=(stage.path("strategies"), "*/windows*.jsonl")):
    tried = stages.evaluation(config, ways, [few], stage.path("strategies"), echo=None)
rounds = {name: plan(StrategySpec(name, window, stride).start, longest).depth for name in ways}
shown.say("Rounds, where the answers confirm the first stage: " + ", ".join(f"{n} {r}" for n, r in rounds.items()))
shown.table(tried.summary().set_index("system"))

# %% [markdown]
# What to see: the interval of a difference says whether so few queries can tell the strategies apart. A model that was
# trained on windows of one size meets no other here; where a strategy asks more, it is the calls and tokens that say
# so.

# %% [markdown]
# ## The ceiling
#
# Where no relevant passage is among the candidates, no reranker can help.
#
# **Predict:** how far is the ceiling from 1, and who comes nearest to it?

# %%
print(pool_holds(before, data[0].qrels))
stage.figure("ceiling", figures.ceiling_and_gap(rows, metrics[0]))

# %% [markdown]
# What to see: the oracle stands at the ceiling, and the rest of the way is the reranker's to go; who comes nearest to
# it has the shortest gap in the figure. A ceiling of 1 says
# that the candidates lack nothing that this metric counts, as where a collection was built around its relevant
# passages (the embedded world's is). With a real first stage it is lower, and the line above the figure says by what.

# %% [markdown]
# ## How sure is it?
#
# The score of a reranked passage says its rank and nothing more. So the last checkpoint is asked each window several
# times, with sampling, and the orders are fused by their reciprocal ranks. How far the samples agree becomes, by two
# isotonic regressions on validation queries, the probability that a passage is relevant, and what to expect of a query.
#
# **Predict:** does the model know which of its lists are bad?

# %%
folder = stage.path("samples")
asked = trust.windows_to_draw(systems[last], data[0], samples, trust_queries)
with stage.timed("samples"), shown.Counting("windows sampled", asked, logs=(folder, "*.jsonl")):
    drawn = trust.draw(systems[last], data[0], folder, samples, sample_temperature, trust_queries, seed)
sure = trust.sureness(drawn, metrics[0])
print(sure.in_words())

# %%
probabilities = sure.calibrated.reliability if sure.calibrated else None  # a handful of queries may be too few
stage.figure("confidence", trust_plots.confidence(probabilities, sure.curve, metrics[0]))

# %% [markdown]
# What to see: on the left, dots on the dashed line are probabilities that hold. On the right, a curve that rises says
# that the surest queries are the better ones, so a system may leave the others unanswered; a level one says that
# agreement knows nothing of quality. A handful of queries cannot show either: `docs/confidence.md` has 200.

# %% [markdown]
# ## Does the list follow from the reasoning?
#
# A reasoning that the list contradicts explains nothing. Where it can be read (a trial ranking, verdicts on passages),
# it is held against the list: 1 is agreement in every pair that it tells apart, -1 in none. What cannot be read is
# counted apart.
#
# **Predict:** which checkpoints write lists that follow from what they wrote before?

# %%
shown.table(trust.follow_table(records, seed))

# %% [markdown]
# Agreement could be chance or habit. So the windows are asked again behind a reasoning that is not their own: none, the
# same words shuffled, that of another query. `own` is the control. `tau` compares with the original list, `follows`
# with the reasoning that was given.
#
# **Predict:** what does the list behind another query's reasoning look like, if the reasoning is decoration?

# %%
kept = result.records(last, first)
with stage.timed("asked again"), shown.Counting("answers behind other reasoning") as count:
    again = trust.asked_again(systems[last], data[0], kept, trust_queries, seed, count)
print(trust.again_in_words(again))
shown.table(trust.again_table(again))

# %% [markdown]
# What to see: where reasoning is decoration, `tau` stays near 1 in every row. Where it decides, lists behind another
# query's reasoning have little to do with the original ones, and follow what they were given.

# %% [markdown]
# ## Exercise 1: the share of the gap closed
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
cases = [
    ((0.5, 0.4, 0.6), 0.5, "0.1 of a way of 0.2"),
    ((0.4, 0.4, 0.9), 0.0, "nothing was gained"),
    ((0.3, 0.4, 0.6), -0.5, "a system may go the other way"),
]
print(check_exercise(share_of_gap, cases))
for row in rows:
    print(f"{row['system']}: {row['gap_closed']:.2f} of the gap closed")

# %% [markdown]
# ## Exercise 2: won, tied, lost
#
# The values of two systems, query by query. Write how many queries the first one wins, ties and loses: a list of three
# counts. Metrics are sums of fractions, so call it a tie where the two differ by less than 0.000001.
#
# <details><summary>Hint</summary>Make the list of differences first, and count three times.</details>


# %% tags=["exercise"]
def won_tied_lost(ours, theirs):
    """How many queries are won, tied and lost: [won, tied, lost]."""
    return None


# %%
cases = [
    (([0.5, 0.7], [0.4, 0.8]), [1, 0, 1], "one query is better, one is worse"),
    (([1.0, 0.6, 0.2], [1.0, 0.5, 0.1]), [2, 1, 0], "equal values are ties"),
    (([0.1 + 0.2], [0.3]), [0, 1, 0], "0.1 + 0.2 is not quite 0.3 in a computer"),
    (([0.501], [0.5]), [1, 0, 0], "0.001 is small, but it is more than 0.000001"),
]
print(check_exercise(won_tied_lost, cases))

# %% [markdown]
# ## Exercise 3, a part of the method: the sliding window
#
# Write what a sliding window makes of a list, where the ranker is perfect. `labels` are the grades of the candidates in
# their first order. The window takes the last `size` places, sorts them by grade (the highest first, equal ones as they
# stood), and moves up by `stride`, until it has sorted a window that begins at the head. Give the candidates' places
# from 0 on, in their final order. The check runs the library's strategy with an oracle.
#
# <details><summary>Hint</summary>Keep <code>order = list(range(len(labels)))</code> and <code>end</code>. In a loop:
# sort <code>order[start:end]</code> with <code>key=lambda i: -labels[i]</code>; stop where <code>start</code> is 0.
# Python's <code>sorted</code> leaves equal ones as they stood.</details>


# %% tags=["exercise"]
def slide(labels, size, stride):
    """The final order of the candidates (places from 0 on) after one pass of the window."""
    return None


# %%
calls = {
    "one window holds the whole list": ([0, 0, 1], 3, 1),
    "two windows: the best of the tail meets the head": ([0, 0, 0, 1], 2, 1),
    "with a stride as large as the window nothing is carried on": ([0, 0, 1, 0], 2, 2),
    "only size - stride passages are carried on": ([0, 0, 0, 0, 1, 1], 4, 3),
    "the last window is cut at the head of the list": ([0, 1, 0, 0, 2], 4, 3),
}
orders = {
    hint: drive(sliding_window(len(labels), *spans), by_labels(labels)) for hint, (labels, *spans) in calls.items()
}
print(check_exercise(slide, [(calls[hint], order, hint) for hint, order in orders.items()]))

# %% [markdown]
# ## Done
#
# The stage leaves the runs, every window with its text, and the tables as Markdown, LaTeX, JSON and CSV.

# %%
means = {row["system"]: row["mean"] for row in rows}
for name in models:
    write_run(stage.path("runs", f"{name}.trec"), result.ranking(name, first), name.replace(" ", "-"))
    write_jsonl(stage.path("windows", f"{name}.jsonl"), (r.to_json() for r in result.records(name, first)))
assert all(sorted(after[qid]) == sorted(before[qid]) for qid in after), "a passage was lost or doubled"
assert means["oracle"] >= max(means.values()) - 1e-9, "nothing can beat the oracle"
counts = [plan(lambda n: sliding_window(n, window, stride), len(hits[:depth])).calls for hits in before.values()]
assert all(len(result.records(name, first)) == sum(counts) for name in models), "a window is missing"
named = systems if benchmarks or checkpoints else SYSTEMS
write_results(stage, result_rows(result, profile, tuple(named)), named)
print(
    stage.finish(
        queries=sum(len(benchmark.qrels) for benchmark in data),
        **{f"{metrics[0]} {n}": round(m, 4) for n, m in means.items()},
    )
)
