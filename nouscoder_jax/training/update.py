"""One optimizer step as one compiled function, and the logprobs that objectives compare with.

In: `TrainState`, a `Batch` of fixed shape, how many of its micro-batches hold anything. Out: the next state, and
metrics as floats. Gradients of micro-batches are summed in float32 and divided once by the whole batch's count, so that
the number of micro-batches, a traced number, changes neither the result nor the program: one compilation a row length.
Each device walks its own rows through its shards of the weights (parallel.py); the optimizer is left to the compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from nouscoder_jax import losses, sharding
from nouscoder_jax.config import TrainConfig
from nouscoder_jax.logprobs import token_logprobs
from nouscoder_jax.losses import Max, Mean
from nouscoder_jax.model import qwen3
from nouscoder_jax.model.qwen3 import Architecture, Layers, Qwen3, param_name
from nouscoder_jax.parallel import Parallel, first_row, max_over_rows, over_mesh, sum_gradients, sum_over_rows
from nouscoder_jax.training.objective import (
    LargestDrift,
    Measured,
    Objective,
    make_objective,
    pick_old_logprobs,
    within_bounds,
)
from nouscoder_jax.training.optimizer import make_optimizer, make_schedule
from nouscoder_jax.training.state import TrainState, all_finite, shardings
from nouscoder_jax.types import Batch


class UpdateMetrics(dict[str, float]):
    """What an update has measured, by name. What was measured on nothing is absent.

    Example:
        UpdateMetrics({"loss": -0.02, "entropy": 0.41, "ratio_max": 1.3}, counts={"loss": 4096.0, "entropy": 4096.0})
    """

    counts: dict[str, float]
    """For each mean, of how many tokens (or whatever the objective counts) it is: means join by it."""

    def __init__(self, values: Mapping[str, float], *, counts: Mapping[str, float]) -> None:
        super().__init__(values)
        self.counts = dict(counts)


Update = Callable[..., tuple[TrainState, UpdateMetrics]]
"""update(state, batch, num_micro_batches, old_logprobs=None)"""


def make_update(config: TrainConfig, architecture: Architecture, mesh: Mesh, *, loss_name: str) -> Update:
    """`update(state, batch, num_micro_batches, old_logprobs=None) -> (state, metrics)`; the given state is used up.

    `batch` is of NumPy arrays with a multiple of `experience.rows_per_micro_batch` rows, of which the first
    `num_micro_batches` micro-batches count; with 0 the gradient is zero, but moments still act and decay. With several
    processes all of them call it with the same batch. `old_logprobs` "rows time" is needed where `loss.old_logprobs` is
    recomputed: `make_token_logprobs` gives it. Metrics: loss, grad_norm, learning_rate, num_tokens, and the objective's
    own. The same input gives the same bits on the same machine.

    The returned state is the given one where drift exceeds `loss.max_drift_mean` or `loss.max_drift` (see
    `objective.within_bounds`): metrics then have `drift_exceeded_at`, the index, row * time + position, of the token
    that drifts most. Else, where loss, gradient or new weights are not finite, it is the given one too, and `skipped`
    is 1.
    """
    update_on_mesh = make_update_on_mesh(config, architecture, mesh, loss_name=loss_name)

    def update(
        state: TrainState, batch: Batch, num_micro_batches: int, old_logprobs: np.ndarray | None = None
    ) -> tuple[TrainState, UpdateMetrics]:
        old_logprobs = pick_old_logprobs(config.loss, loss_name, batch, old_logprobs)
        arrays, old = _put((batch, old_logprobs), config, mesh=mesh)
        state, metrics, counts = update_on_mesh(state, arrays, old, jnp.int32(num_micro_batches))
        metrics, counts = jax.device_get((metrics, counts))
        return state, _told(
            {name: float(value) for name, value in metrics.items()},
            {name: float(count) for name, count in counts.items()},
        )

    return update


def _told(values: dict[str, float], counts: dict[str, float]) -> UpdateMetrics:
    """Without what was measured on nothing. Where an engine's logprobs are NaN, drift is exceeded, which says where."""
    is_finite, drift_within_bounds = values.pop("is_finite"), values.pop("drift_within_bounds")
    values["skipped"] = float(drift_within_bounds and not is_finite)
    if drift_within_bounds:
        del values["drift_exceeded_at"]
    empty = {name for name, count in counts.items() if count == 0 and name != "loss"}
    empty |= {name.removesuffix("_mean") + "_max" for name in empty if name.endswith("_mean")}
    return UpdateMetrics(
        {name: value for name, value in values.items() if name not in empty},
        counts={name: count for name, count in counts.items() if name not in empty},
    )


