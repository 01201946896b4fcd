// What the launches of every algorithm share: from a problem's dtype to a kernel's type.
#pragma once
#include <stdexcept>
#include <string>

#include "../algorithm.h"
#include "../scalar.h"

namespace convx {
namespace cuda {

// with_type for the types that have CUDA kernels.
template <class F>
void with_floating_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32: return f(float{});
    case DType::float64: return f(double{});
    case DType::float16: return f(Half{});
    case DType::bfloat16: return f(BFloat16{});
    case DType::int64: break;
  }
  throw std::runtime_error(std::string("convx has no CUDA kernel for ") + name(dtype));
}

// Whether one of the three tensors has no elements. Rows that are no one's last resort may refuse that.
inline bool is_empty(const ConvProblem& pb) {
  return pb.N == 0 || pb.C == 0 || pb.K == 0 || pb.H == 0 || pb.W == 0 || pb.P == 0 || pb.Q == 0;
}

// What a choice may depend on: a sample's bits must not depend on its batch, so neither must the kernel that it gets.
inline double multiply_adds_of_image(const ConvProblem& pb) { return pb.N ? pb.multiply_adds() / double(pb.N) : 0; }

inline const char* floating_only(const ConvProblem&, const Operands& o) {
  return o.dtype == DType::int64 ? "int64 is for the CPU only" : nullptr;
}

}  // namespace cuda
}  // namespace convx
