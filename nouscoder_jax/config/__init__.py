"""Every knob of a run: frozen, typed, validated.

`TrainConfig` is built by `configs/NAME.py` and overridden on the command line (`nouscoder_jax.cli`).
Standard library only, so that reading a config never imports jax. No module below this one gives a knob a default.
"""

from nouscoder_jax.config.errors import UserError, check
from nouscoder_jax.config.policy import LossConfig, LossName, MeshConfig, ModelConfig, OptimizerConfig
from nouscoder_jax.config.rollouts import DataConfig, ExperienceConfig, RolloutConfig, ServerConfig, VerifierConfig
from nouscoder_jax.config.run import CheckpointConfig, EvaluationConfig, LoggingConfig, TrainConfig

__all__ = [
    "CheckpointConfig",
    "DataConfig",
    "EvaluationConfig",
    "ExperienceConfig",
    "LoggingConfig",
    "LossConfig",
    "LossName",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RolloutConfig",
    "ServerConfig",
    "TrainConfig",
    "UserError",
    "VerifierConfig",
    "check",
]
