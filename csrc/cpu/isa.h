// Which instruction sets this machine has and which one the kernels use. One binary carries all of them; the choice is
// made when it runs, and CONVX_CPU_ISA=baseline|avx2|avx512|avx512_bf16|amx lowers it. avx512_bf16 is AVX-512 with
// products of pairs of bfloat16. Twins are never chosen, they are for tests:
// amx_twin has AMX's matrix unit written out in C++ (amx_unit.h), and avx512_twin, where there is no AVX-512, its
// vectors as two of AVX2 each.
#pragma once
#include <string>
#include <vector>

namespace convx {
namespace cpu {

enum class Isa { baseline, avx512_twin, amx_twin, avx2, avx512, avx512_bf16, amx };

const char* name(Isa);
std::vector<Isa> available_isas();  // in ascending order; the baseline is always there
bool is_available(Isa);
Isa current_isa();
void force_isa(const std::string& name);  // throws std::runtime_error if this machine lacks it; "" undoes

}  // namespace cpu
}  // namespace convx
