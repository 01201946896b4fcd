// Which instruction set's kernels run: see isa.h.
#include "engine.h"

#include "engine_rows.h"

namespace convx {
namespace cpu {

const Engine& current_engine() {
#if defined(__x86_64__)
  switch (current_isa()) {
    case Isa::amx:
    case Isa::avx512_bf16:
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

const MatrixEngine* current_pairs_engine() {
#if defined(__x86_64__)
  if (current_isa() == Isa::avx512_bf16) return &avx512_bf16::engine;
#endif
  return nullptr;
}

namespace {

void forward_on(const MatrixEngine& engine, const ConvProblem& pb, const Operands& o) {
  engine.forward(pb, o, forward_by<&Engine::outer_product>);
}
void grad_input_on(const MatrixEngine& engine, const ConvProblem& pb, const Operands& o) {
  engine.grad_input(pb, o, grad_input_by<&Engine::outer_product>);
}
void grad_weight_on(const MatrixEngine& engine, const ConvProblem& pb, const Operands& o) {
  if (!grad_weight_in_shares(engine.grad_weight, pb, o)) grad_weight_by_shares<&Engine::outer_product>(pb, o);
}

}  // namespace

void forward_amx(const ConvProblem& pb, const Operands& o) { forward_on(*current_matrix_engine(), pb, o); }
void grad_input_amx(const ConvProblem& pb, const Operands& o) { grad_input_on(*current_matrix_engine(), pb, o); }
void grad_weight_amx(const ConvProblem& pb, const Operands& o) { grad_weight_on(*current_matrix_engine(), pb, o); }

void forward_pairs(const ConvProblem& pb, const Operands& o) { forward_on(*current_pairs_engine(), pb, o); }
void grad_input_pairs(const ConvProblem& pb, const Operands& o) { grad_input_on(*current_pairs_engine(), pb, o); }
void grad_weight_pairs(const ConvProblem& pb, const Operands& o) { grad_weight_on(*current_pairs_engine(), pb, o); }

}  // namespace cpu
}  // namespace convx