def make_update_on_mesh(
    config: TrainConfig, architecture: Architecture, mesh: Mesh, *, loss_name: str
) -> jax.stages.Wrapped:
    """The jitted function inside `update`: (state, batch, old_logprobs, num_micro_batches) -> (state, metrics, counts),
    arrays of the batch "micro_batches rows time" and all of it on the mesh. For ahead-of-time compilation and tests."""
    optimizer = make_optimizer(config.optimizer)
    layout = shardings(architecture, optimizer, mesh=mesh)
    objective = make_objective(config, loss_name=loss_name)
    micro_batch_loss = partial(_micro_batch_loss, config, objective, over_mesh(mesh))
    specs = jax.tree.map(lambda where: where.spec, layout.model)
    accumulate = jax.shard_map(
        partial(_accumulate, micro_batch_loss),
        mesh=mesh,
        in_specs=(specs, sharding.MICRO_BATCHES_SPEC, sharding.MICRO_BATCHES_SPEC, P()),
        out_specs=(specs, P()),
        check_vma=False,  # parallel.py states every sum over devices itself
    )

    replicated = sharding.replicated(mesh)

    @partial(jax.jit, donate_argnums=0, out_shardings=(layout, replicated, replicated))
    def update_on_mesh(
        state: TrainState, batch: Batch, old_logprobs: Array, num_micro_batches: Array
    ) -> tuple[TrainState, dict[str, Array], dict[str, Array]]:
        grads, measured = accumulate(state.model, batch, old_logprobs, num_micro_batches)
        grads = jax.tree.map(lambda grad: grad / jnp.maximum(measured.loss.count, 1.0), grads)
        model: Any = state.model  # a pytree of arrays, which optax's types cannot say
        updates, opt_state = optimizer.update(grads, state.opt_state, model)
        model = optax.apply_updates(model, updates)
        metrics: dict[str, Any] = {name: metric.value() for name, metric in measured.metrics.items()}
        metrics |= {
            "loss": measured.loss.value(),
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": make_schedule(config.optimizer)(state.update_count),
            "num_tokens": measured.num_tokens,
            "drift_within_bounds": jnp.bool_(True),
            "drift_exceeded_at": measured.largest_drift.index,
        }
        if loss_name != "supervised" and (config.loss.max_drift_mean or config.loss.max_drift):
            drift_mean = metrics["on_policy_drift_mean"]
            metrics["drift_within_bounds"] = within_bounds(config.loss, drift_mean, measured.largest_drift.drift)
        metrics["is_finite"] = all_finite((metrics["loss"], metrics["grad_norm"], model))
        taken = metrics["is_finite"] & metrics["drift_within_bounds"]
        after = TrainState(model, opt_state, state.update_count + 1)
        after = jax.tree.map(lambda new, old: jnp.where(taken, new, old), after, state)
        means = measured.metrics | {"loss": measured.loss}
        counts = {name: metric.count for name, metric in means.items() if isinstance(metric, Mean)}
        return after, metrics, counts

    return update_on_mesh


def make_token_logprobs(config: TrainConfig, mesh: Mesh) -> Callable[[Qwen3, Batch, int], np.ndarray]:
    """`token_logprobs_of(model, batch, num_micro_batches) -> "rows time"` float32: the trainer's own logprobs of
    `batch.targets` in the first micro-batches, 0 in the others, which are not computed.

    Taken before a batch's first update they are `old_logprobs`. With several processes all of them call it with the
    same batch, and get all of them.
    """

    def of_one_device(model: Qwen3, batch: Batch, num_micro_batches: Array) -> Array:
        def add(index: Array, so_far: Array) -> Array:
            micro_batch = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), batch)
            logprobs = _model_logprobs(config, over_mesh(mesh), model, None, micro_batch)[0]
            return jax.lax.dynamic_update_index_in_dim(so_far, logprobs, index, axis=0)

        return jax.lax.fori_loop(0, num_micro_batches, add, jnp.zeros(batch.tokens.shape, jnp.float32))

    @partial(jax.jit, out_shardings=sharding.replicated(mesh))
    def on_mesh(model: Qwen3, batch: Batch, num_micro_batches: Array) -> Array:
        specs = sharding.specs_of(model, mesh=mesh)
        rows = sharding.MICRO_BATCHES_SPEC
        on_devices = jax.shard_map(
            of_one_device, mesh=mesh, in_specs=(specs, rows, P()), out_specs=rows, check_vma=False
        )
        return on_devices(model, batch, num_micro_batches)

    def token_logprobs_of(model: Qwen3, batch: Batch, num_micro_batches: int) -> np.ndarray:
        (arrays,) = _put((batch,), config, mesh=mesh)
        return sharding.whole(on_mesh(model, arrays, jnp.int32(num_micro_batches))).reshape(batch.tokens.shape)

    return token_logprobs_of


