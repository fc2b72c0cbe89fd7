"""The console script `sssd`: one word for each command."""

import sys
from collections.abc import Callable
from importlib import import_module

from sssd.commands import WRONG_USE, exit_on, plain_output

COMMANDS = {
    "train": "train a detector",
    "evaluate": "evaluate a trained detector: the 12 COCO numbers",
    "predict": "detect objects in images and videos",
    "export": "export a trained detector as .onnx or .safetensors",
    "data": "check a data set; generate the demo data",
    "compare": "test whether a change in training helps on your data",
}

USAGE = "usage: sssd COMMAND ...\n\n" + "".join(
    f"  {name:<13}{text}\n" for name, text in COMMANDS.items()
)


def main(arguments: list[str] | None = None) -> int:
    """Hands the arguments to the command that the first one names; returns the exit status."""
    plain_output()
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE + "\n`sssd COMMAND --help` shows its flags.")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"error: sssd has no command {name!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    # Only the command that is asked for is imported: all of them take seconds.
    module = f"sssd.{name}.__main__" if name in ("data", "compare") else f"sssd.{name}"
    with exit_on(WRONG_USE, ImportError):  # `sssd.extras`
        run: Callable[[list[str]], int] = import_module(module).main
    return run(rest)


if __name__ == "__main__":
    sys.exit(main())
