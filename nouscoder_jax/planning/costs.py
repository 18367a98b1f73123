"""How long an update takes: a roofline whose every assumption is named.

In: an architecture, a config, a compiled `Program`, a fleet. Out: `UpdateCost`, `Workload`. FLOPs are counted by
formula (a compiler's own count misses what loops repeat); collectives are those of the compiled program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.planning.fleet import LINK_EFFICIENCY, USABLE_MEMORY, Fleet
from nouscoder_jax.planning.hlo import Collective
from nouscoder_jax.planning.sizes import Flops, executed_flops, forward_flops, model_flops, parameter_count

MATMUL_EFFICIENCY = 0.6
"""Share of the peak that large bf16 products reach. Llama 3 reports 400 to 430 of H100's 989 TFLOP/s for whole steps
of a larger model, attention and waiting included (arXiv:2407.21783, table 4)."""

ATTENTION_EFFICIENCY = 0.35
"""Share of the peak that flash attention reaches: FlashAttention-2 on H100 (arXiv:2407.08608, abstract)."""

MEMORY_EFFICIENCY = 0.8
"""Share of the memory bandwidth that streaming passes reach."""

PACKING_EFFICIENCY = 0.9
"""Share of a batch's positions that hold tokens; the rest is padding at the ends of rows."""

OPTIMIZER_BYTES = 7 * 4
"""Bytes that AdamW moves a parameter: weight, gradient and two moments read, weight and moments written, in float32."""

PROMPT_TOKENS = 600
"""Mean tokens of a prompt: a competitive problem with its template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one step of the loop makes and trains on.

    Example:
        Workload(prompt_tokens=600, completion_tokens=15360, trained_sequences=768, generated_sequences=1536,
                 row_tokens=32768, rows=416, updates=2)
    """

    prompt_tokens: int
    """Mean."""
    completion_tokens: int
    """Mean."""
    trained_sequences: int
    generated_sequences: int
    """More than trained, where groups of equal rewards are dropped."""
    row_tokens: int
    rows: int
    """Packed rows of one step."""
    updates: int

    @property
    def sequence_tokens(self) -> int:
        """Mean length of a sequence."""
        return self.prompt_tokens + self.completion_tokens

    def micro_batches(self, rows_per_micro_batch: int) -> int:
        """Micro-batches of one update."""
        return max(1, math.ceil(self.rows / self.updates / rows_per_micro_batch))


