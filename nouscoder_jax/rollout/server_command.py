"""What starts one SGLang server of a config: its arguments, environment and address (written against SGLang 0.5.23).

In: TrainConfig, which of its servers, the config.json of its model. Out: an argument list and variables, for servers.py
or for a supervisor of the user's own. Nothing is started here.

    context length    config.context_tokens and RESERVED_TOKENS
    YaRN              model.yarn_factor over model.yarn_original_tokens, with the model's own rope_theta
    dtype             model.compute_dtype on cuda, float32 on cpu
    random seed       config.seed + the server's number, so that no two draw the same; --random-seed in server.flags is
                      for the servers of a second machine
    GPUs              `tensor` each, in the order of CUDA_VISIBLE_DEVICES where that is set. Servers that a run starts
                      beside its own trainer (placement split) come after the trainer's GPUs
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nouscoder_jax.config import TrainConfig, UserError

RESERVED_TOKENS = 2
"""SGLang ends a completion, with finish `length`, when prompt and completion reach its context length less this many
(managers/scheduler.py, init_req_max_new_tokens); a request that needs them is not refused."""


def command(config: TrainConfig, index: int) -> list[str]:
    """Arguments of server `index` (0, 1, ...); server.flags come last, so that they count.

    Raises UserError where the model's config.json cannot be read or knows fewer positions than the config needs, and
    where SGLang cannot do what the config asks for.
    """
    server = config.server
    on_cpu = server.device == "cpu"
    if on_cpu and server.deterministic:
        raise UserError(
            "server.deterministic is on with server.device cpu; SGLang can be deterministic on GPUs only: "
            "use --server.no-deterministic"
        )
    arguments = [server.python or sys.executable, "-m", "sglang.launch_server"]
    arguments += ["--model-path", _model_path(config), "--host", server.host, "--port", str(server.port + index)]
    arguments += ["--device", server.device, "--dtype", "float32" if on_cpu else config.model.compute_dtype]
    arguments += ["--tp-size", str(server.tensor), "--mem-fraction-static", str(server.memory_fraction)]
    arguments += ["--context-length", str(config.context_tokens + RESERVED_TOKENS)]
    if override := _override(config):
        arguments += ["--json-model-override-args", json.dumps(override)]
    arguments += ["--max-running-requests", str(config.rollout.num_slots), "--random-seed", str(config.seed + index)]
    # Prompts and completions cross as ids; a first request is not worth waiting for.
    arguments += ["--skip-tokenizer-init", "--skip-server-warmup", "--log-level-http", "warning"]
    if on_cpu:
        # An idle scheduler takes a third of a core otherwise.
        arguments += ["--attention-backend", "torch_native", "--grammar-backend", "none", "--sleep-on-idle"]
    if server.memory_saver:
        # Without the copy in host memory the weights are gone after a release, until the next update.
        arguments += ["--enable-memory-saver", "--enable-weights-cpu-backup"]
    if server.deterministic:
        # SGLang takes the attention that can: fa3 up to Hopper, flashinfer from Blackwell on.
        arguments += ["--enable-deterministic-inference"]
    return arguments + list(server.flags)


def environment(config: TrainConfig, index: int, *, gpus: Sequence[str]) -> dict[str, str]:
    """Variables of server `index`, on top of those of whoever starts it. `gpus`: those of all servers, in order."""
    server = config.server
    variables = {"HF_HUB_OFFLINE": "1"} if Path(config.model.path).is_dir() else {}
    if server.device == "cuda":
        own = gpus[index * server.tensor : (index + 1) * server.tensor]
        return variables | {"CUDA_VISIBLE_DEVICES": ",".join(own)}
    # Two threads make the CPU server ten times slower than one on two cores.
    variables |= {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1"}
    if server.tensor > 1:
        cores = (str((index * server.tensor + rank) % (os.cpu_count() or 1)) for rank in range(server.tensor))
        variables["SGLANG_CPU_OMP_THREADS_BIND"] = "|".join(cores)
    return variables


def server_gpus(config: TrainConfig, *, present: Sequence[str], beside_trainer: bool) -> list[str]:
    """The GPUs of all servers, out of those `present` on this machine. Raises UserError where they are too few.

    `beside_trainer`: the first mesh.num_devices / mesh.num_processes are the trainer's, with placement split.
    """
    server = config.server
    if server.device == "cpu":
        return []
    before = num_trainer_gpus(config) if beside_trainer and server.placement == "split" else 0
    needed = server.num_servers * server.tensor
    if len(present) < before + needed:
        trainer = f" after the trainer's {before}" if before else ""
        raise UserError(
            f"server.num_servers {server.num_servers} x server.tensor {server.tensor} need {needed} GPUs{trainer}; "
            f"found {len(present)}: lower them, or try --server.device cpu"
        )
    return list(present[before : before + needed])


def num_trainer_gpus(config: TrainConfig) -> int:
    """GPUs that one training process takes, the first of its machine."""
    return config.mesh.num_devices // config.mesh.num_processes


def visible_gpus() -> list[str]:
    """GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    try:
        asked = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number in range(len(re.findall(r"^GPU ", asked.stdout, re.MULTILINE)))]


