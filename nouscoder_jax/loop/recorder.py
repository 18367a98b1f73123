"""Metrics of a step become a line of every sink, with what the run's clocks and counters say.

In: metrics of a step, as parts of the loop measure them. Out: metrics.jsonl, TensorBoard files, Weights & Biases, the
step's line on the console.
"""

from __future__ import annotations

from collections.abc import Sequence

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.metrics.display import Display
from nouscoder_jax.metrics.sinks import JsonlSink, Sink, TensorBoardSink, WandbSink
from nouscoder_jax.metrics.timer import SlotMeter, StageTimer
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.verifier.breaker import Breaker


def open_sinks(config: TrainConfig, folder: RunFolder, *, resume_step: int | None) -> list[Sink]:
    """What takes metrics. `resume_step`: of a resumed run, the last step whose line stays."""
    sinks: list[Sink] = [JsonlSink(folder.metrics, resume_step=resume_step)]
    if config.logging.tensorboard:
        sinks.append(TensorBoardSink(folder.tensorboard, resume_step=resume_step))
    if config.logging.wandb:
        sinks.append(WandbSink(folder.wandb, name=folder.path.name))
    return sinks


class Recorder:
    """The run's clocks, and what writes its metrics."""

    def __init__(
        self, config: TrainConfig, sinks: Sequence[Sink], *, progress: Progress, breaker: Breaker, display: Display
    ) -> None:
        """`progress` and `breaker` are the run's; they are read when a line is written."""
        self._group_size, self._sinks, self._display = config.rollout.group_size, tuple(sinks), display
        self._progress, self._breaker = progress, breaker
        self.timer = StageTimer()
        self.meter = SlotMeter()
        self._idle: dict[str, float] | None = None
        self._added: dict[str, float] = {}

    def begin_steps(self, *, num_slots: int) -> None:
        """The engine's slots count from now on."""
        self.meter.num_slots = num_slots
        self.meter.take()

    def add(self, metrics: dict[str, float]) -> None:
        """Metrics for the next line."""
        self._added |= metrics

    def keep_idle_shares(self) -> None:
        """Those of the next line are those of now: an evaluation begins."""
        self._idle = self._idle_shares()

    def write(self, metrics: dict[str, float]) -> None:
        """Adds what clocks and counters say, and writes one line of metrics everywhere."""
        if metrics["step"] > 0:
            metrics |= self._idle or self._idle_shares()
        metrics |= self._added
        self._idle, self._added = None, {}
        seconds = self.timer.take()
        metrics["policy_version"] = float(self._progress.policy_version)
        metrics |= {"judge/outages": float(self._breaker.num_outages), "judge/outage_s": self._breaker.outage_s}
        metrics |= {f"seconds/{stage}": value for stage, value in seconds.items()}
        metrics |= self._throughput(metrics, seconds)
        for sink in self._sinks:
            sink.write(metrics)
        if metrics["step"] > 0:
            self._display.step(metrics)
        self.meter.take()

    def close(self) -> None:
        """Closes the sinks."""
        for sink in self._sinks:
            sink.close()

    def _idle_shares(self) -> dict[str, float]:
        """How long the engine's slots and the trainer had nothing to do in this step."""
        seconds = self.timer.so_far()
        trainer = 1 - seconds.get("update", 0.0) / seconds["total"] if seconds["total"] > 0 else 0.0
        return {"engine/idle_share": self.meter.take(), "trainer/idle_share": trainer}

    def _throughput(self, metrics: dict[str, float], seconds: dict[str, float]) -> dict[str, float]:
        """Of stages that took time: groups of the journal take none."""
        if "completion_tokens/mean" not in metrics:
            return {}
        num_rollouts = (metrics["groups/used"] + metrics["groups/dropped"]) * self._group_size
        measured = {}
        if seconds.get("generate"):
            num_tokens = metrics["completion_tokens/mean"] * num_rollouts
            measured["throughput/tokens_per_s"] = num_tokens / seconds["generate"]
        if seconds.get("verify"):
            measured["throughput/verifications_per_s"] = num_rollouts / seconds["verify"]
        return measured
