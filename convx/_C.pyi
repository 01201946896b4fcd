"""Types of the compiled module; see csrc/bindings_python.cpp and, for the first two, csrc/bindings_call.cpp."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

def conv2d(
    input: object,
    weight: object,
    bias: object,
    stride: object,
    padding: object,
    dilation: object,
    groups: object,
    padding_mode: object,
    /,
) -> Tensor | None: ...
def conv_transpose2d(
    input: object,
    weight: object,
    bias: object,
    stride: object,
    padding: object,
    output_padding: object,
    groups: object,
    dilation: object,
    /,
) -> Tensor | None: ...
def forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    output_size: Sequence[int],
    padding_mode: str,
    channels_last: bool,
) -> Tensor: ...
def grad_input(
    grad_output: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    input_size: Sequence[int],
    padding_mode: str,
    channels_last: bool,
) -> Tensor: ...
def grad_weight(
    input: Tensor,
    grad_output: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    kernel_size: Sequence[int],
    padding_mode: str,
    channels_last: bool,
) -> Tensor: ...
def prefers_channels_last(input: Tensor, weight: Tensor) -> bool: ...
def algorithms(device: str, primitive: str) -> list[tuple[str, str, bool]]: ...
def forced_algorithm(primitive: str) -> str: ...
def force_algorithm(primitive: str, name: str) -> None: ...
def cpu_isas() -> list[str]: ...
def cpu_isa() -> str: ...
def force_cpu_isa(name: str) -> None: ...
def parallel_threads() -> int: ...
def release_threads() -> None: ...
def build_info() -> dict[str, Any]: ...
