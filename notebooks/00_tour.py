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
# # 00 Tour: a reranker that thinks, in ten minutes
#
# **The one question:** what does a model do that reads a query and ten passages, *thinks*, and answers with an order,
# and why is it trained with a reward that looks at the whole list?
#
# **Data:** *synthetic*, a small written world; the checkpoint was trained on it and comes with the library. Nothing is
# downloaded, and nothing is trained here.
# **Time:** under a minute on a CPU that has nothing else to do; about ten minutes to read.
#
# Press run-all, then read from the top. At each **Predict**, stop and answer before you look further down.

# %% [markdown]
# ## Set-up

# %%
import pandas as pd

from rrlib.chain.params import collect
from rrlib.chain.run import begin
from rrlib.chain.stages import open_corpus
from rrlib.engines.base import Decoding
from rrlib.formats import read_collection
from rrlib.lesson import explain, groups, sentences, shown, thread
from rrlib.lesson.exercises import check_exercise
from rrlib.lesson.plots import tour as lesson_plots
from rrlib.lesson.plots.world import world_drawing
from rrlib.lesson.tables import passages_table
from rrlib.miniature.sketch import sketch
from rrlib.rerank import Reranker
from rrlib.responses import parse_lenient
from rrlib.reward import MultiViewReward
from rrlib.strategies import StrategySpec, sliding_spans

# %% [markdown]
# Every number you may want to change stands in the next cell.

# %% tags=["parameters"]
run = "tour"  # name of the run: a folder below outputs/
seed = 7  # of everything drawn at random (integer)
interactive = False  # True shows widgets under the figures; only in Jupyter
corpus = "rrlib.miniature:build"  # a collection folder, or module:callable that writes one
corpus_options = {}  # more arguments for that callable (name: value)
queries = 24  # test queries to rerank (count)
pool = 30  # first-stage candidates of each query (passages)
model = "package:rrlib.miniature/reranker"  # a trained checkpoint: folder, hub name or package:module/folder
engine_options = {"batch_size": 64}  # arguments for the transformers engine (name: value)
window = 10  # passages the model sees at once (count)
stride = 5  # how far the window moves (passages)
max_new_tokens = 256  # longest answer (tokens)
group_size = 8  # answers drawn for one prompt, as in training (count)

# %%
config = collect("00_tour", globals())
stage = begin(config)
folder = open_corpus(stage, corpus, corpus_options, train=20, validation=2, test=queries, pool=pool)
test = read_collection(folder, "test")
stage.data_kind = test.data_kind
print(f"{len(test.queries)} queries, {pool} candidates each, {test.data_kind} data")

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
# The tiny model met this world before it was trained to rank: its *backbone* was pretrained on every step of the chain
# that you will read below, behind the very prompt that it is asked with. So this is a lesson on the method, and no
# evidence that a large model would learn as much. `docs/world.md` says what it was taught.
#
# **Predict:** in the drawing, take one cue away. What is left of the answer?

# %%
stage.figure("world", world_drawing(sketch(next(iter(test.metadata.values())))))

# %% [markdown]
# What to see: with one cue two concepts are left, the concept and a rival. Only both together decide. A teacher that
# believes a rival puts the rival's passages first.

# %% [markdown]
# ## Two rankers
#
# The *first stage* is BM25: it counts the words that query and passage share. It is fast, and it finds the candidates.
# The *reranker* is a language model; it puts the candidates into a better order. It adds none and drops none. Here is a
# tiny one, at work.
#
# **Predict:** for how many of the queries will the reranker's order be worse than that of BM25?

# %%
reranker = Reranker(
    model,
    "transformers",
    window=window,
    stride=stride,
    depth=pool,
    decoding=Decoding(max_new_tokens=max_new_tokens),
    log=stage.path("windows.jsonl"),
    **engine_options,
)
windows = len(test.queries) * len(sliding_spans(pool, window, stride))
with shown.Counting("windows", windows) as reranker.on_window:
    outcome = reranker.rerank(test.candidates())
