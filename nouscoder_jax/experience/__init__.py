"""From verdicts to batches.

In: Rollout and Verdict. Out: Experience, then Batch (NumPy). Must not import jax.
"""
