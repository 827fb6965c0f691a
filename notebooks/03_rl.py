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
# # 03 Reinforcement learning: rank better than the teacher
#
# **The one question:** what can a model still learn when nobody shows it the answer, and only a reward says how good
# its ranking was?
#
# **Data:** the examples of notebook 01 (*synthetic* with the default parameters) without their reasoning: the
# labels count, and a little the teacher's list (RBO, below).
# **Time:** about a minute on a CPU with the default parameters.
#
# Stage two of the training (ReasonRank, section 4.2): GRPO with a reward of several views. The model writes
# several answers to each prompt (`rollouts`); those that beat the group's mean become more likely, the others less.

# %% [markdown]
# ## Set-up

# %%
import pandas as pd

from rrlib.chain import stages
from rrlib.chain.from_profile import grpo_settings, plan_of, reward_of
from rrlib.chain.params import collect
from rrlib.chain.run import begin
from rrlib.evaluation.audition import audition
from rrlib.lesson import explain, groups, sentences, shown, thread, trust
from rrlib.lesson.exercises import answered_by, check_exercise
from rrlib.lesson.plots import basics as plots
from rrlib.lesson.plots import tour as lesson_plots
from rrlib.lesson.plots.training import Live, group_in_views, grpo_curves
from rrlib.lesson.tables import audition_table, climb_table
from rrlib.plans.training import render
from rrlib.prompts import format_response
from rrlib.reward import MultiViewReward
from rrlib.studies.stored import stored_rows
from rrlib.training import objective
from rrlib.training.alarms import read_alarms
from rrlib.training.completions import read_completions
from rrlib.training.grpo import encode_for_grpo

# %% tags=["parameters"]
run = "smoke"  # name of the run: a folder below outputs/
seed = 7  # of sampling and shuffling (integer)
interactive = False  # True shows widgets; only in Jupyter, never under papermill
style = "reasonrank"  # prompt style (name in rrlib.prompts)
window = 10  # passages in a list, as in 01 (count)
max_passage_tokens = 512  # a longer passage is cut (tokens)
rl_examples = 0  # examples used as prompts, from the first on (count; 0: all)
steps = 3  # rollout batches (count)
prompts = 4  # prompts in a rollout batch (count)
rollouts = 8  # answers to each prompt, the group (count)
updates = 2  # optimiser updates in a rollout batch (count)
micro_batch = 8  # answers in a forward pass and device (count)
rl_learning_rate = 1.0e-4  # constant (per update)
rl_weight_decay = 0.01  # of AdamW (per update)
beta = 0.001  # weight of the KL divergence from the SFT checkpoint (number)
clip = 0.2  # how far the ratio of probabilities may move in an update (number)
clip_high = 0.0  # how far upwards, where that differs (number; 0: as clip)
dual_clip = 3.0  # largest ratio that counts where an answer is to become rarer (number)
entropy = 0.0  # weight of a bonus for spread-out predictions (number)
loss = "grpo"  # how tokens are averaged: grpo (the paper's run), dr_grpo or dapo
normalize = "total"  # what is measured against the group: the total reward, or the views one by one
mask_truncated = False  # True: answers that were cut off teach nothing, instead of earning -1
temperature = 1.0  # of the rollouts (number)
max_prompt = 4096  # longer prompts are refused or dropped (tokens)
too_long = "refuse"  # what becomes of longer prompts: refuse (name them) or drop (count them)
max_completion = 512  # longer answers are cut, and earn -1 (tokens)
reward_k = 5  # cut-off of NDCG and Recall: window - stride, what the next window sees (passages)
reward_weights = {"ndcg": 1.0, "recall": 0.2, "rbo": 0.1}  # of the views (numbers)
rbo_p = 1.0  # persistence of RBO; 1 is the plain mean over depths (0 to 1)
lora_rank = 0  # 0 trains all weights; else rank of the LoRA adapters (count)
lora_alpha = 32  # scale of the LoRA adapters (number)
gradient_checkpointing = False  # True saves memory and costs time
dtype = "auto"  # arithmetic: auto, bf16 or fp32
attention = "sdpa"  # kernel of attention: sdpa, flash_attention_2 or eager
processes = 1  # processes that train together, one a GPU (count); 1 stays in this kernel
accelerate = ""  # how they share the weights: name in params/accelerate, empty: each holds all
gpu_memory = 0.0  # memory of one GPU for the plan (GiB); 0: as this machine has
use_vllm = False  # True lets vLLM write the rollouts, False transformers
rollout_engine = "auto"  # without vLLM: generate, prefix (a prompt read once a group), graph (one GPU), auto
vllm_mode = "colocate"  # vLLM in the training processes (colocate) or behind a URL (server)
vllm_server = "http://localhost:8000"  # base URL of that server (address)
vllm_memory = 0.5  # part of each GPU that vLLM takes, colocate (0 to 1)
vllm_tensor_parallel = 1  # GPUs over which vLLM splits the model, colocate (count)
vllm_sleep = False  # True gives vLLM's memory back while the update runs, colocate
vllm_correction = False  # True weighs tokens by the ratio of the trainer's to vLLM's probabilities
save_every = 25  # rollout batches between two resume points (count)
engine_options = {}  # more arguments for the transformers engine when a checkpoint is tried out (name: value)

