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
# # 02 Supervised fine-tuning: imitate the teacher
#
# **The one question:** what does a model learn from reading the teacher's reasoning and lists?
#
# **Data:** the examples of notebook 01, of the same kind (*synthetic* with the default parameters).
# **Time:** about a minute on a CPU with the default parameters.
#
# This is stage one of the training (ReasonRank, section 4.2): the model reads the prompt and learns to continue it with
# `<think> reasoning </think> <answer> [3] > [1] > ... </answer>`. The loss falls on the response alone.

# %% [markdown]
# ## Set-up

# %%
import pandas as pd

from rrlib.chain import stages
from rrlib.chain.from_profile import plan_of, sft_settings
from rrlib.chain.params import collect
from rrlib.chain.run import begin
from rrlib.evaluation.audition import audition, tag_added
from rrlib.lesson import sentences, shown, thread
from rrlib.lesson.exercises import answered_by, check_exercise
from rrlib.lesson.explain import labels_of, without_end
from rrlib.lesson.plots.training import Live, sft_curves
from rrlib.lesson.tables import audition_table, passages_table
from rrlib.plans.training import render
from rrlib.prompts import format_response, get_style
from rrlib.reward import MultiViewReward
from rrlib.training.probe import read_answers
from rrlib.training.sft import encode_for_sft

# %% tags=["parameters"]
run = "smoke"  # name of the run: a folder below outputs/
seed = 7  # of shuffling and initialisation (integer)
interactive = False  # True shows widgets; only in Jupyter, never under papermill
model = "package:rrlib.miniature/backbone"  # where training starts: folder, hub name or package:module/folder
style = "reasonrank"  # prompt style (name in rrlib.prompts)
window = 10  # passages in a list, as in 01 (count)
max_passage_tokens = 512  # a longer passage is cut (tokens)
sft_examples = 0  # examples used, from the first on (count; 0: all)
epochs = 4.0  # passes over the examples (count)
learning_rate = 1.0e-3  # peak, after the warm-up (per update)
warmup = 0.1  # part of the updates in which the rate rises (0 to 1)
schedule = "cosine"  # of the learning rate: cosine, linear or constant
weight_decay = 0.0  # of AdamW (per update)
micro_batch = 8  # rows in a forward pass and device (count)
accumulation = 1  # forward passes in an update (count)
max_length = 4096  # prompt and response; longer examples are refused or dropped (tokens)
too_long = "refuse"  # what becomes of longer examples: refuse (name them) or drop (count them)
lora_rank = 0  # 0 trains all weights; else rank of the LoRA adapters (count)
lora_alpha = 32  # scale of the LoRA adapters (number)
gradient_checkpointing = False  # True saves memory and costs time
dtype = "auto"  # arithmetic: auto, bf16 or fp32
attention = "sdpa"  # kernel of attention: sdpa, flash_attention_2 or eager
save_every = 0  # updates between two resume points (count; 0: at the end of each pass)
processes = 1  # processes that train together, one a GPU (count); 1 stays in this kernel
accelerate = ""  # how they share the weights: name in params/accelerate, empty: each holds all
gpu_memory = 0.0  # memory of one GPU for the plan (GiB); 0: as this machine has
max_new_tokens = 512  # longest answer when a checkpoint is tried out (tokens)
reward_k = 5  # cut-off of NDCG and Recall when a checkpoint is tried out: window - stride (passages)
engine_options = {}  # more arguments for the transformers engine (name: value)

# %% [markdown]
# If notebook 01 was not run yet, `begin` runs it first, at smoke size, and says so.

# %%
config = collect("02_sft", globals())
stage = begin(config)
stage

# %% [markdown]
# ## What the model is to write
#
# One example as training text: this is all that the loss sees of it. The prompt in front of it (query and passages) is
# read, but not learned. The teacher errs, and what it believed here may be wrong: it is learned all the same.

# %%
examples = stages.examples_of(stage.run_dir, config)
example = examples[0]
shown.texts({"query": example.query.text, "to be written": format_response(example.reasoning, example.gold, style)})

# %% [markdown]
# Lengths are checked before any training: an example that does not fit would lose its end, and the end is the answer.

# %%
with shown.Counting("examples encoded"):
    rows = encode_for_sft(examples, model, sft_settings(config), style)
print(f"{len(rows.rows)} rows, {rows.dropped} left out as too long")
print(f"prompt up to {rows.prompt_tokens}, response up to {rows.response_tokens} tokens")

# %% [markdown]
# Will it fit? The plan adds up what training keeps in memory at once, for this model, these lengths and these
# processes. (`rrlib plan PROFILE` prints it for any profile, without weights and without a GPU. It counts
# with the rows of the profile's run, or of a few lists made for it; else with the longest that the profile allows.)