def url(config: TrainConfig, index: int) -> str:
    """Address of server `index`, as programs on this machine reach it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.server.host, config.server.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{config.server.port + index}"


def _model_path(config: TrainConfig) -> str:
    path = config.model.path
    return str(Path(path).resolve()) if Path(path).is_dir() else path


def _override(config: TrainConfig) -> dict[str, Any]:
    """What SGLang has to read differently from the model's config.json."""
    fields = _model_config(config.model.path)
    factor, original = config.model.yarn_factor, config.model.yarn_original_tokens
    positions = int(fields.get("max_position_embeddings", 0)) if factor == 1 else int(factor * original)
    if config.context_tokens > positions:
        raise UserError(
            f"the longest prompt + completion is {config.context_tokens} tokens (data.max_prompt_tokens + "
            f"max_completion_tokens of rollout or evaluation), the model knows {positions} positions; shorten them, "
            "or stretch the model: --model.yarn-factor 2.5"
        )
    override: dict[str, Any] = {}
    if factor > 1:
        override["rope_scaling"] = {
            "rope_type": "yarn",
            "type": "yarn",  # transformers adds this name to a config.json without scaling, as default
            "rope_theta": _rope_theta(fields),  # SGLang replaces the whole of rope_parameters in some versions
            "factor": factor,
            "original_max_position_embeddings": original,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
        }
    context = config.context_tokens + RESERVED_TOKENS
    if factor > 1 or context > positions:
        # SGLang takes its longest context from here and multiplies by no factor where the original is stated.
        override["max_position_embeddings"] = max(positions, context)
    return override


def _rope_theta(fields: dict[str, Any]) -> float:
    """Of config.json as transformers 4 (rope_theta) or 5 (rope_parameters) writes it."""
    for key in ("rope_parameters", "rope_scaling"):
        rope = fields.get(key)
        if isinstance(rope, dict) and "rope_theta" in rope:
            return float(rope["rope_theta"])
    if "rope_theta" not in fields:
        raise UserError("config.json lacks rope_theta, alone or in rope_parameters; Qwen3 was trained with 1000000")
    return float(fields["rope_theta"])


def _model_config(path: str) -> dict[str, Any]:
    """The parsed config.json of a model folder or hub id. Raises UserError."""
    file = Path(path) / "config.json"
    if Path(path).is_dir():
        if not file.is_file():
            raise UserError(f"model.path {path} holds no config.json; give a Hugging Face model folder or a hub id")
    elif not re.fullmatch(r"[\w.-]+/[\w.-]+", path) or path.startswith("."):
        raise UserError(f"model.path {path} does not exist; give a Hugging Face model folder or a hub id (owner/name)")
    else:
        file = _fetched_config(path)
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); get the model anew") from error
    return fields


def _fetched_config(hub_id: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(hub_id, "config.json"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"model.path {hub_id!r} is neither a folder nor a hub id that can be fetched") from error
