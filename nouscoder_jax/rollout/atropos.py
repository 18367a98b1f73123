"""Both ends of Atropos (written against atroposlib 0.4.0): what a trainer and an environment say to its server.

In: the server's address; as a trainer, how much a batch holds; as an environment, judged groups. Out: `Sequences` of
scored groups; `MalformedGroupError` for a group that cannot be trained on, EngineError where the server is gone.

    environment --POST scored_data--> server --GET batch--> trainer         scores are rewards
                <--GET status-env----

A group lists, a sequence each: `tokens` of prompt and completion; `masks`, -100 where the policy did not write the
token, else the token; `scores`; `inference_logprobs`, nats of the distribution that was sampled from, after temperature
(1.0 where the mask is -100); `overrides`, of which `set_advantage_to_zero` is honoured. Ours say in `generation_params`
which `policy_version` wrote each sequence, and at which `temperature`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from nouscoder_jax.rollout.sglang_calls import ANSWER_TIMEOUT_S, Caller, RefusedError, ServerLostError
from nouscoder_jax.types import UNKNOWN_VERSION, EngineError, Experience

NOT_TRAINED = -100
"""Mask of a token that the policy did not write."""
NO_LOGPROB = 1.0
"""Logprob of such a token."""
RETRY_S = 1.0
BATCH_TIMEOUT_S = 600.0
"""Seconds that the server may take to hand over, or take, what fills many megabytes."""

_UNUSED = ("advantages", "ref_logprobs", "group_overrides", "distill_token_ids", "distill_logprobs")
"""Fields of a group that say something about training, and are not used here."""

_Answer = TypeVar("_Answer")


class MalformedGroupError(EngineError):
    """A group that cannot be trained on; the message says what was got, what is taken, and how to mend it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSequence:
    """One sequence of a group.

    Example:
        ScoredSequence(prompt_ids=(1, 52), token_ids=(9, 4), loss_mask=(True, True), logprobs=(-0.1, -2.0), score=1.0,
                       zero_advantage=False, policy_version=3)
    """

    prompt_ids: tuple[int, ...]
    """Tokens before the first one that the policy wrote."""
    token_ids: tuple[int, ...]
    """From there to the last one that it wrote."""
    loss_mask: tuple[bool, ...]
    """Of these, the ones that it wrote."""
    logprobs: tuple[float, ...]
    """Nats; 0 where it wrote none, and everywhere where the environment sends none."""
    score: float
    zero_advantage: bool
    policy_version: int
    """UNKNOWN_VERSION where the environment does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRules:
    """What a group must be like for this run.

    Example:
        GroupRules(group_size=8, vocab_size=512, max_tokens=2304, temperature=1.0, needs_logprobs=True)
    """

    group_size: int
    vocab_size: int
    max_tokens: int
    """Tokens of prompt and completion."""
    temperature: float
    needs_logprobs: bool


class AtroposServer:
    """Calls to one server, each tried again while it is gone."""

    def __init__(self, url: str, *, outage_limit_s: float, say: Callable[[str], None]) -> None:
        """`outage_limit_s`: how long it may be gone. `say` takes lines for people."""
        self.url = url.rstrip("/")
        self._outage_limit_s, self._say = outage_limit_s, say
        self._caller = Caller()

    async def register_trainer(
        self, *, batch_size: int, max_tokens: int, weights_dir: str, step: int, num_steps: int
    ) -> None:
        """Makes this run the server's trainer. `batch_size` in sequences; environments are told of the folder
        `weights_dir`. Raises EngineError: the server is gone, or serves another trainer."""
        registration = {
            "wandb_group": "nouscoder-jax",
            "wandb_project": "nouscoder-jax",
            "batch_size": batch_size,
            "max_token_len": max_tokens,
            "checkpoint_dir": weights_dir,
            "save_checkpoint_interval": 1,
            "starting_step": step,
            "num_steps": num_steps,
        }
        while True:
            await self._post("/register", registration)
            serves = int((await self._get("/info"))["batch_size"])
            if serves >= 0:
                break
            # Groups that were pushed before any trainer was there keep the server from taking one; or it is a new one.
            self._say(f"Atropos: {self.url} took no trainer; emptying it and registering again")
            with contextlib.suppress(RefusedError, ServerLostError):  # what it answers is no JSON
                await self._caller.get(self.url, "/reset_data", timeout_s=ANSWER_TIMEOUT_S)
            await asyncio.sleep(RETRY_S)
        if serves != batch_size:
            raise EngineError(
                f"{self.url} hands out batches of {serves} sequences, as another trainer has asked; this run needs "
                f"{batch_size} (rollout.groups_per_step x rollout.group_size): start the server again, or empty it "
                f"with a GET of {self.url}/reset_data"
            )

    async def batch(self) -> list[dict[str, Any]] | None:
        """The groups of the next batch; None: there are not enough yet. Raises ServerLostError; RefusedError: no
        trainer is registered, or the server cannot write what environments have sent (a number that is not finite)."""
        answer = await self._caller.get(self.url, "/batch", timeout_s=BATCH_TIMEOUT_S)
        if answer.get("status") == "error":
            raise RefusedError(f"{self.url}/batch answered: {answer.get('message')}")
        return answer.get("batch")

    async def queue_size(self) -> int:
        """Groups that wait for a batch."""
        return int((await self._get("/status"))["queue_size"])

    async def register_environment(self, *, name: str, group_size: int, max_tokens: int) -> dict[str, Any] | None:
        """What the server says of the run: `env_id`, `checkpoint_dir`, `num_steps`; None: no trainer has asked for a
        batch yet."""
        answer = await self._post(
            "/register-env",
            {"max_token_length": max_tokens, "desired_name": name, "weight": 1.0, "group_size": group_size},
        )
        return answer if answer.get("status") == "success" else None

    async def environment_status(self, env_id: int) -> dict[str, Any]:
        """`current_step` and `queue_size` in groups. Raises RefusedError: the server knows no such environment, as
        after a restart."""
        return await self._caller.get(
            self.url, "/status-env", timeout_s=ANSWER_TIMEOUT_S, body={"env_id": env_id}
        )  # no retry: the caller registers again

    async def push(self, group: Mapping[str, Any]) -> None:
        """Hands a scored group over. Raises ServerLostError, RefusedError: before it is handed over again, the server
        should have a trainer. One whose answer was lost may come twice: the server tells groups apart by nothing."""
        await self._caller.post(self.url, "/scored_data", dict(group), timeout_s=BATCH_TIMEOUT_S)

    async def disconnect_environment(self, env_id: int) -> None:
        """Says that the environment leaves. Raises ServerLostError, RefusedError, EngineError."""
        await self._caller.post(self.url, "/disconnect-env", {"env_id": env_id}, timeout_s=ANSWER_TIMEOUT_S)

    async def close(self) -> None:
        """Closes the connections."""
        await self._caller.close()

    async def _get(self, path: str, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        return await self._patiently(lambda: self._caller.get(self.url, path, timeout_s=timeout_s))

    async def _post(self, path: str, body: dict[str, Any], *, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        return await self._patiently(lambda: self._caller.post(self.url, path, body, timeout_s=timeout_s))

    async def _patiently(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """The answer, once there is one."""
        gone_since: float | None = None
        while True:
            try:
                answer = await call()
            except (ServerLostError, RefusedError) as error:
                now = time.monotonic()
                if gone_since is None:
                    gone_since = now
                    self._say(f"Atropos: {error}; trying again for up to {self._outage_limit_s:g} s")
                if now - gone_since >= self._outage_limit_s:
                    raise EngineError(
                        f"no Atropos server at {self.url} for {self._outage_limit_s:g} s (rollout.outage_limit_s); the "
                        f"last answer: {error}; start one (atroposlib's run-api), and this again"
                    ) from error
                await asyncio.sleep(min(RETRY_S, self._outage_limit_s))
                continue
            if gone_since is not None:
                self._say(f"Atropos: {self.url} answers again")
            return answer


def read_group(raw: Mapping[str, Any], rules: GroupRules) -> tuple[ScoredSequence, ...]:
    """The sequences of a group as the server hands it over. Raises MalformedGroupError."""
    who = f"Atropos: group of environment {raw.get('env_id')}"
    if raw.get("images"):
        raise MalformedGroupError(f"{who} has images; this model reads text only")
    tokens, scores = _lists(raw, "tokens", who), raw.get("scores")
    if len(tokens) != rules.group_size:
        raise MalformedGroupError(
            f"{who} has {len(tokens)} sequences, rollout.group_size is {rules.group_size}; make the environment's "
            f"group_size {rules.group_size}, or train with --rollout.group-size {len(tokens)}"
        )
    masks, logprobs = _lists(raw, "masks", who), raw.get("inference_logprobs")
    if logprobs is None and rules.needs_logprobs:
        raise MalformedGroupError(
            f"{who} has no inference_logprobs; let the environment send them, or train without: "
            "--loss.old-logprobs recomputed --loss.correction none"
        )
    overrides = raw.get("overrides") or [{}] * len(tokens)
    for name, values in (("masks", masks), ("scores", scores), ("overrides", overrides)):
        if not isinstance(values, list) or len(values) != len(tokens):
            raise MalformedGroupError(f"{who} has {len(tokens)} sequences and {_count(values)} {name}; send one each")
    if logprobs is not None and (not isinstance(logprobs, list) or len(logprobs) != len(tokens)):
        raise MalformedGroupError(f"{who} has {len(tokens)} sequences and {_count(logprobs)} inference_logprobs")
    params = raw.get("generation_params") or {}
    versions = _versions(params, len(tokens)) if logprobs is not None else None
    return tuple(
        _sequence(
            tokens[index],
            masks[index],
            scores[index],  # type: ignore[index]
            None if logprobs is None else logprobs[index],
            {"temperature": params.get("temperature")} | (overrides[index] or {}),
            version=UNKNOWN_VERSION if versions is None else versions[index],
            rules=rules,
            who=f"{who}, sequence {index}",
        )
        for index in range(len(tokens))
    )


def _sequence(
    tokens: Sequence[int],
    mask: Sequence[int],
    score: Any,
    logprobs: Sequence[float] | None,
    overrides: Mapping[str, Any],
    *,
    version: int,
    rules: GroupRules,
    who: str,
) -> ScoredSequence:
    def refuse(why: str) -> MalformedGroupError:
        return MalformedGroupError(f"{who} {why}")

    if len(mask) != len(tokens) or (logprobs is not None and len(logprobs) != len(tokens)):
        raise refuse(
            f"has {len(tokens)} tokens, {len(mask)} masks and {_count(logprobs)} inference_logprobs; send one a token"
        )
    if not tokens or len(tokens) > rules.max_tokens:
        raise refuse(
            f"has {len(tokens)} tokens; 1 to {rules.max_tokens} are taken: lower the environment's max_token_length, "
            "or raise experience.row_tokens"
        )
    if strange := [token for token in tokens if not 0 <= token < rules.vocab_size]:
        raise refuse(
            f"has token {strange[0]}; the model knows 0 to {rules.vocab_size - 1}: use its tokenizer in the environment"
        )
    if strange := [(m, t) for m, t in zip(mask, tokens, strict=True) if m not in (NOT_TRAINED, t)]:
        raise refuse(f"has mask {strange[0][0]} at token {strange[0][1]}; a mask is {NOT_TRAINED} or the token itself")
    if not isinstance(score, int | float) or not math.isfinite(score):
        raise refuse(f"has score {score!r}; a score is a finite number")
    if (temperature := overrides.get("temperature")) not in (None, rules.temperature):
        raise refuse(
            f"was sampled at temperature {temperature}, rollout.temperature is {rules.temperature}; make both the same"
        )
    trains = [written != NOT_TRAINED for written in mask]
    trains[0] = False  # nothing comes before it that could predict it
    if not any(trains):
        raise refuse("has no token that the policy wrote; leave such a group out")
    first, end = trains.index(True), len(trains) - trains[::-1].index(True)
    kept = [0.0] * len(tokens) if logprobs is None else list(logprobs)
    for place in range(first, end):
        value = kept[place]
        if not trains[place]:
            kept[place] = 0.0
        elif not isinstance(value, int | float) or not math.isfinite(value) or value > 1e-3:
            raise refuse(f"has inference_logprob {value} at token {place}; a logprob is a number of at most 0")
    return ScoredSequence(
        prompt_ids=tuple(tokens[:first]),
        token_ids=tuple(tokens[first:end]),
        loss_mask=tuple(trains[first:end]),
        logprobs=tuple(float(value) for value in kept[first:end]),
        score=float(score),
        zero_advantage=bool(overrides.get("set_advantage_to_zero")),
        policy_version=version,
    )


def unused_fields(raw: Mapping[str, Any]) -> list[str]:
    """What a group says about training and is not used: advantages come from scores here."""
    return [name for name in _UNUSED if raw.get(name)]


def scored_data(
    experiences: Sequence[Experience], *, env_id: int, temperature: float, zero_when_cut: bool, knows_version: bool
) -> dict[str, Any]:
    """A judged group as the server takes it. `zero_when_cut`: a completion that was cut asks for advantage 0.
    Raises ValueError for a group with a rollout that has no reward: a failure of the judge is no score."""
    rollouts = [experience.rollout for experience in experiences]
    scores = [experience.reward for experience in experiences]
    if any(score is None for score in scores):
        raise ValueError("a rollout without a reward has no score")
    params: dict[str, Any] = {"temperature": temperature}
    if knows_version:
        params["policy_version"] = [rollout.completion.policy_version for rollout in rollouts]
    prompts = [rollout.prompt.token_ids for rollout in rollouts]
    completions = [rollout.completion for rollout in rollouts]
    pairs = list(zip(prompts, completions, strict=True))
    return {
        "tokens": [[*prompt, *completion.token_ids] for prompt, completion in pairs],
        "masks": [[NOT_TRAINED] * len(prompt) + list(completion.token_ids) for prompt, completion in pairs],
        "scores": scores,
        "inference_logprobs": [
            [NO_LOGPROB] * len(prompt) + list(completion.behavior_logprobs) for prompt, completion in pairs
        ],
        "overrides": [
            {"set_advantage_to_zero": True} if zero_when_cut and completion.finish_reason == "length" else {}
            for completion in completions
        ],
        "generation_params": params,
        "env_id": env_id,
    }


def _lists(raw: Mapping[str, Any], name: str, who: str) -> list[list[int]]:
    values = raw.get(name)
    if not isinstance(values, list) or not all(isinstance(row, list) for row in values):
        raise MalformedGroupError(f"{who} has {name} {str(values)[:60]}; send a list of token ids a sequence")
    return values


def _versions(params: Mapping[str, Any], number: int) -> list[int] | None:
    versions = params.get("policy_version")
    is_whole = isinstance(versions, list) and len(versions) == number and all(isinstance(v, int) for v in versions)
    return versions if is_whole else None


def _count(values: Any) -> str:
    return str(len(values)) if isinstance(values, list) else "no"