# %% [markdown]
# If notebooks 01 or 02 were not run yet, `begin` runs them first, at smoke size, and says so.

# %%
config = collect("03_rl", globals())
stage = begin(config)
stage

# %% [markdown]
# ## The reward
#
# An answer that is no ranking earns -1 (broken format) or 0 (broken list). A ranking earns a weighted sum of three
# views: NDCG and Recall against the pointwise labels, RBO against the teacher's list:
#
# $$R_m = w_1 \, \mathrm{NDCG@}k + w_2 \, \mathrm{Recall@}k + w_3 \, \mathrm{RBO}$$
#
# The weights are `reward_weights`, and k is `reward_k`. The same in the library:

# %%
shown.source(MultiViewReward.views, MultiViewReward.combine)

# %% [markdown]
# **Predict:** what will the gold list itself earn? And the same list backwards?

# %%
examples = stages.examples_of(stage.run_dir, config)
reward = reward_of(config)
example = max(examples, key=lambda e: e.meta.get("consistency", 0.0))
texts = [format_response("because", order, style) for order in (example.gold, example.gold[::-1])]
texts += [texts[0].replace(" > ", ", "), "I think passage 3 is best."]
scored = reward.score_group(texts, example.relevance, example.gold)
shown.say(sentences.reward_words(scored, reward.weights))
shown.table(pd.DataFrame(scored, index=["gold", "backwards", "no list", "no tags"]).round(3))

# %% [markdown]
# Recall at `reward_k` is there because the window slides: only the first `window - stride` passages of a window are
# carried into the next one. A relevant passage that falls behind them is lost for the top of the list.

# %% [markdown]
# ## Training
#
# `stages.rl` is TRL's `GRPOTrainer` behind one call. What it costs is generation: every rollout batch is written anew,
# and serves as many optimiser updates as `updates` says. What it minimises can be read in one room,
# `rrlib.training.objective`; a test holds TRL's loss equal to it. Its heart: the tokens of an answer become likelier in
# the measure of the answer's advantage A, but in one update not by more than the clip. With the ratio of a token's
# probability now to when it was drawn:
#
# $$\rho_t = \frac{\pi_\theta(o_t)}{\pi_{\mathrm{old}}(o_t)}$$
#
# $$L_t = -\min(\rho_t A, \; \mathrm{clip}(\rho_t, 1 - \epsilon, 1 + \epsilon) \, A)$$
#
# The source has one bound more, `dual_clip`, which is on by default (3): where A is negative, a ratio above it counts
# as it, so that one token which became far likelier cannot decide the update.

# %%
shown.source(objective.policy_loss)

# %% [markdown]
# A second term keeps the model near the checkpoint of SFT: the KL divergence of the policy to it, estimated at each
# token in the form of low variance, which is never negative:
#
# $$D_t = r_t - \log r_t - 1, \quad r_t = \frac{\pi_{\mathrm{ref}}(o_t)}{\pi_\theta(o_t)}$$
#
# The loss of an update is the mean of both over the tokens, with the weight `beta` on the second:
#
# $$L = \mathrm{mean}_t (L_t + \beta D_t)$$

# %%
shown.source(objective.kl, objective.token_mean)

# %% [markdown]
# **Predict:** which view will climb most: NDCG, Recall, or RBO, for which the teacher is the measure?

# %%
sft = stage.input("02_sft", "sft", "checkpoint")
with shown.Counting("prompts encoded"):
    encoded = encode_for_grpo(examples, sft, grpo_settings(config), style)
print(render(plan_of(config, sft, longest=encoded.prompt_tokens).check()))