before = {qid: [hit.docid for hit in hits] for qid, hits in test.run.items()}
after = outcome.run(test.name)

# %%
stage.figure("compare", lesson_plots.run_compare(before, after, test.qrels, labels=("BM25", "reranked")))

# %% [markdown]
# What to see: each bar is a query, and the title above the bars counts those that got worse. On the right is the one
# that gained most; its relevant passages are the thick lines. We follow this query up to its whole list; what one
# answer earns is shown on it too. It is the best case; the bars are all cases. (The group is of another query, to which
# the answers differ more, and the red thread at the end of a third.)

# %%
if interactive:
    from rrlib.lesson import widgets

    widgets.show(widgets.run_compare({"BM25": before, "reranked": after}, test.qrels, queries=test.queries))

# %% [markdown]
# ## One hard query
#
# NDCG@10 scores a list from 0 to 1: 1 where the relevant passages stand on top, less the further down they are, and
# nothing for what stands behind rank 10 (the formula is exercise 3 of 01).
#
# **Predict:** read the query. What is it after? Which of its words will lead BM25 astray?

# %%
scores = lesson_plots.per_query(before, after, test.qrels)
qid = list(scores)[-1]
grades, query = test.qrels[qid], test.queries[qid]
shown.say(query.text, f"NDCG@10 of BM25: {scores[qid][0]:.3f}, reranked: {scores[qid][1]:.3f}")

# %%
first = [test.corpus[docid] for docid in before[qid][:5]]
shown.say(sentences.shared_words(query.text, first))
shown.table(passages_table(first, explain.labels_of([p.docid for p in first], grades)))

# %% [markdown]
# What to see: the line above the table names the words that led BM25. The first five share them with the query. The
# passages that would help need not: the query never names what it asks for, so one has to *work out* what that is.
# Words alone cannot.

# %% [markdown]
# ## What the model thinks
#
# The model sees a window of ten passages, writes its reasoning, and then the order. This is the window with the most
# relevant passages in it.
#
# **Predict:** in which order will it do things: judge the passages first, or find out first what the query is after?

# %%
records = [record for record in outcome.records if record.qid == qid]
busy = explain.busiest(records, grades)
relevance = explain.labels_of(busy.docids, grades)
passages = [test.corpus[docid] for docid in busy.docids]
shown.both(shown.texts({"the model": busy.text}), shown.table(passages_table(passages, relevance)))

# %% [markdown]
# Compare with the first five of BM25: what makes a passage relevant is its matter, not its words. Now the reasoning as
# a picture, from its first character to its last: when does it name which passage?

# %%
stage.figure("citations", lesson_plots.citation_map(busy.reasoning, relevance))

# %% [markdown]
# What to see: the first part of the reasoning cites nothing. It settles what the query is after. Only then come the
# passages, one by one, each with a verdict, and the list follows the verdicts.

# %%
if interactive:
    widgets.show(widgets.trace_reader(busy.reasoning, passages, relevance))

# %% [markdown]
# ## How a window moves passages
#
# The list is longer than the window. So the window starts at the *end* of the list, and each time it moves up by the
# stride, it takes its best passages along. It starts there so that a good passage from the tail can climb to the head
# in one pass; from the head downwards, it could rise no further than its own window reaches.
#
# **Predict:** how many windows does the whole list need? Where must a passage stand in a window, to be seen again?

# %%
orders, spans = explain.film(before[qid], records)
relevant = [docid for docid in before[qid] if grades.get(docid, 0) > 0]
shown.say(f"{len(spans)} windows; the first {window - stride} places of each are seen again")
stage.figure("film", lesson_plots.window_film(orders, spans, relevant))

# %% [markdown]
# What to see: a passage climbs with the window for as long as it stays in its upper part. Where it falls behind the
# overlap, it is left where it is, for good.
#
# A sliding window is one strategy of several. Here it runs beside others on the same list, with a *perfect* ranker, so
# that only calls to the model, and how many of them must wait for each other (depth), make the difference.
#
# **Predict:** which strategy needs fewer calls, the wide window or the narrow one? And what does it pay for that?