def make_workload(config: TrainConfig, *, completion_tokens: int, kept_groups: float) -> Workload:
    """The step of a config with completions of this mean length, of whose groups this share has unequal rewards."""
    sequences = config.rollout.groups_per_step * config.rollout.group_size
    prompt = min(PROMPT_TOKENS, config.data.max_prompt_tokens)
    tokens = sequences * (prompt + completion_tokens)
    return Workload(
        prompt_tokens=prompt,
        completion_tokens=completion_tokens,
        trained_sequences=sequences,
        generated_sequences=math.ceil(sequences / kept_groups) if config.experience.drop_equal_groups else sequences,
        row_tokens=config.experience.row_tokens,
        rows=math.ceil(tokens / (config.experience.row_tokens * PACKING_EFFICIENCY)),
        updates=config.experience.updates_per_batch,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateCost:
    """Time and FLOPs of one GPU.

    Example:
        UpdateCost(model_flops=..., executed_flops=..., compute_s=3.1, looped_collectives_s=0.4, forward_s=1.0,
                   once_s=0.02, mfu=0.43)
    """

    model_flops: Flops
    """Of one micro-batch on one GPU, as MFU counts them."""
    executed_flops: Flops
    """The same, with what is computed again."""
    compute_s: float
    """One micro-batch, products and attention."""
    looped_collectives_s: float
    """Collectives of one micro-batch."""
    forward_s: float
    """One micro-batch, forward pass only: logprobs that are recomputed before the first update."""
    once_s: float
    """What an update does once: sums over replicas, the optimizer."""
    mfu: float
    """Of a micro-batch, collectives not hidden."""

    @property
    def micro_batch_s(self) -> float:
        """One micro-batch, with no collective hidden behind compute."""
        return self.compute_s + self.looped_collectives_s

    @property
    def overlapped_micro_batch_s(self) -> float:
        """One micro-batch, with all collectives hidden as far as compute lasts."""
        return max(self.compute_s, self.looped_collectives_s)

    def training_s(self, *, micro_batches: int, updates: int, recomputed: bool) -> float:
        """Training of one step: `updates` of so many micro-batches, and the forward pass before them."""
        forward = self.forward_s * micro_batches if recomputed else 0.0
        return updates * (micro_batches * self.micro_batch_s + self.once_s + forward)


def update_cost(
    a: Architecture,
    config: TrainConfig,
    fleet: Fleet,
    collectives: list[Collective],
    *,
    rows_per_gpu: int,
    sequence_tokens: float,
) -> UpdateCost:
    """The roofline of an update on each GPU of the fleet; tensor shards share a row's FLOPs.

    Compute is FLOPs over the stated shares of the peak; a collective is its bytes on a ring over the slowest link of
    its group; the optimizer is a pass over memory.
    """
    tokens = rows_per_gpu * config.experience.row_tokens
    forward = forward_flops(a, num_tokens=tokens, sequence_tokens=min(sequence_tokens, config.experience.row_tokens))
    share = 1.0 / config.mesh.tensor
    forward = forward.times(layers=share, attention=share, logits=share)
    model, executed = model_flops(forward), executed_flops(forward, remat=config.model.remat)
    compute = _compute_s(executed, fleet)
    looped = math.fsum(_seconds(one, fleet) for one in collectives if one.in_open_loop)
    shards = config.mesh.fsdp * config.mesh.tensor
    optimizer = parameter_count(a) / shards * OPTIMIZER_BYTES / (fleet.gpu.memory_bandwidth * MEMORY_EFFICIENCY)
    return UpdateCost(
        model_flops=model,
        executed_flops=executed,
        compute_s=compute,
        looped_collectives_s=looped,
        # A forward pass gathers weights once; forward and backward gather them twice and scatter gradients.
        forward_s=_compute_s(forward, fleet) + looped / 4,
        once_s=math.fsum(_seconds(one, fleet) for one in collectives if not one.in_open_loop) + optimizer,
        mfu=model.total / ((compute + looped) * fleet.gpu.peak_flops),
    )


def _compute_s(flops: Flops, fleet: Fleet) -> float:
    products = (flops.layers + flops.logits) / MATMUL_EFFICIENCY
    return (products + flops.attention / ATTENTION_EFFICIENCY) / fleet.gpu.peak_flops


def _seconds(collective: Collective, fleet: Fleet) -> float:
    return collective.count * collective.wire_bytes / fleet.bus_bandwidth(collective.group)


def assumptions(workload: Workload, *, kept_groups: float) -> list[str]:
    """Every assumption behind the predicted times, for people."""
    return [
        f"bf16 products reach {MATMUL_EFFICIENCY:.0%} of the peak, flash attention {ATTENTION_EFFICIENCY:.0%}, memory "
        f"passes {MEMORY_EFFICIENCY:.0%}, links {LINK_EFFICIENCY:.0%} of theirs",
        "collectives are not hidden behind compute (the figure called overlapped: all that can be)",
        f"completions have {workload.completion_tokens:,} tokens in the mean (--completion-tokens), prompts "
        f"{workload.prompt_tokens:,}; attention is counted for rows of sequences of that length",
        f"{PACKING_EFFICIENCY:.0%} of a batch's positions hold tokens; {kept_groups:.0%} of the groups drawn have "
        "unequal rewards (--kept-groups)",
        f"a program may take {USABLE_MEMORY:.0%} of a GPU's memory (XLA_PYTHON_CLIENT_MEM_FRACTION={USABLE_MEMORY})",
    ]
