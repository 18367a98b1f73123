"""Every carrier between stages: what one module hands to the next.

Frozen, slotted, keyword-only dataclasses of host values, and `Batch`, the one carrier of arrays.
Standard library, NumPy and jaxtyping only (jaxtyping does not import jax). Siblings share nothing but this file.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from jaxtyping import Bool, Float32, Int32


class JudgeError(Exception):
    """The judge failed, not the program: Docker host gone, sandbox could not start, runner dead before the program
    began. Retried; then the rollout is not trainable. Never a reward."""


class EngineError(Exception):
    """The engine failed to generate or to take new weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestCase:
    """One hidden test of a problem.

    Example:
        TestCase(input="2 3\\n", expected="5\\n")
        TestCase(input="[[3, 1, 2]]", expected="[1, 2, 3]")   # function problem
    """

    __test__ = False  # not a pytest class

    input: str
    """stdin as text; for a function problem a JSON list of positional arguments."""
    expected: str
    """stdout as text; for a function problem a JSON value. Never enters a sandbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How expected and actual output are compared.

    Example:
        Comparison(kind="float", abs_tolerance=1e-6, rel_tolerance=1e-6, ignore_case=False, program="")
    """

    kind: Literal["exact", "lines", "tokens", "numbers", "float", "program"]
    """exact: lines equal after trailing blanks are dropped. lines: LiveCodeBench's rule, line by line, numbers by
    value. tokens: blank-separated tokens equal. numbers: tokens equal or the same number, `2.0` for `2`. float: tokens
    equal or both numbers within tolerance. program: several answers are right, and `program` decides."""
    abs_tolerance: float
    """Largest absolute difference, for kind float."""
    rel_tolerance: float
    """Largest difference relative to the expected number, for kind float."""
    ignore_case: bool
    """Letters compare without case."""
    program: str
    """Source that defines `check(input, expected, output) -> bool`, all three text; empty for the other kinds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A statement with hidden tests.

    Example:
        Problem(problem_id="tiny/train/0007", statement="Read two integers. Print their sum.", tests=(TestCase(...),),
                fn_name=None, starter_code="", prelude="", time_limit_s=2.0, memory_limit_mib=256,
                comparison=Comparison(...), source="nouscoder-jax", family="pair_sum")
    """

    problem_id: str
    statement: str
    tests: Sequence[TestCase]
    """A tuple, or of a prepared folder what reads them when they are asked for (data/store.py)."""
    fn_name: str | None
    """None: stdin/stdout. Else the function to call, `f` or `Solution.method`."""
    starter_code: str
    prelude: str
    """Source put before a program, e.g. the imports that its platform gives. Empty: none."""
    time_limit_s: float | None
    """CPU seconds a test; None: the verifier's default."""
    memory_limit_mib: int | None
    """None: the verifier's default."""
    comparison: Comparison
    source: str
    family: str
    """Kind of problem, for tables; empty where the source has none."""
    signature: str = ""
    """How a function's arguments and result are made of JSON values, such as `(ListNode,_)->ListNode`; empty: as they
    are. Kinds in nouscoder_jax/verifier/inside/values.py."""
    parameters: tuple[str, ...] = ()
    """Names of the function's parameters; empty where it reads stdin."""
    license: str = ""
    title: str = ""
    platform: str = ""
    """Where it was set, such as codeforces; empty where the source does not say."""
    difficulty: str = ""
    """As its source names it."""
    date: str = ""
    """ISO date on which it was published; empty where the source does not say."""
    url: str = ""
    derived: tuple[str, ...] = field(default=(), compare=False)
    """What the reader took from prose or mended, a line each, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A labelled program for a problem, from a problem file or a --solutions file.

    Example:
        Solution(problem_id="Mbpp/1", solution_index=0, label="accepted", code="def f(): ...")
    """

    problem_id: str
    solution_index: int
    label: str | None
    """accepted, wrong_answer, time_limit, runtime_error, rejected; None: not labelled."""
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the engine continues.

    Example:
        Prompt(problem_id="tiny/train/0007", token_ids=(1, 52, 7), text="<|im_start|>user\\nRead two integers. ...")
    """

    problem_id: str
    token_ids: tuple[int, ...]
    text: str = ""
    """What the ids say, special tokens included, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one completion is drawn.

    Example:
        Sampling(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=128, seed=12345)
    """

    temperature: float
    top_p: float
    top_k: int
    """0: all tokens."""
    max_completion_tokens: int
    seed: int
    """Non-negative, below 2**31. The same prompt, seed and weights give the same completion."""


UNKNOWN_VERSION = -1
"""Policy version of tokens that came from elsewhere, which does not say."""


class VersionSpan(NamedTuple):
    """Tokens [start, end) of a completion, all sampled with the weights of one version.

    Example:
        VersionSpan(policy_version=3, start=0, end=812)
    """

    policy_version: int
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What the engine returned for one prompt.

    Example:
        Completion(token_ids=(9, 4, 2), behavior_logprobs=(-0.1, -2.0, -0.01), finish_reason="stop",
                   policy_version=3)
    """

    token_ids: tuple[int, ...]
    """Sampled ids, the end token included when there is one."""
    behavior_logprobs: tuple[float, ...]
    """Per token, nats: of the distribution really sampled (after temperature, top-k, top-p)."""
    finish_reason: Literal["stop", "length", "abort"]
    policy_version: int
    """Oldest version of the weights that sampled any of the tokens; UNKNOWN_VERSION where nobody says."""
    spans: tuple[VersionSpan, ...] = ()
    """Where the version changed on the way: the version of each stretch, in order, over all tokens. Empty: one."""
    loss_mask: tuple[bool, ...] = ()
    """Per token, whether the policy wrote it: what an environment says between two turns is read and not trained on.
    Empty: all."""

    @property
    def token_versions(self) -> tuple[int, ...]:
        """The version that sampled each token."""
        if not self.spans:
            return (self.policy_version,) * len(self.token_ids)
        return tuple(span.policy_version for span in self.spans for _ in range(span.start, span.end))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One prompt and one completion of it.

    Example:
        Rollout(group_id=17, sample_index=3, prompt=Prompt(...), completion=Completion(...),
                text="```python\\nprint(1)\\n```", program="print(1)\\n")
    """

    group_id: int
    """Number of the draw: unique in a run; all rollouts of one group share it."""
    sample_index: int
    prompt: Prompt
    completion: Completion
    text: str
    """The completion decoded, special tokens left out."""
    program: str | None
    """Source taken from the text; None: there is none."""
    rules_differ: bool = False
    """The two rules of data.extract_rule take different programs."""
    score: float | None = None
    """Reward that came with it, from an environment elsewhere; None: the judge's verdict decides."""


