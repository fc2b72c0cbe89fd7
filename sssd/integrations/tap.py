"""What a module was given or gave in one forward pass, for a loss that is computed later."""

from typing import Any

from torch import nn


class Tap:
    """Captures the output or input of a module between `open` and `take`, where it must come once.

    It hangs on the module by object: a deep copy of the module (a moving average of the weights)
    carries the hook along but never fires it. Attach it before DistributedDataParallel and
    torch.compile wrap the module.

    Args:
        module: that is listened to.
        name: what it is called in messages.
        of_input: capture its first argument instead of its output.

    Example:
        >>> import torch
        >>> body = nn.Conv2d(3, 8, 1)
        >>> tap = Tap(body, "body")
        >>> tap.open()
        >>> _ = body(torch.zeros(1, 3, 4, 4))
        >>> tap.take().shape
        torch.Size([1, 8, 4, 4])
    """

    def __init__(self, module: nn.Module, name: str, *, of_input: bool = False) -> None:
        self.module = module
        self.name = name
        self.of_input = of_input
        self._captured: list[Any] = []
        self._is_open = False
        self._handle = module.register_forward_hook(self)

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Is the module's forward hook."""
        if self._is_open and module is self.module:
            self._captured.append(args[0] if self.of_input else output)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Tap":
        """A copied module's hook stays the tap of the original, which ignores the copy."""
        return self

    def open(self) -> None:
        """Begins to capture, and drops what an interrupted pass may have left."""
        self._captured, self._is_open = [], True

    def close(self) -> None:
        """Ends capturing, and drops what there is."""
        self._captured, self._is_open = [], False

    def take(self) -> Any:
        """Ends capturing and hands over what was captured, of which nothing is kept.

        Raises:
            RuntimeError: the module has not run since `open`, or more than once.
        """
        captured = self._captured
        self.close()
        if len(captured) != 1:
            raise RuntimeError(
                f"the tap on {self.name} captured {len(captured)} passes in one step but needs "
                "exactly one: was the module replaced, or run again (activation checkpointing), "
                "after the tap was attached?"
            )
        return captured[0]

    def remove(self) -> None:
        """Takes the hook off the module."""
        self._handle.remove()
