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
# # 06 Efficiency: what does thinking cost, and what is it worth?
#
# **The one question:** is one chain of thought for a whole window cheaper than one for each passage, and how much of
# the chain is needed at all?
#
# **Data:** examples and queries of notebook 01 (*synthetic*, with a *simulated* teacher). With the default parameters
# this notebook reads the results that are stored in the repository; `rrlib run params/efficiency.yaml` makes them anew.
# **Time:** a few seconds with stored results; about five minutes on a CPU with `stored = False` at the smoke sizes
# of the parameters below, most of an hour for `params/efficiency.yaml`.
#
# Later work disputes that reasoning helps a reranker at all. So here stand, on the same candidates, the same data and
# the same engine: listwise and pointwise rerankers, with and without a chain, and a chain that is cut short.

# %% [markdown]
# ## Set-up

# %%
import pandas as pd

from rrlib.chain import stages
from rrlib.chain.from_profile import listwise_of, pointwise_of
from rrlib.chain.params import collect
from rrlib.chain.run import begin
from rrlib.evaluation import Routed, plan_experiment
from rrlib.lesson import sentences, shown
from rrlib.lesson.exercises import check_exercise
from rrlib.lesson.plots import basics as plots
from rrlib.lesson.plots import evaluation as figures
from rrlib.lesson.tables import against
from rrlib.plans.strategies import cells, cost_rows
from rrlib.prompts import POINT, format_target
from rrlib.strategies import plan, sliding_window
from rrlib.studies.stored import stored_experiments
from rrlib.training.mix import both_modes, pointwise_examples

# %% tags=["parameters"]
run = "smoke"  # name of the run: a folder below outputs/
profile = "smoke"  # name of the profile, written into the results
seed = 7  # of trainings, bootstrap and randomisation test (integer)
interactive = False  # True shows widgets; only in Jupyter, never under papermill
stored = True  # True reads the results kept in the repository; False trains and measures, on notebooks 01 and 02
model = "package:rrlib.miniature/backbone"  # where the trainings start: folder, hub name or package:module/folder
style = "reasonrank"  # prompt style of the reasoning mode (name in rrlib.prompts)
nothink = "nothink_tags"  # prompt style of the mode without reasoning (name in rrlib.prompts)
window = 10  # passages the listwise model sees at once (count)
stride = 5  # how far the window moves (passages)
depth = 30  # candidates reranked (passages)
max_passage_tokens = 512  # a longer passage is cut (tokens)
max_new_tokens = 512  # longest answer (tokens)
queries = 12  # test queries, from the first on (count; 0: all)
sft_examples = 0  # training examples used, from the first on (count; 0: all)
per_list = 4  # passages of each list that the pointwise model is trained on (count; 0: all)
epochs = 4.0  # passes over the examples (count)
learning_rate = 1.0e-3  # peak, after the warm-up (per update)
micro_batch = 8  # rows in a forward pass (count)
max_length = 4096  # prompt and response; longer examples are refused (tokens)
budgets = [0, 16, 64]  # reasoning tokens after which a chain is closed (counts)
context_share = 0.8  # windows cut to fit: part of the room that the longest window needs (0 to 1)
engine_options = {}  # more arguments for the transformers engine (name: value)
metrics = ["nDCG@10", "R@5", "RR"]  # names of ir-measures; the first is the headline
resamples = 10000  # of bootstrap and randomisation test (count)

# %% [markdown]
# With `stored = True`, sizes and trainings are those of the stored results, and the parameters of the same names in the
# cell above have no effect on them; where they differ, the lines below say so. (`window`, `stride` and `depth` still
# count for the costs of strategies.) With `stored = False` all of them count, and if notebooks 01 and 02 were not run
# yet, `begin` runs them first, at smoke size.

# %%
config = collect("06_efficiency", globals())
stage = begin(config)
if stored:
    before = stored_experiments()
    stage.data_kind, examples = before.source["data_kind"], [before.example]
    print(before, *before.unlike(config.as_dict()), sep="\n")
else:
    data = stages.evaluation_data(stage, config)
    data[0] = data[0].limited(queries, validation=queries)
    examples = stages.examples_of(stage.run_dir, config)
    print(f"{len(examples)} training lists; {len(data[0].qrels)} test queries, {data[0].data_kind} data")

# %% [markdown]
# ## One passage at a time
#
# A pointwise reranker (here in Rank1's form) reads one passage, thinks, and says *true* or *false*. The score is the
# probability of *true* against *false* behind the chain. It is trained on the same lists: each passage with its label
# and with what the teacher's chain says about it.
#
# **Predict:** how many chains does a list of 30 take, one passage at a time? And with windows of 10 and stride 5?

