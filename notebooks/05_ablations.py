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
# # 05 Ablations: what does each part buy?
#
# **The one question:** if one part of the method is taken out, what is lost, and is the loss larger than chance?
#
# **Data:** *synthetic* (the embedded world) with a *simulated* teacher. With the default parameters this notebook reads
# the rows that are stored in the repository. `rrlib run params/ablations.yaml` makes ten of them anew on three seeds,
# `python -m rrlib.studies.make` any of them on any seed. **Time:** a few seconds with stored rows; made anew on a CPU,
# a row that trains takes 3 to 30 minutes of one core a seed (of the stored rows; one took 88 beside other work).
#
# The paper takes its own recipe apart on BRIGHT (section 5.3). The same cuts are made here, in small, with intervals
# and with five seeds where something is claimed (two or three elsewhere: those rows name their seeds). What holds in a
# small world with a simulated teacher need not hold for large models: where a sign differs from the paper's, it stays,
# and the text says why it may be so.

# %% [markdown]
# ## Set-up

# %%
from rrlib.chain.params import collect
from rrlib.chain.run import begin
from rrlib.evaluation.significance import paired_test
from rrlib.lesson import sentences, shown
from rrlib.lesson.exercises import answered_by, check_exercise
from rrlib.lesson.plots import ablations as figures
from rrlib.lesson.tables import ablation_view
from rrlib.metrics import rbo
from rrlib.studies.ablations import Table
from rrlib.studies.recipes import RECIPES
from rrlib.studies.report import compared, markdown, power_table, questions, table
from rrlib.studies.rows import METRIC
from rrlib.studies.setting import setting_of
from rrlib.studies.stored import STRADDLE_ROWS, stored_rows

# %% [markdown]
# Every number that a profile may change stands in the next cell. What the rows share (sizes, trainings) are the values
# of the profile `miniature`.

# %% tags=["parameters"]
run = "smoke"  # name of the run: a folder below outputs/
seed = 7  # of bootstrap and randomisation test (integer)
interactive = False  # True shows widgets; only in Jupyter, never under papermill
stored = True  # True reads the rows kept in the repository; False makes what is missing
seeds = [7, 8, 9]  # a world, a teacher and a training each (integers)
rows = []  # rows of the table, none: all of them (names in rrlib.studies.recipes)
base = "miniature"  # profile whose sizes and trainings all rows share (name in params/)
take_from = []  # finished runs of that profile, whose rows need not be made again (folders)
resamples = 10000  # of bootstrap and randomisation test (count)

# %%
config = collect("05_ablations", globals())
stage = begin(config)
stage

# %% [markdown]
# ## The questions
#
# Each row is the full recipe with one difference. The last column is the paper's NDCG@10 on BRIGHT (7B model).
#
# **Predict:** which cut costs most? Which costs nothing in a world this small?

# %%
shown.table(questions())

# %% [markdown]
# ## The rows
#
# A row asks the teacher (once a seed), trains what it needs, reranks every test query through the `Experiment` call of
# notebooks 04 and 06, and keeps NDCG@10 of each query. Whatever two rows share is made once; a killed table goes on at
# the row where it was.

# %%
chosen = rows or ["first stage", *RECIPES]
maker = Table(stage.path("rows"), setting_of(base))
if stored:
    results = stored_rows()
else:
    for folder in take_from:
        maker.take(folder)
    with shown.Counting("rows and seeds", len(chosen) * len(seeds), logs=(stage.path("rows"), "rows.jsonl")):
        results = maker.fill(chosen, seeds)
stage.data_kind = results[0].data_kind
print(f"{len(results)} rows, {len({r.seed for r in results})} seeds, {results[0].data_kind} data, simulated teacher")

