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
# # 01 Synthesis: from queries to training examples
#
# **The one question:** how do queries with a known answer become examples that show a model how to *reason* its way to
# a ranking?
#
# **Data:** with the default parameters everything is *synthetic*: a small written world, and a *simulated* teacher
# behind the same client interface as a real one. A profile may name a collection of *real* questions, with labels and
# chains that people made; with `import_from` the examples are the authors' released set.
# **Time:** under a minute on a CPU with the default parameters.
#
# The method is that of ReasonRank (section 4.1): a teacher looks at each query twice. Once with the answer in view, to
# say which passages are relevant. Once without it, to reason and rank. Where the two disagree, the example is dropped.
# (Where people have labelled the passages already, as for web search, their labels are the first look.)

# %% [markdown]
# ## Set-up

# %%
from rrlib.chain import stages
from rrlib.chain.from_profile import asking_of, teacher_of
from rrlib.chain.params import collect
from rrlib.chain.run import begin
from rrlib.formats import read_collection
from rrlib.lesson import sentences, shown, story, thread
from rrlib.lesson.exercises import answered_by, check_exercise
from rrlib.lesson.plots import basics as plots
from rrlib.lesson.plots import synthesis as figures
from rrlib.lesson.plots.world import world_drawing
from rrlib.lesson.tables import consistencies, kept_and_dropped, passages_table, split_sizes
from rrlib.miniature.sketch import sketch
from rrlib.plans.synthesis import plan
from rrlib.synthesis.domains import table_of_recipes
from rrlib.synthesis.export import data_card, examples_of
from rrlib.synthesis.filter import self_consistency
from rrlib.synthesis.pipeline import follow
from rrlib.synthesis.results import JOURNAL
from rrlib.synthesis.teacher.progress import ProgressBar

# %% [markdown]
# Every number that a profile may change stands in the next cell, and nowhere else. The defaults are the smoke profile.

# %% tags=["parameters"]
run = "smoke"  # name of the run: a folder below outputs/
seed = 7  # of everything drawn at random (integer)
interactive = False  # True shows widgets; only in Jupyter, never under papermill
corpus = "rrlib.miniature:build"  # a collection folder, or module:callable that writes one
corpus_options = {}  # more arguments for that callable (name: value)
train_queries = 200  # queries to make examples of (count; 0: all of the collection)
validation_queries = 12  # queries for looking at checkpoints (count)
test_queries = 24  # queries for the final table (count)
pool = 30  # first-stage candidates of each query (passages)
import_from = ""  # local copy of released data: folder or file; empty: ask the teacher (path)
import_limit = 0  # examples taken from there, the first of them (count; 0: all)
teacher = "rrlib.miniature:SimulatedTeacher"  # module:callable, or base URL of an OpenAI-compatible server
teacher_model = ""  # model behind a base URL (name)
teacher_options = {}  # more arguments for the teacher (name: value)
teacher_price = []  # read and written, empty: from the price table (dollars a million tokens)
budget = 0.0  # never overrun, 0: none (dollars)
concurrency = 8  # teacher calls in flight (count)
temperature = 0.6  # of the teacher's sampling (0: greedy)
max_new_tokens = 4096  # longest teacher answer (tokens)
window = 10  # passages in a training list (count)
alpha = 0.4  # least NDCG of a list under its own labels (0 to 1)
consistency_k = 5  # cut-off of that NDCG: window - stride, what the next window sees (passages)
alpha_queries = 64  # validation queries for judging alpha, at most; 0: none (count)
choose_alpha = False  # True takes the alpha that is best on validation in place of the one above
style = "reasonrank"  # prompt style the examples are for (name in rrlib.prompts)

# %% [markdown]
# `collect` checks the types once more; `begin` opens the folder of this stage. It is written once and for all: a stage
# with the same settings, code and inputs is never computed twice.

# %%
config = collect("01_synthesis", globals())
stage = begin(config)
stage.journal = JOURNAL  # how the asking went, which differs from run to run: nothing for later stages
stage

