"""On PYTHONPATH of a session that a test starts: what would be half of its CPU seconds is left out.

torch, which transformers and tensorboardX import where they find it, is not found unless NOUSCODER_TEST_TORCH is set.
What process 0 has compiled is found by the others too: on the CPU jax's keys differ between processes, and only process
0 writes. (On GPUs they are equal.)
"""

import os
import sys
from importlib.machinery import PathFinder


class QuickStart(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname == "torch" and "NOUSCODER_TEST_TORCH" not in os.environ:
            return None
        spec = super().find_spec(fullname, path, target)
        if fullname == "jax._src.cache_key" and spec:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                hash_options = module._hash_serialized_compile_options
                module._hash_accelerator_config = lambda hashed, devices: None
                module._hash_serialized_compile_options = lambda hashed, options, **_: hash_options(
                    hashed, options, strip_device_assignment=True
                )

            spec.loader.exec_module = exec_module
        return spec


sys.meta_path[sys.meta_path.index(PathFinder)] = QuickStart
