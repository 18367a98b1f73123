"""The rollout journal: groups that were generated and judged, and batches that were made of them, since the newest
checkpoint. What is in it is never generated again.

In: finished groups, batches as they are handed over. Out: files of RUN_DIR/journal, each complete or absent, and after
a crash the same groups and batches:

    group-000017-after-000003.npz   rollouts and verdicts of draw 17, which was started after 3 trained steps
    batch-000004.json               the groups of step 4, in order, and where drawing stood

A group is written when its last program is judged, a batch before it is trained on. So weights that any token was
sampled with can be made again: the batches that led to them are there. A checkpoint makes the batches up to its step,
and their groups, superfluous. A record that is damaged, or of another config, counts as absent.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nouscoder_jax.experience.filters import DropReason
from nouscoder_jax.loop.groups import Collected, Draw, Judged, Position
from nouscoder_jax.types import Completion, Outcome, Prompt, Rollout, Verdict, VersionSpan

_GROUP = re.compile(r"group-(\d{6,})-after-(\d{6,})\.npz")
_BATCH = re.compile(r"batch-(\d{6,})\.json")
_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a batch was made of.

    Example:
        Record(step=4, draws=(Draw(17, 203), ...), position=Position(...), num_in_flight=128, waiting=(0, 0))
    """

    step: int
    draws: tuple[Draw, ...]
    position: Position
    num_in_flight: int
    waiting: tuple[int, int]
    stale: frozenset[int] = frozenset()
    """Numbers of the groups that came too late: nothing in a group says so."""


class Journal:
    """The journal of a run."""

    def __init__(self, folder: Path, *, config_hash: str, say: Callable[[str], None]) -> None:
        """Opens or makes `folder`; what is in it of another `config_hash` is deleted. `say` takes lines for people.

        Raises OSError.
        """
        self._folder, self._say = folder, say
        folder.mkdir(parents=True, exist_ok=True)
        self._groups: dict[int, int] = {}
        """Draw -> trained steps that it was started after."""
        self._batches: set[int] = set()
        self._list()
        hash_file = folder / "config"
        if hash_file.exists() and hash_file.read_text() == config_hash:
            return
        if self._groups:
            say(f"journal: its {len(self._groups)} groups are of another config; they are generated again")
        self._clear()
        _replace(hash_file, config_hash.encode())

    def _list(self) -> None:
        for path in self._folder.iterdir():
            if match := _GROUP.fullmatch(path.name):
                self._groups[int(match[1])] = int(match[2])
            elif match := _BATCH.fullmatch(path.name):
                self._batches.add(int(match[1]))
            elif path.suffix == ".part":
                path.unlink()  # torn by a kill

    def _clear(self) -> None:
        for step in list(self._batches):
            self._forget_batch(step)
        for group_id in list(self._groups):
            self._forget(group_id)

    def __len__(self) -> int:
        """Groups in it."""
        return len(self._groups)

    def started_after(self, draw: Draw) -> int | None:
        """Trained steps that the draw's group was started after; None where it is not in the journal."""
        return self._groups.get(draw.group_id)

    def has_later(self, group_id: int) -> bool:
        """Whether a group of a higher number is in the journal."""
        return max(self._groups, default=-1) > group_id

    def write_group(self, draw: Draw, judged: Judged, *, started_after: int) -> None:
        """Keeps a finished group."""
        meta = {
            "draw": list(draw),
            "failures": list(judged.judge_failures),
            "rollouts": [_described(*pair) for pair in zip(judged.rollouts, judged.verdicts, strict=True)],
        }
        completions = [rollout.completion for rollout in judged.rollouts]
        arrays = {
            "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8),
            "token_ids": _joined([c.token_ids for c in completions], np.int32),
            "behavior_logprobs": _joined([c.behavior_logprobs for c in completions], np.float64),
        }
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        _replace(self._group_path(draw.group_id, started_after), content.getbuffer())
        self._groups[draw.group_id] = started_after

    def read_group(self, draw: Draw, prompt: Prompt | None, *, newest: int) -> Judged | None:
        """The group of a draw, with tokens of policy versions up to `newest`; None, and the file is gone, where there
        is no such group. `prompt` None: each rollout's own is kept with it."""
        after = self._groups.get(draw.group_id)
        if after is None:
            return None
        path = self._group_path(draw.group_id, after)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                meta = json.loads(arrays["meta"].tobytes())
                tokens = {name: arrays[name].tolist() for name in ("token_ids", "behavior_logprobs")}
            rollouts, verdicts = _rebuilt(meta["rollouts"], tokens, draw=draw, prompt=prompt)
            if meta["draw"] != list(draw):
                reason = f"is of draw {meta['draw']}, not {list(draw)}"
            elif any(version > newest for rollout in rollouts for version in rollout.completion.token_versions):
                reason = "has tokens of weights that are not there any more"
            else:
                return Judged(rollouts=rollouts, verdicts=verdicts, judge_failures=tuple(meta["failures"]))
        except _DAMAGED as error:
            reason = f"cannot be read ({type(error).__name__}: {error})"
        again = "it is generated again" if prompt is not None else "it is left out"
        self._say(f"journal: group {draw.group_id} {reason}; {again}")
        self._forget(draw.group_id)
        return None

    def write_batch(self, collected: Collected) -> None:
        """Keeps what a batch was made of."""
        record = {
            "step": collected.step,
            "draws": [list(group.draw) for group in collected.groups],
            "position": asdict(collected.position),
            "num_in_flight": collected.num_in_flight,
            "waiting": list(collected.waiting),
            "stale": [group.group_id for group in collected.groups if group.drop_reason is DropReason.STALE],
        }
        _replace(self._batch_path(collected.step), json.dumps(record).encode())
        self._batches.add(collected.step)

    def read_batch(self, step: int) -> Record | None:
        """What the batch of `step` was made of; None where it is not in the journal."""
        if step not in self._batches:
            return None
        try:
            record = json.loads(self._batch_path(step).read_text())
            position = record["position"]
            return Record(
                step=step,
                draws=tuple(Draw(*draw) for draw in record["draws"]),
                position=Position(
                    next_group_id=position["next_group_id"],
                    stream_state=position["stream_state"],
                    pending=tuple(Draw(*draw) for draw in position["pending"]),
                ),
                num_in_flight=record["num_in_flight"],
                waiting=(record["waiting"][0], record["waiting"][1]),
                stale=frozenset(record["stale"]),
            )
        except _DAMAGED as error:
            self._say(f"journal: the batch of step {step} cannot be read ({error}); it is collected again")
            return None

    def prune(self, step: int) -> None:
        """Deletes the batches up to `step`, which a complete checkpoint holds, and their groups."""
        for number in sorted(number for number in self._batches if number <= step):
            record = self.read_batch(number)
            for draw in record.draws if record else ():
                self._forget(draw.group_id)  # before the batch that names it
            self._forget_batch(number)

    def settle(self, position: Position) -> None:
        """Deletes groups that a run which stands at `position` has handed over."""
        pending = {draw.group_id for draw in position.pending}
        for group_id in [g for g in self._groups if g < position.next_group_id and g not in pending]:
            self._forget(group_id)

    def _forget_batch(self, step: int) -> None:
        self._batches.discard(step)
        self._batch_path(step).unlink(missing_ok=True)

    def _forget(self, group_id: int) -> None:
        after = self._groups.pop(group_id, None)
        if after is not None:
            self._group_path(group_id, after).unlink(missing_ok=True)

    def _group_path(self, group_id: int, started_after: int) -> Path:
        return self._folder / f"group-{group_id:06d}-after-{started_after:06d}.npz"

    def _batch_path(self, step: int) -> Path:
        return self._folder / f"batch-{step:06d}.json"


