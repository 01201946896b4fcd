"""Processes: multiprocessing by fork and by spawn, DataLoader workers, and threads that go on working after a fork.

Each case runs in a Python of its own with a time limit, since what goes wrong between threads and forks waits forever.
"""

import pytest
from process import run_python

import convx

LAYERS = """
import multiprocessing, os, sys, torch, convx
torch.set_num_threads(2)

def layers():
    torch.manual_seed(0)
    return [
        convx.Conv2d(16, 32, 3, padding=1),
        convx.Conv2d(16, 16, 3, groups=16),
        convx.ConvTranspose2d(16, 32, 3, stride=2),
        convx.ConvTranspose2d(16, 16, 3, groups=16),
    ]

x = torch.randn(8, 16, 24, 24, generator=torch.Generator().manual_seed(1))

def results(layers):
    # large enough for both threads, forward and backward
    out = []
    for layer in layers:
        layer.zero_grad()
        y = layer(x)
        y.square().sum().backward()
        out += [y.detach(), layer.weight.grad.clone(), layer.bias.grad.clone()]
    return out

def same(a, b):
    return all(map(torch.equal, a, b))
"""

FORK = """
before = results(layers())
assert convx._C.parallel_threads() == 2, "the parent must have used its threads"
child = os.fork()
if child == 0:
    ok = same(results(layers()), before) and convx._C.parallel_threads() == 2 == torch.get_num_threads()
    os._exit(0 if ok else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert same(results(layers()), before) and convx._C.parallel_threads() == 2, "the parent goes on"
"""

POOL = """
def work(layers):
    return [t.numpy() for t in results(layers)], convx._C.parallel_threads()

def main(method):
    before = results(layers())
    with multiprocessing.get_context(method).Pool(2 if method == "fork" else 1) as pool:
        for found, threads in pool.map(work, [layers(), layers(), layers()]):
            assert same(map(torch.from_numpy, found), before) and threads == torch.get_num_threads()
    assert same(results(layers()), before)

if __name__ == "__main__":
    main(sys.argv[1])
"""

LOADER = """
from torch.utils.data import DataLoader, Dataset

class Features(Dataset):
    def __init__(self):
        self.layer = layers()[0]
    def __len__(self):
        return 6
    def __getitem__(self, i):
        with torch.no_grad():
            return self.layer(x[i])

def main(method):
    data = Features()
    before = torch.stack([data[i] for i in range(6)])
    assert convx._C.parallel_threads() == 2
    workers = 2 if method == "fork" else 1
    loader = DataLoader(data, 2, num_workers=workers, persistent_workers=True, multiprocessing_context=method)
    for _ in range(2):
        assert torch.equal(torch.cat(list(loader)), before)
        assert same(results(layers()), results(layers()))

if __name__ == "__main__":
    main(sys.argv[1])
"""

SHARED = """
import torch.multiprocessing

def train(model, done):
    for layer in model:
        loss = layer(x).square().mean()
        loss.backward()
        with torch.no_grad():
            for p in layer.parameters():
                p -= 0.1 * p.grad
    done.put(loss.item())

def main(method):
    # parameters in shared memory, as in Hogwild training: the parent sees the worker's step
    context = torch.multiprocessing.get_context(method)
    model = torch.nn.ModuleList(layers()).share_memory()
    before, alone = [p.detach().clone() for p in model.parameters()], [layer(x) for layer in model]
    done = context.SimpleQueue()
    worker = context.Process(target=train, args=(model, done))
    worker.start()
    assert done.get() > 0
    worker.join()
    assert worker.exitcode == 0
    assert not any(map(torch.equal, model.parameters(), before))
    assert not any(torch.equal(layer(x), y) for layer, y in zip(model, alone))

if __name__ == "__main__":
    main(sys.argv[1])
"""


def run(tmp_path, code, *arguments):
    program = tmp_path / "program.py"
    program.write_text(LAYERS + code)
    done = run_python(program, *arguments, timeout=240)
    assert done.returncode == 0, done.stderr


def test_fork_after_threads_were_used(tmp_path):
    """The child has threads of its own, torch's too, and the same bits."""
    run(tmp_path, FORK)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("code", [POOL, LOADER, SHARED], ids=["pool", "DataLoader", "shared memory"])
def test_multiprocessing(tmp_path, code, method):
    run(tmp_path, code, method)


def test_releasing_threads_changes_no_number():
    """They come back with the next loop, as many as before."""
    assert convx._C.parallel_threads() == 2
    convx._C.release_threads()
    assert convx._C.parallel_threads() == 2
