"""On PYTHONPATH of a session or an SGLang server that a test starts: most of its CPU seconds are left out.

A session: torch, which transformers and tensorboardX import where they find it, is not found. What process 0 has
compiled is found by the others too: on the CPU jax's keys differ between processes, and only process 0 writes. (On GPUs
they are equal.)

A server, known by its command line: its scheduler and its detokenizer are forked from its first
process, which has imported everything and done nothing else, instead of importing it twice again. Imports are nine
tenths of a start.
"""

import gc
import multiprocessing
import sys
from importlib.machinery import PathFinder


class QuickStart(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname == "torch":
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


def fork_instead_of_spawning():
    """SGLang asks for `spawn` just before it starts its processes; until then nothing is collected."""
    set_start_method = multiprocessing.set_start_method

    def forked(method, force=False):
        gc.enable()
        set_start_method("fork", force)

    gc.disable()
    multiprocessing.set_start_method = forked


if any(word.startswith("sglang.launch_server") for word in sys.orig_argv):
    fork_instead_of_spawning()
else:
    sys.meta_path[sys.meta_path.index(PathFinder)] = QuickStart
