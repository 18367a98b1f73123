"""Packed attention and token logprobs on one device."""
