"""Objectives of the GRPO family as pure functions on arrays, side by side.

In: `logprobs` (differentiated), `old_logprobs`, `advantages`, a mask, and for packed rows the segment of every token.
Out: the loss as a `Mean`, metrics as a dict of `Mean` and `Max`. A `Mean` is a sum and a count, so that micro-batches,
packed rows and hosts add up exactly to one large batch: `add` them (sums and counts), divide once at the end.

Needs nothing but jax (and its numpy). Conventions, the same everywhere:

    r_t = exp(log pi(y_t) - log pi_old(y_t))     token ratio; its logarithm is clamped to +-20, where the gradient is 0
    A                                            advantage, "rows time", or "rows" without segment_ids
    T_i                                          tokens of sequence i that the mask keeps
    where                                        True where a token counts; None: all. Applied before every exp
    segment_ids                                  sequence of each token in packed rows, each one contiguous, any ids;
                                                 None: a row is one sequence
    importance_weights                           factor of each token's loss, without gradient: see mismatch.py
    entropy                                      of each token's distribution (`token_entropy`), for the metric only

    surrogate(r, A) = min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)        (PPO, arXiv:1707.06347)
    dual clip c > 1: for A < 0 the surrogate is not below c A                 (arXiv:1912.09729); None or 0: off

Metrics: clip_low_share, clip_high_share, ratio_mean, approx_kl, entropy, each a `Mean`, and the `Max` ratio_max; see
`_metrics`. Inputs may be bfloat16; everything is computed and summed in float32. Other shapes and dtypes than those
annotated are a TypeError or ValueError that names the argument; so is, outside jit, a segment in several pieces.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from nouscoder_jax.arguments import check, check_tokens

# Shapes are checked in tests, where jaxtyping's import hook is on; without it the annotations are never evaluated, so
# that this module asks for no package but jax.
if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float, Float32, Int

MAX_ABS_LOG_RATIO = 20.0
"""Log-ratios are clamped to this; exp(20) is 5e8, far outside every clip range and far inside float32."""


class Mean(NamedTuple):
    """A mean that is not divided yet.

    Example:
        mean = add(Mean(jnp.float32(3.0), jnp.float32(2)), Mean(jnp.float32(1.0), jnp.float32(2)))
        mean.value()  # 1.0
    """

    total: Float32[Array, ""]
    count: Float32[Array, ""]

    def value(self) -> Array:
        """total / count; 0 where the count is 0."""
        return jnp.where(self.count > 0, self.total / jnp.maximum(self.count, 1e-30), 0.0)


class Max(NamedTuple):
    """The largest of numbers that are never negative; 0 where there are none. Several join as exactly as means do.

    Example:
        add(Max(jnp.float32(1.5)), Max(jnp.float32(1.2))).value()  # 1.5
    """

    largest: Float32[Array, ""]

    def value(self) -> Array:
        """The number itself, so that metrics are read alike."""
        return self.largest


def add(left: Any, right: Any) -> Any:
    """What both sets give together, from two equal trees of `Mean` and `Max`, such as a loss with its metrics."""

    def both(a: Mean | Max, b: Mean | Max) -> Mean | Max:
        return jax.tree.map(jnp.maximum if isinstance(a, Max) else jnp.add, a, b)

    return jax.tree.map(both, left, right, is_leaf=lambda node: isinstance(node, (Mean, Max)))


def grpo_loss(
    logprobs: Float[Array, "rows time"],
    old_logprobs: Float[Array, "rows time"],
    advantages: Float[Array, "rows time"] | Float[Array, " rows"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    where: Bool[Array, "rows time"] | None = None,
    segment_ids: Int[Array, "rows time"] | None = None,
    importance_weights: Float[Array, "rows time"] | None = None,
    entropy: Float[Array, "rows time"] | None = None,
) -> tuple[Mean, dict[str, Mean | Max]]:
    """GRPO (arXiv:2402.03300): the mean over sequences of their token means.

        L = - 1/G sum_i 1/T_i sum_t surrogate(r_t, A_i)

    Sequences without a counted token are not part of G. The paper's KL term comes from the parts:

        kl = sequence_mean(k3_kl(logprobs, reference_logprobs, where=where), where=where, segment_ids=segment_ids)
        loss = loss.value() + 0.04 * kl.value()
    """
    inputs = _prepare(logprobs, old_logprobs, advantages, where, segment_ids, importance_weights, entropy)
    return _clipped(inputs, _token_log_ratio(inputs), _over_sequences, clip_low, clip_high, dual_clip)


def dr_grpo_loss(
    logprobs: Float[Array, "rows time"],
    old_logprobs: Float[Array, "rows time"],
    advantages: Float[Array, "rows time"] | Float[Array, " rows"],
    *,
    clip_low: float,
    clip_high: float,
    normalizer_tokens: float,
    dual_clip: float | None = None,
    where: Bool[Array, "rows time"] | None = None,
    segment_ids: Int[Array, "rows time"] | None = None,
    importance_weights: Float[Array, "rows time"] | None = None,
    entropy: Float[Array, "rows time"] | None = None,
) -> tuple[Mean, dict[str, Mean | Max]]:
    """Dr. GRPO (arXiv:2503.20783): GRPO without the length bias.

        L = - 1/(G normalizer_tokens) sum_i sum_t surrogate(r_t, A_i)

    `normalizer_tokens` is a constant, such as the longest completion allowed. Its advantages are r - mean(r), without
    a standard deviation.
    """
    inputs = _prepare(logprobs, old_logprobs, advantages, where, segment_ids, importance_weights, entropy)

    def constant_mean(values: Array, inputs: _Inputs) -> Mean:
        return Mean(jnp.sum(values), _num_sequences(inputs.where, inputs.segment_ids) * normalizer_tokens)

    return _clipped(inputs, _token_log_ratio(inputs), constant_mean, clip_low, clip_high, dual_clip)


def dapo_loss(
    logprobs: Float[Array, "rows time"],
    old_logprobs: Float[Array, "rows time"],
    advantages: Float[Array, "rows time"] | Float[Array, " rows"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    where: Bool[Array, "rows time"] | None = None,
    segment_ids: Int[Array, "rows time"] | None = None,
    importance_weights: Float[Array, "rows time"] | None = None,
    entropy: Float[Array, "rows time"] | None = None,
) -> tuple[Mean, dict[str, Mean | Max]]:
    """DAPO (arXiv:2503.14476): every token of the batch weighs the same, and the clip is wider above than below.

        L = - 1/(sum_i T_i) sum_i sum_t surrogate(r_t, A_i)

    The paper clips at 0.2 and 0.28. `segment_ids` changes nothing here; it is taken so that objectives are
    exchangeable.
    """
    inputs = _prepare(logprobs, old_logprobs, advantages, where, segment_ids, importance_weights, entropy)
    return _clipped(inputs, _token_log_ratio(inputs), _over_tokens, clip_low, clip_high, dual_clip)


def gspo_loss(
    logprobs: Float[Array, "rows time"],
    old_logprobs: Float[Array, "rows time"],
    advantages: Float[Array, "rows time"] | Float[Array, " rows"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    where: Bool[Array, "rows time"] | None = None,
    segment_ids: Int[Array, "rows time"] | None = None,
    importance_weights: Float[Array, "rows time"] | None = None,
    entropy: Float[Array, "rows time"] | None = None,
) -> tuple[Mean, dict[str, Mean | Max]]:
    """GSPO (arXiv:2507.18071): one ratio a sequence, clipped as a whole.

        s_i = exp(1/T_i sum_t log r_t)        L = - 1/G sum_i surrogate(s_i, A_i)

    Computed in the paper's GSPO-token form, s_it = sg[s_i] pi_t / sg[pi_t] (sg: no gradient), whose value and gradient
    are those of GSPO when A is one number a sequence. The paper clips at 3e-4 and 4e-4.
    """
    inputs = _prepare(logprobs, old_logprobs, advantages, where, segment_ids, importance_weights, entropy)
    return _clipped(inputs, _sequence_to_token_log_ratio(inputs), _over_sequences, clip_low, clip_high, dual_clip)


def gspo_plus_loss(
    logprobs: Float[Array, "rows time"],
    old_logprobs: Float[Array, "rows time"],
    advantages: Float[Array, "rows time"] | Float[Array, " rows"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    where: Bool[Array, "rows time"] | None = None,
    segment_ids: Int[Array, "rows time"] | None = None,
    importance_weights: Float[Array, "rows time"] | None = None,
    entropy: Float[Array, "rows time"] | None = None,
) -> tuple[Mean, dict[str, Mean | Max]]:
    """GSPO+ of NousCoder-14B: GSPO's sequence ratio, with DAPO's equal weight for every token.

        L = - 1/(sum_i T_i) sum_i sum_t surrogate(s_it, A_i)        s_it as in `gspo_loss`

    NousCoder describes it in words only: sequence-level correction, gradients rescaled so that tokens weigh the same
    whatever the length of their sequence. The formula is our reading of those words, not a published one. Up to the
    normaliser it is LUSPO (arXiv:2602.05261).
    """
    inputs = _prepare(logprobs, old_logprobs, advantages, where, segment_ids, importance_weights, entropy)
    return _clipped(inputs, _sequence_to_token_log_ratio(inputs), _over_tokens, clip_low, clip_high, dual_clip)


def cispo_loss(
    logprobs: Float[Array, "rows time"],
    old_logprobs: Float[Array, "rows time"],
    advantages: Float[Array, "rows time"] | Float[Array, " rows"],
    *,
    clip_low: float,
    clip_high: float,
    where: Bool[Array, "rows time"] | None = None,
    segment_ids: Int[Array, "rows time"] | None = None,
    importance_weights: Float[Array, "rows time"] | None = None,
    entropy: Float[Array, "rows time"] | None = None,
) -> tuple[Mean, dict[str, Mean | Max]]:
    """CISPO (MiniMax-M1, arXiv:2506.13585): the clipped ratio is a weight, so that no token loses its gradient.

        L = - 1/(sum_i T_i) sum_i sum_t sg[clip(r_t, 1 - clip_low, 1 + clip_high)] A_i log pi(y_t)

    There is no surrogate and so no dual clip.
    """
    inputs = _prepare(logprobs, old_logprobs, advantages, where, segment_ids, importance_weights, entropy)
    ratio = jnp.exp(_token_log_ratio(inputs))
    weights = jax.lax.stop_gradient(jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high))
    losses = -weights * inputs.advantages * inputs.logprobs
    low = inputs.where & (ratio < 1.0 - clip_low)
    high = inputs.where & (ratio > 1.0 + clip_high)
    return _over_tokens(losses * inputs.weights, inputs), _metrics(inputs, ratio, low, high)


def supervised_loss(
    logprobs: Float[Array, "rows time"], *, where: Bool[Array, "rows time"] | None = None
) -> tuple[Mean, dict[str, Mean | Max]]:
    """Cross entropy in nats, every token weighing the same: L = - 1/(sum_i T_i) sum_i sum_t log pi(y_t)."""
    check_tokens(where, logprobs=logprobs, all_without_where=True)
    where = jnp.ones(logprobs.shape, bool) if where is None else where
    return token_mean(-logprobs, where=where), {}


def token_mean(values: Float[Array, "rows time"], *, where: Bool[Array, "rows time"]) -> Mean:
    """1/(sum_i T_i) sum_i sum_t: every counted token weighs the same (arXiv:2503.14476)."""
    check_tokens(where, values=values)
    return Mean(jnp.sum(_masked(values, where)), jnp.sum(where, dtype=jnp.float32))


def sequence_mean(
    values: Float[Array, "rows time"],
    *,
    where: Bool[Array, "rows time"],
    segment_ids: Int[Array, "rows time"] | None,
) -> Mean:
    """1/G sum_i 1/T_i sum_t: every sequence with a counted token weighs the same (arXiv:2402.03300)."""
    check_tokens(where, segment_ids, values=values)
    num_tokens = segment_sum(where.astype(jnp.float32), segment_ids)
    means = _masked(values, where) / jnp.maximum(num_tokens, 1.0)
    return Mean(jnp.sum(means), _num_sequences(where, segment_ids))


def token_log_ratio(
    logprobs: Float[Array, "rows time"],
    old_logprobs: Float[Array, "rows time"],
    *,
    where: Bool[Array, "rows time"],
) -> Float32[Array, "rows time"]:
    """log r_t in float32, clamped to +-MAX_ABS_LOG_RATIO; 0 outside `where`, whatever stands there."""
    check_tokens(where, logprobs=logprobs, old_logprobs=old_logprobs)
    difference = logprobs.astype(jnp.float32) - old_logprobs.astype(jnp.float32)
    return jnp.clip(jnp.where(where, difference, 0.0), -MAX_ABS_LOG_RATIO, MAX_ABS_LOG_RATIO)


def sequence_log_ratio(
    logprobs: Float[Array, "rows time"],
    old_logprobs: Float[Array, "rows time"],
    *,
    where: Bool[Array, "rows time"],
    segment_ids: Int[Array, "rows time"] | None,
) -> Float32[Array, "rows time"]:
    """1/T_i sum_t log r_t at every position of sequence i (arXiv:2507.18071); 0 for sequences with no counted token."""
    check_tokens(where, segment_ids, logprobs=logprobs, old_logprobs=old_logprobs)
    log_ratio = token_log_ratio(logprobs, old_logprobs, where=where)
    num_tokens = segment_sum(where.astype(jnp.float32), segment_ids)
    return segment_sum(log_ratio, segment_ids) / jnp.maximum(num_tokens, 1.0)


def clipped_surrogate(
    ratio: Float32[Array, "rows time"],
    advantages: Float32[Array, "rows time"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> Float32[Array, "rows time"]:
    """min(r A, clip(r) A), not below dual_clip * A for negative A (arXiv:1707.06347, arXiv:1912.09729)."""
    clipped = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
    surrogate = jnp.minimum(ratio * advantages, clipped * advantages)
    if not dual_clip:
        return surrogate
    return jnp.where(advantages < 0, jnp.maximum(surrogate, dual_clip * advantages), surrogate)


def k3_kl(
    logprobs: Float[Array, "rows time"],
    reference_logprobs: Float[Array, "rows time"],
    *,
    where: Bool[Array, "rows time"],
) -> Float32[Array, "rows time"]:
    """exp(d) - d - 1 with d = log pi_ref - log pi: an estimate of KL(pi || pi_ref) at tokens drawn from pi, unbiased
    and never negative (Schulman's k3, as in arXiv:2402.03300); 0 outside `where`."""
    check_tokens(where, logprobs=logprobs, reference_logprobs=reference_logprobs)
    difference = token_log_ratio(reference_logprobs, logprobs, where=where)
    return jnp.expm1(difference) - difference


def token_entropy(logits: Float[Array, "rows time vocab"]) -> Float32[Array, "rows time"]:
    """-sum_v p_v log p_v of each token's distribution, in nats, in float32."""
    logprobs = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)


