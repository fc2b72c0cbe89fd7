"""Imported before everything else of a command: one line where `sssd[train]` is not installed."""

import sys
from importlib.util import find_spec
from itertools import pairwise

PACKAGES = (
    "faster_coco_eval", "matplotlib", "numpy", "PIL", "pycocotools", "rich", "safetensors", "scipy",
    "torchvision", "typeguard", "tyro", "yaml",
)  # fmt: skip

if missing := [name for name in PACKAGES if find_spec(name) is None]:
    message = f"{', '.join(missing)} not installed, which training needs: pip install 'sssd[train]'"
    if any(a == "-m" and f"{b}.".startswith("sssd.") for a, b in pairwise(sys.orig_argv)):
        print(f"error: {message}", file=sys.stderr)  # `python -m` would show a traceback
        raise SystemExit(2)
    raise ImportError(message)