# %% [markdown]
# ## The collection
#
# A collection is a folder: passages, queries with their split, domain and gold answer, relevance judgements, and a
# first-stage run (the embedded world's is BM25). Your own corpus in the same layout goes through the same cells; for
# the sources of the paper (StackExchange dumps, LeetCode, MATH, theorem lists, MS MARCO) see `rrlib data prepare
# --help`.

# %%
sizes = {"train": train_queries, "validation": validation_queries, "test": test_queries, "pool": pool}
with shown.Counting("collection opened"):
    folder = stages.open_corpus(stage, corpus, corpus_options, **sizes)
collection = read_collection(folder, "train")
stage.data_kind = collection.data_kind
shown.table(split_sizes(folder))

# %% [markdown]
# ## The world, in five lines
#
# - A *concept* (convection, say) is what a query is after. There are 64 of them, in five domains of written English.
# - A *cue* is a clause that is true of exactly two concepts. A query is a topic and two cues, and never names the
#   concept: each cue alone leaves a choice of two, and only one concept fits both.
# - A *passage* is a topic and one piece of evidence for one concept. It is relevant if that is the query's concept. Its
#   evidence shares no content word with the query. Its topic may be the query's, be it relevant or not: words mislead,
#   reasoning does not.
# - A *rival* is the other concept that one of the cues suggests: nearly right, and so the second choice.
# - The *teacher* is simulated. It knows all of this and errs on purpose: for 30% of the pairs of cues it always
#   believes the same rival, and 12% of its other answers believe one at random.
#
# That is the embedded world, the default collection; another profile brings another one. The backbone that 02 starts
# from was pretrained on this world, on the whole skill, behind the very prompt that 02 trains with
# (`docs/world.md`): what it still has to learn from the examples is mostly their form.

# %% [markdown]
# ### What is relevant?
#
# That depends on the domain. These are the recipes, side by side: a name, what the teacher is told, where the labels
# come from. The paper's four domains are the first five rows, since its mathematics ranks two kinds of passages; the
# next two are for texts that people judged, whose files then stand in for the teacher; `general` takes what no row
# names. Where candidates come from is what the paper did: the embedded world has BM25's for all. Another domain is one
# more row (in `rrlib/synthesis/domains.py`).

# %%
shown.table(table_of_recipes())

# %% [markdown]
# One query, to see what the teacher is asked. Read it, and then the first candidates below. Passages that share its
# words need not be those that help, and those that help need not share any. (The drawing below says what the query is
# after; the teacher's first answer under *First look* says which of these ten help, and it may be none.)
#
# **Predict:** which of the passages would help somebody who asks this?

# %%
followed = story.followed(collection, window, seed=seed, limit=train_queries or None, import_from=import_from)
shown.say(followed.query.text)
shown.table(passages_table(followed.passages))

# %% [markdown]
# In the embedded world the query can be taken apart: two cues, each of which suggests two concepts; one concept that
# fits both; and how this profile's teacher may err. (Of another collection the world's own example is drawn.)

# %%
rates = teacher_options if teacher == "rrlib.miniature:SimulatedTeacher" else {}
stage.figure("world", world_drawing(sketch(collection.metadata.get(followed.query.qid), **rates)))

# %% [markdown]
# ## The teacher is asked twice
#
# `stages.synthesis` asks the teacher about every query: *select* (gold answer in view; only where the labels are the
# teacher's), then *rank* (gold answer hidden). First the bill: what the batch would ask, before anything is asked. How
# long the answers will be is not known yet, so it counts with those of a large model: ours writes far less. A simulated
# teacher, and people's labels read from files, cost nothing; a paid one costs what its price says, and never more than
# `budget` (which holds for each of the two folders of answers below).

# %%
out, client = stage.path("teacher"), teacher_of(config, folder)
if not import_from:
    with shown.Counting("questions counted"):
        bill = plan(collection, teacher_model or teacher, out, limit=train_queries or None, **asking_of(config))
    print(bill.text())

# %% [markdown]
# ### One query goes ahead
#
# Our query first, with the few that stand before it in the seeded order. Its answers go into the folder that the whole
# batch will use, so the batch will not ask for them again. With `import_from`, nobody is asked: the first of the
# released examples is looked at. The line counts the answers so far, by question (`hard` looks through passages that a
# web search brought, for those that mislead; the embedded world has them in the profile `hard`).

