"""The environment of TRL and google-tunix, which `bench.py update` and `bench.py conformance` share.

In: a folder. Out: a Python that can import them; the environment is made where the folder is new.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from nouscoder_jax.config import UserError

REQUIREMENTS = ("torch==2.13.0", "trl==1.16.0", "google-tunix==0.1.7", "jax==0.10.2")
"""What is asked for; on Linux another Python than 3.11 may take torch's CUDA wheels, which are gigabytes."""
CONSTRAINTS = (
    "accelerate==1.15.0",
    "datasets==5.2.0",
    "flax==0.12.8",
    "grain==0.2.18",
    "huggingface_hub==1.33.0",
    "jaxlib==0.10.2",
    "numpy==2.4.6",
    "optax==0.2.8",
    "orbax-checkpoint==0.12.8",
    "qwix==0.1.8",
    "safetensors==0.7.0",
    "tokenizers==0.22.2",
    "transformers==5.12.1",
)
"""Versions of what those bring along and what a figure may depend on."""


def peers_python(folder: Path) -> Path:
    """The Python of the peers' environment, which is made where the folder does not exist. Raises UserError."""
    python = folder / "bin" / "python"
    if python.exists():
        return python
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"--peers-env got {folder}, which holds no bin/python; give an environment or a new folder")
    print(f"installing {' '.join(REQUIREMENTS)} into {folder} (2.4 GB, some minutes)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(CONSTRAINTS) + "\n")
    done = subprocess.run([str(python), "-m", "pip", "install", "-q", "-c", str(constraints), *REQUIREMENTS])
    if done.returncode:
        python.unlink()
        raise UserError(f"pip could not install {' '.join(REQUIREMENTS)}; see its lines above, then delete {folder}")
    return python