def _accumulate(
    micro_batch_loss: Callable[..., tuple[Array, Measured]],
    model: Qwen3,
    batch: Batch,
    old_logprobs: Array,
    num_micro_batches: Array,
) -> tuple[Any, Measured]:
    """Gradients and what was measured, summed over the first micro-batches; on one device of the mesh, with its shards
    and rows. The loop's length is a traced number: the gradient is taken inside the body, so nothing has to be
    differentiated through the loop."""

    def one(grads_so_far: Any, index: Array) -> tuple[Any, Measured]:
        inputs = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), (batch, old_logprobs))
        loss_and_grads = jax.value_and_grad(micro_batch_loss, has_aux=True)
        (_, measured), grads = loss_and_grads(model, grads_so_far.layers, *inputs)

        def add(path: tuple[Any, ...], total: Array, new: Array) -> Array:
            return new if param_name(path).startswith("layers/") else total + new  # layers were added on the way

        return jax.tree.map_with_path(add, grads_so_far, grads), measured

    def step(index: Array, so_far: tuple[Any, Measured]) -> tuple[Any, Measured]:
        grads, new = one(so_far[0], index)
        before = so_far[1]
        rows, time = old_logprobs.shape[1:]
        loss, metrics = losses.add((before.loss, before.metrics), (new.loss, new.metrics))
        drift, index_here = new.largest_drift
        here = LargestDrift(drift, index_here + first_row(index, rows) * time)
        largest = jax.tree.map(partial(jnp.where, drift > before.largest_drift.drift), here, before.largest_drift)
        return grads, Measured(loss, metrics, before.num_tokens + new.num_tokens, largest)

    grads = jax.tree.map(jnp.zeros_like, model)
    shapes = jax.eval_shape(one, grads, jnp.int32(0))[1]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    grads, measured = jax.lax.fori_loop(0, num_micro_batches, step, (grads, zeros))
    return sum_gradients(grads), _over_rows(measured)


def _over_rows(measured: Measured) -> Measured:
    """The same over all devices."""
    means = {name: metric for name, metric in measured.metrics.items() if isinstance(metric, Mean)}
    maxima = {name: metric for name, metric in measured.metrics.items() if isinstance(metric, Max)}
    loss, means, num_tokens = sum_over_rows((measured.loss, means, measured.num_tokens))
    maxima, drift = max_over_rows((maxima, measured.largest_drift.drift))
    is_here = measured.largest_drift.drift == drift
    index = -max_over_rows(jnp.where(is_here, -measured.largest_drift.index, -jnp.iinfo(jnp.int32).max))
    return Measured(loss, means | maxima, num_tokens, LargestDrift(drift, index))


def _micro_batch_loss(
    config: TrainConfig,
    objective: Objective,
    parallel: Parallel,
    model: Qwen3,
    gradient_sums: Layers,
    batch: Batch,
    old_logprobs: Array,
) -> tuple[Array, Measured]:
    """The loss's sum, which is differentiated; and what one micro-batch's rows here measure."""
    logprobs, entropy = _model_logprobs(config, parallel, model, gradient_sums, batch)
    measured = objective(logprobs, entropy, old_logprobs, batch)
    return measured.loss.total, jax.lax.stop_gradient(measured)


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


def _put(arrays: Any, config: TrainConfig, *, mesh: Mesh) -> Any:
    """ "rows time" on the host becomes "micro_batches rows time" on the mesh."""
    rows = config.experience.rows_per_micro_batch

    def split(array: np.ndarray) -> np.ndarray:
        if array.shape[0] % rows:
            raise ValueError(f"batch has {array.shape[0]} rows; it must be a multiple of rows_per_micro_batch ({rows})")
        return np.asarray(array).reshape(-1, rows, array.shape[1])

    return sharding.put_micro_batches(jax.tree.map(split, arrays), mesh=mesh)