# %%
first = stages.synthesis(config, collection, client, out, limit=followed.number)
asked = follow(out, followed.query.qid)
shown.say(story.counted(first.summary["answers"]))

# %% [markdown]
# ### First look: select
#
# What the teacher was sent for our query, and what it said. The gold answer is in the prompt. The candidates come a
# window at a time; the first question is shown, and the answers to all.

# %%
shown.texts({"sent": story.prompt_sent(asked, "select"), "the teacher": story.answers(asked, "select")}, limit=4000)

# %% [markdown]
# ### The list
#
# The window to rank is put together from the passages that were selected, from *hard* negatives (those that the first
# stage puts on top, or that a web search brought) and from others, and shuffled: the order must give nothing away. Or
# the collection lists its windows itself: then they are taken as the first stage retrieved them, in its order. This is
# what the teacher is sent now, and the gold answer is not in it.
#
# **Predict:** will the passages that were selected a moment ago all stand at the top?

# %%
shown.texts({"sent": story.prompt_sent(asked, "rank")}, limit=4000)

# %% [markdown]
# ### Second look: rank
#
# Without the gold answer, a model must find out by itself what the query is after. (People's labels and proofs, where
# they are the teacher, were made with the answer in view, and both looks read the same ones.) The reasoning is what the
# student model will learn to write.

# %%
shown.texts({"the teacher": story.answers(asked, "rank")})

# %% [markdown]
# ### One example
#
# Both labels side by side: *relevant* comes from selection (pointwise), *gold place* from ranking (listwise). The
# filter compares them, and decides.

# %%
example, fate = story.outcome(first, followed.query.qid)
shown.say(fate, sentences.agreement_words(example))
shown.table(passages_table(example.passages, example.relevance, example.gold)) if example else "no example came of it"

# %% [markdown]
# ## The whole batch
#
# ### Which alpha?
#
# The filter at the end needs a threshold, alpha. Whether a value is good can be seen on the *validation* split, whose
# queries are never trained on: the same teacher is asked about them, and its lists are judged by labels that it had no
# part in. The measure is cheap and plain. A list is *right* when it begins with a passage that those labels call
# relevant. The filter looks for right lists; precision, recall and F1 say how well it does. The profile's own alpha
# stays, unless `choose_alpha` says to take the one with the best F1. (*quality* is the mean NDCG@10 of the kept lists
# under the same labels.)
#
# **Predict:** the paper takes 0.4. Will the curve agree?

# %%
judged = None
if alpha_queries and not import_from:
    held_out = read_collection(folder, "validation")
    where = stage.path("teacher-validation")
    with shown.Counting("validation queries asked"):
        judged = stages.synthesis(config, held_out, client, where, split="validation", limit=alpha_queries)
choices = story.alpha_table(story.fates(judged))
threshold = story.best_alpha(choices, alpha) if choose_alpha else alpha
shown.say(story.verdict_on(threshold, story.fates(judged)), sentences.alpha_words(choices))
shown.table(choices)

# %%
stage.figure("alpha", figures.choice_curves(choices, threshold)) if len(choices) else "no alpha was judged"

# %% [markdown]
# What to see: the second line above the table has both ends of the curves. Recall can only fall, where right lists are
# lost too; precision rises where lists that bury what the teacher itself called relevant are wrong. `choose_alpha =
# True` takes the best point. A profile that keeps an alpha of its own, such as the paper's, reads in the line above the
# table what that costs in F1, and whether it is noise: with few validation queries the curve is rough, and the interval
# wide.
#
# Right lists are a means. The end is a good ranking after both trainings; `benchmarks/validation_choice.py` judges
# that, on validation queries too. In the embedded world the two disagree (docs/experiments.md): the ranking cannot tell
# the paper's 0.4 from no filter at all, and a strict 0.7, good for imitation, left reinforcement the easy queries only.
# So the profiles of this world keep the paper's alpha; `straddle`, another world, has 0.7.

# %% [markdown]
# ### All queries
#
# Each answer is appended to a file at once, and each try is booked before it is made: a run that is killed goes on
# where it stopped, and no answer is paid for twice. While it works, a line says how far it is, what it has cost so far,
# and how long it will take. With `import_from`, the released examples go through the same filter into the same files.

