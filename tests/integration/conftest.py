"""What starts the sessions of small runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import small_run
from sessions import Launchers


@pytest.fixture(scope="session")
def launchers(root: Path) -> Iterator[Launchers]:
    """Starts scripts in the environment of small runs."""
    made = Launchers(root, small_run.environment())
    yield made
    made.close()
