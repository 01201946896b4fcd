// The kernels that exist once for each instruction set, as a table of functions. Each returns false, with its result
// unfinished, where it can't keep the rule that skipped taps are skipped (an infinity or NaN among the weights, see
// outer_product.h); the caller then runs the reference.
#pragma once
#include "../problem.h"
#include "isa.h"

namespace convx {
namespace cpu {

struct Engine {
  using Run = bool (*)(const ConvProblem&, const Operands&);
  struct Primitives {
    Run forward, grad_input, grad_weight;
  };
  Primitives outer_product, panels, pixels, channels, in_place;  // in_place: null where there are no masks
};

namespace baseline {
extern const Engine engine;
}
namespace avx2 {
extern const Engine engine;
}
namespace avx512 {
extern const Engine engine;
}

const Engine& current_engine();

}  // namespace cpu
}  // namespace convx
