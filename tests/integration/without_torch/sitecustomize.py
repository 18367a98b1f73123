"""On PYTHONPATH: a process that does not find torch, like that of a user who has not installed it.

Importing torch, which transformers and tensorboardX do where they find it, is half of the start of a short session.
"""

import sys
from importlib.machinery import PathFinder


class WithoutTorch(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname == "torch" else super().find_spec(fullname, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTorch
