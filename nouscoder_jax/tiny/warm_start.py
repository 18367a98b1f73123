"""The warm start: a fresh Qwen3 imitates the corpus, with the model and the update of training and a loss of its own.

In: the config of configs/tiny.py, a seed. Out: a Hugging Face directory with weights, tokenizer and config.
The same seed gives the same bits on the same machine.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from nouscoder_jax import sharding
from nouscoder_jax.config import TrainConfig
from nouscoder_jax.data.prompts import PromptMaker
from nouscoder_jax.experience.packing import pack
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.weights import load_model, save_model
from nouscoder_jax.tiny.corpus import examples
from nouscoder_jax.tiny.tokenizer import TURN_END, VOCAB_SIZE, train_tokenizer, write_tokenizer
from nouscoder_jax.training.optimizer import make_optimizer
from nouscoder_jax.training.state import from_model, init
from nouscoder_jax.training.update import make_update
from nouscoder_jax.types import Comparison, Completion, Experience, Problem, Prompt, Rollout

ARCHITECTURE = Architecture(
    vocab_size=VOCAB_SIZE,
    hidden_size=128,
    intermediate_size=512,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    rope_theta=10_000.0,
    rope_scaling=None,
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    attention_bias=False,
    max_position_embeddings=4096,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of the warm start with an optimizer of its own.

    Example:
        Part(plan_chance=0.35, phases=((900, 3e-3), (220, 1e-3)))
    """

    plan_chance: float
    """Share of the imitated authors who plan."""
    phases: tuple[tuple[int, float], ...]
    """(updates, learning rate), one after another."""


PARTS = (
    Part(plan_chance=0.35, phases=((900, 3e-3), (220, 1e-3), (140, 3e-4))),
    Part(plan_chance=0.22, phases=((420, 1.5e-3), (160, 3e-4))),
)
"""The second part begins with the first one's rounded weights."""
EXAMPLES_PER_UPDATE = 14
ROW_TOKENS = 232
TOKENIZER_EXAMPLES = 8000


def make_tokenizer(out_dir: Path, *, seed: int) -> None:
    """Writes the tokenizer, trained on the corpus, into `out_dir`."""
    out_dir.mkdir(parents=True, exist_ok=True)
    texts = itertools.chain.from_iterable(itertools.islice(_corpus(seed, 0, PARTS[0]), TOKENIZER_EXAMPLES))
    write_tokenizer(train_tokenizer(texts), out_dir, max_length_tokens=ARCHITECTURE.max_position_embeddings)


def warm_start(
    config: TrainConfig,
    out_dir: Path,
    *,
    seed: int,
    parts: tuple[Part, ...],
    on_update: Callable[[int, float], None],
) -> None:
    """Trains a fresh model on the corpus and writes it to `out_dir` in bfloat16. `on_update(number, loss)`.

    `out_dir` must hold the tokenizer already (`make_tokenizer`).
    """
    mesh = sharding.make_mesh(config.mesh, devices=jax.devices())
    number = 0
    for index, part in enumerate(parts):
        batches = _experiences(out_dir, config, _corpus(seed, index, part))
        state = None
        for num_updates, learning_rate in part.phases:
            phase = dataclasses.replace(
                config,
                optimizer=dataclasses.replace(
                    config.optimizer, learning_rate=learning_rate, warmup_updates=20, beta2=0.98, max_grad_norm=1.0
                ),
            )
            if state is None:
                optimizer = make_optimizer(phase.optimizer)
                if index == 0:
                    state = init(ARCHITECTURE, optimizer, jax.random.key(seed), mesh=mesh)
                else:
                    state = from_model(load_model(out_dir)[1], ARCHITECTURE, optimizer, mesh=mesh)
            update = make_update(phase, ARCHITECTURE, mesh, loss_name="supervised")
            for _ in range(num_updates):
                batch, num_micro_batches = pack(
                    list(itertools.islice(batches, EXAMPLES_PER_UPDATE)),
                    row_tokens=ROW_TOKENS,
                    rows_per_micro_batch=config.experience.rows_per_micro_batch,
                    max_experiences=EXAMPLES_PER_UPDATE,
                    packed_rows=True,
                    policy_version=0,
                )
                state, metrics = update(state, batch, num_micro_batches)
                number += 1
                on_update(number, metrics["loss"])
        assert state is not None, "a part has at least one phase"
        _save(state.model, out_dir)


def _corpus(seed: int, index: int, part: Part) -> Iterator[tuple[str, str]]:
    return examples(seed, part=index, plan_chance=part.plan_chance)


def _save(model: object, out_dir: Path) -> None:
    """Replaces the folder by one with weights, the tokenizer's files copied over."""
    tokenizer = out_dir.with_name(out_dir.name + ".tokenizer")
    shutil.rmtree(tokenizer, ignore_errors=True)
    shutil.copytree(out_dir, tokenizer)
    shutil.rmtree(out_dir)
    host = jax.device_get(model)
    save_model(host, ARCHITECTURE, out_dir, dtype="bfloat16", tokenizer_dir=tokenizer)
    shutil.rmtree(tokenizer)


def _experiences(tokenizer_dir: Path, config: TrainConfig, corpus: Iterator[tuple[str, str]]) -> Iterator[Experience]:
    """The corpus as experiences that all train: prompt by the run's own template, completion up to the end of turn."""
    maker = PromptMaker(str(tokenizer_dir), config.data)
    end = maker.encode(TURN_END)
    for number, (statement, text) in enumerate(corpus):
        completion = (*maker.encode(text), *end)
        logprobs = (0.0,) * len(completion)
        yield Experience(
            rollout=Rollout(
                group_id=number,
                sample_index=0,
                prompt=Prompt(problem_id="", token_ids=maker.make(_problem(statement)).token_ids),
                completion=Completion(
                    token_ids=completion,
                    behavior_logprobs=logprobs,
                    finish_reason="stop",
                    policy_version=0,
                ),
                text=text,
                program=None,
            ),
            verdict=None,
            reward=None,
            advantage=1.0,
            trainable=True,
        )


def _problem(statement: str) -> Problem:
    return Problem(
        problem_id="",
        statement=statement,
        tests=(),
        fn_name=None,
        starter_code="",
        prelude="",
        time_limit_s=None,
        memory_limit_mib=None,
        comparison=Comparison(kind="tokens", abs_tolerance=0.0, rel_tolerance=0.0, ignore_case=False, program=""),
        source="",
        family="",
    )