def soft_overlong_penalty(
    num_tokens: Int[Array, " sequences"], *, max_tokens: int, buffer_tokens: int
) -> Float32[Array, " sequences"]:
    """What DAPO adds to the reward of long completions (arXiv:2503.14476, eq. 13), between 0 and -1; lengths in tokens.

    0 up to max_tokens - buffer_tokens, then a straight line down to -1 at max_tokens and beyond.
    """
    excess = num_tokens.astype(jnp.float32) - (max_tokens - buffer_tokens)
    return -jnp.clip(excess / buffer_tokens, 0.0, 1.0)


def segment_sum(
    values: Float32[Array, "rows time"], segment_ids: Int[Array, "rows time"] | None
) -> Float32[Array, "rows time"]:
    """The sum of `values` over each contiguous segment, at every position of it; None: over each row.

    Two scans of log(time) depth: neither compile time nor work depends on the number of segments, no scatter (whose
    order of addition a GPU does not fix), and rows stay where a mesh put them.
    """
    if segment_ids is None:
        return jnp.broadcast_to(jnp.sum(values, axis=1, keepdims=True), values.shape)
    starts = _starts(segment_ids)
    ends = jnp.concatenate([starts[:, 1:], jnp.ones_like(starts[:, :1])], axis=1)

    def add_within(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        return jnp.where(right[1], right[0], left[0] + right[0]), left[1] | right[1]

    def take_nearest(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        return jnp.where(right[1], right[0], left[0]), left[1] | right[1]

    prefix, _ = jax.lax.associative_scan(add_within, (values, starts), axis=1)
    total, _ = jax.lax.associative_scan(take_nearest, (prefix, ends), axis=1, reverse=True)
    return total


class _Inputs(NamedTuple):
    """Arguments of a loss in float32, masked and of one shape."""

    logprobs: Array
    old_logprobs: Array
    advantages: Array
    weights: Array
    entropy: Array
    where: Array
    segment_ids: Array | None


def _prepare(
    logprobs: Array,
    old_logprobs: Array,
    advantages: Array,
    where: Array | None,
    segment_ids: Array | None,
    importance_weights: Array | None,
    entropy: Array | None,
) -> _Inputs:
    """Masks first: what stands outside `where` may be anything, NaN included."""
    check_tokens(
        where,
        segment_ids,
        logprobs=logprobs,
        old_logprobs=old_logprobs,
        importance_weights=importance_weights,
        entropy=entropy,
        all_without_where=True,
    )
    _check_advantages(advantages, logprobs, segment_ids)
    where = jnp.ones(logprobs.shape, bool) if where is None else where
    advantages = jnp.broadcast_to(advantages[:, None], logprobs.shape) if advantages.ndim == 1 else advantages
    weights = jnp.ones(logprobs.shape) if importance_weights is None else importance_weights
    entropy = -logprobs if entropy is None else entropy
    return _Inputs(
        logprobs=_masked(logprobs, where),
        old_logprobs=_masked(old_logprobs, where),
        advantages=_masked(advantages, where),
        weights=jax.lax.stop_gradient(_masked(weights, where)),
        entropy=jax.lax.stop_gradient(_masked(entropy, where)),
        where=where,
        segment_ids=segment_ids,
    )


def _check_advantages(advantages: Array, logprobs: Array, segment_ids: Array | None) -> None:
    if getattr(advantages, "ndim", 2) != 1:
        return check("advantages", advantages, kind="float", axes="rows time", shape=logprobs.shape, like="logprobs")
    if segment_ids is not None:
        raise ValueError(
            f"advantages is {advantages.dtype} {tuple(advantages.shape)}, but segment_ids packs several sequences into "
            f"a row; expected 'rows time' {tuple(logprobs.shape)}, at every token its sequence's advantage; where each "
            "row is one sequence, leave segment_ids out"
        )
    return check("advantages", advantages, kind="float", axes="rows", shape=logprobs.shape[:1], like="logprobs' rows")


def _masked(values: Array, where: Array) -> Array:
    return jnp.where(where, values.astype(jnp.float32), 0.0)


def _token_log_ratio(inputs: _Inputs) -> Array:
    """log r_t."""
    return token_log_ratio(inputs.logprobs, inputs.old_logprobs, where=inputs.where)


def _sequence_to_token_log_ratio(inputs: _Inputs) -> Array:
    """log s_it: the sequence's log-ratio in value, the token's logprob in gradient."""
    sequence = sequence_log_ratio(
        inputs.logprobs, inputs.old_logprobs, where=inputs.where, segment_ids=inputs.segment_ids
    )
    sequence = jnp.where(inputs.where, sequence, 0.0)
    # The difference is exactly 0; added in another order, the logprob's rounding would swamp a clip range of 3e-4.
    return jax.lax.stop_gradient(sequence) + (inputs.logprobs - jax.lax.stop_gradient(inputs.logprobs))


def _clipped(
    inputs: _Inputs,
    log_ratio: Array,
    aggregate: Callable[[Array, _Inputs], Mean],
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> tuple[Mean, dict[str, Mean | Max]]:
    """The clipped surrogate of `exp(log_ratio)`, aggregated; shares count clips that the advantage feels."""
    ratio = jnp.exp(log_ratio)
    surrogate = clipped_surrogate(ratio, inputs.advantages, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)
    low = inputs.where & (ratio < 1.0 - clip_low) & (inputs.advantages < 0)
    high = inputs.where & (ratio > 1.0 + clip_high) & (inputs.advantages > 0)
    return aggregate(-surrogate * inputs.weights, inputs), _metrics(inputs, ratio, low, high)


def _metrics(inputs: _Inputs, ratio: Array, clipped_low: Array, clipped_high: Array) -> dict[str, Mean | Max]:
    """Over counted tokens.

    clip_low_share, clip_high_share    tokens whose gradient the clip took away on that side (CISPO: weight it cut)
    ratio_mean, ratio_max              of the objective's ratio: a token's or, for GSPO and GSPO+, its sequence's
    approx_kl                          k3 estimate of KL(pi_old || pi) at tokens drawn from pi_old
    entropy                            of the distributions where given; else its estimate -log pi at the tokens drawn
    """
    ratio = jax.lax.stop_gradient(ratio)
    kl = k3_kl(inputs.old_logprobs, jax.lax.stop_gradient(inputs.logprobs), where=inputs.where)
    return {
        "clip_low_share": _over_tokens(clipped_low, inputs),
        "clip_high_share": _over_tokens(clipped_high, inputs),
        "ratio_mean": _over_tokens(ratio, inputs),
        "ratio_max": Max(jnp.max(_masked(ratio, inputs.where), initial=0.0)),
        "approx_kl": _over_tokens(kl, inputs),
        "entropy": _over_tokens(inputs.entropy, inputs),
    }


def _over_tokens(values: Array, inputs: _Inputs) -> Mean:
    return token_mean(values.astype(jnp.float32), where=inputs.where)


def _over_sequences(values: Array, inputs: _Inputs) -> Mean:
    return sequence_mean(values, where=inputs.where, segment_ids=inputs.segment_ids)


def _num_sequences(where: Array, segment_ids: Array | None) -> Array:
    """Sequences with at least one counted token."""
    if segment_ids is None:
        return jnp.sum(jnp.any(where, axis=1), dtype=jnp.float32)
    num_tokens = segment_sum(where.astype(jnp.float32), segment_ids)
    return jnp.sum(_starts(segment_ids) & (num_tokens > 0), dtype=jnp.float32)


def _starts(segment_ids: Array) -> Array:
    """True at the first token of each contiguous segment."""
    changes = segment_ids[:, 1:] != segment_ids[:, :-1]
    return jnp.concatenate([jnp.ones_like(changes[:, :1], shape=(segment_ids.shape[0], 1)), changes], axis=1)
