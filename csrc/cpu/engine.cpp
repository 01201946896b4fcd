// Which instruction set's kernels run: see isa.h.
#include "engine.h"

#include "engine_rows.h"

namespace convx {
namespace cpu {

const Engine& current_engine() {
#if defined(__x86_64__)
  switch (current_isa()) {
    case Isa::amx:
    case Isa::avx512: return avx512::engine;
    case Isa::amx_twin: return is_available(Isa::avx512) ? avx512::engine : avx512_twin::engine;
    case Isa::avx512_twin: return avx512_twin::engine;
    case Isa::avx2: return avx2::engine;
    case Isa::baseline: break;
  }
#endif
  return baseline::engine;
}

const MatrixEngine* current_matrix_engine() {
#if defined(__x86_64__)
  if (current_isa() == Isa::amx) return &amx::engine;
  if (current_isa() == Isa::amx_twin) return &amx_twin::engine;
#endif
  return nullptr;
}

void forward_amx(const ConvProblem& pb, const Operands& o) {
  current_matrix_engine()->forward(pb, o, forward_by<&Engine::outer_product>);
}

void grad_input_amx(const ConvProblem& pb, const Operands& o) {
  current_matrix_engine()->grad_input(pb, o, grad_input_by<&Engine::outer_product>);
}

void grad_weight_amx(const ConvProblem& pb, const Operands& o) {
  if (!grad_weight_in_shares(current_matrix_engine()->grad_weight, pb, o))
    grad_weight_by_shares<&Engine::outer_product>(pb, o);
}

}  // namespace cpu
}  // namespace convx
