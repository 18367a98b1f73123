"""Every metric of a run: its name and what it means.

In: names of metrics. Out: constants, and METRICS: name -> meaning with its unit, and how the values of several updates
make one of a step. Sinks refuse a name that is not here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

STEP = "step"
POLICY_VERSION = "policy_version"

REWARD_MEAN = "reward/mean"
SOLVED_SHARE = "solved_share"
TRUNCATED_SHARE = "truncated_share"
OUTCOME_REASONS = {
    "wrong_answer": "printed or returned something else",
    "time_limit": "took too long",
    "memory_limit": "took too much memory",
    "output_limit": "printed too much",
    "runtime_error": "failed",
    "no_program": "was not there",
}
"""Why a rollout was judged as not solved: types.Outcome without accepted."""
OUTCOME_SHARES = {reason: f"outcomes/{reason}_share" for reason in OUTCOME_REASONS}
PROGRAMS_RULES_DIFFER = "programs/rules_differ"
COMPLETION_TOKENS_MEAN = "completion_tokens/mean"
COMPLETION_TOKENS_MAX = "completion_tokens/max"

GROUPS_USED = "groups/used"
GROUPS_DROPPED = "groups/dropped"
GROUPS_ALL_SOLVED = "groups/all_solved"
GROUPS_NONE_SOLVED = "groups/none_solved"

ROLLOUTS_DRAWN = "rollouts/drawn"
ROLLOUTS_TRAINED = "rollouts/trained"
ROLLOUTS_FILTERED = "rollouts/filtered"
FILTER_REASONS = {
    "equal": "all counted rewards of the group were equal",
    "judge_failure": "the judge failed on most of the group",
    "overlong": "it was cut, or all of its group that would train",
    "stale": "its turn came more than rollout.max_staleness batches late",
    "aborted": "the engine gave up most of the group",
}
DROP_SHARES = {reason: f"groups/{reason}_share" for reason in FILTER_REASONS}
ROLLOUTS_QUARANTINED = "rollouts/quarantined"
ROLLOUTS_IN_FLIGHT = "rollouts/in_flight"

STALENESS_BATCHES_MEAN = "staleness/batches_mean"
STALENESS_BATCHES_MAX = "staleness/batches_max"
STALENESS_VERSIONS_MEAN = "staleness/versions_mean"
STALENESS_VERSIONS_MAX = "staleness/versions_max"

TOKENS_PER_S = "throughput/tokens_per_s"
VERIFICATIONS_PER_S = "throughput/verifications_per_s"

ENGINE_IDLE_SHARE = "engine/idle_share"
TRAINER_IDLE_SHARE = "trainer/idle_share"

JUDGE_OUTAGES = "judge/outages"
JUDGE_OUTAGE_S = "judge/outage_s"

LOSS = "update/loss"
GRAD_NORM = "update/grad_norm"
LEARNING_RATE = "update/learning_rate"
ENTROPY = "update/entropy"
RATIO_MEAN = "update/ratio_mean"
RATIO_MAX = "update/ratio_max"
CLIP_LOW_SHARE = "update/clip_low_share"
CLIP_HIGH_SHARE = "update/clip_high_share"
APPROX_KL = "update/approx_kl"
DRIFT_MEAN = "update/drift_mean"
DRIFT_MAX = "update/drift_max"
DRIFT_KL = "update/drift_kl"
ON_POLICY_SHARE = "update/on_policy_share"
ON_POLICY_DRIFT_MEAN = "update/on_policy_drift_mean"
ON_POLICY_DRIFT_MAX = "update/on_policy_drift_max"
IMPORTANCE_WEIGHT_MEAN = "update/importance_weight_mean"
REJECTED_SHARE = "update/rejected_share"
TRAINED_TOKENS = "update/trained_tokens"
PADDING_SHARE = "update/padding_share"
SKIPPED = "update/skipped"

PROBE_DRIFT_MEAN = "probe/drift_mean"
PROBE_DRIFT_MAX = "probe/drift_max"

HELD_OUT_PASS_AT_1 = "held_out/pass_at_1"
HELD_OUT_TRUNCATED_SHARE = "held_out/truncated_share"
HELD_OUT_COMPLETION_TOKENS_MEAN = "held_out/completion_tokens_mean"
HELD_OUT_JUDGE_FAILURES = "held_out/judge_failures"
HELD_OUT_ENGINE_FAILURES = "held_out/engine_failures"

SECONDS_PREFIX = "seconds/"
SECONDS_TOTAL = "seconds/total"
STAGES = ("generate", "verify", "pull", "pack", "update", "export", "reload", "probe", "evaluate", "checkpoint")
"""Stages that a StageTimer measures; generate and verify overlap, so the sum may exceed seconds/total."""

Reduction = Literal["mean", "max", "sum", "last"]


class Metric(NamedTuple):
    """What a name means."""

    meaning: str
    """With its unit."""
    reduction: Reduction = "last"
    """What one value for a step is made of, out of those of its updates. mean: over all that was counted in them."""


METRICS: dict[str, Metric] = {
    STEP: Metric("turn of the outer loop, from 1; 0 is the evaluation before training"),
    POLICY_VERSION: Metric("version of the weights after the step"),
    REWARD_MEAN: Metric("mean reward of all judged rollouts drawn in the step, dropped groups included"),
    SOLVED_SHARE: Metric("share of judged rollouts whose program was accepted, dropped groups included"),
    TRUNCATED_SHARE: Metric("share of completions cut at the length limit"),
    **{
        OUTCOME_SHARES[reason]: Metric(f"share of judged rollouts, dropped groups included, whose program {why}")
        for reason, why in OUTCOME_REASONS.items()
    },
    PROGRAMS_RULES_DIFFER: Metric("completions of which the two rules of data.extract_rule take different programs"),
    COMPLETION_TOKENS_MEAN: Metric("mean length of a completion, tokens"),
    COMPLETION_TOKENS_MAX: Metric("longest completion, tokens"),
    GROUPS_USED: Metric("groups that entered the batch"),
    GROUPS_DROPPED: Metric("groups dropped: rewards all equal, or too few completions to judge or to train on"),
    **{
        DROP_SHARES[reason]: Metric(f"share of the step's groups that were dropped whole: {why}")
        for reason, why in FILTER_REASONS.items()
    },
    GROUPS_ALL_SOLVED: Metric("groups in which every program was accepted"),
    GROUPS_NONE_SOLVED: Metric("groups in which no program was accepted"),
    ROLLOUTS_DRAWN: Metric("rollouts started so far in the run"),
    ROLLOUTS_TRAINED: Metric("rollouts that entered an update so far"),
    ROLLOUTS_FILTERED: Metric("rollouts dropped so far, for whatever reason"),
    **{
        f"{ROLLOUTS_FILTERED}/{reason}": Metric(f"rollouts dropped so far: {why}")
        for reason, why in FILTER_REASONS.items()
    },
    ROLLOUTS_QUARANTINED: Metric("rollouts set aside so far because the judge or the engine failed"),
    ROLLOUTS_IN_FLIGHT: Metric("rollouts started and not yet trained, filtered or quarantined"),
    "completion_tokens/trained": Metric("mean length of the rollouts trained on so far, tokens"),
    "completion_tokens/quarantined": Metric("mean length of the rollouts set aside so far, tokens"),
    "completion_tokens/in_flight": Metric("mean length of the rollouts that are judged and wait for a batch, tokens"),
    **{
        f"completion_tokens/filtered/{reason}": Metric(f"mean length of the rollouts dropped so far, tokens: {why}")
        for reason, why in FILTER_REASONS.items()
    },
    STALENESS_BATCHES_MEAN: Metric(
        "batches trained between the start of a group and its own batch, mean over the batch"
    ),
    STALENESS_BATCHES_MAX: Metric("largest of the same; rollout.max_staleness is its bound"),
    STALENESS_VERSIONS_MEAN: Metric(
        "policy version before the batch minus that of a completion's oldest token, mean over "
        "the batch; a later update of the batch is one version further each"
    ),
    STALENESS_VERSIONS_MAX: Metric("largest of the same"),
    TOKENS_PER_S: Metric("completion tokens sampled per second of the step"),
    VERIFICATIONS_PER_S: Metric("verdicts per second of the step"),
    ENGINE_IDLE_SHARE: Metric(
        "share of the engine's slots, over the step without its evaluation, that generated nothing"
    ),
    TRAINER_IDLE_SHARE: Metric("share of the same time in which no update was computed"),
    JUDGE_OUTAGES: Metric(
        "times so far, since the process started, that nothing could run programs and judging waited"
    ),
    JUDGE_OUTAGE_S: Metric("seconds of these waits"),
    LOSS: Metric("value of the objective: its sum over its count, over all updates of the step", "mean"),
    GRAD_NORM: Metric("global gradient norm before clipping, mean over updates", "mean"),
    LEARNING_RATE: Metric("learning rate of the last update"),
    ENTROPY: Metric("mean entropy of the policy over trained tokens, nats", "mean"),
    RATIO_MEAN: Metric(
        "mean over trained tokens of the ratio that the objective clips: the token's or its sequence's", "mean"
    ),
    RATIO_MAX: Metric("largest of these ratios", "max"),
    CLIP_LOW_SHARE: Metric("share of trained tokens whose ratio was clipped from below", "mean"),
    CLIP_HIGH_SHARE: Metric("share of trained tokens whose ratio was clipped from above", "mean"),
    APPROX_KL: Metric("estimate (k3) of KL between the policy and old_logprobs, nats a token", "mean"),
    DRIFT_MEAN: Metric("mean |trainer logprob - engine logprob| over trained tokens, nats", "mean"),
    DRIFT_MAX: Metric("largest of the same", "max"),
    DRIFT_KL: Metric("estimate (k3) of KL between the engine and the trainer, nats a token", "mean"),
    ON_POLICY_SHARE: Metric(
        "share of trained tokens that the engine drew with the very weights they are compared with", "mean"
    ),
    ON_POLICY_DRIFT_MEAN: Metric(
        "drift_mean over these tokens: what is not the weights' doing, and what has bounds", "mean"
    ),
    ON_POLICY_DRIFT_MAX: Metric("largest of the same", "max"),
    IMPORTANCE_WEIGHT_MEAN: Metric("mean weight that loss.correction gives a trained token", "mean"),
    REJECTED_SHARE: Metric("share of trained tokens that loss.correction left out", "mean"),
    TRAINED_TOKENS: Metric("completion tokens that entered the loss", "sum"),
    PADDING_SHARE: Metric("share of the packed rows that is padding"),
    SKIPPED: Metric(
        "updates of the step that were not taken, because loss, gradient or new weights were not finite", "sum"
    ),
    PROBE_DRIFT_MEAN: Metric(
        "mean |trainer logprob - engine logprob| over fixed sequences, both with the step's weights, "
        "nats; of several servers the worst"
    ),
    PROBE_DRIFT_MAX: Metric("largest of the same"),
    HELD_OUT_PASS_AT_1: Metric("mean over held-out problems of the share of samples accepted"),
    HELD_OUT_TRUNCATED_SHARE: Metric("share of held-out completions cut at the length limit"),
    HELD_OUT_COMPLETION_TOKENS_MEAN: Metric("mean length of a held-out completion, tokens"),
    HELD_OUT_JUDGE_FAILURES: Metric("held-out samples left out because the judge failed"),
    HELD_OUT_ENGINE_FAILURES: Metric("held-out samples left out because the engine gave them up"),
    SECONDS_TOTAL: Metric("wall seconds of the step"),
    **{
        f"{SECONDS_PREFIX}{stage}": Metric(f"wall seconds of the step in which {stage} was going on")
        for stage in STAGES
    },
}


TENSORBOARD = {
    POLICY_VERSION: "update/policy_version",
    SOLVED_SHARE: "outcomes/solved_share",
    TRUNCATED_SHARE: "outcomes/truncated_share",
}
"""Names that TensorBoard, which groups by what is before the slash, shows otherwise."""


def unknown(names: Iterable[str]) -> list[str]:
    """Those of the names that METRICS does not list, sorted."""
    return sorted(set(names) - METRICS.keys())
