"""Two processes on one machine, over gloo: DDP, FSDP2 and DTensors (two_processes.py has the checks).

torchrun starts once for each device, and each check of its is a test here.
"""

import functools
import json
import os
import tempfile
from pathlib import Path

import pytest
import torch.distributed as dist
from conftest import DEVICES
from kinds import KINDS
from process import run_python

import convx

if not dist.is_available():
    pytest.skip("this torch is built without torch.distributed", allow_module_level=True)

from two_processes import CHECKS, CHECKS_ON_GPUS

ROOT = os.path.dirname(convx.__file__)
PROGRAM = os.path.join(os.path.dirname(__file__), "two_processes.py")
RUNS = [(d, check.__name__) for d in DEVICES for check in (CHECKS if d == "cpu" else CHECKS_ON_GPUS)]


@functools.cache
def results(device):
    """What each of the two processes says of each check; the text of the error if they didn't come to an end."""
    with tempfile.TemporaryDirectory() as folder:
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
        done = run_python(*torchrun, PROGRAM, device, f"{folder}/results", timeout=600, OMP_NUM_THREADS="1")
        if done.returncode:
            return done.stderr
        return [json.loads(Path(folder, f"results.{rank}").read_text()) for rank in range(2)]


@KINDS
@pytest.mark.parametrize(("device", "check"), RUNS)
def test_two_processes(device, check, kind):
    both = results(device)
    assert isinstance(both, list), both
    for rank, said in enumerate(both):
        assert said[f"{check} {kind}"] == "", f"rank {rank}: {said[f'{check} {kind}']}"


def test_a_mesh_of_two_dimensions():
    """Each of four devices, which are not there: where nothing has to be sent, one process can play any of them."""
    code = """
import torch, torch.distributed as dist, convx
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from twins import integers

def piece(tensor, place):
    for position, p in zip(mesh.get_coordinate(), place):
        if p.is_shard():
            tensor = tensor.chunk(2, p.dim)[position]
    return tensor

def place(tensor, *place):
    return DTensor.from_local(piece(tensor, place), mesh, place, shape=tensor.shape, stride=tensor.stride())

def check(function, x, w, b, expected, **kwargs):
    whole = function(x[0], w[0], b[0] if b else None, **kwargs)
    with CommDebugMode() as sent:
        out = function(*(place(t, *p) for t, p in (x, w, *([b] if b else []))), **kwargs)
    assert sent.get_total_counts() == 0 and out.placements == expected, (out.placements, sent.get_comm_counts())
    assert out.shape == whole.shape and out.stride() == whole.stride()
    if not any(p.is_partial() for p in expected):
        assert whole.any() and torch.equal(out.to_local(), piece(whole, expected))

N, C, K, whole = Shard(0), Shard(1), Shard(0), Replicate()
x, dense, groups, b = integers(4, 8, 5, 6), integers(12, 8, 3, 2), integers(16, 2, 3, 2), integers(16)
for rank in range(4):
    dist.init_process_group("fake", rank=rank, world_size=4, store=FakeStore())
    mesh = init_device_mesh("cpu", (2, 2))
    for f in (convx.conv2d, convx.conv_transpose2d):
        w, k, c = (dense, 0, 1) if f is convx.conv2d else (integers(8, 12, 3, 2), 1, 0)
        both = ((x, (N, N)), (w, (whole, whole)), (b[:12], (whole, whole)))
        check(f, *both, (N, N), padding=1)
        check(f, (x, (N, whole)), (w, (whole, Shard(k))), (b[:12], (whole, K)), (N, Shard(1)), stride=2)
        check(f, (x, (N, C)), (w, (whole, Shard(c))), None, (N, Partial()))
        check(f, (x, (C, whole)), (w, (Shard(c), Shard(k))), None, (Partial(), Shard(1)))
        g = groups if f is convx.conv2d else integers(8, 4, 3, 2)
        check(f, (x, (N, C)), (g, (whole, K)), (b, (whole, K)), (N, Shard(1)), groups=4)
        check(f, (x, (C, C)), (g, (K, K)), (b, (K, K)), (Shard(1), Shard(1)), groups=4)
    dist.destroy_process_group()
"""
    done = run_python("-c", code, PYTHONPATH=os.pathsep.join([os.path.dirname(__file__), os.path.dirname(ROOT)]))
    assert done.returncode == 0, done.stderr


def test_twins_of_the_operators():
    """What runs on a device's shards: the same operator, given its outputs per group."""
    code = """
import torch, convx, convx.sharding
from torch.library import opcheck
x, w, y = torch.ones(2, 4, 5, 6), torch.ones(6, 2, 3, 3), torch.ones(2, 6, 3, 4)
geometry = [(1, 1), (0, 0), (1, 1)]
for name, operands, size in (("forward", [x, w, None], (3, 4)), ("grad_input", [y, w, None], (5, 6)),
                             ("grad_weight", [x, y], (3, 3))):
    op, twin = getattr(torch.ops.convx, name), getattr(torch.ops.convx, f"_{name}_of_shards")
    arguments = [*operands, *geometry, 3, size, "zeros", False]
    opcheck(twin, arguments, test_utils=("test_schema", "test_faketensor"))
    assert torch.equal(twin(*arguments), op(*operands, *geometry, 2, size))
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


def test_who_has_no_dtensors_pays_nothing():
    """The sharding rules come with the first DTensor; importing and calling convx loads nothing of torch's for them."""
    code = """
import sys, torch
before = set(sys.modules)
import convx
y = convx.Conv2d(2, 3, 3)(torch.ones(1, 2, 5, 5))
y.sum().backward()
torch.func.vmap(convx.Conv2d(2, 3, 3))(torch.ones(2, 1, 2, 5, 5))
print([m for m in set(sys.modules) - before if "distributed" in m or m == "convx.sharding"])
"""
    done = run_python("-c", code)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
