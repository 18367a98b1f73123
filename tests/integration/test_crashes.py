"""A run that is killed with SIGKILL, anywhere, and resumed ends like one that never was: weights, metrics, rollouts."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import small_run
from sessions import Launcher

from nouscoder_jax.run_folder import RunFolder

ARGUMENTS = [*small_run.ARGUMENTS, "--checkpoint.every-steps=1", "--evaluation.every-steps=2"]
TIMED = re.compile(r"(seconds|throughput|judge)/.*|.*/idle_share")
"""Metrics that no two runs share."""


class Kill(NamedTuple):
    """Where a session is killed: at a place of a whole run (crash_watch.py), or some time after it."""

    place: int
    delay_ms: float


NEVER = Kill(-1, 0)


class Chain:
    """One run, killed again and again."""

    def __init__(self, folder: Path, launcher: Launcher, *, reference: Path | None = None) -> None:
        self.run_dir = folder / "run"
        self.log, self.output = folder / "touches", folder / "output"
        self.reference = reference or self.log
        self.launcher = launcher
        folder.mkdir()

    def session(self, kill: Kill) -> bool:
        """Starts or resumes the run, as a user would, and has it killed; whether it was."""
        resume = RunFolder(path=self.run_dir).config.exists()
        arguments = ["--resume", str(self.run_dir)] if resume else [f"--run-dir={self.run_dir}", *ARGUMENTS]
        places = {"log": self.log, "run_dir": self.run_dir, "reference": self.reference}
        watch = {name: str(path) for name, path in places.items()} | kill._asdict()
        code = self.launcher.start("train.py", *arguments, output=self.output, watch=watch).wait()
        said = self.output.read_text()
        assert code in (0, -9), said
        assert "Traceback" not in said and "error:" not in said, said
        return code == -9

    def touches(self) -> list[str]:
        """What all sessions did in the run folder."""
        return self.log.read_text().splitlines()

    def weights(self) -> dict[str, str]:
        """Tensor -> SHA-256 of the exported policy."""
        manifest = json.loads((self.run_dir / "export/manifest.json").read_text())
        return {name: entry["hash"] for name, entry in manifest["tensors"].items()}

    def metrics(self) -> list[dict]:
        lines = [json.loads(line) for line in RunFolder(path=self.run_dir).metrics.read_text().splitlines()]
        return [{name: value for name, value in line.items() if not TIMED.fullmatch(name)} for line in lines]

    def rollouts(self) -> dict[str, list[dict]]:
        """Without what a sandbox measures."""
        found = {}
        for path in sorted(RunFolder(path=self.run_dir).rollouts.iterdir()):
            found[path.name] = [json.loads(line) for line in path.read_text().splitlines()]
            for line in found[path.name]:
                line["verdict"] = {key: line["verdict"][key] for key in ("outcome", "tests_passed", "tests_total")}
        return found

    def generated(self) -> list[str]:
        """Names of the groups that were generated and judged, in all sessions."""
        return re.findall(r"^os.rename journal/(group-\d+)", self.log.read_text(), re.MULTILINE)

    def left_over(self) -> list[str]:
        """What a kill may leave and nobody may keep."""
        names = [str(path.relative_to(self.run_dir)) for path in self.run_dir.rglob("*")]
        return [name for name in names if re.search(r"\.part|\.old|\.partial|-tmp|journal/(group|batch)", name)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs compiled by one session are there for the next."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def launcher(root: Path, cache: Path) -> Iterator[Launcher]:
    launcher = Launcher(root, small_run.environment(cache))
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def uninterrupted(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    chain = Chain(tmp_path_factory.mktemp("uninterrupted") / "chain", launcher)
    assert not chain.session(NEVER)
    return chain


def kills(uninterrupted: Chain, number: int) -> list[Kill]:
    """Points spread evenly over a run, in its order; two of three right at a touch, the others between two."""
    last = len(uninterrupted.touches()) - 1
    delays_ms = (0, 0, 1, 0, 0, 5, 0, 0, 30)
    return [Kill(round(i * last / (number - 1)), delays_ms[i % 9]) for i in range(number)]


def check(chain: Chain, uninterrupted: Chain, points: list[Kill]) -> int:
    """Kills the run at each of the points, ends it, and compares it; how often it was killed."""
    killed_at = [point for point in points if chain.session(point)]
    assert not chain.session(NEVER)
    told = f"killed at {killed_at}"
    assert chain.weights() == uninterrupted.weights(), told
    assert chain.metrics() == uninterrupted.metrics(), told
    assert chain.rollouts() == uninterrupted.rollouts(), told
    generated = chain.generated()
    assert len(set(generated)) == len(generated), f"groups were generated again; {told}"
    assert chain.left_over() == [], told
    return len(killed_at)


@pytest.mark.timeout(600)
def test_ten_kills_change_nothing(launcher: Launcher, uninterrupted: Chain, tmp_path: Path):
    chain = Chain(tmp_path / "chain", launcher, reference=uninterrupted.log)
    assert check(chain, uninterrupted, kills(uninterrupted, 10)) >= 9


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_a_hundred_kills_change_nothing(root: Path, cache: Path, uninterrupted: Chain, tmp_path: Path):
    """Ten runs, each killed at every tenth of a hundred points."""
    points = kills(uninterrupted, 100)

    def sweep(number: int) -> int:
        launcher = Launcher(root, small_run.environment(cache))
        try:
            chain = Chain(tmp_path / f"chain-{number}", launcher, reference=uninterrupted.log)
            return check(chain, uninterrupted, points[number::10])
        finally:
            launcher.close()

    with ThreadPoolExecutor(2) as pool:
        killed = list(pool.map(sweep, range(10)))
    touches = [uninterrupted.touches()[point.place] for point in points]
    for kind in ("checkpoints/", "weights/", "journal/", "rollouts/", "export"):
        assert any(kind in touch for touch in touches), kind
    assert sum(killed) >= 90, killed