# %%
longest = rows.prompt_tokens + rows.response_tokens
print(render(plan_of(config, model, examples=len(rows.rows), longest=longest).check()))

# %% [markdown]
# ## Before
#
# The checkpoint we start from ranks one window of each validation query, greedily. The embedded world's backbone is no
# newcomer to its task: it was pretrained on the whole skill behind this very prompt, from the cues to the sorted list,
# but in the exact format only 15% of the time (`docs/world.md`). So form and content can be told apart:
# the second row adds the answer tag to the answers that lack one, and changes nothing else. (With few windows, the
# share that you see may lie far from that.)
#
# **Predict:** which share of its answers will be valid, that is, one think block, one answer block, every passage once?
# And how much of the way to a good ranking is the missing tag?

# %%
validation = stages.collection_of(stage, "validation")
trial = {"window": window, "style": style, "max_new_tokens": max_new_tokens, "k": reward_k}
trial |= {"engine_options": engine_options, "max_passage_tokens": max_passage_tokens}
with stage.timed("before"), shown.Counting("windows", len(validation.queries)) as count:
    before = audition(model, validation, **trial, on_window=count)
tagged = tag_added(before, validation, k=reward_k, style=style)
shown.table(audition_table({"before SFT": before, "before SFT, tag added": tagged}))

# %% [markdown]
# What to see: the distance between the two rows is form alone, since no word of the reasoning and no place in a list
# was changed. What SFT adds to the second row is content, and the form of lists that are still broken, in which a
# passage is missing or stands twice. (A general model has no such head start.)
#
# What it wrote for the first query whose answer is not valid, if there is one:

# %%
row = sentences.first_broken(before)
shown.texts({"query": before["query"][row], "answer": before["text"][row]}, limit=700)

# %% [markdown]
# ## Training
#
# `stages.sft` is TRL's `SFTTrainer` behind one call, in this kernel or, with more `processes`, in as many of their own.
# Killed and called again, it goes on at its last checkpoint; finished and called again, it hands back what is there.
# While it runs, the curves are drawn from its log.
#
# **Predict:** how will the loss fall: steadily, or first fast and then slowly? What is learned first?

# %%
with stage.timed("train"), Live(stage.path("sft"), sft_curves) as live:
    result = stages.sft(config, examples, model, stage.path("sft"), on_log=live, echo=live.echo)
print(f"{result.n_examples} examples, {result.seconds:.0f} s")
shown.table(pd.DataFrame({"value": pd.Series(dict(result.info))}))

# %%
stage.figure("loss", sft_curves(stage.path("sft")))

# %% [markdown]
# What to see: where the loss falls early, that is the *form* (tags, numbers, sentence patterns), which is the same in
# every example. A model that knows most of the form, as the embedded world's does (the answer tag is what it lacks), is
# soon done with that. What is left is the *content*: which passage is what. The line below says how the loss of this
# run fell; the same query's answer at the start, in the middle and at the end shows what changed.

# %%
shown.say(sentences.loss_words(result.log))
replies = read_answers(stage.path("sft"))
shown.texts({f"after {answer['step']} updates": without_end(answer["text"]) for answer in replies}, limit=700)

# %% [markdown]
# ## After
#
# The same queries, the same window, the new checkpoint.
#
# **Predict:** the share of valid answers, and NDCG: what rises most? And over which of the two rows from before?

# %%
with stage.timed("after"), shown.Counting("windows", len(validation.queries)) as count:
    after = audition(result.checkpoint, validation, **trial, on_window=count)
table = audition_table({"before SFT": before, "before SFT, tag added": tagged, "after SFT": after})
shown.say(sentences.form_words(table))
shown.table(table)

# %% [markdown]
# The same query again, with its passages and the labels that judge the answer:

# %%
shown.texts({"query": after["query"][row], "answer": after["text"][row]})

# %%
grades, passages = validation.qrels[after["qid"][row]], after["passages"][row]
shown.table(passages_table(passages, labels_of([p.docid for p in passages], grades)))

# %% [markdown]
# What to see: read the chain against the passages. Where the answer is wrong, find the first statement that is.

# %% [markdown]
# ## The red thread: SFT
#
# The query that 01 chose: of all lists that the filter kept, the teacher's list for it agrees least with the teacher's
# own labels. The model before and after SFT answers the same window, greedily. Each list is scored as it will be in
# 03: NDCG and Recall against the labels, RBO against the teacher's list.
#
# **Predict:** this example was in the training data. Does the model repeat the teacher's list?

# %%
followed = thread.thread_of(stage.run_dir)
asking = {name: trial[name] for name in ("style", "max_passage_tokens", "max_new_tokens", "engine_options")}
checkpoints = {"before SFT": model, "after SFT": result.checkpoint}
with shown.Counting("checkpoints asked", len(checkpoints)) as asking["on_answer"]:
    replies = {name: a.greedy for name, a in thread.answers_of(checkpoints, followed, **asking).items()}
