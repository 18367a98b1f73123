"""One optimizer step as one compiled function, and the logprobs that objectives compare with.

In: `TrainState`, a `Batch` of fixed shape, how many of its micro-batches hold anything. Out: the next state, and
metrics as floats. Gradients of micro-batches are summed in float32 and divided once by the whole batch's count, so that
the number of micro-batches, a traced number, changes neither the result nor the program: one compilation a row length.
Each device walks its own rows through its shards of the weights (parallel.py); the optimizer is left to the compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P  # noqa: N817 (jax's own abbreviation)
from jaxtyping import Array, Float32

from nouscoder_jax import losses, sharding
from nouscoder_jax.config import LossConfig, TrainConfig
from nouscoder_jax.logprobs import token_logprobs
from nouscoder_jax.losses import Mean
from nouscoder_jax.model import qwen3
from nouscoder_jax.model.qwen3 import Architecture, Layers, Qwen3, param_name
from nouscoder_jax.parallel import Parallel, max_over_rows, over_mesh, sum_gradients, sum_over_rows
from nouscoder_jax.training.optimizer import make_optimizer, make_schedule
from nouscoder_jax.training.state import TrainState, shardings
from nouscoder_jax.types import Batch

LOSSES: dict[str, Callable[..., tuple[Mean, dict[str, Mean]]]] = {
    "grpo": losses.grpo_loss,
    "dr_grpo": losses.dr_grpo_loss,
    "dapo": losses.dapo_loss,
    "gspo": losses.gspo_loss,
    "gspo_plus": losses.gspo_plus_loss,
    "cispo": losses.cispo_loss,
    "supervised": losses.supervised_loss,
}
"""Every objective by name; `supervised` is the warm start's and no choice of LossConfig."""

Update = Callable[..., tuple[TrainState, dict[str, float]]]
"""update(state, batch, num_micro_batches, old_logprobs=None)"""


class _Sums(NamedTuple):
    """What micro-batches add up to."""

    grads: Any
    loss: Mean
    metrics: dict[str, Mean]
    maxima: dict[str, Float32[Array, ""]]


def make_update(config: TrainConfig, architecture: Architecture, mesh: Mesh, *, loss_name: str) -> Update:
    """`update(state, batch, num_micro_batches, old_logprobs=None) -> (state, metrics)`; the given state is used up.

    `batch` is of NumPy arrays with a multiple of `experience.rows_per_micro_batch` rows, of which the first
    `num_micro_batches` micro-batches count; with 0 the gradient is zero, but moments still act and decay. (With several
    processes: each one's own rows, its share of every micro-batch.) `old_logprobs` "rows time" comes from
    `make_token_logprobs` where `loss.old_logprobs` is "recomputed". Metrics: loss, grad_norm, learning_rate, entropy,
    num_tokens, drift_mean and drift_max (|logprob - behavior logprob| in nats), ratio_max (of tokens), and the
    objective's own. The same input gives the same bits on the same machine.
    """
    update_on_mesh = make_update_on_mesh(config, architecture, mesh, loss_name=loss_name)

    def update(
        state: TrainState, batch: Batch, num_micro_batches: int, old_logprobs: np.ndarray | None = None
    ) -> tuple[TrainState, dict[str, float]]:
        old_logprobs = _pick_old_logprobs(config.loss, loss_name, batch, old_logprobs)
        arrays, old = _put((batch, old_logprobs), config, mesh=mesh)
        state, metrics = update_on_mesh(state, arrays, old, jnp.int32(num_micro_batches))
        return state, {name: float(value) for name, value in jax.device_get(metrics).items()}

    return update


