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
# the rows that are stored in the repository; `rrlib run params/ablations.yaml` makes them anew.
# **Time:** a few seconds with stored rows; up to four hours on two CPU cores to make all of them.
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
from rrlib.lesson import sentences, shown
from rrlib.lesson.exercises import check_exercise
from rrlib.lesson.plots import ablations as figures
from rrlib.lesson.tables import ablation_view
from rrlib.studies.ablations import Table
from rrlib.studies.recipes import RECIPES
from rrlib.studies.report import compared, markdown, questions, table
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
    results = maker.fill(chosen, seeds)
stage.data_kind = results[0].data_kind
print(f"{len(results)} rows, {len({r.seed for r in results})} seeds, {results[0].data_kind} data, simulated teacher")

# %% [markdown]
# ## The table
#
# `difference` is to the full recipe, paired by query within each seed and averaged over seeds, with a 95% bootstrap
# interval over queries; `p (Holm)` corrects for the number of rows. `seeds` are the means of the single trainings: look
# at them before you believe a small difference. `p (seeds)` takes them for the sample, a paired t-test of as many
# pairs: would the next training say the same? `paper` is the paper's difference on BRIGHT, in points.
#
# **Predict:** how far will two trainings of the same recipe lie apart?

# %%
result = table(results, resamples=resamples)
shown.say(sentences.cut_words(result), sentences.seed_words(result, "full"))
shown.table(ablation_view(result))

# %%
stage.figure("differences", figures.differences(result))

# %% [markdown]
# What to see: a bar whose interval crosses zero says that this world cannot tell the two recipes apart. The hollow mark
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
# Two rows need a word of caution. *No reasoning* says what a backbone of 1.5 million parameters can do in one step: it
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
# ## Another world, for the reward of several views
#
# The paper adds Recall and RBO to NDCG, since one window's order alone does not say what goes on into the next window.
# In the world above few passages are relevant, so Recall and NDCG hardly ever disagree. In the world of
# `params/straddle.yaml` five to eight are, in lists of sixty, and a window of ten carries seven on; its teacher errs
# more often. The rows below are stored ones of that world, whatever the parameters above say.
# `docs/ablations.md` has what they say, and how often the views disagree there.

# %%
straddle = stored_rows(STRADDLE_ROWS)
other_world = table(straddle, resamples=resamples)
shown.say(sentences.seed_words(other_world, "full"))
shown.table(ablation_view(other_world))

# %% [markdown]
# What to see: NDCG alone beats the full reward on every one of its seeds, another sign than the paper's. Without
# RBO, and with RBO only where the gold list itself is right, the mean is as high: what costs seems to be likeness to
# lists that are wrong somewhere, which most of this teacher's are. These two rows have three seeds (`p (seeds)`), too
# few to be sure of the cause. Recall is not shown to buy anything.

# %% [markdown]
# ## Exercise: is it the seed?
#
# A difference between two recipes is believable when it is larger than the spread of a recipe over its seeds. Write the
# mean difference divided by the larger of the two spreads (largest minus smallest mean of a recipe's seeds).
#
# <details><summary>Hint</summary>mean(a) - mean(b), over max(max(a) - min(a), max(b) - min(b)).</details>


# %% tags=["exercise"]
def believable(a, b):
    """(mean of a - mean of b) over the larger spread; a and b are the means of the seeds of two recipes."""
    return None


# %%
cases = [(([0.9, 0.8], [0.6, 0.6]), 2.5), (([0.7, 0.5], [0.6, 0.6]), 0.0), (([0.5, 0.5], [0.7, 0.6]), -1.5)]
print(check_exercise(believable, cases))

# %% [markdown]
# ## Done
#
# The stage leaves the rows (`rows/rows.jsonl`, if they were made here) and the table as Markdown.

# %%
assert set(result.index) <= {"first stage", *RECIPES}
assert all(0.0 <= value <= 1.0 for value in result[METRIC])
stage.path("table.md").write_text(markdown(result, results), encoding="utf-8")
print(stage.finish(rows=len(results), **{name: round(float(value), 4) for name, value in result[METRIC].items()}))