# %%
labels = explain.labels_of(before[qid], grades)
strategies = {
    f"window {window}/{stride}": StrategySpec("sliding_window", window, stride),
    f"window {2 * window}/{window}": StrategySpec("sliding_window", 2 * window, window),
    "full list": StrategySpec("full_list"),
}
frames = explain.play_all(labels, strategies)
shown.say(", ".join(f"{name}: {lesson_plots.counted(played[-1].calls, 'call')}" for name, played in frames.items()))
stage.figure("strategies", lesson_plots.player(frames, 2, labels))

# %% [markdown]
# What to see: after two rounds the narrow window is still at work near the end of the list; the wide ones are done.
# They pay with longer prompts, and a model that reads thirty passages at once makes more mistakes than a perfect one.

# %%
if interactive:
    widgets.show(widgets.window_player(labels, strategies))

# %% [markdown]
# ## What the reward sees
#
# In training the model is rewarded for its *list*: NDCG (are relevant passages on top?), Recall (are they carried into
# the next window?), and RBO (does the list agree with the teacher's?). An answer that is no list earns nothing, and one
# without its tags is punished. There is no teacher's list here; the labels stand in for it.
#
# **Predict:** what does the answer above earn, if its `>` were commas?

# %%
reward = MultiViewReward(k=window - stride)
gold = explain.gold_of(relevance)
stage.figure("reading", lesson_plots.response_reading(busy.text, relevance, gold, reward))

# %%
broken = {"as written": busy.text, "commas": busy.text.replace(" > ", ", "), "cut off": busy.text[:-60]}
shown.table(pd.DataFrame(reward.score_group(list(broken.values()), relevance, gold), index=list(broken)).round(3))

# %% [markdown]
# What to see: training is strict, or the model would learn to be sloppy. Inference is lenient: it reads what can be
# read, keeps the order of the window where nothing can, and never loses a passage.

# %%
if interactive:
    widgets.show(widgets.response_inspector(busy.text, relevance, gold, reward))

# %% [markdown]
# ## Why one number is not enough
#
# Take a window of 20 that moves by 10, as in the paper, with two relevant passages. One answer puts them at places 1
# and 11, another at 9 and 10.
#
# **Predict:** which answer has the higher NDCG? Which one leads to the better list *after the next window*?

# %%
pair = [explain.outlook([1, 11]), explain.outlook([9, 10])]
stage.figure("pair", lesson_plots.reward_window(pair))

# %%
paper = [o.views[0] + 0.2 * o.views[1] for o in pair]
print(f"NDCG@10 + 0.2 Recall@10: {paper[0]:.3f} for 1 and 11, {paper[1]:.3f} for 9 and 10 (RBO left out)")
flip = explain.flip_weight(*pair, weights=(1.0, 0.2, 0.0))
stage.figure("flip", lesson_plots.recall_weight(pair, flip))

# %% [markdown]
# What to see: 9 and 10 are worse now and better later, since both are carried on, and the next window can put them
# first. Recall is in the reward to say so. But with the paper's weight of 0.2 the reward *still* prefers 1 and 11; the
# figure shows the weight at which it would change its mind. A view that points the right way need not be loud enough.

# %%
if interactive:
    widgets.show(widgets.reward_explorer())

# %% [markdown]
# ## How it was trained: one group
#
# In reinforcement training (GRPO) the model answers the same prompt several times, at random. What is better than the
# group's mean becomes more likely, what is worse less. Nobody judges the reasoning; the reward of the list is enough.
#
# This model is trained already, and answers most prompts alike. So groups are drawn for the six windows that it
# answered worst, and this is the one with the most to show: its answers differ in most views of the reward.
#
# **Predict:** in what will eight answers to one prompt differ: in the belief, in the verdicts, or in the list?

# %%
with shown.Counting("answers to six windows", 6 * group_size) as count:
    group = explain.lively_group(reranker, test, outcome.records, reward, group_size, seed, on_answer=count)