def make_update_on_mesh(
    config: TrainConfig, architecture: Architecture, mesh: Mesh, *, loss_name: str
) -> jax.stages.Wrapped:
    """The jitted function inside `update`: (state, batch, old_logprobs, num_micro_batches) -> (state, metrics), arrays
    of the batch "micro_batches rows time" and all of it on the mesh. For ahead-of-time compilation and tests."""
    optimizer = make_optimizer(config.optimizer)
    layout = shardings(architecture, optimizer, mesh=mesh)
    micro_batch_loss = partial(_micro_batch_loss, config, _bind_loss(config, loss_name), over_mesh(mesh))
    specs = jax.tree.map(lambda where: where.spec, layout.model)
    accumulate = jax.shard_map(
        partial(_accumulate, micro_batch_loss),
        mesh=mesh,
        in_specs=(specs, sharding.MICRO_BATCHES_SPEC, sharding.MICRO_BATCHES_SPEC, P()),
        out_specs=(specs, P(), P(), P()),
        check_vma=False,  # parallel.py states every sum over devices itself
    )

    @partial(jax.jit, donate_argnums=0, out_shardings=(layout, sharding.replicated(mesh)))
    def update_on_mesh(
        state: TrainState, batch: Batch, old_logprobs: Array, num_micro_batches: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        sums = _Sums(*accumulate(state.model, batch, old_logprobs, num_micro_batches))
        grads = jax.tree.map(lambda grad: grad / jnp.maximum(sums.loss.count, 1.0), sums.grads)
        model: Any = state.model  # a pytree of arrays, which optax's types cannot say
        updates, opt_state = optimizer.update(grads, state.opt_state, model)
        model = optax.apply_updates(model, updates)
        metrics: dict[str, Any] = {name: mean.value() for name, mean in sums.metrics.items()}
        metrics |= {
            "loss": sums.loss.value(),
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": make_schedule(config.optimizer)(state.update_count),
            "num_tokens": sums.metrics["entropy"].count,
        }
        metrics |= sums.maxima
        return TrainState(model, opt_state, state.update_count + 1), metrics

    return update_on_mesh


def make_token_logprobs(config: TrainConfig, mesh: Mesh) -> Callable[[Qwen3, Batch], np.ndarray]:
    """`token_logprobs_of(model, batch) -> "rows time"` float32: the trainer's own logprobs of `batch.targets`.

    Taken before a batch's first update they are `old_logprobs`. One process: rows come back to the host whole.
    """

    def of_one_device(model: Qwen3, batch: Batch) -> Array:
        def of_micro_batch(micro_batch: Batch) -> Array:
            return _model_logprobs(config, over_mesh(mesh), model, None, micro_batch)[0]

        return jax.lax.map(of_micro_batch, batch)

    @jax.jit
    def on_mesh(model: Qwen3, batch: Batch) -> Array:
        specs = sharding.specs_of(model, mesh=mesh)
        rows = sharding.MICRO_BATCHES_SPEC
        on_devices = jax.shard_map(of_one_device, mesh=mesh, in_specs=(specs, rows), out_specs=rows, check_vma=False)
        return on_devices(model, batch)

    def token_logprobs_of(model: Qwen3, batch: Batch) -> np.ndarray:
        (arrays,) = _put((batch,), config, mesh=mesh)
        return np.asarray(jax.device_get(on_mesh(model, arrays))).reshape(batch.tokens.shape)

    return token_logprobs_of


def _accumulate(
    micro_batch_loss: Callable[..., tuple[Array, tuple[Mean, dict[str, Mean], dict[str, Array]]]],
    model: Qwen3,
    batch: Batch,
    old_logprobs: Array,
    num_micro_batches: Array,
) -> tuple[Any, ...]:
    """`_Sums` of gradients, losses and metrics over the first micro-batches; on one device of the mesh, with its shards
    and rows. The loop's length is a traced number: the gradient is taken inside the body, so nothing has to be
    differentiated through the loop."""

    def one(grads_so_far: Any, index: Array) -> _Sums:
        inputs = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), (batch, old_logprobs))
        loss_and_grads = jax.value_and_grad(micro_batch_loss, has_aux=True)
        (_, (loss, metrics, maxima)), grads = loss_and_grads(model, grads_so_far.layers, *inputs)

        def add(path: tuple[Any, ...], total: Array, new: Array) -> Array:
            return new if param_name(path).startswith("layers/") else total + new  # layers were added on the way

        return _Sums(jax.tree.map_with_path(add, grads_so_far, grads), loss, metrics, maxima)

    def step(index: Array, sums: _Sums) -> _Sums:
        new = one(sums.grads, index)
        loss, metrics = jax.tree.map(jnp.add, sums[1:3], new[1:3])
        return _Sums(new.grads, loss, metrics, jax.tree.map(jnp.maximum, sums.maxima, new.maxima))

    grads = jax.tree.map(jnp.zeros_like, model)
    shapes = jax.eval_shape(one, grads, jnp.int32(0))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes._replace(grads=None))
    sums = jax.lax.fori_loop(0, num_micro_batches, step, zeros._replace(grads=grads))
    loss, metrics = sum_over_rows((sums.loss, sums.metrics))
    return sum_gradients(sums.grads), loss, metrics, max_over_rows(sums.maxima)