# %%
points = pointwise_examples(examples, "pointwise", per_list, seed)
asked = POINT.replace("{query}", points[0].query.text).replace("{passage}", points[0].passages[0].text)
shown.texts({"asked": asked, "to be written": format_target(points[0], "pointwise")})

# %% [markdown]
# ## Three trainings on the same data
#
# The pointwise model, and one model for both modes: every list once with its chain and once without, told apart by the
# prompt alone. The paper names the missing switch as a limitation.

# %%
bare = pointwise_examples(examples, "pointwise_nothink", per_list, seed)
rows = {"pointwise": points, "pointwise, no chain": bare, "both modes": both_modes(examples, [style, nothink])}

# %%
checkpoints = dict.fromkeys(["listwise", *rows], "trained when the stored results were made")
if not stored:
    checkpoints["listwise"] = str(stage.input("02_sft", "sft", "checkpoint"))
for name, part in [] if stored else rows.items():
    folder = stage.path("sft", name.replace(", ", "-").replace(" ", "-"))
    with stage.timed(name), shown.Counting(f"updates of {name}", logs=(folder, "log.jsonl")):
        checkpoints[name] = str(stages.sft(config, part, model, folder).checkpoint)
    print(f"{name}: {len(part)} rows, {stage.timings[name]:.0f} s")

# %% [markdown]
# ## The systems
#
# Same candidates, same engine, greedy decoding. `both modes` is one checkpoint, asked in two ways. All experiments of
# this notebook keep their windows in one folder, so that a system is run once.

# %%
out, list_model, both = stage.path("systems"), checkpoints["listwise"], checkpoints["both modes"]
systems = {
    "first-stage": "first-stage",
    "listwise": listwise_of(config, list_model),
    "pointwise": pointwise_of(config, checkpoints["pointwise"]),
    "pointwise, no chain": pointwise_of(config, checkpoints["pointwise, no chain"], style="pointwise_nothink"),
    "both: think": listwise_of(config, both),
    "both: no-think": listwise_of(config, both, style=nothink),
}

# %%
if stored:
    result = before.results["experiment"]
else:
    with stage.timed("experiment"), shown.Counting("windows", logs=(out, "*/windows*.jsonl")):
        result = stages.evaluation(config, systems, data, out)
result.save(stage.path("experiment"))
shown.table(result.summary().set_index("system"))

# %% [markdown]
# ## Listwise against pointwise
#
# The paper measures 2 to 2.7 times less time a query for the listwise model, as it writes one chain a window.
#
# **Predict:** by how much does the number of chains differ? By how much do the tokens, and the seconds?

# %%
costs = result.costs.set_index("system")[["calls", "requests", "tokens_in", "tokens_out", "seconds"]]
ratios = costs.loc["pointwise"] / costs.loc["listwise"]
shown.table(costs.round(3))

# %%
shown.say(sentences.ratio_words(costs, "pointwise", "listwise"))
shown.table(against(result, "pointwise", ["listwise", "pointwise, no chain"]))

# %% [markdown]
# What to see: a pointwise chain is shorter than a listwise one, so fewer chains do not mean as many fewer tokens. And
# where the pointwise model is better *and* dearer, the question is what the same time would buy elsewhere.
#
# Two cautions. The stored results are one seed of a small training (0.781 listwise, 0.911 pointwise, 1.94 times the
# seconds); three seeds of the profile `miniature` have 0.850, 0.984 and 2.82 times (`docs/thinking.md`): quote these,
# with the number of their seeds, which is too small for a claim on the recipe. And it is not a fair race of the two
# *forms*: the label of a passage is the one that was made with the gold answer in view, while the listwise model
# imitates lists of a teacher that errs, and reads one row where the other reads one for each passage. Notebook 05 has
# the fairer race, after SFT alone: from the labels of a teacher that does not err, single passages have 0.998 and lists
# 0.977; from the erring teacher's own verdicts 0.943 and 0.853. So single passages win there too (two seeds, no claim).

# %% [markdown]
# ## Think, or not: one checkpoint, two modes
#
# **Predict:** what does the chain add to the same weights? What does it cost?

# %%
stage.figure("means", plots.means_with_intervals(result.rows(), metrics[0]))

# %%
shown.table(against(result, "both: no-think", ["both: think", "listwise"]))

