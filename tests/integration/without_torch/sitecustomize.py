"""On PYTHONPATH: a process that cannot import torch, like that of a user who has not installed it.

Importing torch is what transformers and tensorboardX do where they find it, and half of a short session's start.
"""

import sys

sys.modules["torch"] = None  # type: ignore[assignment]