# %% [markdown]
# ## The table
#
# `difference` is to the full recipe, paired by query within each seed and averaged over seeds, with a 95% bootstrap
# interval over queries; `p (Holm)` corrects for the number of rows. `seeds` are the means of the single trainings: look
# at them before you believe a small difference. `p (seeds)` takes them for the sample, a paired t-test of as many
# pairs: would the next training say the same? A `<` before a p says that no draw of the test was as extreme. `paper` is
# the paper's difference on BRIGHT, in points. `graded` is nDCG@10 where a rival's passage counts half of a right one;
# it names its seeds where it has fewer than the row, and then it compares with like seeds only.
#
# **Predict:** how far will two trainings of the same recipe lie apart?

# %%
result = table(results, resamples=resamples)
shown.say(sentences.cut_words(result), sentences.seed_words(result, "full"))
shown.table(ablation_view(result))

# %%
stage.figure("differences", figures.differences(result))

# %% [markdown]
# What to see: a dot whose interval crosses zero says that this world cannot tell the two recipes apart. The hollow mark
# is the paper's difference: on another scale of difficulty, so compare signs before sizes.

# %% [markdown]
# ## Signs that differ
#
# The table below has a line for every row that the paper has too, and whose difference has another sign than the
# paper's or cannot be told from zero here. Where p over seeds is 0.05 or more, the next training may have either sign.
#
# **Predict:** which of the paper's findings depend on a large model, and which on the method?

# %%
signs = compared(result)
every_sign = "none: every difference has the sign of the paper's, and its interval leaves zero out"
shown.table(signs) if len(signs) else every_sign

# %% [markdown]
# What to see: a row that stands here is no error of the table. The world is small, its teacher errs in known ways, and
# its backbone was trained on all domains; each of these can turn a sign.
#
# So which of the findings belong to the method? In the stored rows, those that keep the paper's sign on every seed:
# SFT, GRPO and reasoning each pay, on five seeds. (Examples of one domain alone cost, on three seeds: no claim.) How
# large *no reasoning* is belongs to the model. What
# stands in the table above (the filter, and NDCG alone as the reward) may belong to either: this world cannot say.
#
# Some rows need a word of caution. *No reasoning* says what a backbone of 1.5 million parameters can do in one step: it
# was pretrained to judge in writing, so without writing it cannot judge at all. Its difference is no size for the
# value of reasoning; the paper's is small, since a large model can judge without writing. The rows
# *listwise, gold*, *pointwise* and *pointwise, gold* are SFT alone, so their partner is *no RL*, not the full recipe.

# %% [markdown]
# ## How much do seeds move?
#
# One dot is one training. The spread of the dots of one row is what a single run of the paper's table hides.

# %%
stage.figure("seeds", figures.seed_dots(results))

# %% [markdown]
# Could so many trainings have told a true difference of two points? `power` is the chance that the t-test of these
# seeds finds one, with the spread that they show; the last column is how many seeds it would take. The spread is itself
# of a few trainings, so take both as a hint.

# %%
shown.table(power_table(results))

# %% [markdown]
# ## Another world, for the reward of several views
#
# The paper adds Recall and RBO to NDCG, since one window's order alone does not say what goes on into the next window.
# In the world above few passages are relevant, so Recall and NDCG hardly ever disagree. In the world of
# `params/straddle.yaml` five to eight are, in lists of sixty, and a window of ten carries seven on; its teacher errs
# more often. The rows below are stored ones of that world, whatever the parameters above say.
# Of two rankings of the teacher, Recall and NDCG prefer different ones in 7.2% of the pairs; of two rollouts of a
# trained model, in 1.6% (`docs/ablations.md`).

# %%
straddle = stored_rows(STRADDLE_ROWS)
other_world = table(straddle, resamples=resamples)
shown.say(sentences.seed_words(other_world, "full"))
shown.table(ablation_view(other_world))

# %% [markdown]
# What to see: NDCG alone beats the full reward on every one of its seeds, another sign than the paper's. With Recall,
# and with RBO only where the gold list itself is right, the mean is as high, on as many seeds: what costs is likeness
# to lists that are wrong somewhere, which most of this teacher's are. Recall is not shown to buy anything.