class ExecutionStatus(enum.Enum):
    """How a process ended. Says nothing about right or wrong."""

    EXITED = "exited"
    EXCEPTION = "exception"  # an uncaught Python exception
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    SIGNALLED = "signalled"


class Outcome(enum.Enum):
    """What the judge concluded about a program."""

    ACCEPTED = "accepted"
    WRONG_ANSWER = "wrong_answer"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    RUNTIME_ERROR = "runtime_error"
    NO_PROGRAM = "no_program"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judge's conclusion on one program.

    Example:
        Verdict(outcome=Outcome.WRONG_ANSWER, tests_passed=3, tests_total=8, cpu_s=0.01, peak_memory_mib=11.0,
                detail="test 3: expected 5, got 6")
    """

    outcome: Outcome
    tests_passed: int
    tests_total: int
    cpu_s: float
    """Largest CPU time of a test, seconds."""
    peak_memory_mib: float
    """Largest memory of a test, MiB; 0 where the sandbox cannot tell."""
    detail: str
    """For people; not meant to be parsed."""
    failed_test: int | None = None
    """Number in the problem, from 1, of the first test that failed; None: none did, or none was run."""
    got: str = ""
    """The beginning of what the program printed or returned in that test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """A judged rollout with its credit.

    Example:
        Experience(rollout=Rollout(...), verdict=Verdict(...), reward=1.0, advantage=0.7, trainable=True)
    """

    rollout: Rollout
    verdict: Verdict | None
    """None: the judge failed (JudgeError) and the rollout is not trainable; or it came with a score."""
    reward: float | None
    """None where there is neither a verdict nor a score."""
    advantage: float
    trainable: bool
    """False: no token of it enters an update."""


class DriftError(Exception):
    """Trainer and engine disagree about the probabilities of sampled tokens more than the config allows, although both
    hold the same weights. The message says by how much, and where."""


class DivergedError(Exception):
    """Several updates in a row could not be taken because loss, gradient or new weights were not finite. The message
    has the last figures."""


class ProcessLostError(Exception):
    """One of the run's processes is gone, and the others cannot go on without it. The message says which, and how to
    resume. Threads of this process may wait for it for ever: leave with `os._exit`."""


class ConservationError(Exception):
    """Rollouts were lost or counted twice on their way through the loop. The message has the counts."""


class Batch(NamedTuple):
    """Packed rows, the one carrier between host and device; NumPy on the host, sharded jax.Array inside `update`.

    Row r holds several sequences one after another; `segment_ids` numbers them from 1, 0 is padding. At position t the
    model reads `tokens[r, t]` and predicts `targets[r, t]`, the next token of the same segment; every other array
    belongs to that target.
    """

    tokens: Int32[Any, "rows time"]
    targets: Int32[Any, "rows time"]
    """The token after `tokens`; 0 at the last position of a segment and in padding."""
    positions: Int32[Any, "rows time"]
    """0, 1, 2, ... within a segment."""
    segment_ids: Int32[Any, "rows time"]
    loss_mask: Bool[Any, "rows time"]
    """True where `targets` is a completion token of a trainable experience."""
    on_policy: Bool[Any, "rows time"]
    """True where the engine drew the token with the very weights whose logprobs it is compared with."""
    behavior_logprobs: Float32[Any, "rows time"]
    advantages: Float32[Any, "rows time"]
    """The sequence's advantage at every position of its segment; 0 in padding."""
