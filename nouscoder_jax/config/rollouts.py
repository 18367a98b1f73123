"""Knobs of everything before an update: problems, completions, servers, judge, batches.

Frozen, validated sections of TrainConfig.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nouscoder_jax.config.errors import check


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
    """User message of a function problem; `{statement}`, `{fn_name}`, `{starter_code}`, `{function}` are replaced. A
    paragraph with {starter_code} is for problems that have such code, one with {function} for the others."""
    enable_thinking: bool
    """Handed to the chat template (Qwen3: False appends an empty thinking part)."""
    extract_rule: Literal["markdown", "original"]
    """The program in a completion. markdown: the last block that is Python, fences read by CommonMark, outside the
    thinking part. original: NousCoder's published rule, the last stretch between two lines that begin with ```."""
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

    source: Literal["problems", "atropos"]
    """Where groups come from. problems: data.problems, with the engine and the judge of this run. atropos: an Atropos
    server, which collects scored groups from environments; the run's engine evaluates only."""
    source_url: str
    """The Atropos server, as http://host:port. Empty with source problems."""
    engine: Literal["embedded", "sglang"]
    """embedded: JAX in this process (small models). sglang: SGLang servers over HTTP."""
    urls: tuple[str, ...]
    """SGLang servers that run already, or SGLang's router, as http://host:port. Empty with engine sglang: the run
    starts the servers of the section `server` and stops them at its end. Unused by the embedded engine."""
    groups_per_step: int
    """Groups (problems) with unequal rewards that make one batch."""
    group_size: int
    """Completions of one prompt."""
    max_completion_tokens: int
    """A completion that reaches this length without an end token is cut: finish_reason `length`."""
    temperature: float
    """Sampling temperature. The trainer divides its logits by the same number."""
    top_p: float
    """Nucleus: smallest set of tokens whose probability reaches this. Only 1, all tokens, can be trained on."""
    top_k: int
    """Tokens kept by probability. Only 0, all tokens, can be trained on."""
    max_staleness: int
    """Batches that may be trained between the start of a group and its own batch (NousCoder's max_batches_offpolicy).
    0: on-policy, generation waits for the update. Above 0 generation goes on, and an update waits only for groups that
    would become older than this."""
    on_new_weights: Literal["finish", "abort", "retract", "in_place"]
    """Completions under way when new weights come. finish: they end first. abort: they stop and go on from the tokens
    they have. retract: the server computes their keys and values anew. in_place: they keep those of the old weights
    (all that the embedded engine can do)."""
    num_slots: int
    """Sequences the embedded engine decodes at once; also the bound on requests in flight to a server."""
    decode_chunk_tokens: int
    """Tokens the embedded engine decodes between two looks at its queue."""
    batch_invariant: bool
    """Embedded engine: a completion depends on its prompt, seed and weights only, to the last bit, not on what is
    decoded beside it. So a resumed run ends with the bits of one never stopped. Costs time where slots are empty.
    Servers: see server.deterministic."""
    request_timeout_s: float
    """A completion that takes a server longer is given up there and asked of another."""
    server_timeout_s: float
    """A server that gives no sign of life for so long is left out until it answers again; its requests go elsewhere."""
    outage_limit_s: float
    """Seconds without any server after which the run ends; its state is saved."""

    def __post_init__(self) -> None:
        pulled = self.source == "atropos"
        check(
            pulled == bool(self.source_url),
            f"rollout.source is {self.source} and rollout.source_url {self.source_url!r}; "
            + ("name the server: --rollout.source-url http://HOST:8000" if pulled else "give none, or source atropos"),
        )
        check(
            not pulled or self.max_staleness >= 1,
            "rollout.source is atropos and rollout.max_staleness 0; environments generate while others train: say how "
            "many batches late a group may come, with --rollout.max-staleness 1 or more",
        )
        check(self.groups_per_step >= 1, f"rollout.groups_per_step is {self.groups_per_step}; use 1 or more")
        check(
            self.group_size >= 2, f"rollout.group_size is {self.group_size}; a group-relative advantage needs 2 or more"
        )
        check(
            self.max_completion_tokens >= 1,
            f"rollout.max_completion_tokens is {self.max_completion_tokens}; use 1 or more",
        )
        check(self.temperature > 0, f"rollout.temperature is {self.temperature}; training needs a temperature above 0")
        for name, value, all_tokens in (("top_p", self.top_p, 1), ("top_k", self.top_k, 0)):
            check(
                value == all_tokens,
                f"rollout.{name} is {value}; training needs {all_tokens} (all tokens): the trainer's logprobs are over "
                "all of them, so that completions from fewer would look less likely to it than they were when the "
                f"weights are the same, by a fifth in the mean at top_p 0.8. An evaluation may: evaluation.{name}",
            )
        check(self.max_staleness >= 0, f"rollout.max_staleness is {self.max_staleness}; use 0 (on-policy) or more")
        check(self.num_slots >= 1, f"rollout.num_slots is {self.num_slots}; use 1 or more")
        check(
            self.decode_chunk_tokens >= 1, f"rollout.decode_chunk_tokens is {self.decode_chunk_tokens}; use 1 or more"
        )
        for name in ("request_timeout_s", "server_timeout_s", "outage_limit_s"):
            check(getattr(self, name) > 0, f"rollout.{name} is {getattr(self, name)}; use more than 0")
        check(
            self.engine == "sglang" or self.on_new_weights == "in_place",
            f"rollout.on_new_weights is {self.on_new_weights}; the embedded engine takes new weights in_place only",
        )
        check(
            len(set(self.urls)) == len(self.urls),
            f"rollout.urls names a server twice: {' '.join(self.urls)}; name each once",
        )


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """SGLang servers on this machine, which scripts/serve.py starts, or the run itself where rollout.urls is empty.
    Context length, sequences at once, YaRN and dtype follow from the other sections."""

    python: str
    """Python of the environment that SGLang is installed in. Empty: the one that starts the servers."""
    num_servers: int
    """Servers started here."""
    host: str
    """Address that they listen at."""
    port: int
    """Port of the first; the others take the next ones."""
    device: Literal["cuda", "cpu"]
    """What they compute on. cpu: for trials and tests, in float32."""
    tensor: int
    """Devices that one server's weights are split over."""
    placement: Literal["split", "colocated"]
    """split: trainer and servers have GPUs of their own. colocated: the same, within the two memory fractions."""
    memory_fraction: float
    """Share of a device's memory for a server's weights and cache (SGLang's --mem-fraction-static)."""
    trainer_memory_fraction: float
    """Share of a GPU's memory that JAX takes (XLA_PYTHON_CLIENT_MEM_FRACTION). 0: JAX's own choice."""
    memory_saver: bool
    """Colocated: the servers give their memory back during an update and take it again after."""
    deterministic: bool
    """Seeds count: the same prompt, seed and weights give the same completion, at some cost in speed."""
    flags: tuple[str, ...]
    """More arguments for sglang.launch_server, as they are."""
    start_timeout_s: float
    """Seconds that a server may take to load the model and answer."""

    def __post_init__(self) -> None:
        for name in ("num_servers", "tensor"):
            check(getattr(self, name) >= 1, f"server.{name} is {getattr(self, name)}; use 1 or more")
        last = self.port + self.num_servers - 1
        check(self.port >= 1 and last <= 65535, f"server.port is {self.port}; ports are 1 to 65535, the last is {last}")
        check(
            0 < self.memory_fraction < 1, f"server.memory_fraction is {self.memory_fraction}; use 0 to 1, both excluded"
        )
        check(
            0 <= self.trainer_memory_fraction < 1,
            f"server.trainer_memory_fraction is {self.trainer_memory_fraction}; use 0 (JAX's choice) or less than 1",
        )
        check(self.start_timeout_s > 0, f"server.start_timeout_s is {self.start_timeout_s}; use more than 0")
        colocated = self.placement == "colocated"
        check(
            not self.memory_saver or colocated,
            "server.memory_saver is on with placement split; only colocated servers have to give memory back",
        )
        check(
            not colocated or self.trainer_memory_fraction > 0,
            "server.placement is colocated and server.trainer_memory_fraction is 0; say what each side takes of a GPU",
        )
        together = self.memory_fraction + self.trainer_memory_fraction
        check(
            not colocated or self.memory_saver or together <= 0.95,
            f"server.memory_fraction ({self.memory_fraction}) and server.trainer_memory_fraction "
            f"({self.trainer_memory_fraction}) take {together:.0%} of a shared GPU; stay within 95 %, or turn on "
            "--server.memory-saver so that they take turns",
        )