def _micro_batch_loss(
    config: TrainConfig,
    loss: Callable[..., tuple[Mean, dict[str, Mean]]],
    parallel: Parallel,
    model: Qwen3,
    gradient_sums: Layers,
    batch: Batch,
    old_logprobs: Array,
) -> tuple[Array, tuple[Mean, dict[str, Mean], dict[str, Array]]]:
    """The loss's sum, which is differentiated; and loss, metrics and maxima of one micro-batch's rows here."""
    logprobs, entropy = _model_logprobs(config, parallel, model, gradient_sums, batch)
    mean, metrics = loss(logprobs, old_logprobs, batch)
    where = batch.loss_mask
    num_tokens = jnp.sum(where, dtype=jnp.float32)
    fixed = jax.lax.stop_gradient(logprobs)
    drift = jnp.where(where, jnp.abs(fixed - batch.behavior_logprobs), 0.0)
    log_ratio = jnp.where(where, losses.token_log_ratio(fixed, old_logprobs, where=where), -jnp.inf)
    metrics = metrics | {
        "entropy": Mean(jnp.sum(jnp.where(where, entropy, 0.0)), num_tokens),
        "drift_mean": Mean(jnp.sum(drift), num_tokens),
    }
    maxima = {"drift_max": jnp.max(drift), "ratio_max": jnp.exp(jnp.max(log_ratio))}
    return mean.total, (mean, jax.lax.stop_gradient(metrics), maxima)


def _model_logprobs(
    config: TrainConfig, parallel: Parallel, model: Qwen3, gradient_sums: Layers | None, batch: Batch
) -> tuple[Array, Array]:
    """Logprobs of the targets and entropy, at the temperature that completions are sampled with."""
    hidden = qwen3.forward_shards(
        model,
        batch.tokens,
        batch.positions,
        batch.segment_ids,
        compute_dtype=config.model.compute_dtype,
        attention=config.model.attention,
        remat=config.model.remat,
        gradient_sums=gradient_sums,
        parallel=parallel,
    )
    return token_logprobs(
        hidden,
        qwen3.output_embedding(model),
        batch.targets,
        temperature=config.rollout.temperature,
        logits_mib=config.model.logits_mib,
        shards=parallel.vocab_shards(),
    )


def _bind_loss(config: TrainConfig, loss_name: str) -> Callable[[Array, Array, Batch], tuple[Mean, dict[str, Mean]]]:
    """The objective with its knobs, as a function of (logprobs, old_logprobs, batch)."""
    function = LOSSES[loss_name]
    if loss_name == "supervised":
        return lambda logprobs, _, batch: function(logprobs, where=batch.loss_mask)
    knobs: dict[str, float] = {"clip_low": config.loss.clip_low, "clip_high": config.loss.clip_high}
    if loss_name != "cispo":
        knobs["dual_clip"] = config.loss.dual_clip
    if loss_name == "dr_grpo":
        knobs["normalizer_tokens"] = float(config.rollout.max_completion_tokens)

    def bound(logprobs: Array, old_logprobs: Array, batch: Batch) -> tuple[Mean, dict[str, Mean]]:
        where = batch.loss_mask
        weights = None
        if config.loss.max_importance_weight:
            weights = losses.truncated_importance_weights(
                old_logprobs, batch.behavior_logprobs, where=where, max_weight=config.loss.max_importance_weight
            )
        return function(
            logprobs,
            old_logprobs,
            batch.advantages,
            where=where,
            segment_ids=batch.segment_ids,
            importance_weights=weights,
            **knobs,
        )

    return bound


def _pick_old_logprobs(config: LossConfig, loss_name: str, batch: Batch, old_logprobs: np.ndarray | None) -> np.ndarray:
    """The denominator of the ratio. Raises ValueError where it should have been recomputed and was not."""
    if config.old_logprobs == "behavior" or loss_name == "supervised":
        return batch.behavior_logprobs
    if old_logprobs is None:
        raise ValueError("loss.old_logprobs is recomputed: give update the logprobs from make_token_logprobs")
    return old_logprobs


def _put(arrays: Any, config: TrainConfig, *, mesh: Mesh) -> Any:
    """ "rows time" on the host becomes "micro_batches rows time" on the mesh."""
    rows = config.experience.rows_per_micro_batch // jax.process_count()

    def split(array: np.ndarray) -> np.ndarray:
        if array.shape[0] % rows:
            raise ValueError(f"batch has {array.shape[0]} rows; it must be a multiple of rows_per_micro_batch ({rows})")
        return np.asarray(array).reshape(-1, rows, array.shape[1])

    return sharding.put_micro_batches(jax.tree.map(split, arrays), mesh=mesh)
