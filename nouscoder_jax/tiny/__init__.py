"""The embedded default: problems, tokenizer and warm-started policy of `configs/tiny.py`, and the code that makes them.

In: a seed. Out: configs/tiny/*.jsonl and configs/tiny/policy.
"""
