"""What `bench.py conformance` compares: a row for every objective and library, and where their definitions differ.

A row names the library's own function; where it defines the objective otherwise, it says how in
one sentence, and which of ours (`ours`) is the same once that difference is put in.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One objective of one library.

    Example:
        Row("dapo", "verl", "vanilla, token-mean")
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


ROWS = (
    Row("grpo", "verl", "vanilla, seq-mean-token-mean, clip_ratio_c 1e9 (it has no off)"),
    Row("grpo", "trl", "loss_type grpo", _MASKED_ROWS, "grpo, masked rows counted"),
    Row("grpo", "openrlhf", "PolicyLoss ppo, token_level_loss False"),
    Row("grpo", "skyrl", "regular, sequence_mean", _MASKED_ROWS, "grpo, masked rows counted"),
    Row("grpo", "tunix", "grpo, sequence-mean-token-mean"),
    Row("dr_grpo", "verl", "vanilla, seq-mean-token-sum-norm, loss_scale_factor"),
    Row("dr_grpo", "trl", "loss_type dr_grpo", _MASKED_ROWS, "dr_grpo, masked rows counted"),
    Row("dr_grpo", "skyrl", "regular, seq_mean_token_sum_norm", _MASKED_ROWS, "dr_grpo, masked rows counted"),
    Row("dr_grpo", "tunix", "grpo, sequence-mean-token-scale (the constant is the padded length)"),
    Row("dapo", "verl", "vanilla, token-mean"),
    Row("dapo", "trl", "loss_type dapo (num_items_in_batch: the counted tokens)"),
    Row("dapo", "openrlhf", "PolicyLoss ppo, token_level_loss True"),
    Row("dapo", "skyrl", "regular, token_mean"),
    Row("dapo", "areal", "ppo_actor_loss_fn"),
    Row("dapo", "tunix", "grpo, token-mean"),
    Row("gspo", "verl", "gspo, seq-mean-token-mean (log s at most 10)"),
    Row("gspo", "trl", "loss_type grpo, sequence level", _MASKED_ROWS, "gspo, masked rows counted"),
    Row("gspo", "openrlhf", "PolicyLoss gspo"),
    Row("gspo", "skyrl", "gspo, sequence_mean (log s at most 10)", _MASKED_ROWS, "gspo, masked rows counted"),
    Row("gspo", "areal", "ppo_actor_loss_fn, sequence level", "mean over tokens: it is our gspo_plus", "gspo_plus"),
    Row("gspo", "tunix", "gspo-token, sequence-mean-token-mean (log s at most 10)"),
    Row("gspo_plus", "verl", "gspo, token-mean"),
    Row(
        "gspo_plus", "trl", "loss_type luspo, sequence level",
        "sum over tokens divided by rows, not by tokens", "gspo_plus, summed over tokens",
    ),
    Row("gspo_plus", "skyrl", "gspo, token_mean (it warns)"),
    Row("gspo_plus", "areal", "ppo_actor_loss_fn, sequence level"),
    Row("gspo_plus", "tunix", "gspo-token, token-mean"),
    Row("cispo", "verl", "cispo, token-mean"),
    Row(
        "cispo", "trl", "loss_type cispo, epsilon_high 1 + clip_high",
        "clamps the upper side only", "cispo, no lower clip",
    ),
    Row("cispo", "skyrl", "cispo, token_mean"),
    Row("dual_clip", "verl", "vanilla, clip_ratio_c"),
    Row("dual_clip", "trl", "loss_type dapo, delta"),
    Row("dual_clip", "openrlhf", "PolicyLoss ppo, dual_clip"),
    Row("dual_clip", "skyrl", "dual_clip, clip_ratio_c"),
    Row("dual_clip", "areal", "ppo_actor_loss_fn, c_clip"),
    Row("dual_clip", "tunix", "grpo, epsilon_c"),
    Row("tis", "verl", "rollout_is token, threshold 2"),
    Row("tis", "openrlhf", "is_correction token, clip"),
    Row("tis", "skyrl", "tis_ratio_type token"),
    Row("tis", "areal", "rejection_sampling token, clamp"),
    Row("tis", "tunix", "sampler_is_weights (their learner makes them; here they are given)"),
    Row("icepop", "verl", "rollout_is token, threshold 0.5_5"),
    Row("icepop", "openrlhf", "is_correction token, mask"),
    Row("icepop", "skyrl", "tis_ratio_type token with token_mask_is_threshold"),
    Row("icepop", "areal", "rejection_sampling token, mask"),
    Row(
        "sequence_rejection", "verl", "rollout_rs seq_mean_k1",
        "its bounds are on the inverse, pi_behavior / pi_old", "sequence_rejection, inverse ratio",
    ),
    Row(
        "sequence_rejection", "openrlhf", "is_correction seq, mask",
        "rejected tokens stay in the denominator, kept ones carry their ratio to the engine",
        "sequence_rejection, weighted by token",
    ),
    Row(
        "sequence_rejection", "skyrl", "sequence_mask_metric geometric",
        "rejected tokens stay in the denominator", "sequence_rejection, denominator kept",
    ),
    Row(
        "sequence_rejection", "areal", "rejection_sampling sequence, mask",
        "rejected tokens stay in the denominator, kept ones carry their sequence's ratio to the engine",
        "sequence_rejection, weighted by sequence",
    ),
    Row("decoupled", "areal", "rejection_sampling token, clamp at 1e9"),
    Row("k3_kl", "verl", "kl_penalty low_var_kl", "clamped at 10", "k3_kl, at most 10"),
    Row("k3_kl", "trl", "loss_type dapo, beta 1, advantages 0"),
    Row("k3_kl", "openrlhf", "compute_approx_kl k3", "clamped at 10", "k3_kl, at most 10"),
    Row("k3_kl", "skyrl", "compute_approx_kl k3", "clamped at 10", "k3_kl, at most 10"),
    Row("k3_kl", "areal", "KLEstimator k3, apply_clamp False"),
    Row("k3_kl", "tunix", "compute_kl_divergence low_var_kl"),
    Row("entropy", "verl", "entropy_from_logits"),
    Row("entropy", "trl", "entropy_from_logits"),
    Row("entropy", "openrlhf", "compute_entropy"),
    Row("entropy", "skyrl", "chunked_entropy_from_logits"),
    Row("entropy", "areal", "gather_logprobs_entropy"),
    Row("entropy", "tunix", "compute_entropy_from_logits"),
    Row("group_mean_std", "verl", "compute_grpo_outcome_advantage (ddof 1, + 1e-6)"),
    Row("group_mean_std", "skyrl", "compute_grpo_outcome_advantage (ddof 1, + 1e-6)"),
    Row("group_mean_std", "areal", "Normalization group, group, unbiased, eps 1e-6"),
    Row("group_mean_std", "tunix", "compute_advantages (ddof 1, + 1e-6)"),
    Row("equal_rewards", "verl", "compute_grpo_outcome_advantage", _ROUNDING),
    Row("equal_rewards", "skyrl", "compute_grpo_outcome_advantage", _ROUNDING),
    Row("equal_rewards", "areal", "Normalization group, group, unbiased, eps 1e-6"),
    Row("equal_rewards", "tunix", "compute_advantages", _ROUNDING),
    Row(
        "group_mean_batch_std", "areal", "Normalization group, batch, unbiased, eps 1e-6",
        "its std is of rewards around their groups' means", "group_mean_batch_std, around group means",
    ),
    Row("batch_mean_std", "areal", "Normalization batch, batch, unbiased, eps 1e-6"),
    Row("group_mean", "verl", "compute_grpo_outcome_advantage, no std"),
    Row("group_mean", "skyrl", "compute_grpo_outcome_advantage, no std"),
    Row("group_mean", "areal", "Normalization group, no std"),
    Row("group_mean", "tunix", "compute_drgrpo_advantages"),
    Row("leave_one_out", "verl", "compute_rloo_outcome_advantage"),
    Row("leave_one_out", "skyrl", "compute_rloo_outcome_advantage"),
    Row("leave_one_out", "areal", "Normalization group, mean_leave1out"),
    Row("leave_one_out", "tunix", "compute_rloo_advantages"),
    Row("overlong", "trl", "get_soft_overlong_punishment"),
    Row("overlong", "openrlhf", "apply_overlong_penalty"),
    Row("overlong", "areal", "reward_overlong_penalty", "goes on falling beyond max_tokens", "overlong, no floor"),
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