def _replace(path: Path, content: bytes | memoryview) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    os.replace(partial, path)


def _joined(parts: Sequence[Sequence[int | float]], dtype: type) -> np.ndarray:
    return np.concatenate([np.asarray(part, dtype) for part in parts])


def _described(rollout: Rollout, verdict: Verdict | None) -> dict[str, Any]:
    """A rollout without its tokens, which are stored as arrays."""
    completion = rollout.completion
    return {
        "num_tokens": len(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "policy_version": completion.policy_version,
        "spans": [list(span) for span in completion.spans],
        "text": rollout.text,
        "program": rollout.program,
        "rules_differ": rollout.rules_differ,
        "verdict": None if verdict is None else asdict(verdict) | {"outcome": verdict.outcome.value},
    } | ({} if rollout.score is None else _elsewhere(rollout))


def _own_prompt(described: Mapping[str, Any]) -> Prompt:
    return Prompt(problem_id=described["problem_id"], token_ids=tuple(described["token_ids"]), text=described["text"])


def _elsewhere(rollout: Rollout) -> dict[str, Any]:
    """What only a rollout from elsewhere has."""
    return {
        "score": rollout.score,
        "loss_mask": [int(trains) for trains in rollout.completion.loss_mask],
        "prompt": asdict(rollout.prompt),
    }


def _rebuilt(
    described: Sequence[Mapping[str, Any]], tokens: Mapping[str, list[Any]], *, draw: Draw, prompt: Prompt | None
) -> tuple[tuple[Rollout, ...], tuple[Verdict | None, ...]]:
    """The rollouts and verdicts that `_described` and the arrays stand for. Raises KeyError, TypeError, ValueError."""
    rollouts, verdicts, start = [], [], 0
    for sample_index, one in enumerate(described):
        end = start + one["num_tokens"]
        completion = Completion(
            token_ids=tuple(tokens["token_ids"][start:end]),
            behavior_logprobs=tuple(tokens["behavior_logprobs"][start:end]),
            finish_reason=one["finish_reason"],
            policy_version=one["policy_version"],
            spans=tuple(VersionSpan(*span) for span in one["spans"]),
            loss_mask=tuple(map(bool, one.get("loss_mask", ()))),
        )
        rollouts.append(
            Rollout(
                group_id=draw.group_id,
                sample_index=sample_index,
                prompt=_own_prompt(one["prompt"]) if prompt is None else prompt,
                completion=completion,
                text=one["text"],
                program=one["program"],
                rules_differ=one.get("rules_differ", False),
                score=one.get("score"),
            )
        )
        verdict = one["verdict"]
        verdicts.append(None if verdict is None else Verdict(**verdict | {"outcome": Outcome(verdict["outcome"])}))
        start = end
    if any(len(values) != start for values in tokens.values()):
        raise ValueError(f"{start} tokens are described, {len(tokens['token_ids'])} are there")
    return tuple(rollouts), tuple(verdicts)
