// The kernels that exist once for each instruction set, as a table of functions. Each returns false, with its result
// unfinished, where it can't keep the rule that skipped taps are skipped (an infinity or NaN among the weights, see
// outer_product.h); the caller then runs the reference.
#pragma once
#include "../problem.h"
#include "isa.h"
#include "small_planes.h"

namespace convx {
namespace cpu {

struct Engine {
  using Run = bool (*)(const ConvProblem&, const Operands&);
  struct Primitives {
    Run forward, grad_input, grad_weight;
  };
  Primitives outer_product, winograd, panels, pixels, channels, in_place,
      pixel_rows;  // the last two: null without masks
};

// The kernels on a matrix unit, or on vectors that multiply pairs of bfloat16 as it does. What is not for them
// (infinities, tiny numbers: magnitudes.h) is run `elsewhere`, where it may be single images; grad_weight returns
// false.
using Elsewhere = void (*)(const ConvProblem&, const Operands&);
struct MatrixEngine {
  using Run = void (*)(const ConvProblem&, const Operands&, Elsewhere);
  Run forward, grad_input;
  Engine::Run grad_weight;
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
namespace avx512_twin {
extern const Engine engine;
}

namespace amx {
extern const MatrixEngine engine;
}
namespace amx_twin {
extern const MatrixEngine engine;
}
namespace avx512_bf16 {
extern const MatrixEngine engine;
}

const Engine& current_engine();
const MatrixEngine* current_matrix_engine();  // null where there is no matrix unit
const MatrixEngine* current_pairs_engine();   // null where vectors don't multiply pairs, or a matrix unit does

}  // namespace cpu
}  // namespace convx
