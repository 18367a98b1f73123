"""NousCoder in JAX: Qwen3 trained by reinforcement learning on programs that are run.

    from nouscoder_jax import load_model

    model = load_model(path)    # a Hugging Face directory: config.json, *.safetensors
    logits = model(tokens)      # tokens "rows time", logits "rows time vocab"

`load_model` is fetched when it is first asked for and nothing else is imported here, so that
`from nouscoder_jax.losses import dapo_loss` needs only jax and `import nouscoder_jax` nothing at all. `load_model`
needs the extra `train`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nouscoder_jax.model.causal_lm import load_model as load_model

__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    """Imports what `__all__` names, on demand (PEP 562)."""
    if name != "load_model":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from nouscoder_jax.model.causal_lm import load_model
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("nouscoder"):
            raise
        raise ImportError(
            f"load_model needs {error.name}, which is not installed: pip install 'nouscoder-jax[train]'"
        ) from None
    return load_model