reranker.engine.close()
shown.say(group.query, sentences.difference_words(group.texts, window))
shown.say(groups.pull_words(group.texts, group.relevance, group.gold, reward))
stage.figure("group", lesson_plots.group_update(group.texts, group.relevance, group.gold, reward))

# %% [markdown]
# What to see: where all answers earn the same, all advantages are zero, and there is nothing to learn from this prompt.
# The panel on the right adds the group up: which passages would the update move up? The line right above the figure
# counts them. Nobody says which passage is good: over many groups the rewards of whole lists add up to it, and one
# group is a noisy sample. Here are the two answers that are furthest apart; find the first word in which they differ.

# %%
earned = [scored.total for scored in reward.score_group(group.texts, group.relevance, group.gold)]
ends = {"best": earned.index(max(earned)), "worst": earned.index(min(earned))}
shown.texts({f"{name}: rollout {i + 1}, reward {earned[i]:.3f}": group.texts[i] for name, i in ends.items()})

# %% [markdown]
# ## The red thread begins
#
# Notebooks 01 to 04 follow one query. In the profile `miniature`, whose trainings made the model of this tour, it is
# the one below. Of all lists that the teacher wrote and the filter kept, the list for this query agrees least with the
# teacher's own labels. (*relevant* comes from its first look, with the answer in view; *gold place* from its list.
# Other profiles follow another query, by the same rule.)
#
# **Predict:** read what the teacher believes. Is it right? And what will a model say that learned from this teacher?

# %%
followed = thread.stored_thread()
shown.say(followed.query.text, thread.chosen_words(followed))
window_of_it = passages_table(followed.passages, followed.relevance, followed.gold)
shown.both(shown.texts({"teacher": followed.reasoning}), shown.table(window_of_it))

# %%
asking = {"max_new_tokens": max_new_tokens, "engine_options": engine_options, "count": group_size, "seed": seed}
reply = thread.answers_of({"this model": model}, followed, **asking)["this model"]
stations = thread.stations(followed, {"this model": reply.greedy}, reward)
shown.both(shown.texts({"this model": reply.greedy}), shown.table(stations))

# %% [markdown]
# What to see: one cue alone fits two concepts, and the teacher took the wrong one. It saw the answer when it gave the
# labels, and did not when it wrote the list. NDCG and Recall are measured against the labels, RBO against the list:
# here they pull in opposite directions. How the model came to its answer is the story of 01 to 04: the teacher (01),
# imitation (02), the reward (03), the whole list (04).
#
# **Predict:** how much must RBO weigh, so that the teacher's list would earn more than the model's?

# %%
weight = thread.weight_of_likeness(followed, reply.greedy, reward)
shown.say(sentences.likeness_words(weight, reward.weights["rbo"]))
shown.say(thread.drawn_words(reward.score_group(reply.drawn, followed.relevance, followed.gold)))
rivals = [*reply.drawn, thread.teacher_text(followed)]
stage.figure("rivals", lesson_plots.group_update(rivals, followed.relevance, followed.gold, reward))

# %% [markdown]
# What to see: the answers that this model draws, and behind them, as the last one, the teacher's own, which no training
# would put into the group. (Where the line above counts broken ones, their bars are hatched: form is not safe when
# answers are drawn at random.) With the weights as they are the teacher's answer is worth little. With `interactive =
# True`, turn the weight of RBO past the number above: the order turns round, and the update would teach the teacher's
# error.

# %%
if interactive:
    widgets.show(widgets.group_explorer(rivals, followed.relevance, followed.gold, k=window - stride))

# %% [markdown]
# ## Exercise 1: who is carried on?
#
# Write how many of the relevant passages of a window are seen again in the next one. `places` are their places in the
# answer, 1 for the best; the window holds `size` passages and moves up by `stride`.
#
# <details><summary>Hint</summary>The next window shares its last <code>size - stride</code> places with this one: the
# first ones of the answer.</details>


# %% tags=["exercise"]
def carried_on(places, size, stride):
    """How many of the places are seen again in the next window."""
    return None