# %% [markdown]
# What to see: the two modes differ in nothing but the prompt. If the interval holds zero, this data cannot say that
# thinking helps; if it does not, compare what was gained with what was written.

# %% [markdown]
# ### A router
#
# Answer every query without a chain first, and think only where the answer disagrees with the first stage. The
# threshold is chosen on validation queries; beside it stands what a random choice of as many queries would give.

# %%
names = ("first-stage", "both: think", "both: no-think")
routed = {name: systems[name] for name in names}
routed["router"] = Routed("both: no-think", "both: think", k=stride, metric=metrics[0])
routes = before.results["router"] if stored else stages.evaluation(config, routed, data, out)
routes.save(stage.path("router"))
means = {row["system"]: row["mean"] for row in routes.rows(metrics[0])}
shown.say(sentences.router_words(routes.chosen("router"), means["router"]))
shown.table(routes.summary().set_index("system"))

# %% [markdown]
# What to see: a router pays when it is better than the random choice; the line above the table says whether this one
# was, on these queries.

# %% [markdown]
# ## How much of the chain is needed?
#
# After n tokens the chain is closed, and the answer is still asked for.
#
# **Predict:** does quality fall evenly as the chain gets shorter, or all at once?

# %%
capped = {"listwise": systems["listwise"]}
capped.update({f"budget {n}": listwise_of(config, list_model, budget=n) for n in budgets})
curve = before.results["budgets"] if stored else stages.evaluation(config, capped, data, out)

# %%
curve.save(stage.path("budgets"))
headline = {row["system"]: row for row in curve.rows(metrics[0])}
points = [{"budget": int(n.split()[1]), **row} for n, row in headline.items() if n.startswith("budget ")]
levels = {"no limit": headline["listwise"]["mean"]}
shown.say(sentences.knee_words(points, levels["no limit"]))
stage.figure("budget", figures.budget_curve(points, metrics[0], levels))

# %% [markdown]
# What to see: a chain that is closed before it has judged the passages leaves the list to a guess. Where is the knee,
# the smallest budget that costs no quality? The line above the figure says whether one of these budgets reaches it;
# three seeds of the profile `miniature`, with more budgets, have it by 96 tokens (`docs/thinking.md`). Between nothing
# and the knee, tokens are written and buy nothing.

# %% [markdown]
# ## Windows are one strategy of several
#
# The paper slides a window over the list. Other strategies put other questions to the same model
# (`rrlib.strategies`; `docs/strategies.md` has their sources and what is known of their quality). Their costs can be
# counted before a model is asked. *calls*: windows of one query. *rounds*: how many of them wait for each other.
# *shown*: passages in all of them, which the tokens read follow. *right*: how many of the best a perfect ranker is sure
# to put at the head. First the costs where the answers confirm the first stage, then,
# *(random)*, those of a perfect ranker on a list in random order.
#
# **Predict:** two strategies take one round. Which takes the fewest of the others, and what does it pay for them?

# %%
head, *lines = cells(cost_rows(depth, window, stride))
head[-2:] = [f"{word} (random)" for word in head[-2:]]
table = pd.DataFrame(lines, columns=head).set_index("strategy")
table.to_csv(stage.path("strategies.csv"))
shown.table(table)

# %% [markdown]
# What to see: `full_list` and `pointwise` take one round, and look at each passage once, so an error is final.
# `top_down` waits for few rounds too, as long as the first stage is good; with a list in random order it asks more, and
# waits longer. A sliding window pays with rounds, for each window waits for the one before it; many queries at once
# hide that (`rrlib.scheduler`), a single user feels it.

# %% [markdown]
# ## Does the input order matter? And a smaller context?
#
# The first stage shows its best passages first. Shuffled, the model must find them by itself. And where a context is
# too small for the window, the window must hold fewer passages, so that there are more of them.

# %%
if stored:
    sturdy = before.results["robustness"]
else:
    variants = {"listwise": systems["listwise"]}
    needed = int(plan_experiment(variants, data)["longest_prompt"].max())
    room = int(context_share * needed) + max_new_tokens
    changes = {"shuffled input": {"shuffle": seed}, f"fit {room} tokens": {"context": room, "fit": "window"}}
    variants.update({name: listwise_of(config, list_model, **change) for name, change in changes.items()})
    sturdy = stages.evaluation(config, variants, data, out)

# %%
sturdy.save(stage.path("robustness"))
windows = {name: sturdy.chosen(name).get("window") for name in sturdy.costs["system"]}
shown.say(f"passages in a window: {', '.join(f'{n} with {name}' for name, n in windows.items() if n)}")
shown.table(sturdy.summary().set_index("system"))