# %%
result = stages.synthesis(config, collection, client, out, alpha=threshold, progress=ProgressBar())
stage.data_kind = result.summary["data_kind"] if import_from else stage.data_kind
examples = examples_of(result)
counts = {name: story.counted(result.summary[name]) for name in ("answers", "account")}
shown.say(*(f"{name}: {words}" for name, words in counts.items()))

# %% [markdown]
# ## The self-consistency filter
#
# A list that buries the passages which the same teacher called relevant is not worth imitating. Its measure is NDCG
# of the list under the labels of the first look (the *pointwise* ones: passage by passage); below alpha the example is
# dropped.
#
# **Predict:** is the teacher mostly consistent, or mostly not? And one whose list is made from its own labels?

# %%
values = consistencies(result)
shown.say(sentences.consistency_words(values, threshold))
# Imported examples may come without pointwise labels, and so without a consistency.
stage.figure("filter", plots.consistency_histogram(values, threshold)) if values else "no list was judged"

# %% [markdown]
# What to see: the mass at 1.0 are lists with every relevant passage on top. (Lists that were made from the labels are
# all there, and the filter has nothing to do.) The lists left of the dashed line are gone from here on. What became of
# the queries:

# %%
shown.table(kept_and_dropped(result))

# %% [markdown]
# ### What the filter is for: wrong beliefs
#
# A teacher who misunderstands the query writes a fluent chain to a wrong list. A real teacher does not say when that
# happened, and the table below says so. A *simulated* one does, so there the filter can be checked: the share of lists
# that come from a wrong belief, before and after, by kind of error, and for every alpha.

# %%
lists = story.fates(result)
beliefs = story.wrong_beliefs(lists, threshold)
shown.say(sentences.belief_words(beliefs))
shown.table(beliefs)

# %%
stage.figure("beliefs", figures.filter_curves(lists, threshold)) if values else "no list was judged"

# %% [markdown]
# What to see, with a simulated teacher: where the curve of wrong beliefs falls faster than the other, alpha tells right
# from wrong. A wrong list that gives the relevant passages the second place passes a low alpha; only a dismissive one,
# which gives them none, does not. Errors at random and errors that are always the same look alike to the filter, as
# each list is judged alone, but not to a student: the ones cancel out, the others can be learned. How much of them is
# learned, and what reinforcement then mends, is counted in `docs/world.md`: in this world mostly verdicts that do not
# follow from the belief, not the beliefs (one training, no claim about the next).

# %% [markdown]
# ### The red thread: the teacher
#
# One of the kept examples is followed from here to the last list in 04: the one whose list agrees least with its own
# labels. There the teacher has most to be corrected in. The rule needs nothing but this run's files, so every notebook
# finds the same query, and so does a run that is repeated.

# %%
chosen = thread.thread_of(stage.run_dir)
shown.say(thread.chosen_words(chosen), sentences.agreement_words(chosen))
shown.texts({"query": chosen.query.text, "teacher": chosen.reasoning})

# %%
shown.table(passages_table(chosen.passages, chosen.relevance, chosen.gold))

# %% [markdown]
# With `interactive = True` you can leaf through the examples.

# %%
if interactive:
    from ipywidgets import IntSlider, interact

    slider = IntSlider(min=0, max=len(examples) - 1, description="example")
    parts = [(e.passages, e.relevance, e.gold) for e in examples]
    interact(lambda e: shown.table(passages_table(*parts[e])), e=slider)

# %% [markdown]
# ## Exercise 1: where does the best passage stand?
#
# NDCG looks at the whole top of the list. Write the simplest measure of consistency you can think of: 1.0 when the list
# begins with a relevant passage, else 0.0. `gold` holds positions, best first; `relevance` one label a passage.
#
# <details><summary>Hint</summary>The first entry of <code>gold</code> is a place in <code>relevance</code>.</details>


# %% tags=["exercise"]
def begins_well(gold, relevance):
    """1.0 when the first passage of the list is relevant, else 0.0."""
    return None


