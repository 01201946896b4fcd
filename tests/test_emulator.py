"""What the emulator of CUDA kernels finds (emulator/README.md): kernels with one mistake each, and the same without."""

import pytest
from emulator import library as emulator
from emulator import sanitized
from emulator.build import COMPILER, build
from process import run_python

if COMPILER is None:
    pytest.skip("no C++ compiler for the emulator (apt install g++)", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("default_emulator")
RACE = "without a barrier between them, at mistakes"
EARLY = "which nobody has written yet, at mistakes"  # how a race shows if the reader comes first
COMING = " is on its way there, at mistakes_hopper.cu:"  # of a copy of the copy engine
MISTAKES = {
    "missing_barrier": EARLY,
    "warp_barrier_for_a_block": EARLY,
    "missing_warp_barrier": EARLY,
    "missing_barrier_before_reuse": RACE,
    "shuffle_for_a_barrier": RACE,
    "shared_too_far": "0 bytes after the end of shared memory (256 bytes), at mistakes.cu:",
    "shared_before": "4 bytes before shared memory (256 bytes), at mistakes.cu:",
    "global_read_too_far": "reads 4 bytes that begin 0 bytes after the end of the operand (512 bytes), at mistakes.cu:",
    "global_written_too_far": "writes 4 bytes that begin 0 bytes after the end of the result (512 bytes)",
    "operand_written": "writes 4 bytes of the operand, an operand, at mistakes.cu:",
    "shared_read_before_written": "bytes of shared memory at byte 0, which nobody has written yet, at mistakes.cu:",
    "shared_of_another_block": EARLY,
    "result_read_before_written": "of the result at byte 0, which nobody has written",
    "two_blocks_write_one_result": RACE,
    "one_block_reads_anothers_result": RACE,
    "sum_without_atomics": RACE,
    "misaligned_vector": "reads 8 bytes that are not aligned",
    "half_of_the_threads_wait": "divergent barrier: some threads of a block ended while others wait at mistakes.cu:",
    "threads_wait_apart": "divergent barrier: threads of a block wait at mistakes.cu:",
    "half_of_a_warp_shuffles": "divergent warp: lane 0 waits in __shfl_xor_sync at mistakes.cu:",
    "lane_outside_of_its_mask": "lane 16 is not in the mask of __shfl_xor_sync at mistakes.cu:",
    "product_without_some_lanes": "divergent warp: mma_m16n8k8_tf32 at mistakes.cu:",
    "copy_without_a_wait": "before anybody waited for the cp.async that thread 0 began at mistakes.cu:",
    "copy_without_a_commit": "before anybody waited for the cp.async that thread 0 began at mistakes.cu:",
    "copy_waited_for_by_another": EARLY,
    "copy_onto_what_is_read": RACE,
    "misaligned_copy": "cp.async of 8 bytes at mistakes.cu:",
    "copy_from_too_far": "after the end of the operand",
    "matrix_without_a_barrier": RACE,
    "matrix_from_too_far": "after the end of shared memory",
    "product_without_a_fence": "without a fence.proxy.async after it, at mistakes_hopper.cu:",
    "product_without_a_barrier": RACE,
    "product_never_waited_for": "ends while products of wgmma are still at work",
    "product_of_what_is_overwritten": RACE,
    "product_of_a_tile_out_of_place": "an operand does not begin at a multiple of 512 bytes",
    "warp_of_a_warpgroup_stays_away": "for the other warps of its warpgroup",
    "tile_without_a_wait": COMING,
    "tile_waited_for_by_another": COMING,
    "tile_waited_for_at_another_barrier": RACE,
    "tile_waited_for_a_phase_too_early": COMING,
    "more_bytes_announced_than_come": "for 0 arrivals and 16 bytes at the mbarrier that was initialised at",
    "too_few_arrivals": "a wait that never ends: thread 0 waits at mistakes_hopper.cu:",
    "too_many_arrivals": "and all 1 of this phase have come before",
    "tile_onto_what_is_read": COMING,
    "arrival_before_the_last_read": RACE,
    "product_of_a_tile_without_a_wait": COMING,
    "arrival_before_the_product_is_made": RACE,
    "tile_onto_what_is_not_fenced": "without a fence.proxy.async after it, at mistakes_hopper.cu:",
    "arrival_before_the_last_write": RACE,
    "mbarrier_nobody_initialised": ": nobody has initialised the mbarrier",
    "mbarrier_without_a_barrier": "has initialised the mbarrier at mistakes_hopper.cu:",
    "mbarrier_without_a_fence": "without a fence.mbarrier_init and a barrier after it",
    "mbarrier_overwritten": ", which are an mbarrier's, since mistakes_hopper.cu:",
    "tile_never_waited_for": "is still on its way",
    "tile_out_of_place": "to what does not begin at a multiple of 1024 bytes",
    "pixels_from_beside_the_grid": "column 0 is not where the map has a pixel",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported(name):
    emulator.run_mistake(name, mistake=False)
    with pytest.raises(RuntimeError) as error:
        emulator.run_mistake(name, mistake=True)
    assert str(error.value).startswith(f"{name}: ")
    assert MISTAKES[name] in str(error.value)
    emulator.run_mistake(name, mistake=False)  # and is forgotten


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("name", [name for name, message in MISTAKES.items() if message in (RACE, EARLY, COMING)])
def test_a_race_is_reported_in_every_order(name, order):
    """Without luck: no order of the threads hides it, for each leaves two accesses with no barrier between them."""
    for seed in range(3):
        emulator.configure(order, seed)
        emulator.run_mistake(name, mistake=False)
        with pytest.raises(RuntimeError, match=f"{RACE}|{EARLY}|{COMING}"):
            emulator.run_mistake(name, mistake=True)


REPORTS = {  # what else the sanitizers find in mistakes.cu, and some of the same
    "own_array_too_far": ("stack-buffer-overflow", "insufficient space for an object"),
    "shared_too_far": ("heap-buffer-overflow",),
    "global_written_too_far": ("heap-buffer-overflow",),
    "misaligned_vector": ("misaligned address",),
    "shift_too_far": ("shift exponent 3",),
}


def test_under_the_sanitizers():
    environment = sanitized.environment()
    if environment is None:
        pytest.skip("no libasan (it comes with g++)")
    build("sanitized")  # here, for a compiler that runs under the sanitizers takes long
    run = run_python(sanitized.__file__, *REPORTS, timeout=1200, **environment)
    assert run.returncode == 0, run.stdout + run.stderr
    *reports, last = run.stdout.splitlines()
    assert last.endswith(" runs without a report")
    for report, (name, messages) in zip(reports, REPORTS.items(), strict=True):
        assert report.startswith(f"{name}: ") and any(m in report for m in messages), report