# %% [markdown]
# What to see: the interval of a row's difference says whether the change of input can be told from none. A smaller
# window means more windows, so look at the calls and tokens beside the quality. One training and 64 queries: a hint.

# %% [markdown]
# ## Exercise 1: what a point costs
#
# A system writes more tokens and ranks better. Write how many extra tokens a query it pays for each hundredth of the
# metric that it gains.
#
# <details><summary>Hint</summary>Extra tokens over extra metric, the metric counted in hundredths.</details>


# %% tags=["exercise"]
def tokens_per_point(tokens, metric, base_tokens, base_metric):
    """(extra tokens) / (extra metric, in hundredths)."""
    return None


# %%
cases = [
    ((300, 0.75, 100, 0.70), 40.0, "200 tokens for 5 hundredths"),
    ((50, 0.6, 50, 0.5), 0.0, "nothing more was written"),
    ((100, 0.4, 200, 0.5), 10.0, "less was written and less was gained: what was saved on each hundredth"),
    ((100, 0.6, 200, 0.5), -10.0, "a system may write less and rank better: then a point costs less than nothing"),
]
print(check_exercise(tokens_per_point, cases))

# %% [markdown]
# ## Exercise 2: the score of one passage
#
# A pointwise model is asked for one of two words, and its score is the probability of *true*, among these two alone.
# The engine gives the log-probability of each. Write the score, so that it lies between 0 and 1 for any two finite
# numbers.
#
# <details><summary>Hint</summary>Only their difference counts. <code>math.exp</code> of a large number is an error, and
# of a large negative number it is 0: so say what to do with a large one first.</details>


# %% tags=["exercise"]
def relevance(logprob_true, logprob_false):
    """The probability of the word true, among the two words."""
    return None


# %%
cases = [
    ((-1.0, -1.0), 0.5, "two words that are as likely"),
    ((-0.105360516, -2.302585093), 0.9, "true is nine times as likely as false"),
    ((-5.105360516, -7.302585093), 0.9, "the same odds, with more left over for other words"),
    ((-3.0, -0.5), 0.0758582, "false is the likelier word"),
    ((-2000.0, -0.001), 0.0, "a model that is sure must be no error"),
]
print(check_exercise(relevance, cases))

# %% [markdown]
# ## Exercise 3, a part of the method: what one pass costs
#
# Write what one pass of a sliding window costs for a list of `n` candidates: the number of windows, and how many
# passages they show together (an overlap is shown twice, and costs tokens twice). The window starts at the tail, moves
# up by `stride`, and the last one is cut at the head. A window of one passage asks nothing. The check counts the
# windows of the library's strategy.
#
# <details><summary>Hint</summary>Keep <code>end</code>, and two sums. A window begins at <code>end - size</code>, or at
# the head; after a window that begins at the head there is none.</details>


# %% tags=["exercise"]
def pass_cost(n, size, stride):
    """[windows, passages shown in all of them] of one pass."""
    return None


# %%
passes = {
    "a list that fits one window": (8, 10, 5),
    "two windows share size - stride passages": (15, 10, 5),
    "the paper's own: 100 candidates, window 20, stride 10": (100, 20, 10),
    "without an overlap no passage is shown twice": (30, 10, 10),
    "the last window is cut at the head of the list": (27, 10, 5),
    "one passage left over is no question": (21, 10, 10),
}
counts = {hint: plan(lambda m, spans=spans: sliding_window(m, *spans), n) for hint, (n, *spans) in passes.items()}
print(check_exercise(pass_cost, [(passes[hint], [cost.calls, cost.shown], hint) for hint, cost in counts.items()]))

# %% [markdown]
# ## Done
#
# The stage leaves all tables, and with `stored = False` the checkpoints and every window with its text.

# %%
sums = curve.costs.set_index("system")["tokens_out"]
assert sums[f"budget {min(p['budget'] for p in points)}"] <= sums["listwise"], "a budget must not lengthen the answers"
assert stored or {len(r.docids) for r in result.records("pointwise")} == {1}
assert costs.loc["pointwise", "calls"] >= costs.loc["listwise", "calls"]
means = {row["system"]: round(row["mean"], 4) for row in [*result.rows(metrics[0]), *curve.rows(metrics[0])]}
means = {f"{metrics[0]} {name}": mean for name, mean in means.items()}
print(stage.finish(seconds_ratio=round(float(ratios["seconds"]), 3), **means))
