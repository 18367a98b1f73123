"""Prints the last row of SGLang's table of cosines and sines, for several context lengths. Run by SGLang's own Python.

In: JSON on stdin, [[context length, rope scaling as in config.json or null], ...]. Out: JSON, a row each of 64 cosines
and then 64 sines.
"""

import json
import sys

import sglang.srt.server_args as server_args
import torch

server_args.set_global_server_args_for_scheduler(server_args.ServerArgs(model_path="none", device="cpu"))

from sglang.srt.layers.rotary_embedding import get_rope  # noqa: E402, reads the server's arguments when it is imported

rows = []
for length, scaling in json.loads(sys.stdin.read()):
    rope = get_rope(128, 128, length, 1_000_000, True, scaling, torch.float32)
    rows.append(rope.cos_sin_cache[length - 1].tolist())
print(json.dumps(rows))
