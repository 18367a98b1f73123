"""NousCoder in JAX: Qwen3 trained by reinforcement learning on programs that are run.

Nothing is imported here, so that `from nouscoder_jax.losses import dapo_loss` needs only jax.
"""
