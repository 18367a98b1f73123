"""From prompts to groups of completions.

In: Prompt, exported weights. Out: Rollout. Only `embedded` may import jax.
"""
