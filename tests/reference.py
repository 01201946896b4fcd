"""The judge: the three primitives in numpy, straight from the definition and without torch.

    T(x, w, y) = sum over n,k,p,q,c,r,s of
                 y[n,k,p,q] * w[k,c,r,s] * x[n, c, p*stride - padding + r*dilation, ...]

`forward` = dT/dy, `grad_input` = dT/dx and `grad_weight` = dT/dw (csrc/problem.h has the alphabet). One loop over taps
and groups, plain indexing for the rest; a tap that reads zero padding is left out by its indices, never multiplied by
zero, so that an infinite weight does not become NaN there.

Arrays are float64, complex128 or int64 (exact, wrapping), or longdouble to judge float64 itself; the result has the
dtype of its operands. Arguments are those of torch.ops.convx.*, in their order.
"""

import numpy as np

DTYPES = (np.float64, np.longdouble, np.int64, np.complex128)


def tap(r, size_in, size_out, stride, padding, dilation, padding_mode):
    """The outputs along one axis that tap r serves, and the input position it reads for each of them."""
    out = np.arange(size_out)
    position = out * stride - padding + r * dilation
    if padding_mode == "zeros":
        inside = (position >= 0) & (position < size_in)
        return out[inside], position[inside]
    if padding_mode == "replicate":
        return out, np.clip(position, 0, size_in - 1)
    if padding_mode == "circular":
        return out, position % size_in
    if padding_mode == "reflect":  # mirrored about the first and the last element, which are not repeated
        position = np.abs(position)
        return out, np.where(position < size_in, position, 2 * (size_in - 1) - position)
    raise ValueError(f"unknown padding_mode {padding_mode!r}")


def _taps(x, w, y, stride, padding, dilation, groups, padding_mode):
    """Every tap of every group: the blocks of x and y it connects, as index tuples, and its place in w.

    Yields (of_x, of_w, of_y): x[of_x] is (N, C/G, p, q), w[of_w] is (K/G, C/G) and y[of_y] is (N, K/G, p, q), for the
    outputs p, q that the tap serves. An x position may come up more than once (padding modes), a y position may not.
    """
    (C, H, W), (K, Cg, R, S), (P, Q) = x.shape[1:], w.shape, y.shape[2:]
    assert x.shape[0] == y.shape[0], "operands must share their batch"
    assert (C, y.shape[1]) == (Cg * groups, K), "operands must share their channels"
    assert K % groups == 0, "the groups must divide the channels"
    Kg = K // groups
    for r in range(R):
        p, h = tap(r, H, P, stride[0], padding[0], dilation[0], padding_mode)
        for s in range(S):
            q, v = tap(s, W, Q, stride[1], padding[1], dilation[1], padding_mode)
            for g in range(groups):
                c, k = slice(g * Cg, (g + 1) * Cg), slice(g * Kg, (g + 1) * Kg)
                yield (
                    (slice(None), c, h[:, None], v[None, :]),
                    (k, slice(None), r, s),
                    (slice(None), k, p[:, None], q[None, :]),
                )


def _check(first, second, bias):
    for operand in (first, second, bias):
        assert operand is None or operand.dtype in DTYPES, f"no reference in {operand.dtype}"
        assert operand is None or operand.dtype == first.dtype


def forward(x, w, bias, stride, padding, dilation, groups, output_size, padding_mode="zeros", channels_last=False):
    """y = dT/dy, of size (N, K, *output_size)."""
    _check(x, w, bias)
    y = np.zeros((x.shape[0], w.shape[0], *output_size), x.dtype)
    for of_x, of_w, of_y in _taps(x, w, y, stride, padding, dilation, groups, padding_mode):
        y[of_y] += np.einsum("kc,ncpq->nkpq", w[of_w], x[of_x])
    return y if bias is None else y + bias[:, None, None]


def grad_input(y, w, bias, stride, padding, dilation, groups, input_size, padding_mode="zeros", channels_last=False):
    """x = dT/dx, of size (N, C, *input_size)."""
    _check(y, w, bias)
    x = np.zeros((y.shape[0], w.shape[1] * groups, *input_size), y.dtype)
    for of_x, of_w, of_y in _taps(x, w, y, stride, padding, dilation, groups, padding_mode):
        np.add.at(x, of_x, np.einsum("kc,nkpq->ncpq", w[of_w], y[of_y]))
    return x if bias is None else x + bias[:, None, None]


def grad_weight(x, y, stride, padding, dilation, groups, kernel_size, padding_mode="zeros", channels_last=False):
    """w = dT/dw, of size (K, C/groups, *kernel_size)."""
    _check(x, y, None)
    w = np.zeros((y.shape[1], x.shape[1] // groups, *kernel_size), x.dtype)
    for of_x, of_w, of_y in _taps(x, w, y, stride, padding, dilation, groups, padding_mode):
        w[of_w] = np.einsum("nkpq,ncpq->kc", y[of_y], x[of_x])
    return w


PRIMITIVES = {"forward": forward, "grad_input": grad_input, "grad_weight": grad_weight}
