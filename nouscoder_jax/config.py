"""Every knob of a run: frozen, typed, validated.

In: nothing. Out: `TrainConfig`, built by `configs/NAME.py`, overridden on the command line (`nouscoder_jax.cli`).
Standard library only, so that reading a config never imports jax. No module below this one gives a knob a default.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal


class UserError(Exception):
    """A mistake the user can mend: one line that says what was got, what was expected and the fix. Exit code 2."""


def check(condition: bool, message: str) -> None:
    """Raises ValueError(message) unless `condition` holds."""
    if not condition:
        raise ValueError(message)


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

    def __post_init__(self) -> None:
        check(self.logits_mib > 0, f"model.logits_mib is {self.logits_mib}; use 1 or more")


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
    """Processes of jax.distributed. 1: this process alone."""
    coordinator_address: str
    """host:port of process 0, with num_processes > 1; the process's own number comes from NOUSCODER_PROCESS_ID."""

    def __post_init__(self) -> None:
        for axis in ("data", "fsdp", "tensor", "num_processes"):
            check(getattr(self, axis) >= 1, f"mesh.{axis} is {getattr(self, axis)}; use 1 or more")
        check(
            self.num_processes == 1 or ":" in self.coordinator_address,
            f"mesh.coordinator_address is {self.coordinator_address!r}; with mesh.num_processes="
            f"{self.num_processes} it must be host:port of process 0",
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
class DataConfig:
    """Problems and how they become prompts."""

    problems: str
    """JSONL file (.jsonl or .jsonl.gz) of training problems, format in nouscoder_jax/data/problems.py."""
    held_out: str
    """JSONL file of problems for evaluation only."""
    system_prompt: str
    """System message; empty: no system message."""
    stdin_prompt: str
    """User message of a stdin/stdout problem; `{statement}` is replaced."""
    function_prompt: str
    """User message of a function problem; `{statement}`, `{fn_name}` and `{starter_code}` are replaced."""
    enable_thinking: bool
    """Handed to the chat template (Qwen3: False appends an empty thinking part)."""
    max_prompt_tokens: int
    """Problems whose prompt is longer are left out and counted."""

    def __post_init__(self) -> None:
        check(
            "{statement}" in self.stdin_prompt,
            f"data.stdin_prompt is {self.stdin_prompt!r}; it must contain {{statement}}",
        )
        check(
            "{statement}" in self.function_prompt,
            f"data.function_prompt is {self.function_prompt!r}; it must contain {{statement}}",
        )
        check(self.max_prompt_tokens > 0, f"data.max_prompt_tokens is {self.max_prompt_tokens}; use 1 or more")


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How completions are drawn."""

    engine: Literal["embedded", "sglang"]
    """embedded: JAX in this process (small models). sglang: running SGLang servers over HTTP."""
    urls: tuple[str, ...]
    """SGLang servers, as http://host:port. Unused by the embedded engine."""
    groups_per_step: int
    """Groups (problems) with unequal rewards that make one batch."""
    group_size: int
    """Completions of one prompt."""
    max_completion_tokens: int
    """A completion that reaches this length without an end token is cut: finish_reason `length`."""
    temperature: float
    """Sampling temperature. The trainer divides its logits by the same number."""
    top_p: float
    """Nucleus: smallest set of tokens whose probability reaches this. 1: all."""
    top_k: int
    """Tokens kept by probability. 0: all."""
    max_staleness: int
    """Versions a completion may be older than the policy that trains on it. 0: on-policy."""
    num_slots: int
    """Sequences the embedded engine decodes at once; also the bound on requests in flight to a server."""
    decode_chunk_tokens: int
    """Tokens the embedded engine decodes between two looks at its queue."""
    request_timeout_s: float
    """A request to a server that takes longer is given up and counted as an engine failure."""

    def __post_init__(self) -> None:
        check(self.groups_per_step >= 1, f"rollout.groups_per_step is {self.groups_per_step}; use 1 or more")
        check(
            self.group_size >= 2, f"rollout.group_size is {self.group_size}; a group-relative advantage needs 2 or more"
        )
        check(
            self.max_completion_tokens >= 1,
            f"rollout.max_completion_tokens is {self.max_completion_tokens}; use 1 or more",
        )
        check(self.temperature > 0, f"rollout.temperature is {self.temperature}; training needs a temperature above 0")
        check(
            0 < self.top_p <= 1, f"rollout.top_p is {self.top_p}; use a number above 0 and up to 1 (1 keeps all tokens)"
        )
        check(self.top_k >= 0, f"rollout.top_k is {self.top_k}; use 0 (all tokens) or more")
        check(self.max_staleness >= 0, f"rollout.max_staleness is {self.max_staleness}; use 0 (on-policy) or more")
        check(self.num_slots >= 1, f"rollout.num_slots is {self.num_slots}; use 1 or more")
        check(
            self.decode_chunk_tokens >= 1, f"rollout.decode_chunk_tokens is {self.decode_chunk_tokens}; use 1 or more"
        )
        check(
            self.engine != "sglang" or len(self.urls) > 0,
            "rollout.urls is empty; rollout.engine=sglang needs the address of a running server, "
            "for example --rollout.urls http://127.0.0.1:30000",
        )


@dataclass(frozen=True, kw_only=True)
class VerifierConfig:
    """How programs are run and judged."""

    backend: Literal["auto", "docker", "local"]
    """docker: containers of a Docker Engine. local: namespaces and rlimits (weaker). auto: docker where an engine
    answers, else local."""
    docker_hosts: tuple[str, ...]
    """Docker engines that share the programs, each as DOCKER_HOST takes it (unix:///path, tcp://host:port,
    ssh://user@host). Empty: the one of DOCKER_HOST."""
    image: str
    """Docker image with a Python 3; made from this machine's own Python where it does not exist."""
    runtime: str
    """OCI runtime that Docker uses (runc, crun, runsc); empty: the engine's default."""
    num_workers: int
    """Programs that are judged at the same time, over all engines."""
    rollouts_per_sandbox: int
    """Rollouts that one container, or local runner, judges before it is thrown away; after each test it kills and wipes
    whatever is left, and is thrown away at once where that fails. 1: a fresh one a rollout."""
    default_time_limit_s: float
    """CPU seconds a test, for problems without a limit of their own."""
    wall_factor: float
    """Wall seconds a test, as a multiple of its CPU limit."""
    memory_limit_mib: int
    """Memory of a sandbox, the program's children included. A problem's own limit counts where it is lower."""
    output_limit_mib: int
    """Bytes a test may print, in MiB."""
    max_processes: int
    """Processes and threads a program may have at once."""
    max_retries: int
    """Times a judge failure is tried again in another sandbox before the rollout becomes untrainable."""
    outage_limit_s: float
    """Seconds the judge waits for an engine that is gone before the run stops."""

    def __post_init__(self) -> None:
        for name in ("num_workers", "rollouts_per_sandbox", "memory_limit_mib", "output_limit_mib", "max_processes"):
            check(getattr(self, name) >= 1, f"verifier.{name} is {getattr(self, name)}; use 1 or more")
        check(
            self.default_time_limit_s > 0,
            f"verifier.default_time_limit_s is {self.default_time_limit_s}; use more than 0",
        )
        check(
            self.wall_factor >= 1,
            f"verifier.wall_factor is {self.wall_factor}; wall time cannot be below CPU time, use 1 or more",
        )
        check(self.max_retries >= 0, f"verifier.max_retries is {self.max_retries}; use 0 or more")
        check(self.outage_limit_s > 0, f"verifier.outage_limit_s is {self.outage_limit_s}; use more than 0")
        check(
            len(set(self.docker_hosts)) == len(self.docker_hosts),
            f"verifier.docker_hosts names an engine twice: {' '.join(self.docker_hosts)}; name each once",
        )


@dataclass(frozen=True, kw_only=True)
class ExperienceConfig:
    """From verdicts to batches."""

    reward_accepted: float
    """Reward of a program that passes every test."""
    reward_rejected: float
    """Reward of everything else: wrong, too slow, too large, failing, no program."""
    advantage: Literal["group_mean_std", "group_mean", "leave_one_out", "group_mean_batch_std", "batch_mean_std"]
    """Baseline and scale of advantages; formulas in nouscoder_jax/experience/advantages.py."""
    std_ddof: int
    """Degrees of freedom taken off in the standard deviation: 0 population, 1 sample."""
    overlong: Literal["zero_advantage", "leave_group", "keep"]
    """A cut completion: its own advantage becomes 0 and its reward stays in the group's statistics (the original), it
    leaves the group altogether, or nothing special happens."""
    drop_equal_groups: bool
    """Dynamic sampling: groups whose rewards are all equal are dropped and replaced."""
    max_draws_per_batch: int
    """Groups drawn at most to fill one batch, as a multiple of rollout.groups_per_step."""
    short_batch: Literal["train", "stop"]
    """A batch that is not full after that many draws: train on what there is, or stop the run and say why."""
    row_tokens: int
    """Length of a row."""
    packed_rows: bool
    """A row holds as many sequences as fit. False: one, the rest of it padding."""
    rows_per_micro_batch: int
    """Rows that one forward and backward pass takes, over all devices."""
    updates_per_batch: int
    """Optimizer steps that share one batch, each on its own part of the groups."""

    def __post_init__(self) -> None:
        check(
            self.reward_accepted > self.reward_rejected,
            f"experience.reward_accepted is {self.reward_accepted}; it must exceed "
            f"experience.reward_rejected ({self.reward_rejected})",
        )
        check(self.std_ddof in (0, 1), f"experience.std_ddof is {self.std_ddof}; use 0 or 1")
        for name in ("max_draws_per_batch", "row_tokens", "rows_per_micro_batch", "updates_per_batch"):
            check(getattr(self, name) >= 1, f"experience.{name} is {getattr(self, name)}; use 1 or more")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The objective; formulas in nouscoder_jax/losses.py."""

    name: Literal["grpo", "dr_grpo", "dapo", "gspo", "gspo_plus", "cispo"]
    """Which function of nouscoder_jax.losses."""
    clip_low: float
    """The ratio is clipped at 1 - clip_low."""
    clip_high: float
    """The ratio is clipped at 1 + clip_high."""
    dual_clip: float
    """Bound c on the loss of negative advantages, -c A. 0: off."""
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
    """Gate: a larger mean of |trainer's - engine's logprob|, in nats, over tokens drawn with the very weights that are
    trained, stops the run before that update. 0: off."""
    max_drift: float
    """The same for the largest of these differences. 0: off."""

    def __post_init__(self) -> None:
        check(0 < self.clip_low < 1, f"loss.clip_low is {self.clip_low}; use a number between 0 and 1")
        check(self.clip_high > 0, f"loss.clip_high is {self.clip_high}; use more than 0")
        check(
            self.dual_clip == 0 or self.dual_clip > 1, f"loss.dual_clip is {self.dual_clip}; use 0 (off) or more than 1"
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


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Held-out pass@1 during the run."""

    every_steps: int
    """Steps between two evaluations. 0: only before the first step and after the last."""
    samples_per_problem: int
    """Completions of each held-out prompt."""
    temperature: float
    """Sampling temperature of evaluation."""
    top_p: float
    """Nucleus of evaluation."""
    top_k: int
    """Tokens kept in evaluation. 0: all."""
    max_completion_tokens: int
    """Length limit of evaluation's completions."""

    def __post_init__(self) -> None:
        check(
            self.every_steps >= 0, f"evaluation.every_steps is {self.every_steps}; use 0 (only first and last) or more"
        )
        check(
            self.samples_per_problem >= 1,
            f"evaluation.samples_per_problem is {self.samples_per_problem}; use 1 or more",
        )
        check(self.temperature > 0, f"evaluation.temperature is {self.temperature}; use more than 0")
        check(0 < self.top_p <= 1, f"evaluation.top_p is {self.top_p}; use a number above 0 and up to 1")
        check(self.top_k >= 0, f"evaluation.top_k is {self.top_k}; use 0 (all tokens) or more")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """State to resume from (Orbax) and weights for others (Hugging Face)."""

    every_steps: int
    """Steps between two checkpoints; the last step always writes one."""
    keep: int
    """Newest checkpoints kept."""
    export_dtype: Literal["float32", "bfloat16"]
    """Dtype of exported weights, which the engine serves."""

    def __post_init__(self) -> None:
        check(self.every_steps >= 1, f"checkpoint.every_steps is {self.every_steps}; use 1 or more")
        check(self.keep >= 1, f"checkpoint.keep is {self.keep}; use 1 or more")


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """What is written beside metrics.jsonl, which always is."""

    tensorboard: bool
    """Also write TensorBoard files to RUN_DIR/tensorboard."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One complete experiment."""

    name: str
    """Short name, shown and used in the default run folder."""
    run_dir: str
    """Folder that the run writes. Empty: runs/NAME-DATE-TIME."""
    num_steps: int
    """Turns of the outer loop."""
    seed: int
    """Seed of data order, sampling and initialisation."""
    min_gpus: int
    """GPUs without which the experiment does not start. 0: runs on a CPU."""
    fallback_config: str
    """Config to name when the hardware is not there. Empty: none."""
    model: ModelConfig
    mesh: MeshConfig
    data: DataConfig
    rollout: RolloutConfig
    verifier: VerifierConfig
    experience: ExperienceConfig
    loss: LossConfig
    optimizer: OptimizerConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    logging: LoggingConfig

    def __post_init__(self) -> None:
        check(self.num_steps >= 1, f"num_steps is {self.num_steps}; use 1 or more")
        longest = self.data.max_prompt_tokens + self.rollout.max_completion_tokens
        check(
            self.experience.row_tokens >= longest,
            f"experience.row_tokens is {self.experience.row_tokens}, shorter than the longest prompt + completion "
            f"({self.data.max_prompt_tokens} + {self.rollout.max_completion_tokens} = {longest}); raise it to "
            f"{longest} or lower data.max_prompt_tokens or rollout.max_completion_tokens",
        )
        check(
            self.experience.rows_per_micro_batch % self.mesh.num_row_shards == 0,
            f"experience.rows_per_micro_batch is {self.experience.rows_per_micro_batch}; it must be a multiple of "
            f"mesh.data x mesh.fsdp = {self.mesh.num_row_shards}",
        )
        check(
            self.rollout.groups_per_step % self.experience.updates_per_batch == 0,
            f"rollout.groups_per_step is {self.rollout.groups_per_step}; it must be a multiple of "
            f"experience.updates_per_batch ({self.experience.updates_per_batch})",
        )
        check(
            self.rollout.groups_per_step % self.mesh.num_processes == 0,
            f"rollout.groups_per_step is {self.rollout.groups_per_step}; it must be a multiple of "
            f"mesh.num_processes ({self.mesh.num_processes})",
        )

    def flatten(self) -> dict[str, Any]:
        """Every field as `section.field: value`, in order of definition; values are JSON values."""
        flat: dict[str, Any] = {}

        def walk(prefix: str, value: Any) -> None:
            if dataclasses.is_dataclass(value):
                for field in dataclasses.fields(value):
                    walk(f"{prefix}.{field.name}" if prefix else field.name, getattr(value, field.name))
            else:
                flat[prefix] = list(value) if isinstance(value, tuple) else value

        walk("", self)
        return flat

    def to_json(self) -> str:
        """The config as nested JSON, readable by `TrainConfig.from_json`."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> TrainConfig:
        """The config that `to_json` wrote. Raises UserError on fields that this version does not know or lacks."""
        try:
            values = json.loads(text)
            for field in dataclasses.fields(TrainConfig):
                section = _SECTIONS.get(field.name)
                if section is not None:
                    values[field.name] = section(
                        **{k: tuple(v) if isinstance(v, list) else v for k, v in values[field.name].items()}
                    )
            return TrainConfig(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"the stored config does not fit this version: {error}; use the version that wrote it"
            ) from error


_SECTIONS: dict[str, type] = {
    "model": ModelConfig,
    "mesh": MeshConfig,
    "data": DataConfig,
    "rollout": RolloutConfig,
    "verifier": VerifierConfig,
    "experience": ExperienceConfig,
    "loss": LossConfig,
    "optimizer": OptimizerConfig,
    "evaluation": EvaluationConfig,
    "checkpoint": CheckpointConfig,
    "logging": LoggingConfig,
}
