// The body of engine_baseline.cpp, engine_avx2.cpp, engine_avx512.cpp and its twin: instantiates every kernel for the
// instruction set that the including file has set up, and fills its table.
#pragma once
#ifdef CONVX_AVX512  // set by the including file: the compiler's own macro is not set by a target pragma
#include "depthwise.h"
#include "pixel_rows.h"
#elif CONVX_VECTOR_BYTES == 32
#include "depthwise_rows_weight.h"
#include "pixel_rows.h"
#else
#include "plans.h"
#endif

namespace convx {
namespace cpu {
namespace CONVX_ISA {
namespace {

// Calls f(compute type, storage type): the 16-bit types are converted while packing and computed in float.
template <class F>
bool with_float_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32: return f(float{}, float{});
    case DType::float64: return f(double{}, double{});
    case DType::float16: return f(float{}, Half{});
    case DType::bfloat16: return f(float{}, BFloat16{});
    case DType::int64: break;
  }
  return false;
}

template <class Kernels>
bool forward_any(const ConvProblem& pb, const Operands& o) {
  return with_float_type(o.dtype, [&](auto t, auto in) { return forward<Kernels, decltype(t), decltype(in)>(pb, o); });
}

template <class Kernels>
bool grad_input_any(const ConvProblem& pb, const Operands& o) {
  return with_float_type(o.dtype,
                         [&](auto t, auto in) { return grad_input<Kernels, decltype(t), decltype(in)>(pb, o); });
}

template <class Kernels>
bool grad_weight_any(const ConvProblem& pb, const Operands& o) {
  return with_float_type(o.dtype,
                         [&](auto t, auto in) { return grad_weight<Kernels, decltype(t), decltype(in)>(pb, o); });
}

template <class Kernels>
constexpr Engine::Primitives primitives() {
  return {forward_any<Kernels>, grad_input_any<Kernels>, grad_weight_any<Kernels>};
}

constexpr Engine::Primitives in_place() {
#if defined(CONVX_AVX512) || CONVX_VECTOR_BYTES == 32
  return primitives<InPlace>();
#else
  return {nullptr, nullptr, nullptr};
#endif
}

constexpr Engine::Primitives pixel_rows() {
#if defined(CONVX_AVX512) || CONVX_VECTOR_BYTES == 32
  return {forward_any<AcrossRows>, grad_input_any<AcrossRows>, nullptr};
#else
  return {nullptr, nullptr, nullptr};
#endif
}

}  // namespace

extern const Engine engine;
const Engine engine = {primitives<AcrossChannels>(),
                       primitives<AcrossPatches>(),
                       {forward_any<AcrossPanels>, grad_input_any<AcrossPanels>, nullptr},
                       primitives<AcrossPixels>(),
                       primitives<AcrossGroups>(),
                       in_place(),
                       pixel_rows()};

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
