"""Qwen3 in Flax: arrays in, arrays out.

In: token ids, positions, segment ids. Out: hidden states, or sampled tokens with a KV cache. No network, no subprocess.
"""
