"""Knobs of the policy and its training: model, mesh, objective, optimizer.

Frozen, validated sections of TrainConfig.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nouscoder_jax.config.errors import check

LossName = Literal["grpo", "dr_grpo", "dapo", "gspo", "gspo_plus", "cispo"]
"""Every objective that a run can train with: `dapo` is `dapo_loss` of nouscoder_jax/losses.py, and so on."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The policy that the run starts from and how it is computed."""

    path: str
    """Hugging Face directory (config.json, *.safetensors, tokenizer) or hub id of a Qwen3 model."""
    compute_dtype: Literal["float32", "bfloat16"]
    """Dtype of activations and of weights at their use. Master weights are always float32."""
    attention: Literal["reference", "cudnn", "pallas"]
    """reference: any device, plain jax. pallas: the GPU kernel for packed rows, kernels/nouscoder_kernels. cudnn: GPU,
    one sequence a row. What the device or the shapes do not allow is refused."""
    remat: Literal["none", "layer"]
    """What the backward pass recomputes: nothing, or each layer from its input."""
    logits_mib: int
    """Float32 logits that exist at once on one device, in MiB: the vocabulary is walked in chunks of this size."""

    yarn_factor: float
    """YaRN (arXiv:2309.00071): how many times model.yarn_original_tokens the context is, in trainer and engines alike.
    1: the rope of the model's own config.json."""
    yarn_original_tokens: int
    """Positions that the model was trained on, where model.yarn_factor is above 1. Qwen3: 32768."""

    def __post_init__(self) -> None:
        check(self.logits_mib > 0, f"model.logits_mib is {self.logits_mib}; use 1 or more")
        check(self.yarn_factor >= 1, f"model.yarn_factor is {self.yarn_factor}; use 1 (off) or more")
        check(
            self.yarn_original_tokens >= 1, f"model.yarn_original_tokens is {self.yarn_original_tokens}; use 1 or more"
        )


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices as a grid of mesh axes `data` x `fsdp` x `tensor`; the product is the number of devices."""

    data: int
    """Replicas of the weights; each sees its own rows."""
    fsdp: int
    """Shards of weights, gradients and optimizer moments; each also sees its own rows."""
    tensor: int
    """Shards of heads and of the MLP's inner dimension; all see the same rows."""
    num_processes: int
    """Processes of jax.distributed, usually one for each machine with GPUs. 1: this process alone."""
    coordinator_address: str
    """host:port of process 0, where num_processes > 1; each process's number is in NOUSCODER_PROCESS_ID then. Empty:
    Slurm, OpenMPI and Kubernetes know both; elsewhere JAX_COORDINATOR_ADDRESS has the address."""

    def __post_init__(self) -> None:
        for axis in ("data", "fsdp", "tensor", "num_processes"):
            check(getattr(self, axis) >= 1, f"mesh.{axis} is {getattr(self, axis)}; use 1 or more")
        check(
            not self.coordinator_address or ":" in self.coordinator_address,
            f"mesh.coordinator_address is {self.coordinator_address!r}; it must be host:port of process 0, or empty",
        )
        check(
            self.num_devices % self.num_processes == 0,
            f"mesh.num_processes is {self.num_processes}; it must be a divisor of the mesh's {self.num_devices} "
            f"devices (data {self.data} x fsdp {self.fsdp} x tensor {self.tensor})",
        )

    @property
    def num_devices(self) -> int:
        """Devices that the mesh needs."""
        return self.data * self.fsdp * self.tensor

    @property
    def num_row_shards(self) -> int:
        """Groups of devices that see rows of their own: data x fsdp."""
        return self.data * self.fsdp


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The objective; formulas in nouscoder_jax/losses.py."""

    name: LossName
    """Which function of nouscoder_jax.losses."""
    clip_low: float
    """The ratio is clipped at 1 - clip_low."""
    clip_high: float
    """The ratio is clipped at 1 + clip_high."""
    dual_clip: float
    """Bound c on the loss of negative advantages, -c A. 0: off, as with cispo, which clips no loss."""
    old_logprobs: Literal["behavior", "recomputed"]
    """Denominator of the ratio: the engine's logprobs, or the trainer's own before the batch's first update."""
    correction: Literal["none", "truncated", "icepop", "sequence_rejection", "decoupled"]
    """What is done where engine and trainer disagree, with recomputed old_logprobs; k: the trainer's probability of a
    token over the engine's. truncated: weights min(k, max_ratio). icepop: weights k inside [min_ratio, max_ratio],
    else 0. sequence_rejection: no sequence whose geometric mean of k is outside. decoupled: weights k."""
    min_ratio: float
    """Lower bound of the correction. 0: none."""
    max_ratio: float
    """Upper bound of the correction. 0 where it has none (none, decoupled)."""
    max_drift_mean: float
    """A larger mean of |trainer's - engine's logprob|, in nats, stops the run before an update: over the probe of
    every version, and over tokens drawn with the very weights that are trained. 0: off."""
    max_drift: float
    """The same for the largest of these differences. 0: off."""

    def __post_init__(self) -> None:
        check(0 < self.clip_low < 1, f"loss.clip_low is {self.clip_low}; use a number between 0 and 1")
        check(self.clip_high > 0, f"loss.clip_high is {self.clip_high}; use more than 0")
        check(
            self.dual_clip == 0 or self.dual_clip > 1, f"loss.dual_clip is {self.dual_clip}; use 0 (off) or more than 1"
        )
        check(
            self.dual_clip == 0 or self.name != "cispo",
            f"loss.dual_clip is {self.dual_clip}, which cispo has no use for; set --loss.dual-clip 0",
        )
        check(
            self.correction == "none" or self.old_logprobs == "recomputed",
            f"loss.correction is {self.correction}, which corrects recomputed old_logprobs; set "
            "--loss.old-logprobs recomputed, or --loss.correction none",
        )
        expected = _RATIO_BOUNDS[self.correction]
        check(
            (self.min_ratio > 0) <= ("min" in expected) and (self.max_ratio > 0) == ("max" in expected),
            f"loss.min_ratio is {self.min_ratio} and loss.max_ratio is {self.max_ratio}; loss.correction "
            f"{self.correction} takes {expected}",
        )
        check(
            0 <= self.min_ratio <= self.max_ratio,
            f"loss.min_ratio is {self.min_ratio}; use 0 or more, and not above loss.max_ratio ({self.max_ratio})",
        )
        for name in ("max_drift_mean", "max_drift"):
            check(getattr(self, name) >= 0, f"loss.{name} is {getattr(self, name)}; use 0 (off) or more")