# %% [markdown]
# The plan above says whether it fits, rollouts included. Completions, log and alarms are kept while it runs, and the
# curves are drawn from them.

# %%
with stage.timed("train"), Live(stage.path("grpo"), grpo_curves) as live:
    result = stages.rl(config, examples, sft, stage.path("grpo"), on_log=live, echo=live.echo)
print(f"{result.n_examples} prompts, {result.dropped} left out as too long, {result.seconds:.0f} s")
shown.table(pd.DataFrame({"value": pd.Series(dict(result.info))}))

# %%
stage.figure("reward", grpo_curves(stage.path("grpo")))

# %% [markdown]
# What to see: the loss of GRPO says nothing (it hovers around 0), the reward is what to watch. The views count valid
# rollouts only, so that a better format alone does not raise them. A curve is the mean over the rollouts of a step, and
# the table below has the mean of its groups, where each group counts alike: where some have fewer valid rollouts than
# others, the two differ. The band holds four fifths of the prompts of a step: it says how unlike the prompts are, not
# how sure the mean is, so a curve may climb for long without leaving its band. Whether it did is a question to the
# means of the groups, early and late:

# %%
completions = read_completions(stage.path("grpo"))
climb = climb_table(completions)
shown.say(sentences.climb_words(climb))
shown.table(climb)

# %% [markdown]
# What to see: an interval that holds zero says that these steps cannot show a climb, as after a handful of them; one
# above zero says that the sampled answers got better. (The greedy ones are looked at below.)
#
# Length and KL are there to be seen running away; where they do, or where nothing can be learned, an alarm says so:

# %%
for alarm in read_alarms(stage.path("grpo")):
    print(alarm)
print(f"{len(read_alarms(stage.path('grpo')))} alarms")

# %%
stage.figure("formats", plots.format_shares(result.log))

# %% [markdown]
# ## One group
#
# All answers to one prompt. The advantage of an answer is its reward minus the mean of its group of G, over the group's
# standard deviation (a tiny number keeps the fraction finite). With `loss: dr_grpo` nothing is divided, and the
# denominator is left out:
#
# $$A_i = \frac{R_i - \mathrm{mean}(R_1, \ldots, R_G)}{\mathrm{std}(R_1, \ldots, R_G) + 10^{-4}}$$

# %%
shown.source(objective.advantages, objective.standardize)

# %% [markdown]
# **Predict:** what happens to a group in which all answers earn the same? And how many groups of a training are so?

# %%
group = groups.lively_group_of(completions, rollouts)
shown.say(sentences.scale_words(loss, normalize), group.chosen)
stage.figure("group", group_in_views(group.rollouts))

# %% [markdown]
# What to see: in a group in which all earn the same, every advantage is 0, and the prompt teaches nothing in this step;
# the line above counts such groups (they differ in nothing). Groups with a spread are what trains. The three views in a
# row need not agree on which answer is best; the advantage is that of their weighted sum:

# %%
shown.table(groups.rollout_table(group))

# %% [markdown]
# ### Which view speaks loudest?
#
# The weights say how much a view may add to a reward. They do not say how much it adds to the *advantages*: that
# depends on how far the answers of a group differ in it, and on whether the group's spread is divided out. Over all
# groups that were kept, the |advantage| can be shared out to the views; *form* is what answers lose that are no
# ranking.
#
# **Predict:** RBO has a weight of 0.1. Which share of all |advantage| is its own?

# %%
by_view = None
if normalize == "total":
    by_view = groups.advantage_by_view(completions, reward_weights, divide=loss != "dr_grpo")
    shown.say(sentences.by_view_words(by_view))
"the views are normalised one by one in this run" if by_view is None else shown.table(by_view)

# %% [markdown]
# What to see: where a group differs by one view alone and the deviation is divided out, the spread of that view,
# however small, is brought to full size, so a view may count for more than its weight says. Where that view is RBO,
# what is learned is the teacher's list, errors included, on just those prompts for which the labels have nothing more
# to say. The line above the table says whether this run has such groups.

# %% [markdown]
# **Predict:** which passages will this update move up?

# %%
asked = groups.example_of(group, encoded.rows)
answers = list(group.rollouts["completion"])
scale = "none" if loss == "dr_grpo" and normalize == "total" else "group"
shown.say(groups.pull_words(answers, asked.relevance, asked.gold, reward, scale))
stage.figure("favours", lesson_plots.group_update(answers, asked.relevance, asked.gold, reward, scale))

