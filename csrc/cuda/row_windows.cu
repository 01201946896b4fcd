// The row `row_windows`: row_windows.cuh around the tensor-core kernels.
#include <algorithm>

#include "device.h"
#include "row_windows.cuh"
#include "rows.h"
#include "types.h"

namespace convx {
namespace cuda {
namespace row_windows {
namespace {

int64_t window_size(const ConvProblem& pb, size_t element) {
  const int64_t chunk = 16 / int64_t(element);
  return (pb.S * pb.C + chunk - 1) / chunk * chunk;
}

size_t element_size(DType dtype) { return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2; }

// The problem over windows, with `size` channels.
ConvProblem windows_problem(const ConvProblem& pb, int64_t size) {
  ConvProblem inner = pb;
  inner.C = size, inner.W = pb.Q, inner.S = 1, inner.stride_w = 1, inner.pad_w = 0, inner.dilation_w = 1;
  return inner;
}

const char* why_not_inner(const ConvProblem& pb, const Operands& o) {
  return o.dtype == DType::float32 && !o.allow_tf32 ? tensorcore::why_not_split(pb, o) : tensorcore::why_not(pb, o);
}

void run_inner(Primitive primitive, const ConvProblem& pb, const Operands& o) {
  if (o.dtype == DType::float64) return tensorcore::run_64(primitive, pb, o);
  if (o.dtype == DType::float32)
    return o.allow_tf32 ? tensorcore::run_tf32(primitive, pb, o) : tensorcore::run_split(primitive, pb, o);
  tensorcore::run_16(primitive, pb, o);
}

template <class T>
Operands gathered(const ConvProblem& pb, const Operands& o, int64_t size) {
  Operands inner = o;
  inner.x.data = o.workspace->allocate(pb.N * pb.H * pb.Q * size * sizeof(T));
  inner.x.strides = {pb.H * pb.Q * size, 1, pb.Q * size, size};
  inner.w.data = o.workspace->allocate(pb.K * pb.R * size * sizeof(T));
  inner.w.strides = {pb.R * size, 1, size, size};
  T* const windows = static_cast<T*>(inner.x.data);
  const WindowParts parts = WindowParts::of<T>(pb, o.x.strides, int(size));
  // No more blocks than there is room for: each finds out once where its numbers are.
  const int64_t blocks = std::min(pb.N * pb.H, int64_t(kWindowBlocks) * current_device().multiprocessors);
  if (parts.count > 0)
    launch("gather_windows", gather_windows<T>, {blocks, dim3(kWindowThreads), size_t(parts.length * pb.C * sizeof(T))},
           o.stream, pb, Tensors<T>{o}, windows, parts);
  else
    launch("gather_long_windows", gather_long_windows<T>, {pb.N * pb.H, dim3(256)}, o.stream, pb, Tensors<T>{o},
           windows, int(size));
  return inner;
}

template <class T>
void forward_of(const ConvProblem& pb, const Operands& o) {
  const int64_t size = window_size(pb, sizeof(T));
  const Operands inner = gathered<T>(pb, o, size);
  launch("gather_filters", gather_filters<T>, one_thread_each(pb.K * pb.R * size), o.stream, pb, Tensors<T>{o},
         static_cast<T*>(inner.w.data), int(size));
  run_inner(Primitive::forward, windows_problem(pb, size), inner);
  if (!pb.is_zero_padded()) return;
  // The columns whose every tap is inside are a run.
  const Axis columns = pb.columns();
  const Run first = columns.outputs_inside(0), last = columns.outputs_inside(pb.S - 1);
  const int64_t begin = first.first < pb.Q ? first.first : pb.Q, end = last.last + 1 > begin ? last.last + 1 : begin;
  const int64_t count = begin + pb.Q - end;
  if (count > 0)
    launch("correct_borders", correct_borders<T>, {pb.N * pb.P, dim3(128)}, o.stream, pb, Tensors<T>{o}, int(begin),
           int(count));
}

template <class T>
void grad_weight_of(const ConvProblem& pb, const Operands& o) {
  const int64_t size = window_size(pb, sizeof(T));
  const Operands inner = gathered<T>(pb, o, size);
  run_inner(Primitive::grad_weight, windows_problem(pb, size), inner);
  launch("scatter_filters", scatter_filters<T>, one_thread_each(32 * pb.K * pb.C * pb.R * pb.S), o.stream, pb,
         Tensors<T>{o}, static_cast<const T*>(inner.w.data), int(size));
}

}  // namespace

const char* why_not(const ConvProblem& pb, const Operands& o) {
  if (o.dtype == DType::int64) return "int64 is for the CPU only";
  if (is_empty(pb)) return "a tensor is empty";
  if (pb.G > 1) return "its windows are of all channels";
  constexpr int64_t kMost = 1 << 20;
  if (pb.S > kMost || pb.C > kMost || pb.Q > kMost) return "a line of windows has more numbers than 32 bits count";
  const int64_t size = window_size(pb, element_size(o.dtype));
  if (pb.Q * size >= int64_t(1) << 31) return "a line of windows has more numbers than 32 bits count";
  Operands inner = o;
  inner.x.strides = {pb.H * pb.Q * size, 1, pb.Q * size, size};
  inner.w.strides = {pb.R * size, 1, size, size};
  return why_not_inner(windows_problem(pb, size), inner);
}

// Of few channels, whose windows are no larger than the result and fill their chunks. Not for float32 as it should be:
// direct's tiles, which waste nothing on few channels, take half of Split's time, on an H200.
bool preferred(const ConvProblem& pb, const Operands& o) {
  if (o.dtype == DType::float64 || (o.dtype == DType::float32 && !o.allow_tf32)) return false;
  const int64_t size = window_size(pb, element_size(o.dtype));
  return pb.C <= 4 && pb.S > 1 && pb.K >= 16 && multiply_adds_of_image(pb) >= 1 << 20 && pb.H * size <= 2 * pb.P * pb.K;
}

void forward(const ConvProblem& pb, const Operands& o) {
  with_floating_type(o.dtype, [&](auto t) { forward_of<decltype(t)>(pb, o); });
}
void grad_weight(const ConvProblem& pb, const Operands& o) {
  with_floating_type(o.dtype, [&](auto t) { grad_weight_of<decltype(t)>(pb, o); });
}

}  // namespace row_windows
}  // namespace cuda
}  // namespace convx