_RATIO_BOUNDS = {
    "none": "0 and 0",
    "truncated": "0 and a max_ratio above 0, usually 2",
    "icepop": "a min_ratio and a max_ratio above it, usually 0.5 and 5",
    "sequence_rejection": "a min_ratio and a max_ratio above it, close to 1, for example 0.99 and 1.01",
    "decoupled": "0 and 0",
}


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (arXiv:1711.05101) with a linear warm-up, then constant."""

    learning_rate: float
    """Peak learning rate. 0: weights never change."""
    warmup_updates: int
    """Updates over which the learning rate rises from 0."""
    beta1: float
    """Decay of the first moment."""
    moments: Literal["float32", "bfloat16", "factored"]
    """What a parameter's moments take: 8 bytes; 6 (the first moment in bfloat16); 2 (and the second as a row and a
    column of each matrix, as in Adafactor, arXiv:1804.04235, with beta2 for its decay)."""
    beta2: float
    """Decay of the second moment."""
    epsilon: float
    """Added to the root of the second moment."""
    weight_decay: float
    """Decoupled decay of matrices; norms and embeddings are left alone."""
    max_grad_norm: float
    """Gradients are scaled down to this global norm."""
    max_skipped: int
    """Updates in a row, not taken because loss, gradient or new weights were not finite, at which the run ends."""

    def __post_init__(self) -> None:
        check(self.learning_rate >= 0, f"optimizer.learning_rate is {self.learning_rate}; use 0 or more")
        check(self.warmup_updates >= 0, f"optimizer.warmup_updates is {self.warmup_updates}; use 0 or more")
        for name in ("beta1", "beta2"):
            check(
                0 <= getattr(self, name) < 1,
                f"optimizer.{name} is {getattr(self, name)}; use 0 up to, not including, 1",
            )
        check(self.epsilon > 0, f"optimizer.epsilon is {self.epsilon}; use more than 0")
        check(self.weight_decay >= 0, f"optimizer.weight_decay is {self.weight_decay}; use 0 or more")
        check(self.max_grad_norm > 0, f"optimizer.max_grad_norm is {self.max_grad_norm}; use more than 0")
        check(self.max_skipped >= 1, f"optimizer.max_skipped is {self.max_skipped}; use 1 or more")
