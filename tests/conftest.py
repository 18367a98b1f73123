"""The test rig: types checked at run time, 8 fake CPU devices, strict rank promotion, one folder of compiled programs
for the whole run. Imports nothing of the package at the top, because the checking of types has to come first."""

import atexit
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nearly all of the time here is compilation: a third of it with XLA's older emitters and no splitting of programs.
# `make train` and the loss trace compile as users do (integration/small_run.py).
os.environ["XLA_FLAGS"] = " ".join((
    os.environ.get("XLA_FLAGS", ""), "--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_force_host_platform_device_count=8",
))  # fmt: skip
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# What one test or one of its processes has compiled, no other compiles again: workers inherit this environment.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="nouscoder-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# A background job of a shell, as CI may start us, ignores SIGINT, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import pytest
from beartype import BeartypeConf
from beartype.claw import beartype_packages
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).resolve().parents[1]
LONGEST = (
    "test_processes.py", "test_sglang_failures.py", "test_slurm.py", "test_crashes.py", "test_loss_trace.py",
    "test_plan_cli.py", "test_serve_script.py", "test_train_sglang.py", "test_train_objectives.py",
    "test_train_smoke.py", "test_update.py", "test_objective.py", "test_embedded.py", "test_simulation.py",
    "test_qwen3.py", "test_generate.py", "test_warm_start.py",
)  # fmt: skip
"""Test files of a minute or more."""
PACKAGES = {"nouscoder_jax": ROOT / "nouscoder_jax", "nouscoder_kernels": ROOT / "kernels" / "nouscoder_kernels"}
SHARED_DATA = ROOT.parent / "shared" / "data"


def check_types() -> None:
    """Every function of the package checks what it is given and returns: shapes too (jaxtyping) in modules that state
    them and in those with a NamedTuple, whose annotations beartype alone does not find; elsewhere beartype, which
    is ten times quicker a call."""
    sources = {
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)): path.read_text(encoding="utf-8")
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*.py")
    }
    shaped = [name for name, text in sources.items() if "jaxtyping" in text or "NamedTuple" in text]
    install_import_hook(shaped, "beartype.beartype")
    generic = "nouscoder_jax.loop.threads"  # beartype does not read a ParamSpec whose name is text
    beartype_packages(PACKAGES, conf=BeartypeConf(claw_is_pep526=False, claw_skip_package_names=(generic,)))


check_types()


def pytest_addoption(parser: pytest.Parser) -> None:
    """--record FILE: what came out, for a tier that runs seldom."""
    parser.addoption(
        "--record", metavar="FILE", help="write outcome and seconds of each test, and the machine, as JSON"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Of several workers one runs all tests of a file, or of those that share servers: what is costly starts once. (The
    own way of pytest-xdist 3.8, `--dist loadgroup`, has no effect with pytest 9.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "real SGLang servers" if "tests/rollout/test_sglang" in file else file

    config.option.loadscopereorder = False  # files come as `pytest_collection_modifyitems` has put them
    return Files(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest come first, so that no worker is left alone with one of them at the end."""
    first = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path.name, len(first)))


class Record:
    """The file of --record: the last result of each test, with its date, commit and machine. It is written after every
    test, so that hours are not lost where a run is ended early."""

    def __init__(self, path: Path) -> None:
        from nouscoder_jax.bench import machine

        self._path, self._about = path, machine.describe(("jax", "pytest"))
        self._tests = json.loads(path.read_text(encoding="utf-8"))["tests"] if path.is_file() else {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            told = {"outcome": report.outcome, "seconds": round(report.duration, 1), **dict(report.user_properties)}
            self._tests[report.nodeid] = told | self._about
            self._path.write_text(json.dumps({"tests": self._tests}, indent=1) + "\n", encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Writes the record that --record asks for."""
    if path := config.getoption("--record"):
        config.pluginmanager.register(Record(Path(path)))


@pytest.fixture(scope="module")
def quick_compilation():
    """Compiles with little optimisation: what these modules test is arithmetic, and most of their time is compilation.

    Optimised programs are those of test_logits_equal_transformers_at_position_40000, of every test that starts a script
    and of those that measure memory.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def architecture():
    """Qwen3 with 30 thousand parameters."""
    from small import make_architecture

    return make_architecture()


@pytest.fixture(scope="session")
def tiny_config():
    """configs/tiny.py."""
    from small import make_config

    return make_config()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real problems; skips where this machine does not have it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real problems (../shared/data) is not on this machine")
    return SHARED_DATA


@pytest.fixture
def make_rollout():
    from nouscoder_jax.types import Completion, Prompt, Rollout

    def make(prompt=(1, 2, 3), completion=(7, 8), finish_reason="stop", index=0, problem_id="p"):
        return Rollout(
            group_id=0,
            sample_index=index,
            prompt=Prompt(problem_id=problem_id, token_ids=tuple(prompt)),
            completion=Completion(
                token_ids=tuple(completion),
                behavior_logprobs=tuple(-0.5 - i for i in range(len(completion))),
                finish_reason=finish_reason,
                policy_version=0,
            ),
            text="",
            program=None,
        )

    return make


@pytest.fixture
def make_experience(make_rollout):
    from nouscoder_jax.types import Experience

    def make(*, advantage=1.0, trainable=True, **rollout):
        return Experience(
            rollout=make_rollout(**rollout), verdict=None, reward=None, advantage=advantage, trainable=trainable
        )

    return make
