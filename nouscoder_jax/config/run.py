"""Knobs of a run as a whole, and TrainConfig, which holds all sections and checks them against each other.

In: the other sections. Out: TrainConfig, from and to JSON.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from nouscoder_jax.config.errors import UserError, check
from nouscoder_jax.config.policy import LossConfig, MeshConfig, ModelConfig, OptimizerConfig
from nouscoder_jax.config.rollouts import DataConfig, ExperienceConfig, RolloutConfig, ServerConfig, VerifierConfig


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Held-out pass@1 during the run."""

    every_steps: int
    """Steps between two evaluations. 0: only before the first step and after the last."""
    samples_per_problem: int
    """Completions of each held-out prompt."""
    samples_between: int
    """So many of them at most in evaluations between the first and the last, which are full. 0: all. What
    checkpoint.keep_best goes by scatters more with fewer."""
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
        check(
            self.samples_between >= 0,
            f"evaluation.samples_between is {self.samples_between}; use 0 (all of samples_per_problem) or more",
        )
        check(
            self.max_completion_tokens >= 1,
            f"evaluation.max_completion_tokens is {self.max_completion_tokens}; use 1 or more",
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
    keep_best: int
    """Checkpoints kept besides, those of the best held-out pass@1; an evaluation among the best writes one. 0: none."""
    export_dtype: Literal["float32", "bfloat16"]
    """Dtype of exported weights, which the engine serves."""
    weights_dir: str
    """Folder of the exported weights that servers read; they must find it under the same path. Empty: in the run
    folder."""

    def __post_init__(self) -> None:
        check(self.every_steps >= 1, f"checkpoint.every_steps is {self.every_steps}; use 1 or more")
        check(self.keep >= 1, f"checkpoint.keep is {self.keep}; use 1 or more")
        check(self.keep_best >= 0, f"checkpoint.keep_best is {self.keep_best}; use 0 (none) or more")


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """What is written beside metrics.jsonl, which always is."""

    tensorboard: bool
    """Also write TensorBoard files to RUN_DIR/tensorboard."""
    wandb: bool
    """Also write to Weights & Biases, with files in RUN_DIR/wandb. WANDB_MODE, WANDB_PROJECT and the like hold."""


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
    server: ServerConfig
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
            (self.model.compute_dtype, self.checkpoint.export_dtype) != ("float32", "bfloat16"),
            "model.compute_dtype is float32 and checkpoint.export_dtype bfloat16: the engine would see only a part of "
            "every change of the weights; make both the same",
        )
        check(
            self.rollout.groups_per_step % self.experience.updates_per_batch == 0,
            f"rollout.groups_per_step is {self.rollout.groups_per_step}; it must be a multiple of "
            f"experience.updates_per_batch ({self.experience.updates_per_batch})",
        )
        check(
            self.server.placement == "split" or self.rollout.max_staleness == 0,
            f"server.placement is colocated and rollout.max_staleness is {self.rollout.max_staleness}; servers on the "
            "trainer's own GPUs cannot generate during an update: use --rollout.max-staleness 0",
        )
        check(
            self.rollout.source == "problems" or self.experience.overlong == "zero_advantage",
            f"rollout.source is {self.rollout.source} and experience.overlong {self.experience.overlong}; an "
            "environment says itself which advantages are 0: use --experience.overlong zero_advantage",
        )
        context = self.context_tokens
        stretched = int(self.model.yarn_factor * self.model.yarn_original_tokens)
        check(
            self.model.yarn_factor == 1 or context <= stretched,
            f"the longest prompt + completion is {context} tokens, model.yarn_factor {self.model.yarn_factor} of "
            f"{self.model.yarn_original_tokens} gives {stretched}; raise model.yarn_factor",
        )

    @property
    def context_tokens(self) -> int:
        """Longest prompt and completion together, in training or evaluation."""
        longest = max(self.rollout.max_completion_tokens, self.evaluation.max_completion_tokens)
        return self.data.max_prompt_tokens + longest

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
    "server": ServerConfig,
    "verifier": VerifierConfig,
    "experience": ExperienceConfig,
    "loss": LossConfig,
    "optimizer": OptimizerConfig,
    "evaluation": EvaluationConfig,
    "checkpoint": CheckpointConfig,
    "logging": LoggingConfig,
}
