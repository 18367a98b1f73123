"""What `bench.py conformance` compares: a row for every objective and library, and where their definitions differ.

A row names the library's own function; where it defines the objective otherwise, it says how in
one sentence, and which of ours (`ours`) is the same once that difference is put in.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One objective of one library.

    Example:
        Row(objective="dapo", library="verl", theirs="vanilla, token-mean")
    """

    objective: str
    library: str
    theirs: str
    """Their function and the settings that choose it."""
    difference: str = ""
    """How they define it otherwise; empty: as we do."""
    adjusted: str = ""
    """The name of ours with that difference put in."""


_ROUNDING = "rounding of the mean, divided by 1e-6, is an advantage; ours is exactly 0"
_MASKED_ROWS = "rows without a counted token count in the mean over sequences"


def _row(objective: str, library: str, theirs: str, difference: str = "", adjusted: str = "") -> Row:
    return Row(objective=objective, library=library, theirs=theirs, difference=difference, adjusted=adjusted)


ROWS = (
    _row("grpo", "verl", "vanilla, seq-mean-token-mean, clip_ratio_c 1e9 (it has no off)"),
    _row("grpo", "trl", "loss_type grpo", _MASKED_ROWS, "grpo, masked rows counted"),
    _row("grpo", "openrlhf", "PolicyLoss ppo, token_level_loss False"),
    _row("grpo", "skyrl", "regular, sequence_mean", _MASKED_ROWS, "grpo, masked rows counted"),
    _row("grpo", "tunix", "grpo, sequence-mean-token-mean"),
    _row("dr_grpo", "verl", "vanilla, seq-mean-token-sum-norm, loss_scale_factor"),
    _row("dr_grpo", "trl", "loss_type dr_grpo", _MASKED_ROWS, "dr_grpo, masked rows counted"),
    _row("dr_grpo", "skyrl", "regular, seq_mean_token_sum_norm", _MASKED_ROWS, "dr_grpo, masked rows counted"),
    _row("dr_grpo", "tunix", "grpo, sequence-mean-token-scale (the constant is the padded length)"),
    _row("dapo", "verl", "vanilla, token-mean"),
    _row("dapo", "trl", "loss_type dapo (num_items_in_batch: the counted tokens)"),
    _row("dapo", "openrlhf", "PolicyLoss ppo, token_level_loss True"),
    _row("dapo", "skyrl", "regular, token_mean"),
    _row("dapo", "areal", "ppo_actor_loss_fn"),
    _row("dapo", "tunix", "grpo, token-mean"),
    _row("gspo", "verl", "gspo, seq-mean-token-mean (log s at most 10)"),
    _row("gspo", "trl", "loss_type grpo, sequence level", _MASKED_ROWS, "gspo, masked rows counted"),
    _row("gspo", "openrlhf", "PolicyLoss gspo"),
    _row("gspo", "skyrl", "gspo, sequence_mean (log s at most 10)", _MASKED_ROWS, "gspo, masked rows counted"),
    _row("gspo", "areal", "ppo_actor_loss_fn, sequence level", "mean over tokens: it is our gspo_plus", "gspo_plus"),
    _row("gspo", "tunix", "gspo-token, sequence-mean-token-mean (log s at most 10)"),
    _row("gspo_plus", "verl", "gspo, token-mean"),
    _row(
        "gspo_plus", "trl", "loss_type luspo, sequence level",
        "sum over tokens divided by rows, not by tokens", "gspo_plus, summed over tokens",
    ),
    _row("gspo_plus", "skyrl", "gspo, token_mean (it warns)"),
    _row("gspo_plus", "areal", "ppo_actor_loss_fn, sequence level"),
    _row("gspo_plus", "tunix", "gspo-token, token-mean"),
    _row("cispo", "verl", "cispo, token-mean"),
    _row(
        "cispo", "trl", "loss_type cispo, epsilon_high 1 + clip_high",
        "clamps the upper side only", "cispo, no lower clip",
    ),
    _row("cispo", "skyrl", "cispo, token_mean"),
    _row("dual_clip", "verl", "vanilla, clip_ratio_c"),
    _row("dual_clip", "trl", "loss_type dapo, delta"),
    _row("dual_clip", "openrlhf", "PolicyLoss ppo, dual_clip"),
    _row("dual_clip", "skyrl", "dual_clip, clip_ratio_c"),
    _row("dual_clip", "areal", "ppo_actor_loss_fn, c_clip"),
    _row("dual_clip", "tunix", "grpo, epsilon_c"),
    _row("tis", "verl", "rollout_is token, threshold 2"),
    _row("tis", "openrlhf", "is_correction token, clip"),
    _row("tis", "skyrl", "tis_ratio_type token"),
    _row("tis", "areal", "rejection_sampling token, clamp"),
    _row("tis", "tunix", "sampler_is_weights (their learner makes them; here they are given)"),
    _row("icepop", "verl", "rollout_is token, threshold 0.5_5"),
    _row("icepop", "openrlhf", "is_correction token, mask"),
    _row("icepop", "skyrl", "tis_ratio_type token with token_mask_is_threshold"),
    _row("icepop", "areal", "rejection_sampling token, mask"),
    _row(
        "sequence_rejection", "verl", "rollout_rs seq_mean_k1",
        "its bounds are on the inverse, pi_behavior / pi_old", "sequence_rejection, inverse ratio",
    ),
    _row(
        "sequence_rejection", "openrlhf", "is_correction seq, mask",
        "rejected tokens stay in the denominator, kept ones carry their ratio to the engine",
        "sequence_rejection, weighted by token",
    ),
    _row(
        "sequence_rejection", "skyrl", "sequence_mask_metric geometric",
        "rejected tokens stay in the denominator", "sequence_rejection, denominator kept",
    ),
    _row(
        "sequence_rejection", "areal", "rejection_sampling sequence, mask",
        "rejected tokens stay in the denominator, kept ones carry their sequence's ratio to the engine",
        "sequence_rejection, weighted by sequence",
    ),
    _row("decoupled", "areal", "rejection_sampling token, clamp at 1e9"),
    _row("k3_kl", "verl", "kl_penalty low_var_kl", "clamped at 10", "k3_kl, at most 10"),
    _row("k3_kl", "trl", "loss_type dapo, beta 1, advantages 0"),
    _row("k3_kl", "openrlhf", "compute_approx_kl k3", "clamped at 10", "k3_kl, at most 10"),
    _row("k3_kl", "skyrl", "compute_approx_kl k3", "clamped at 10", "k3_kl, at most 10"),
    _row("k3_kl", "areal", "KLEstimator k3, apply_clamp False"),
    _row("k3_kl", "tunix", "compute_kl_divergence low_var_kl"),
    _row("entropy", "verl", "entropy_from_logits"),
    _row("entropy", "trl", "entropy_from_logits"),
    _row("entropy", "openrlhf", "compute_entropy"),
    _row("entropy", "skyrl", "chunked_entropy_from_logits"),
    _row("entropy", "areal", "gather_logprobs_entropy"),
    _row("entropy", "tunix", "compute_entropy_from_logits"),
    _row("group_mean_std", "verl", "compute_grpo_outcome_advantage (ddof 1, + 1e-6)"),
    _row("group_mean_std", "skyrl", "compute_grpo_outcome_advantage (ddof 1, + 1e-6)"),
    _row("group_mean_std", "areal", "Normalization group, group, unbiased, eps 1e-6"),
    _row("group_mean_std", "tunix", "compute_advantages (ddof 1, + 1e-6)"),
    _row("equal_rewards", "verl", "compute_grpo_outcome_advantage", _ROUNDING),
    _row("equal_rewards", "skyrl", "compute_grpo_outcome_advantage", _ROUNDING),
    _row("equal_rewards", "areal", "Normalization group, group, unbiased, eps 1e-6"),
    _row("equal_rewards", "tunix", "compute_advantages", _ROUNDING),
    _row(
        "group_mean_batch_std", "areal", "Normalization group, batch, unbiased, eps 1e-6",
        "its std is of rewards around their groups' means", "group_mean_batch_std, around group means",
    ),
    _row("batch_mean_std", "areal", "Normalization batch, batch, unbiased, eps 1e-6"),
    _row("group_mean", "verl", "compute_grpo_outcome_advantage, no std"),
    _row("group_mean", "skyrl", "compute_grpo_outcome_advantage, no std"),
    _row("group_mean", "areal", "Normalization group, no std"),
    _row("group_mean", "tunix", "compute_drgrpo_advantages"),
    _row("leave_one_out", "verl", "compute_rloo_outcome_advantage"),
    _row("leave_one_out", "skyrl", "compute_rloo_outcome_advantage"),
    _row("leave_one_out", "areal", "Normalization group, mean_leave1out"),
    _row("leave_one_out", "tunix", "compute_rloo_advantages"),
    _row("overlong", "trl", "get_soft_overlong_punishment"),
    _row("overlong", "openrlhf", "apply_overlong_penalty"),
    _row("overlong", "areal", "reward_overlong_penalty", "goes on falling beyond max_tokens", "overlong, no floor"),
)  # fmt: skip

NOT_RUN = {
    "slime": "not on the package index (what is there under this name is a statistics package)",
    "trl: tis, icepop, sequence_rejection": "computed inside a method of the trainer that generates",
    "trl: group_mean_std": "inside the same method: (r - mean) / (std + 1e-4), ddof 1",
    "openrlhf: group_mean_std": "inside its experience maker: (r - mean) / (std + 1e-9), ddof 1",
    "verl: overlong": "inside an asynchronous reward manager",
    "tunix: overlong": "measures characters, not tokens",
    "openrlhf: dr_grpo, gspo_plus, cispo": "no such loss (gspo is always a mean over sequences)",
    "areal: grpo, dr_grpo, cispo": "no such loss (always a mean over tokens)",
    "tunix: cispo": "no such loss",
}
"""What has no row, and why."""