# %%
if interactive:
    from rrlib.lesson import widgets

    widgets.show(widgets.group_explorer(answers, asked.relevance, asked.gold, k=reward_k))

# %% [markdown]
# What to see: on the right, bars above zero are passages that the update moves up: each is the mean, weighted by the
# advantages, of how far above the middle the answers put it. The line above the figure counts them. Nobody said which
# passage is good: over many groups the rewards of whole lists add up to it, and one group is a noisy sample. The best
# and the worst answer of this group:

# %%
shown.say(sentences.difference_words(answers, len(asked.passages), style))
ends = {"best": group.rollouts["reward"].idxmax(), "worst": group.rollouts["reward"].idxmin()}
shown.texts({f"{name}: reward {group.rollouts['reward'][i]:.3f}": answers[i] for name, i in ends.items()})

# %% [markdown]
# ## Before and after
#
# Both checkpoints rank one window of each validation query, greedily.
#
# **Predict:** where sampled answers improve, will the greedy ones?

# %%
validation = stages.collection_of(stage, "validation")
trial = {"window": window, "style": style, "max_new_tokens": max_completion, "k": reward_k}
trial |= {"engine_options": engine_options, "max_passage_tokens": max_passage_tokens}
checkpoints = {"after SFT": sft, "after SFT and RL": result.checkpoint}
with stage.timed("after"), shown.Counting("windows", 2 * len(validation.queries)) as count:
    tried = {name: audition(c, validation, **trial, on_window=count) for name, c in checkpoints.items()}
table = audition_table(tried)
shown.say(sentences.gain_words(*tried.values(), seed=seed), trust.form_kept_words(dict(table["valid"])))
shown.table(table)

# %% [markdown]
# What to see: the first line above the table is the answer for this run, with its interval; the second says what became
# of the form. A handful of steps, as in the quick profiles, moves little, in either direction. Notebook 04 measures
# whole lists. One query's greedy answer, before and after:

# %%
row, chosen = sentences.changed_most(*tried.values())
shown.say(chosen)
shown.texts({name: frame["text"].iloc[row] for name, frame in tried.items()})

# %% [markdown]
# What is mended, in the embedded world? One would think the teacher's wrong beliefs, and that is not it: SFT has them
# right in 95.1% of its windows already, GRPO in 96.5%. It is the verdicts that do not follow from the belief. Where
# the belief is right, a relevant passage gets its `yes` in 76.6% of the cases after SFT and in 98.5% after GRPO. The
# price is `yes` for passages of another concept, 0.28 a window before and 0.65 after. (Profile `miniature`, seed 7,
# over whole lists; one training, no claim about the next. `docs/world.md` says which figures are of a command that is
# kept, and which were read.)
#
# **Predict:** the student learned from what its teacher wrote: reasoning, lists, labels. Can it beat the teacher? One
# training could not say, so those of several seeds are stored:

# %%
shown.say(sentences.teacher_words(stored_rows()))

# %% [markdown]
# What to see: in these rows SFT alone is above the teacher, and GRPO adds to it (why, they do not say). The teacher by
# windows slides as the student does; on the full list it sees all passages at once.

# %% [markdown]
# ## The red thread: GRPO
#
# The query that 01 chose and 02 followed, asked of both checkpoints: once greedily, and in a group as the training
# draws it.
#
# **Predict:** the teacher's list stands in the first row. Will the reward push the model towards it, or away?

# %%
followed = thread.thread_of(stage.run_dir)
asking = {name: trial[name] for name in ("style", "max_passage_tokens", "max_new_tokens", "engine_options")}
with shown.Counting("checkpoints asked", len(checkpoints)) as asking["on_answer"]:
    replies = thread.answers_of(checkpoints, followed, count=rollouts, seed=seed, **asking)
stations = thread.stations(followed, {name: reply.greedy for name, reply in replies.items()}, reward, style)
shown.say(followed.query.text, groups.was_prompt(followed, completions, encoded.rows))
shown.say(thread.in_words(stations, *checkpoints))
shown.table(stations)

# %%
drawn = {name: reward.score_group(r.drawn, followed.relevance, followed.gold) for name, r in replies.items()}
shown.say(thread.group_words(drawn))
shown.table(thread.group_means(drawn))

# %%
after_sft = replies["after SFT"].drawn
stage.figure("thread", lesson_plots.group_update(after_sft, followed.relevance, followed.gold, reward, scale))