@dataclass(frozen=True, kw_only=True)
class VerifierConfig:
    """How programs are run and judged."""

    backend: Literal["auto", "docker", "local", "modal"]
    """docker: containers of a Docker host. local: namespaces and rlimits (weaker). modal: sandboxes of a Modal account,
    one a rollout. auto: docker where a host answers, else local."""
    docker_hosts: tuple[str, ...]
    """Docker hosts that share the programs, each as DOCKER_HOST takes it (unix:///path, tcp://host:port,
    ssh://user@host). Empty: the one of DOCKER_HOST."""
    image: str
    """Docker image with a Python 3; made from this machine's own Python where it does not exist."""
    runtime: str
    """OCI runtime that Docker uses (runc, crun, runsc); empty: the host's default."""
    num_workers: int
    """Programs that are judged at the same time, over all Docker hosts."""
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
    """Seconds the judge waits for a Docker host that is gone before the run stops."""

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
        check(
            self.backend != "modal" or self.rollouts_per_sandbox == 1,
            f"verifier.backend is modal and verifier.rollouts_per_sandbox {self.rollouts_per_sandbox}; a sandbox on "
            "Modal judges one rollout: use --verifier.rollouts-per-sandbox 1",
        )
        check(self.max_retries >= 0, f"verifier.max_retries is {self.max_retries}; use 0 or more")
        check(self.outage_limit_s > 0, f"verifier.outage_limit_s is {self.outage_limit_s}; use more than 0")
        check(
            len(set(self.docker_hosts)) == len(self.docker_hosts),
            f"verifier.docker_hosts names a host twice: {' '.join(self.docker_hosts)}; name each once",
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
    """Degrees of freedom taken off in the standard deviation: 0 population, 1 sample; 0 where there is none."""
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
        check(
            self.std_ddof == 0 or self.advantage not in ("group_mean", "leave_one_out"),
            f"experience.std_ddof is {self.std_ddof}, and {self.advantage} takes no standard deviation; set "
            "--experience.std-ddof 0",
        )
        for name in ("max_draws_per_batch", "row_tokens", "rows_per_micro_batch", "updates_per_batch"):
            check(getattr(self, name) >= 1, f"experience.{name} is {getattr(self, name)}; use 1 or more")