# %% [markdown]
# ## Exercise 1: is it the seed?
#
# A difference between two recipes is believable when it is larger than the spread of a recipe over its seeds. Write the
# mean difference divided by the larger of the two spreads (largest minus smallest mean of a recipe's seeds).
#
# <details><summary>Hint</summary>Each recipe has a spread of its own. Only one of the two is divided by.</details>


# %% tags=["exercise"]
def believable(a, b):
    """(mean of a - mean of b) over the larger spread; a and b are the means of the seeds of two recipes."""
    return None


# %%
cases = [
    (([0.9, 0.8], [0.6, 0.6]), 2.5, "the first recipe has the larger spread here"),
    (([0.7, 0.5], [0.6, 0.6]), 0.0, "the means are equal"),
    (([0.5, 0.5], [0.7, 0.6]), -1.5, "the second recipe has the larger spread here, and the larger mean"),
    (([0.9, 0.8], [0.6, 0.4]), 1.75, "both have a spread: the larger counts, and not their sum"),
]
print(check_exercise(believable, cases))

# %% [markdown]
# ## Exercise 2: the test behind every p
#
# If two systems are alike, each query's difference could as well have had the other sign. So give every difference
# either sign, in all ways there are, and write the share of them whose sum is as far from zero as the sum that was
# seen, or further. (Sums of fractions differ in their last digits, so allow for a billionth.)
#
# <details><summary>Hint</summary><code>itertools.product([1, -1], repeat=n)</code> gives all ways to set n signs. The
# way that was seen is one of them, and so is its mirror image.</details>


# %% tags=["exercise"]
def flip_p(differences):
    """The share of all ways to set the signs whose sum is as far from zero as the sum of the differences."""
    return None


# %%
seen = {
    "three queries agree: two of eight ways are as far from zero": [0.1, 0.2, 0.3],
    "one query alone proves nothing": [0.5],
    "both sides count, so the sign of the whole does not matter": [-0.1, -0.2, -0.3, -0.1],
    "one query speaks against the others": [0.3, 0.2, -0.1, 0.4, 0.25],
}
tests = {hint: ((values,), paired_test(values, [0.0] * len(values), 7)) for hint, values in seen.items()}
print(check_exercise(flip_p, [(arguments, p, hint) for hint, (arguments, p) in tests.items()]))

# %% [markdown]
# ## Exercise 3, a part of the method: likeness to the gold list
#
# The view that costs in the other world is RBO. Write it as the released code computes it: for each depth from 1 to
# the length of the lists, the share of the passages that the two lists have in common down to there; then the mean of
# these shares. The check is the function that the reward calls.
#
# <details><summary>Hint</summary>Go through the depths with a loop. Sets make the passages in common easy; divide their
# number by the depth, and keep a running sum.</details>


# %% tags=["exercise"]
def overlap(order, gold):
    """RBO of two lists of the same passages (numbers from 0 on), with every depth as heavy as another."""
    return None


# %%
lists = {
    "a list is wholly like itself": ([2, 0, 1], [2, 0, 1]),
    "two lists of the same passages always agree at the last depth": ([1, 0], [0, 1]),
    "a change at the head is seen at more depths": ([1, 0, 2, 3], [0, 1, 2, 3]),
    "a change at the tail is seen at fewer": ([0, 1, 3, 2], [0, 1, 2, 3]),
    "a reversed list still shares its tail": ([3, 2, 1, 0], [0, 1, 2, 3]),
}
print(check_exercise(overlap, answered_by(rbo, lists)))

# %% [markdown]
# ## Done
#
# The stage leaves the rows (`rows/rows.jsonl`, if they were made here) and the table as Markdown.

# %%
assert set(result.index) <= {"first stage", *RECIPES}
assert all(0.0 <= value <= 1.0 for value in result[METRIC])
stage.path("table.md").write_text(markdown(result, results), encoding="utf-8")
print(stage.finish(rows=len(results), **{name: round(float(value), 4) for name, value in result[METRIC].items()}))
