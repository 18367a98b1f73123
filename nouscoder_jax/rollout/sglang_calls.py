"""What is said to an SGLang server, and what its answers mean (written against SGLang 0.5.23).

In: tokens and a Sampling. Out: the body of a request, a `Piece` of a completion; `ServerLostError` where nobody
answers, `RefusedError` where the answer cannot be used, EngineError where every server would answer the same.

    logprobs          `output_token_logprobs`: log softmax(logits / temperature), before top-k and top-p
    truncating        `output_token_sampling_logprobs` (asked for with return_sampling_mask): after them
    seeds             count only where the server was started with --enable-deterministic-inference
    weight versions   `weight_versions`: the name of the weights of every span of tokens
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import httpx

from nouscoder_jax.config import UserError
from nouscoder_jax.types import EngineError, Sampling

ANSWER_TIMEOUT_S = 10.0
"""Seconds that a server has for what it answers without computing: which model it serves, an abort."""
KEPT_CONNECTION_S = 2.0
"""Seconds that an idle connection is used again: less than the 5 after which the server closes it."""


class ServerLostError(Exception):
    """A server cannot be reached, or was not heard of for too long. What was asked of it is asked again."""


class RefusedError(Exception):
    """An answer that cannot be used; the message names the server."""


class WrongVersionError(RefusedError):
    """Tokens of weights that this run did not give the server."""


class NamedSpan(NamedTuple):
    """Tokens [start, end) of a piece, sampled with the weights of this name."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one request brought: a completion, or the part of it up to an abort.

    Example:
        Piece(token_ids=(9, 4), behavior_logprobs=(-0.1, -2.0), finish="abort",
              spans=(NamedSpan("3@9f86d081884c7d65", 0, 2),))
    """

    token_ids: tuple[int, ...]
    behavior_logprobs: tuple[float, ...]
    finish: Literal["stop", "length", "abort"]
    spans: tuple[NamedSpan, ...]


class Caller:
    """HTTP to all servers of an engine."""

    def __init__(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEPT_CONNECTION_S)
        self._client = httpx.AsyncClient(timeout=None, limits=limits)

    async def get(self, url: str, path: str, *, timeout_s: float, body: dict[str, Any] | None = None) -> Any:
        """The JSON that a GET brings. Raises ServerLostError, RefusedError, or EngineError for an answer of 4xx."""
        return await self._call("GET", url, path, body, timeout_s)

    async def post(self, url: str, path: str, body: dict[str, Any], *, timeout_s: float | None) -> Any:
        """The JSON that a POST brings; None where the answer is empty. Raises like `get`."""
        return await self._call("POST", url, path, body, timeout_s)

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()

    async def _call(
        self, method: str, url: str, path: str, body: dict[str, Any] | None, timeout_s: float | None
    ) -> Any:
        try:
            response = await self._client.request(method, url + path, json=body, timeout=timeout_s)
        except httpx.TimeoutException as error:
            raise ServerLostError(f"{url}{path} gave no answer within {timeout_s} s") from error
        except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: closed while waiting
            raise ServerLostError(f"{url}{path}: {' '.join(f'{type(error).__name__} {error}'.split())}") from error
        status, said = response.status_code, " ".join(response.text.split())[:300]
        if status in (408, 429) or status >= 500:
            raise RefusedError(f"{url}{path} answered {status}: {said}")
        if status >= 400:
            raise EngineError(f"{url}{path} answered {status}: {said}")
        try:
            return response.json() if response.content else None
        except ValueError as error:
            raise RefusedError(f"{url}{path} answered something that is not JSON: {said[:100]!r}") from error


def generate_body(
    token_ids: Sequence[int],
    sampling: Sampling,
    *,
    num_tokens: int,
    rid: str,
    stop_token_ids: Sequence[int],
    cache_key: str,
) -> dict[str, Any]:
    """The request for up to `num_tokens` after `token_ids`. Keys and values of its first tokens come from the server's
    cache only where a request with the same `cache_key` wrote them."""
    return {
        "rid": rid,
        "input_ids": list(token_ids),
        "sampling_params": {
            "max_new_tokens": num_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k if sampling.top_k > 0 else -1,
            "stop_token_ids": list(stop_token_ids),
            "sampling_seed": sampling.seed,
            "skip_special_tokens": False,
            "no_stop_trim": True,
        },
        "return_logprob": True,
        "return_sampling_mask": truncates(sampling),
        "extra_key": cache_key,
    }


def score_body(token_ids: Sequence[int], *, cache_key: str) -> dict[str, Any]:
    """The request for the logprobs of these tokens; nothing is generated."""
    return {
        "input_ids": list(token_ids),
        "sampling_params": {"max_new_tokens": 0, "temperature": 1.0},
        "return_logprob": True,
        "logprob_start_len": 0,
        "extra_key": cache_key,
    }


def read_scores(url: str, answer: Any, token_ids: Sequence[int], *, weight_version: str) -> tuple[float, ...]:
    """The logprobs of all tokens but the first, at temperature 1. Raises RefusedError that says why not."""
    try:
        meta = answer["meta_info"]
        scored = meta["input_token_logprobs"]
        tokens, logprobs = [int(entry[1]) for entry in scored], tuple(float(entry[0]) for entry in scored[1:])
        version = str(meta["weight_version"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RefusedError(f"{url} scored without {error}: {str(answer)[:200]}") from error
    # SGLang 0.5.23 writes 0 for the last id of a vocabulary.
    matches = [got in (asked, 0) for got, asked in zip(tokens, token_ids, strict=False)]
    if len(tokens) != len(token_ids) or not all(matches) or not all(map(math.isfinite, logprobs)):
        raise RefusedError(
            f"{url} scored {len(tokens)} tokens, {str(scored)[:100]}; a finite logprob for each of {len(token_ids)} "
            "given ones was expected"
        )
    if version != weight_version:
        raise WrongVersionError(f"{url} scored with weight version {version!r} instead of {weight_version!r}")
    return logprobs


def truncates(sampling: Sampling) -> bool:
    """Whether some tokens cannot be drawn at all."""
    return sampling.top_p < 1 or sampling.top_k > 0


def read_piece(url: str, answer: Any, sampling: Sampling, *, num_tokens: int) -> Piece:
    """The piece that an answer of /generate holds, `num_tokens` long at most. Raises RefusedError that says why not."""
    try:
        meta = answer["meta_info"]
        scored = meta.get("output_token_logprobs") or []
        tokens = tuple(int(token) for _, token, _ in scored)
        plain = tuple(float(logprob) for logprob, _, _ in scored)
        finish = meta["finish_reason"]["type"]
        behavior = plain
        if truncates(sampling) and tokens:
            behavior = tuple(map(float, meta["output_token_sampling_logprobs"]))
        spans = meta.get("weight_versions") or [{"version": meta["weight_version"], "start": 0, "end": len(tokens)}]
        named = tuple(NamedSpan(str(span["version"]), int(span["start"]), int(span["end"])) for span in spans)
        counted = (int(meta["completion_tokens"]), len(answer.get("output_ids", tokens)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RefusedError(f"{url} answered without {error}: {str(answer)[:200]}") from error
    usable = all(math.isfinite(logprob) and logprob <= 1e-3 for logprob in (*behavior, *plain))
    if finish not in ("stop", "length", "abort") or len(behavior) != len(tokens) or not usable:
        raise RefusedError(
            f"{url} answered {len(tokens)} tokens with logprobs {str(behavior)[:100]}, finish {finish!r}; one finite "
            "logprob of at most 0 a token and finish stop, length or abort were expected"
        )
    if counted != (len(tokens), len(tokens)) or len(tokens) > num_tokens or (not tokens and finish != "abort"):
        raise RefusedError(
            f"{url} answered {len(tokens)} logprobs for {counted[1]} tokens, counted as {counted[0]}; the same number, "
            f"1 to {num_tokens}, was expected"
        )
    ends = [0, *(span.end for span in named)]
    if [span.start for span in named] != ends[:-1] or ends[-1] != len(tokens):
        raise RefusedError(f"{url} answered {len(tokens)} tokens and versions for other ones: {named}")
    return Piece(
        token_ids=tokens,
        behavior_logprobs=behavior,
        finish=cast(Literal["stop", "length", "abort"], finish),
        spans=named,
    )


def ask_at_start(url: str, path: str) -> dict[str, Any]:
    """The JSON object that a server answers to a GET before the engine runs. Raises UserError with the fix where no
    SGLang server answers."""
    try:
        response = httpx.get(url + path, timeout=ANSWER_TIMEOUT_S)
        response.raise_for_status()
        answer = response.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise no_server(url, f"{path}: {type(error).__name__} {error}") from error
    if not isinstance(answer, dict):
        raise no_server(url, f"its {path} is not SGLang's")
    return answer


def router_workers(url: str) -> list[str] | None:
    """The servers behind SGLang's router; None where `url` is no router. Raises UserError where nothing answers."""
    try:
        response = httpx.get(f"{url}/workers", timeout=ANSWER_TIMEOUT_S)
        return worker_urls(response.json()) if response.status_code == 200 else None
    except ValueError:
        return None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise no_server(url, f"{type(error).__name__} {error}") from error


def worker_urls(answer: Any) -> list[str] | None:
    """The servers that a router's /workers lists; None where it is no such list."""
    try:
        return [str(worker["url"]).rstrip("/") for worker in answer["workers"]]
    except (KeyError, TypeError):
        return None


def context_of(url: str, info: Mapping[str, Any]) -> int:
    """Tokens of prompt and completion that a server's /server_info says it holds for one request: the model's context,
    or its cache where that is smaller. SGLang keeps six of them back for itself in `max_req_input_len`."""
    try:
        return int(info["max_req_input_len"]) + 6
    except (KeyError, TypeError, ValueError) as error:
        raise no_server(url, "its /server_info names no max_req_input_len") from error


def no_server(url: str, reason: str) -> UserError:
    """What is said where no SGLang server answers at `url`."""
    return UserError(
        f"no SGLang server answers at {url} ({' '.join(reason.split())}); start one with `python -m "
        "sglang.launch_server --model-path DIR --port PORT`, name others with --rollout.urls, or use --rollout.engine "
        "embedded"
    )
