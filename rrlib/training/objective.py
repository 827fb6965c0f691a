"""GRPO, to be read with the papers open: group advantage, clipped ratio, KL, averaging over tokens.

ReasonRank, section 4.2 (arXiv 2508.07050), which takes it from DeepSeekMath, section 4.1 (arXiv 2402.03300). The
training runs TRL's loss, which is this and much else; tests/test_training_by_hand.py holds the two equal to 1e-6.
Nothing here needs more than the methods of a tensor, so numbers without gradients may be numpy arrays.

Shapes: _KG K groups (prompts) of G rollouts, _V views of the reward, _BT B rollouts of one update, of T tokens each,
filled up on the right where the mask is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rrlib.training.config import GRPOSettings

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-4
"""Added to a group's deviation, as TRL does: a group that earns the same throughout has advantages of 0."""


def standardize(values: Any, axis: int) -> Any:
    """(values - mean) / (deviation + EPSILON) along an axis. The deviation is the unbiased one, with n - 1."""
    centred = values - values.mean(axis=axis, keepdims=True)
    variance = (centred * centred).sum(axis=axis, keepdims=True) / (values.shape[axis] - 1)
    return centred / (variance**0.5 + EPSILON)


def advantages(rewards_KG: Any, divide: bool = True) -> Any:
    """How much better a rollout is than its group: reward minus the group's mean, over the group's deviation.

    divide: False leaves the deviation out (Dr. GRPO, arXiv 2503.20783: it favours groups of little spread).
    """
    return standardize(rewards_KG, -1) if divide else rewards_KG - rewards_KG.mean(axis=-1, keepdims=True)


def advantages_of_views(views_KGV: Any, weights_V: Any) -> Any:
    """GDPO (arXiv 2601.05242): each view against its group, the weighted sum, and that against the batch."""
    total_KG = (standardize(views_KGV, 1) * weights_V).sum(axis=-1)  # (K, G, V) -> (K, G)
    return standardize(total_KG.reshape(-1), 0).reshape(total_KG.shape)


def policy_loss(logp_BT: Tensor, old_BT: Tensor, advantage_B: Tensor, settings: GRPOSettings) -> Tensor:
    """Minus what a token gains, at most what a step within the clip gains.

    logp, old: log-probabilities of the rollouts' tokens now, and when they were drawn. A ratio beyond 1 + clip (or
    below 1 - clip) earns nothing more where the advantage is positive (negative). Where it is negative, a ratio may
    still grow without end: dual_clip bounds it (arXiv 1912.09729, as in verl; the same as TRL's delta).
    """
    ratio = (logp_BT - old_BT).exp()  # (B, T), 1 at the first update
    clipped = ratio.clamp(1 - settings.clip, 1 + (settings.clip_high or settings.clip))  # (B, T)
    advantage = advantage_B[:, None]  # (B, 1): one for all tokens of a rollout
    return -(ratio.clamp(max=settings.dual_clip) * advantage).minimum(clipped * advantage)  # (B, T)


def kl(logp_BT: Tensor, reference_BT: Tensor) -> Tensor:
    """KL of policy to reference by token: the unbiased estimator of low variance, r - 1 - log r with r = reference over
    policy ("k3", http://joschu.net/blog/kl-approx.html). Never negative, 0 where both agree."""
    log_ratio = reference_BT - logp_BT  # (B, T)
    return log_ratio.exp() - log_ratio - 1


def token_mean(values_BT: Tensor, mask_BT: Tensor, settings: GRPOSettings, tokens: float | None = None) -> Tensor:
    """One number from all tokens of an update.

    `grpo`: mean over each rollout, then over rollouts, so a token of a long one weighs less. `dapo` (arXiv 2503.14476):
    mean over all tokens. `dr_grpo`: sum over a constant length, so that length is neither favoured nor punished.
    tokens: what `dapo` divides by, if not the update's own: TRL gives each update an equal part of its rollout batch's.
    """
    total_B = (values_BT * mask_BT).sum(-1)
    if settings.loss == "grpo":
        return (total_B / mask_BT.sum(-1).clamp(min=1)).mean()
    if settings.loss == "dapo":
        return total_B.sum() / (tokens or mask_BT.sum())
    return total_B.sum() / (len(total_B) * settings.max_completion)


def grpo_loss(
    logp_BT: Tensor,
    old_BT: Tensor,
    reference_BT: Tensor,
    advantage_B: Tensor,
    mask_BT: Tensor,
    settings: GRPOSettings,
    entropy_BT: Tensor | None = None,
    tokens: float | None = None,
) -> Tensor:
    """The loss of one update: policy loss + beta * KL, averaged over tokens; minus the weighted mean entropy.

    entropy: of the policy at each token, needed where settings.entropy is not 0; its mean is over all tokens, whatever
    the average of the rest. tokens: see token_mean.
    """
    loss_BT = policy_loss(logp_BT, old_BT, advantage_B, settings) + settings.beta * kl(logp_BT, reference_BT)
    loss = token_mean(loss_BT, mask_BT, settings, tokens)
    if entropy_BT is not None:
        loss = loss - settings.entropy * (entropy_BT * mask_BT).sum() / mask_BT.sum().clamp(min=1)
    return loss
