// A weight gradient whose pixels are divided: see pixel_shares.cpp.
#pragma once
#include "engine.h"

namespace convx {
namespace cpu {

// The gradient of the weight by `run`, in one part or several. False, with the gradient unfinished, if any returned it.
bool grad_weight_in_shares(Engine::Run run, const ConvProblem& pb, const Operands& o);

}  // namespace cpu
}  // namespace convx