reward = MultiViewReward(k=reward_k, think=get_style(style).think)
stations = thread.stations(followed, replies, reward, style)
shown.say(thread.chosen_words(followed), thread.in_words(stations, *checkpoints), thread.kept_words(replies))
shown.table(stations)

# %%
shown.texts({"query": followed.query.text, "teacher": followed.reasoning, **replies})

# %% [markdown]
# What to see: an RBO of 1 would be the teacher's list, repeated. A gain can be form alone, and the last words above the
# table say whether it is. What one example says, others may say otherwise: errors at random are averaged away by
# imitation, those that are always the same can be learned by heart. 03 goes on with this query.

# %% [markdown]
# ## Exercise 1: how much of a row is learned?
#
# The labels of a row are -100 where the loss does not look (prompt), and a token's number where it does (response).
# Write the share of a row's tokens that are learned.
#
# <details><summary>Hint</summary>Count the labels that are not -100.</details>


# %% tags=["exercise"]
def trained_share(labels):
    """Share of the labels that are not -100."""
    return None


# %%
first = [int(label) for label in rows.rows[0].labels]
print(f"the first row has {len(first)} labels")
cases = [
    (([-100, -100, 5, 6],), 0.5, "two of four labels are learned"),
    (([-100, 7, 8, 9],), 0.75, "count what is not -100"),
    (([1],), 1.0, "nothing is masked"),
]
print(check_exercise(trained_share, cases))

# %% [markdown]
# ## Exercise 2: what is to be written
#
# The text that a row teaches: the reasoning between `<think>` and `</think>`, then the order between `<answer>` and
# `</answer>`, as `[3] > [1] > [2]`. `gold` holds places from 0 on; the prompt counts its passages from 1. The check is
# the library's function, so each space counts; its output for an example stands at the top of this notebook.
#
# <details><summary>Hint</summary>One line: a space inside of each tag and between the two blocks, and
# <code>" > ".join</code> for the order.</details>


# %% tags=["exercise"]
def written(reasoning, gold):
    """The response that is learned: reasoning, then order, each in its tags."""
    return None


# %%
calls = {
    "tags and spaces are those of the example at the top": ("[2] fits best.", [1, 0]),
    "passage 0 of the list is [1] in the prompt": ("None fits.", [2, 0, 1]),
    "one passage needs no >": ("Only one.", [0]),
}
print(check_exercise(written, answered_by(format_response, calls)))

# %% [markdown]
# ## Exercise 3, a part of the method: the loss
#
# Write the loss of one row: the mean of minus the log-probability of the tokens that are learned. `logprobs[t][v]` is
# the log-probability that the model gives to token v *after* it has read the tokens up to t. So the token at place t is
# predicted at place t - 1, and the first token of a row is predicted by nothing. Labels of -100 do not count.
#
# <details><summary>Hint</summary>Go over the places from 1 on, skip -100, and collect
# <code>-logprobs[t - 1][labels[t]]</code>.</details>


# %% tags=["exercise"]
def row_loss(logprobs, labels):
    """Mean over the learned tokens of minus the log-probability that the place before gives them."""
    return None


# %%
even, sure = [-0.6931472, -0.6931472], [-0.1, -2.3521685]  # log-probabilities of two tokens: each 1/2; 0.905 and 0.095
cases = [
    (([even, even], [-100, 1]), 0.6931472, "one token is learned, and two are equally likely: log 2"),
    (([sure, even], [-100, 0]), 0.1, "the token at place 1 is predicted at place 0"),
    (([even, sure, even], [-100, -100, 1]), 2.3521685, "the prompt is read, but it does not count"),
    (([sure, sure, even], [-100, 0, 1]), (0.1 + 2.3521685) / 2, "the mean of two tokens"),
    (([sure, even], [0, 0]), 0.1, "the first token of a row is predicted by nothing"),
]
print(check_exercise(row_loss, cases))

# %% [markdown]
# ## Done
#
# The stage leaves a checkpoint that any tool can load, and the log of its training.

# %%
metrics, fell = stages.metrics_of(result), sentences.loss_fell(result.log)
assert fell is not False, "the mean loss of the last tenth of the updates is not below that of the first"
print("the loss fell" if fell else "fewer than 10 updates: whether the loss fell cannot be told from single batches")
assert (result.checkpoint / "config.json").is_file()
print(
    stage.finish(
        **metrics,
        valid_before=float(table["valid"].iloc[0]),
        valid_after=float(table["valid"].iloc[2]),
        ndcg_before=float(table["NDCG"].iloc[0]),
        ndcg_tag_added=float(table["NDCG"].iloc[1]),
        ndcg_after=float(table["NDCG"].iloc[2]),
    )
)
