"""The readers by the names that a command line gives them.

Out: READERS.
"""

from __future__ import annotations

from nouscoder_jax.data.readers import deepcoder, kattis, leetcode, livecodebench, nouscoder, rlvr, synthetic1, taco
from nouscoder_jax.data.readers.fields import Reader

READERS: dict[str, Reader] = {
    "apps": taco.apps,
    "deepcoder-codeforces": deepcoder.codeforces,
    "deepcoder-lcbv5": deepcoder.lcbv5,
    "deepcoder-primeintellect": deepcoder.primeintellect,
    "deepcoder-taco": deepcoder.taco,
    "kattis": kattis.package,
    "leetcode": leetcode.leetcode,
    "livecodebench": livecodebench.livecodebench,
    "nouscoder": nouscoder.nouscoder,
    **nouscoder.ENCODED,
    "rlvr": rlvr.rlvr,
    "synthetic1": synthetic1.synthetic1,
    "taco": taco.taco,
}
"""By the name of the format. Which a file has is said, never guessed from its records."""
