// The transposed convolution as it is usually explained, on a GPU: every element of y stamps the kernel, scaled by its
// own value, onto the larger image x, stride apart, and overlapping stamps add up.
//
// Written so, two threads add to the same place at once. Atomics mend that (scatter_atomic.cuh) at the price of an
// order of summation, and so of last bits, that change from run to run. Here every place has an owner instead: a block
// owns one tile of one plane x[n,c,:,:] and keeps its sums in shared memory, and inside the block the stamps go on one
// tap at a time. For one tap (r,s), different places of y fall on different places of x: y(p,q) lands at
// (p*stride_h - pad_h + r*dilation_h, q*stride_w - pad_w + s*dilation_w), and no two (p,q) share that. So the threads
// can't meet within a tap, and __syncthreads() keeps the taps apart: a fixed order r,s for every element of x, hence
// the same bits on every run, without an atomic. All k that land on one place come from one thread, which adds them up
// in a register first.
//
// Beyond zero padding (the input gradient of a Conv2d with another padding_mode) two elements of y may meet: one lands
// inside, one in the padding that copies the same place. These go on in passes of their own; see conflict_free().
//
// What it gains over the gather form of reference.cuh: no division by the stride and no test which output reaches this
// place. What it loses: sums live in shared memory and there is a barrier for each tap, so with few k a thread mostly
// waits; y is read once for each of the C/G planes, as the weights are by every thread.
//
// Run it alone: `with convx.algorithm("scatter"): ...` or CONVX_ALGORITHM=scatter.
#pragma once
#include "launch.h"
#include "tensors.cuh"

namespace convx {
namespace cuda {

// The tile of x that a block owns, and the block's threads: a stride of 2 leaves 16 x 16 elements of y for 256 threads.
constexpr int kScatterTile = 32;
constexpr int kScatterThreadsX = 32, kScatterThreadsY = 8;

// The outputs of one axis, cut into sets that don't meet for tap r: no two outputs of a set read the same input index.
// Set 0 is those that read inside the input, where source() is the identity. What reads the padding below and above it
// follows: reflected or wrapped around once, all of it is one set on either side; replicated, all of it reads the same
// edge, so each output is a set of its own.
CONVX_HD inline int64_t conflict_free_sets(const Axis& axis, int64_t r) {
  if (axis.mode == PaddingMode::zeros) return 1;
  if (axis.mode != PaddingMode::replicate) return 3;
  const Run inside = axis.outputs_inside(r);
  return 1 + axis.out - (inside.first <= inside.last ? inside.last - inside.first + 1 : 0);
}
CONVX_HD inline Run conflict_free(const Axis& axis, int64_t r, int64_t set) {
  const Run inside = axis.outputs_inside(r);
  if (set == 0) return inside;
  const int64_t below = inside.first < axis.out ? inside.first : axis.out;  // as many outputs read before the input
  if (axis.mode != PaddingMode::replicate) return set == 1 ? Run{0, below - 1} : Run{inside.last + 1, axis.out - 1};
  const int64_t p = set <= below ? set - 1 : inside.last + set - below;
  return {p, p};
}

// Of the outputs in `run`, all reading inside the input, those whose tap r lands on first..last, and perhaps one more
// on either side (the division rounds toward zero): the kernel asks of each where it lands anyway.
CONVX_HD inline Run landing_on(const Axis& axis, int64_t r, Run run, int64_t first, int64_t last) {
  const int64_t offset = axis.virtual_position(0, r);
  const int64_t from = (first - offset) / axis.stride, to = (last - offset) / axis.stride;
  return {from > run.first ? from : run.first, to < run.last ? to : run.last};
}

template <class T>
__global__ void grad_input_scatter(ConvProblem pb, Tensors<T> t) {
  using Acc = typename Accumulator<T>::type;
  Acc* const tile = shared_memory<Acc>();
  const Axis rows = pb.rows(), columns = pb.columns();
  const int64_t Cg = pb.channels_per_group(), Kg = pb.outputs_per_group();
  const int64_t tiles_h = (pb.H + kScatterTile - 1) / kScatterTile, tiles_w = (pb.W + kScatterTile - 1) / kScatterTile;
  const int64_t count = pb.N * pb.C * tiles_h * tiles_w;
  for (int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    const int64_t c = i / tiles_w / tiles_h % pb.C, n = i / tiles_w / tiles_h / pb.C, g = c / Cg;
    const int64_t h0 = i / tiles_w % tiles_h * kScatterTile, w0 = i % tiles_w * kScatterTile;
    const int64_t h1 = h0 + kScatterTile < pb.H ? h0 + kScatterTile : pb.H;
    const int64_t w1 = w0 + kScatterTile < pb.W ? w0 + kScatterTile : pb.W;

    for (int h = threadIdx.y; h < kScatterTile; h += kScatterThreadsY)
      for (int w = threadIdx.x; w < kScatterTile; w += kScatterThreadsX) tile[h * kScatterTile + w] = Acc(0);
    __syncthreads();  // before one thread adds to what another has cleared

    for (int64_t r = 0; r < pb.R; ++r)
      for (int64_t s = 0; s < pb.S; ++s) {
        const int64_t sets_h = conflict_free_sets(rows, r), sets_w = conflict_free_sets(columns, s);
        for (int64_t a = 0; a < sets_h; ++a)
          for (int64_t b = 0; b < sets_w; ++b) {
            Run ps = conflict_free(rows, r, a), qs = conflict_free(columns, s, b);
            if (a == 0) ps = landing_on(rows, r, ps, h0, h1 - 1);
            if (b == 0) qs = landing_on(columns, s, qs, w0, w1 - 1);
            if (ps.first > ps.last || qs.first > qs.last) continue;  // for the whole block: no barrier is missed
            for (int64_t p = ps.first + threadIdx.y; p <= ps.last; p += kScatterThreadsY) {
              const int64_t h = rows.source(rows.virtual_position(p, r));
              if (h < h0 || h >= h1) continue;
              for (int64_t q = qs.first + threadIdx.x; q <= qs.last; q += kScatterThreadsX) {
                const int64_t w = columns.source(columns.virtual_position(q, s));
                if (w < w0 || w >= w1) continue;
                Acc stamp(0);
                for (int64_t k = g * Kg; k < (g + 1) * Kg; ++k)
                  stamp += widen(t.w(k, c - g * Cg, r, s)) * widen(t.y(n, k, p, q));
                tile[(h - h0) * kScatterTile + (w - w0)] += stamp;
              }
            }
            __syncthreads();  // before the next stamps fall on the same places
          }
      }

    // Each thread writes out what it cleared, so it may clear again for the next tile without another barrier.
    for (int64_t h = h0 + threadIdx.y; h < h1; h += kScatterThreadsY)
      for (int64_t w = w0 + threadIdx.x; w < w1; w += kScatterThreadsX)
        t.x(n, c, h, w) = narrow<T>(tile[(h - h0) * kScatterTile + (w - w0)] + t.bias(c));
  }
}

inline Grid scatter_grid(const ConvProblem& pb, size_t accumulator_bytes) {
  const int64_t tiles_h = (pb.H + kScatterTile - 1) / kScatterTile, tiles_w = (pb.W + kScatterTile - 1) / kScatterTile;
  return {pb.N * pb.C * tiles_h * tiles_w, dim3(kScatterThreadsX, kScatterThreadsY),
          kScatterTile * kScatterTile * accumulator_bytes};
}

}  // namespace cuda
}  // namespace convx
