"""Counting the operator calls that some code makes, to prove which kernels it ran on.

with count_calls() as calls:
    convx.conv2d(x, w)
assert calls == {"convx.forward": 1}
"""

from collections import Counter

from torch.utils._python_dispatch import TorchDispatchMode

# Every operator through which torch itself may compute a convolution.
_TORCHS = ("convolution", "conv2d", "conv_transpose2d", "_slow_conv2d", "thnn_conv2d", "slow_conv")


class count_calls(TorchDispatchMode):
    """Counts calls of convx's operators as ``convx.NAME`` and of torch's convolutions as ``aten.NAME``."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __enter__(self):
        super().__enter__()
        return self.calls

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        namespace, _, name = func._schema.name.partition("::")
        if namespace == "convx" or any(t in name for t in _TORCHS):
            self.calls[f"{namespace}.{name}"] += 1
        return func(*args, **(kwargs or {}))


def ran_on_convx(calls: Counter) -> bool:
    """Whether there were convolutions and all of them were convx's."""
    return bool(calls) and all(name.startswith("convx.") for name in calls)