# %%
cases = [
    (([2, 0, 1], [0, 0, 1]), 1.0, "the list begins with passage 2; what is its label?"),
    (([0, 2, 1], [0, 0, 1]), 0.0, "a relevant passage at the second place is not enough"),
    (([1, 0], [1, 1]), 1.0, "both are relevant, so any order begins well"),
]
print(check_exercise(begins_well, cases))

# %% [markdown]
# ## Exercise 2: how good is a filter?
#
# A list of consistencies, whether each list was *right*, and a threshold. Write the F1 of the filter: the harmonic mean
# of its precision (which share of what is kept is right) and its recall (which share of what is right is kept). A
# consistency at the threshold is kept. Where nothing right is kept, F1 is 0.
#
# <details><summary>Hint</summary>With h lists that are kept and right, F1 is 2 h over the number kept plus the number
# right.</details>


# %% tags=["exercise"]
def filter_f1(values, right, alpha):
    """F1 of keeping what is at least alpha, where `right` says what should be kept."""
    return None


# %%
cases = [
    (([0.9, 0.2, 0.5], [True, False, True], 0.4), 1.0, "two are kept, both are right, and none is lost"),
    (([0.9, 0.2, 0.5], [True, False, False], 0.4), 2 / 3, "one of the two that are kept is wrong"),
    (([0.9, 0.2, 0.5], [True, True, True], 0.4), 0.8, "one right list is lost"),
    (([0.4, 0.1], [True, True], 0.4), 2 / 3, "0.4 is not below 0.4"),
    (([0.4, 0.1], [False, False], 0.4), 0.0, "nothing right is kept, and there is nothing to divide by"),
]
print(check_exercise(filter_f1, cases))

# %% [markdown]
# ## Exercise 3, a part of the method: self-consistency
#
# Write the measure of the filter itself: NDCG@k of the teacher's list under the teacher's own labels. The place p
# (from 1 on) of a list weighs 1 over log2(p + 1). The sum of label times weight over the first k places is divided by
# the sum that the best order would have; without a relevant passage it is 0. The check is the library's function.
#
# $$\mathrm{NDCG@}k = \frac{\sum_{p=1}^{k} y_{g_p} / \log_2(p + 1)}{\sum_{p=1}^{k} y^{*}_p / \log_2(p + 1)}$$
#
# <details><summary>Hint</summary>The best order is that of the sorted labels. <code>math.log2</code> is there after
# <code>import math</code>.</details>


# %% tags=["exercise"]
def consistency(gold, relevance, k):
    """NDCG@k of a list (places from 0 on, best first) under its labels, between 0 and 1."""
    return None


# %%
calls = {
    "all that is relevant stands on top": ([2, 0, 1], [0, 0, 1], 3),
    "the only relevant passage stands second: 1 over log2(3)": ([0, 2, 1], [0, 0, 1], 3),
    "two relevant passages: the best order has both on top": ([0, 2, 1, 3], [0, 1, 1, 0], 4),
    "what stands behind k counts for nothing": ([0, 1, 2, 3], [0, 0, 1, 1], 2),
    "the best order too is cut at k": ([3, 0, 1, 2], [1, 1, 0, 1], 2),
    "nothing is relevant": ([1, 0], [0, 0], 2),
}
print(check_exercise(consistency, answered_by(self_consistency, calls)))

# %% [markdown]
# ## The data card
#
# What is in the box: how many, of which domain, under which licence, by which teacher, and of which kind. It goes
# wherever the data goes (`rrlib data export` writes other formats).

# %%
card = data_card(out)
(out / "DATA_CARD.md").write_text(card, encoding="utf-8")
story.Markdown(card)

# %% [markdown]
# ## Done
#
# A stage ends with checks on what it leaves: examples there are, each list ranks its window whole, and none is below
# the threshold.

# %%
assert len(examples) >= 1, "no example was kept: lower alpha, or look at the dropped table"
assert all(sorted(e.gold) == list(range(len(e.passages))) for e in examples)
assert min(e.meta.get("consistency", 1.0) for e in examples) >= threshold
print(
    stage.finish(
        queries=result.summary["queries"],
        examples=len(examples),
        dropped=result.summary["dropped"],
        by_domain=result.summary["by_domain"],
        alpha=threshold,
        mean_consistency=round(sum(values) / max(1, len(values)), 4),
    )
)
