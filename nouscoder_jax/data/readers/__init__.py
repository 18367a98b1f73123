"""Public sets of problems, a module a set: a record as it was published becomes one of our format.

In: a record of a set (a JSON object, a row, a Kattis package). Out: an object of the fields of data/problems.py, or
ValueError (the record is broken) or LeftOutError (it is whole and of no use here). READERS names them for
scripts/prepare_data.py.
"""

from __future__ import annotations

from nouscoder_jax.data.readers import deepcoder, kattis, leetcode, livecodebench, nouscoder, rlvr, synthetic1, taco
from nouscoder_jax.data.readers.fields import LeftOutError, Reader

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
    "rlvr": rlvr.rlvr,
    "synthetic1": synthetic1.synthetic1,
    "taco": taco.taco,
}
"""By the name of the format. Which a file has is said, never guessed from its records."""

__all__ = ["READERS", "LeftOutError", "Reader"]
