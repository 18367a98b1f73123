"""From files of problems to prompts in order.

In: JSONL files, a tokenizer, the data section of the config. Out: Problem, Prompt and a Grain iterator whose position
is JSON. Must not import jax.
"""