# %% [markdown]
# What to see: the figure is the group that the checkpoint of SFT draws, so what GRPO would learn from this prompt. RBO
# alone is measured against the teacher's list; NDCG and Recall are measured against its labels, which were given with
# the answer in view. Where list and labels disagree, the larger weights decide. Notebook 04 ends the thread, with the
# whole list.

# %% [markdown]
# ## Exercise 1: at which weight does Recall decide?
#
# In a window of 20 with stride 10, two relevant passages may end at places 1 and 11 (NDCG@10 0.613, Recall@10 0.5) or
# at 9 and 10 (NDCG@10 0.362, Recall@10 1.0). With the paper's weight of 0.2 on Recall, the reward prefers the first
# (0.713 against 0.562), though only the second keeps both for the next window. Write the weight of Recall at which
# both earn the same.
#
# <details><summary>Hint</summary>Set ndcg_a + w * recall_a equal to ndcg_b + w * recall_b, and solve for w.</details>


# %% tags=["exercise"]
def weight_that_flips(ndcg_a, recall_a, ndcg_b, recall_b):
    """The weight of Recall at which rankings a and b earn the same."""
    return None


# %%
cases = [
    ((0.613, 0.5, 0.362, 1.0), 0.502, "what NDCG loses from a to b is what Recall gains, times w"),
    ((0.8, 0.5, 0.6, 1.0), 0.4, "0.8 + 0.5 w = 0.6 + 1.0 w"),
    ((0.9, 0.0, 0.4, 1.0), 0.5, "0.9 = 0.4 + w"),
]
print(check_exercise(weight_that_flips, cases))

# %% [markdown]
# ## Exercise 2: the clip
#
# Write the loss of one token: minus the smaller of ratio times advantage and clipped ratio times advantage. The clipped
# ratio lies between 1 - clip and 1 + clip. (The library also bounds the ratio itself, by `dual_clip`; leave that out.)
#
# <details><summary>Hint</summary>The clipped ratio is <code>min(max(ratio, 1 - clip), 1 + clip)</code>.</details>


# %% tags=["exercise"]
def token_loss(ratio, advantage, clip):
    """Minus what a token gains, at most what a step within the clip gains."""
    return None


# %%
cases = [
    ((1.0, 2.0, 0.2), -2.0, "at the first update nothing has moved, and nothing is clipped"),
    ((1.5, 1.0, 0.2), -1.2, "a good answer earns nothing more beyond 1 + clip"),
    ((0.5, 1.0, 0.2), -0.5, "a good answer that became rarer is not clipped: it may come back"),
    ((0.5, -1.0, 0.2), 0.8, "a bad answer earns nothing more below 1 - clip"),
    ((1.5, -1.0, 0.2), 1.5, "a bad answer that became likelier pays in full"),
]
print(check_exercise(token_loss, cases))

# %% [markdown]
# ## Exercise 3, a part of the method: the advantages of a group
#
# Write the advantages of a group from its rewards: each reward minus the mean of the group, over the group's standard
# deviation plus 0.0001. The deviation is the one with n - 1. The check is the function that you read above, under *One
# group*.
#
# <details><summary>Hint</summary>The mean first; then the squares of the differences, their sum over n - 1, and its
# root. The answer is a list with a number for each reward.</details>


# %% tags=["exercise"]
def group_advantages(rewards):
    """How much better each answer is than its group, in standard deviations: a list."""
    return None


# %%
calls = {
    "two answers: one above the mean, one as far below it": ([1.0, 0.0],),
    "the mean of the group is taken off, whatever it is": ([-1.0, -1.0, 0.9, 1.3],),
    "all earn the same: the 0.0001 keeps the fraction finite": ([1.3, 1.3, 1.3],),
    "a small spread is blown up to the size of a large one": ([1.30, 1.31, 1.29, 1.30],),
}
print(check_exercise(group_advantages, answered_by(explain.advantages, calls)))

# %% [markdown]
# ## Done
#
# The stage leaves the final checkpoint, the log with its views, and every rollout of the training.

# %%
rewards = [row["reward"] for row in result.log if "reward" in row]
assert len(rewards) == steps, "every rollout batch logs its reward"
assert (result.checkpoint / "config.json").is_file()
print(
    stage.finish(
        prompts=result.n_examples,
        **stages.metrics_of(result),
        ndcg_sft=float(table["NDCG"].iloc[0]),
        ndcg_rl=float(table["NDCG"].iloc[1]),
    )
)
