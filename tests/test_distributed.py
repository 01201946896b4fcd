"""Two processes on one machine, over gloo: DDP, FSDP2 and DTensors (two_processes.py has the checks).

torchrun starts once for each device, and each check of its is a test here.
"""

import json
import os

import pytest
import torch.distributed as dist
from conftest import DEVICES
from kinds import KINDS
from process import run_python

if not dist.is_available():
    pytest.skip("this torch is built without torch.distributed", allow_module_level=True)

from two_processes import CHECKS

PROGRAM = os.path.join(os.path.dirname(__file__), "two_processes.py")


@pytest.fixture(scope="module", params=DEVICES)
def results(request, tmp_path_factory):
    """What each of the two processes says of each check."""
    path = tmp_path_factory.mktemp("distributed") / "results"
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = run_python(*torchrun, PROGRAM, request.param, path, timeout=600, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return [json.loads(path.with_suffix(f".{rank}").read_text()) for rank in range(2)]


@KINDS
@pytest.mark.parametrize("check", [check.__name__ for check in CHECKS])
def test_two_processes(results, check, kind):
    for rank, said in enumerate(results):
        assert said[f"{check} {kind}"] == "", f"rank {rank}: {said[f'{check} {kind}']}"


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
