"""Large results on the CPU are asked for in huge pages (csrc/cpu/pages.h)."""

from pathlib import Path

import pytest
import torch

import convx

HUGE = 2 << 20


def flags(address: int) -> list[str]:
    """What the kernel says of the mapping that an address is in, its VmFlags (proc_pid_smaps(5))."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name = line.split()[0]
        if "-" in name:
            first, last = (int(part, 16) for part in name.split("-"))
            inside = first <= address < last
        elif inside and name == "VmFlags:":
            return line.split()[1:]
    return []


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a system without transparent huge pages"
)
@pytest.mark.parametrize("primitive", ("forward", "grad_input", "grad_weight"))
def test_a_large_result_is_in_huge_pages(primitive):
    size = 3 * 1024
    if primitive == "grad_weight":
        out = convx.grad.conv2d_weight(torch.ones(1, size, 1, 1), (size, size, 1, 1), torch.ones(1, size, 1, 1))
    else:
        call = convx.conv2d if primitive == "forward" else convx.conv_transpose2d
        out = call(torch.ones(1, 1, size, size), torch.ones(1, 1, 1, 1))
    assert out.nbytes > 32 << 20 and out.eq(1).all()
    inside = -(-out.data_ptr() // HUGE) * HUGE
    assert "hg" in flags(inside) and "hg" in flags(inside + out.nbytes // 2)
