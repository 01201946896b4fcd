// One build's CPU engine behind a function in C, for benchmarks.builds: linked with that build's object files, so that
// two of them can be called in turns in one process. (Two extensions can't be: they would define the same operators.)
#include <exception>
#include <string>

#include "algorithm.h"
#include "problem.h"

namespace {

convx::View contiguous(void* data, const int64_t (&size)[4]) {
  convx::View view;
  view.data = data;
  view.strides = {size[1] * size[2] * size[3], size[2] * size[3], size[3], 1};
  return view;
}

}  // namespace

// `sizes` are N C H W, K R S, P Q G, then the strides, paddings and dilations; operands are contiguous, and `algorithm`
// is empty for the build's own choice. The name of what ran, or, where it can't, what was thrown behind a '!'.
extern "C" const char* run(int primitive, const int64_t* sizes, int dtype, void* x, void* w, void* y,
                           const char* algorithm) {
  static std::string said;
  try {
    convx::ConvProblem p;
    int64_t* const fields[] = {&p.N, &p.C, &p.H,        &p.W,        &p.K,     &p.R,     &p.S,          &p.P,
                               &p.Q, &p.G, &p.stride_h, &p.stride_w, &p.pad_h, &p.pad_w, &p.dilation_h, &p.dilation_w};
    for (int64_t* field : fields) *field = *sizes++;
    convx::Operands o;
    o.dtype = convx::DType(dtype);
    o.x = contiguous(x, {p.N, p.C, p.H, p.W});
    o.w = contiguous(w, {p.K, p.C / p.G, p.R, p.S});
    o.y = contiguous(y, {p.N, p.K, p.P, p.Q});
    const auto which = convx::Primitive(primitive);
    const convx::Algorithm& chosen = select(convx::cpu::algorithms(which), which, p, o, algorithm);
    chosen.run(p, o);
    said = chosen.name;
  } catch (const std::exception& thrown) {
    said = std::string("!") + thrown.what();
  }
  return said.c_str();
}
