"""What a run measures and where it goes.

In: numbers by name, once a step. Out: metrics.jsonl, TensorBoard files, lines and a progress display on the console,
pass_at_1.png. Must not import jax; knows nothing of the modules that measure.
"""
