"""What a differentiable function gives for some operands: its value and its derivatives of first and second order."""

import torch
from torch.autograd import forward_ad


def _like(tensor, seed):
    """A reproducible tensor of the same shape, dtype and device, about as large; the same for every dtype up to
    rounding. Multiples of 1/8 below 4: exact in all of them."""
    generator = torch.Generator().manual_seed(seed)

    def part():
        return torch.randint(-31, 32, tensor.shape, generator=generator, dtype=torch.float64) / 8

    values = torch.complex(part(), part()) if tensor.is_complex() else part()
    return values.to(dtype=tensor.dtype, device=tensor.device)


def derivatives(function, operands):
    """{name: tensor} of function(*operands), its gradients, its double backward and its forward-mode derivatives.

    The double backward is asked for one cotangent at a time: each result is then one kernel's, not a sum of rounded
    ones, so that a bound on its rounding means something.
    """
    operands = [t.detach().clone().requires_grad_() for t in operands]
    out = function(*operands)
    results = {"output": out}
    cotangent = _like(out, 1).requires_grad_()
    grads = torch.autograd.grad(out, operands, cotangent, create_graph=True)
    for i, grad in enumerate(grads):
        results[f"grad {i}"] = grad
    sources = [*operands, cotangent]
    for i, grad in enumerate(grads):
        twice = torch.autograd.grad(
            grad, sources, _like(grad, 10 + i), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for j, value in enumerate(twice):
            results[f"gradgrad {i},{j}"] = value
    for i, operand in enumerate(operands):
        with forward_ad.dual_level():
            duals = [t.detach() for t in operands]
            duals[i] = forward_ad.make_dual(duals[i], _like(operand, 20 + i))
            results[f"jvp {i}"] = forward_ad.unpack_dual(function(*duals)).tangent
    return {name: value.detach() for name, value in results.items()}
