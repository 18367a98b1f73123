"""A local runner that judges several programs: nothing of one reaches the next."""

import asyncio
import signal

from nouscoder_jax.verifier.local import LocalSandbox
from nouscoder_jax.verifier.sandbox import Execution, Limits

LIMITS = Limits(cpu_s=2.0, wall_s=6.0, memory_mib=256, output_mib=1, max_processes=16)

POISON = """
import builtins, os, sys
open("/tmp/left", "w").write("secret")
builtins.leaked = "secret"
os.environ["LEAKED"] = "secret"
sys.modules["math"] = None
if os.fork() == 0:
    import time
    while True:
        time.sleep(1)
print("done")
"""
LOOK = """
import builtins, os, math
print(os.path.exists("/tmp/left"), hasattr(builtins, "leaked"), os.environ.get("LEAKED"), math.gcd(4, 6))
print(sorted(int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) not in (1, os.getpid())))
"""


def run_all(programs: list[str], *, reuse: int) -> tuple[list[Execution], int]:
    """What each program did, and how many runners it took."""

    async def run() -> tuple[list[Execution], int]:
        sandbox = LocalSandbox(reuse=reuse)
        pids, executions = set(), []
        try:
            for program in programs:
                async with sandbox.session(program, fn_name=None, limits=LIMITS) as session:
                    executions.append(await session.run("1\n"))
                    pids |= {runner.process.pid for runner in sandbox._live}
        finally:
            await sandbox.close()
        return executions, len(pids)

    return asyncio.run(run())


def test_a_program_finds_nothing_of_the_one_before_it_in_the_same_runner():
    executions, num_runners = run_all([POISON, LOOK], reuse=2)
    assert num_runners == 1
    assert executions[0].stdout == b"done\n"
    assert executions[1].stdout.split(b"\n")[0] == b"False False None 2"
    assert executions[1].stdout.split(b"\n")[1] == b"[]"


def test_a_runner_is_thrown_away_after_its_share_of_programs():
    _, num_runners = run_all(["print(1)"] * 5, reuse=2)
    assert num_runners == 3


def test_with_a_share_of_one_each_program_gets_a_runner_of_its_own():
    _, num_runners = run_all(["print(1)"] * 3, reuse=1)
    assert num_runners == 3


def test_signals_that_reach_us_ignored_end_a_program_all_the_same():
    names = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM")
    before = {name: signal.signal(getattr(signal, name), signal.SIG_IGN) for name in names}
    try:
        programs = [f"import os, signal\nos.kill(os.getpid(), signal.{name})\nprint(1)" for name in names]
        executions, _ = run_all(programs, reuse=1)
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
    assert [execution.stdout for execution in executions] == [b""] * 4
