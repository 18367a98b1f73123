"""What a run costs on a GPU fleet that is not here: bytes, collectives, time. Entry: `nouscoder_jax.planning.plan`.

Imports nothing, so that `scripts/plan.py` can set the environment before jax starts.
"""
