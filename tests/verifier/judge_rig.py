"""Small problems, a config and a sandbox with its event loop, for tests of the judge."""

import asyncio
import dataclasses

import small

from nouscoder_jax.types import Comparison, Problem, TestCase
from nouscoder_jax.verifier.judge import make_sandbox
from nouscoder_jax.verifier.verify import verify


def make_config(backend, **changes):
    values = dict(
        backend=backend, docker_hosts=(), image="nouscoder-verifier", runtime="", num_workers=2,
        rollouts_per_sandbox=20, default_time_limit_s=2.0, wall_factor=3.0, memory_limit_mib=512, output_limit_mib=1,
        max_processes=48, max_retries=1, outage_limit_s=120.0,
    )  # fmt: skip
    return small.make_config(verifier=values | changes).verifier


def make_problem(tests, *, fn_name=None, kind="tokens", time_limit_s=2.0, **changes):
    values = dict(
        problem_id="p", statement="", tests=tuple(TestCase(input=i, expected=o) for i, o in tests), fn_name=fn_name,
        starter_code="", prelude="", time_limit_s=time_limit_s, memory_limit_mib=None, source="", family="",
        comparison=Comparison(kind=kind, abs_tolerance=1e-6, rel_tolerance=1e-6, ignore_case=False, program=""),
    )  # fmt: skip
    return Problem(**(values | changes))


class Rig:
    """A sandbox together with the event loop that it lives on."""

    def __init__(self, backend):
        self.config = make_config(backend)
        self.backend = backend
        self.loop = asyncio.new_event_loop()
        self.sandbox = self.loop.run_until_complete(self._make())

    async def _make(self):
        return make_sandbox(self.config)

    def run(self, coroutine):
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 120))

    def judge(self, problem, program, *, stop_at_first_failure):
        """The verdict. A failure of the judge is not tried again: a test is to see it."""
        config = dataclasses.replace(self.config, max_retries=0)
        return self.run(
            verify(problem, program, sandbox=self.sandbox, config=config, stop_at_first_failure=stop_at_first_failure)
        )

    def close(self):
        self.run(self.sandbox.close())
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