# %%
cases = [
    (([1, 11], 20, 10), 1, "the next window sees size - stride of these places: the first 10"),
    (([9, 10], 20, 10), 2, "place 10 is the last one that is seen again"),
    (([5, 6, 7], 10, 5), 1, "the overlap is size - stride, and not half a window by rule"),
    (([2, 3, 14, 16], 20, 5), 3, "with a small stride most of a window is seen again"),
    (([], 20, 10), 0, "a window may hold nothing relevant"),
]
print(check_exercise(carried_on, cases))

# %% [markdown]
# ## Exercise 2: how many calls?
#
# A list of `n` candidates is ranked by a window of `size` that moves up by `stride`, from the end of the list to its
# head. Write how many windows that takes. The library lists the windows themselves, and the check counts its list.
#
# <details><summary>Hint</summary>Start with <code>end = n</code>, count a window, and move <code>end</code> up by the
# stride, until a window begins at the head. The last one may be cut; a window of one passage asks nothing.</details>


# %% tags=["exercise"]
def calls(n, size, stride):
    """How many windows it takes to reach the head of the list."""
    return None


# %%
lists = {
    "the paper's own: 100 candidates, window 20, stride 10": (100, 20, 10),
    "a list that fits one window": (8, 10, 5),
    "the last window is cut at the head of the list": (95, 20, 10),
    "the stride need not be half the window": (30, 10, 3),
    "one passage left over is no question": (21, 10, 10),
}
cases = [(listed, len(sliding_spans(*listed)), hint) for hint, listed in lists.items()]
print(check_exercise(calls, cases))

# %% [markdown]
# ## Exercise 3, a part of the method: read any answer
#
# Inference loses no passage, whatever a model writes. Write the lenient reader for the text between the answer tags:
# the order of the `size` passages of a window, as places from 0 on. A number that stands twice counts where it stands
# first, a number that no passage has is passed over, and passages that are left out follow in their old order. The
# check is `parse_lenient`, which reads every answer of this repository.
#
# <details><summary>Hint</summary>Take the numbers in square brackets one by one, and keep a list of what was seen. Then
# add what is missing, from place 0 on. After <code>import re</code>, <code>re.findall(r"\[(\d+)\]", text)</code> finds
# the numbers.</details>


# %% tags=["exercise"]
def read_order(text, size):
    """Places of the passages, best first, from 0 on: always each of them once."""
    return None


# %%
answers = {
    "passage 3 stands at place 2, when places count from 0": ("[3] > [1] > [2]", 3),
    "the first mention of a passage counts": ("[2] > [2] > [1] > [3]", 3),
    "passages that are left out follow, as they stood": ("[3]", 3),
    "there are passages 1 to size, and no others": ("[7] > [2] > [0] > [1]", 3),
    "in a longer window more is left out": ("[2] > [4]", 5),
    "a number without brackets names no passage": ("2 [3] > [1]", 3),
}
tags = "<think> </think> <answer> {} </answer>"
cases = [((text, size), parse_lenient(tags.format(text), size).order, hint) for hint, (text, size) in answers.items()]
print(check_exercise(read_order, cases))

# %% [markdown]
# ## Done
#
# Notebook 01 makes the training examples, 02 imitates a teacher, 03 trains with the reward you have just seen, and 04
# measures whether it helped, on queries that nobody has seen. The red thread runs through them: one query, from the
# teacher's answer (01) over what imitation makes of it (02) and a group of answers to it (03) to its whole list (04).

# %%
assert sorted(after[qid]) == sorted(before[qid]), "nothing is lost, nothing is doubled"
assert orders[-1] == after[qid], "the film ends where the run does"
assert scores[qid][1] >= scores[qid][0] and len(group.texts) == group_size
means = pd.DataFrame(scores.values(), columns=["BM25", "reranked"]).mean()
print(stage.finish(queries=len(scores), **{f"nDCG@10 {name}": round(float(mean), 4) for name, mean in means.items()}))
