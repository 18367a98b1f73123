"""The README's optax loop, run as it stands."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np


def test_the_readmes_loop_raises_the_probability_of_tokens_with_positive_advantage(root: Path):
    text = (root / "README.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "dapo_loss" in block)
    assert sum(1 for line in code.splitlines() if line) <= 15
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 5, (4, 6)))
    batch = {
        "features": jnp.float32(rng.normal(size=(4, 6, 8))),
        "tokens": tokens,
        "old_logprobs": jnp.full((4, 6), -np.log(5.0)),
        "rewards": jnp.asarray([[True, False], [True, False]]),
        "mask": jnp.ones((4, 6), bool),
    }
    names = {"params": jnp.zeros((8, 5)), "batches": [batch] * 10}
    exec(code, names)
    logprobs = jax.nn.log_softmax(batch["features"] @ names["params"])
    chosen = np.take_along_axis(np.asarray(logprobs), np.asarray(tokens)[..., None], -1)[..., 0]
    assert chosen[::2].mean() > -np.log(5.0) + 0.02 > -np.log(5.0) - 0.02 > chosen[1::2].mean()
    assert float(names["metrics"]["ratio_max"].value()) > 1.05
