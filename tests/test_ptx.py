"""csrc/cuda/ptx.h, instruction by instruction: the emulator's twins against plain matrix products; and on a machine
with a GPU, the hardware against the twins.
"""

import pytest
import torch
from emulator import library as emulator
from emulator.build import COMPILER

if COMPILER is None:
    pytest.skip("no C++ compiler for the emulator (apt install g++)", allow_module_level=True)

# name: (number in ptx_checks.cu, shapes of a, b and d, dtype of a and b)
FP16, BF16, TF32, FP64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
PRODUCTS = {
    "fp16": (0, (16, 16, 8), FP16),
    "bf16": (1, (16, 16, 8), BF16),
    "fp16-ldmatrix": (2, (16, 16, 8), FP16),
    "fp16-ldmatrix-trans": (3, (16, 16, 8), FP16),
    "bf16-ldmatrix": (4, (16, 16, 8), BF16),
    "bf16-ldmatrix-trans": (5, (16, 16, 8), BF16),
    "tf32": (6, (16, 8, 8), TF32),
    "f64": (7, (8, 4, 8), FP64),
}


def on_emulator(which, source, result, count=0):
    emulator.ptx_check(which, source, result, count)
    return result


def product(run, name, a, b, d):
    which, _, _ = PRODUCTS[name]
    return run(which, torch.cat([a.reshape(-1), b.reshape(-1)]), d.clone())


def draw(name, seed, integers):
    _, (m, k, n), dtype = PRODUCTS[name]
    generator = torch.Generator().manual_seed(seed)
    wide = torch.float64 if dtype == FP64 else torch.float32

    def values(*shape):
        if integers:
            return torch.randint(-50, 51, shape, generator=generator).double()
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return values(m, k).to(dtype), values(k, n).to(dtype), values(m, n).to(wide)


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_integers_are_exact(name, order):
    emulator.configure(order)
    for seed in range(3):
        a, b, d = draw(name, seed, integers=True)
        expected = a.double() @ b.double() + d.double()
        assert torch.equal(product(on_emulator, name, a, b, d).double(), expected)
    emulator.configure()
