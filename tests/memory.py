"""Memory layouts that a user's tensor may have, and poison for memory that a kernel must write or must not read.

A layout is a function from a contiguous tensor to one of the same shape with other strides. Most keep the values; those
in FEWER_VALUES can't, since several of their elements share memory, and keep the values that they have room for. Memory
around and between the elements is poisoned: a kernel that reads it gives NaN, or something near the largest integer.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch


def _poison_like(sample: torch.Tensor, shape) -> torch.Tensor:
    poison = float("nan") if sample.is_floating_point() else torch.iinfo(sample.dtype).max
    return torch.full(shape, poison, dtype=sample.dtype, device=sample.device)


def contiguous(values):
    return values.clone()


def channels_last(values):
    return values.clone(memory_format=torch.channels_last)


def sliced(values):
    """Every second element along each dimension of something larger."""
    larger = _poison_like(values, [2 * n + 2 for n in values.shape])
    return larger[tuple(slice(1, 2 * n + 1, 2) for n in values.shape)].copy_(values)


def cropped(values):
    """A window of a larger image: rows are contiguous, but further apart than they are long."""
    n, c, h, w = values.shape
    return _poison_like(values, (n, c, h + 3, w + 5))[:, :, 1 : 1 + h, 2 : 2 + w].copy_(values)


def channel_slice(values):
    """Some of the channels of a channels_last tensor."""
    n, c, h, w = values.shape
    return _poison_like(values, (n, h, w, c + 5)).movedim(-1, 1)[:, 2 : 2 + c].copy_(values)


def offset(values):
    """Contiguous, but beginning at an odd place of its storage."""
    storage = _poison_like(values, (values.numel() + 12,))
    return storage[7 : 7 + values.numel()].view(values.shape).copy_(values)


def transposed(values):
    """All dimensions in reverse order in memory."""
    return values.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)


def expanded_batch(values):
    """The first image for the entire batch."""
    return values[:1].clone().expand(values.shape)


def expanded_pixels(values):
    """One value for each plane, like the gradient of a mean over pixels."""
    return values[:, :, :1, :1].clone().expand(values.shape)


def expanded(values):
    """One value for all, like the gradient of a sum."""
    return values[:1, :1, :1, :1].clone().expand(values.shape)


def overlapping(values):
    """Windows that share memory: rows begin one element apart, as an unfolded signal's do."""
    row = torch.cat([values[:, :, 0, :], values[:, :, 1:, -1]], dim=2)
    plane = row.shape[2]
    return row.as_strided(values.shape, (plane * values.shape[1], plane, 1, 1))


LAYOUTS = {
    f.__name__: f
    for f in (
        contiguous,
        channels_last,
        sliced,
        cropped,
        channel_slice,
        offset,
        transposed,
        expanded_batch,
        expanded_pixels,
        expanded,
        overlapping,
    )
}


FEWER_VALUES = ("expanded_batch", "expanded_pixels", "expanded", "overlapping")


def bias_sliced(values):
    return _poison_like(values, (3 * len(values) + 2,))[2::3].copy_(values)


def bias_expanded(values):
    return values[:1].clone().expand(values.shape)


BIASES = {"none": None, "contiguous": torch.clone, "sliced": bias_sliced, "expanded": bias_expanded}


def storage_bytes(tensor: torch.Tensor) -> bytes:
    """All that lies in a tensor's memory, gaps included: to see that a kernel left it alone."""
    flat = torch.tensor([], dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
    return flat.cpu().numpy().tobytes()


@contextmanager
def poisoned_results():
    """New memory comes filled with NaN or the largest integer, so that an element nobody wrote shows.

    torch fills in at::empty itself, hence for tensors made in C++ too (test_exact.py proves it).
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill
