// Detection of the instruction sets; see isa.h.
#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace convx {
namespace cpu {

const char* name(Isa isa) {
  switch (isa) {
    case Isa::baseline: return "baseline";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
  }
  return "?";
}

std::vector<Isa> available_isas() {
  std::vector<Isa> found = {Isa::baseline};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(Isa::avx2);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    found.push_back(Isa::avx512);
#endif
  return found;
}

namespace {

Isa parse(const std::string& text) {
  std::string names;
  for (Isa isa : available_isas()) {
    if (text == name(isa)) return isa;
    names += std::string(names.empty() ? "" : ", ") + name(isa);
  }
  throw std::runtime_error("expected a CPU instruction set that this machine has, one of " + names + ", but got '" +
                           text + "'");
}

Isa best() {
  const char* wanted = std::getenv("CONVX_CPU_ISA");
  return wanted && *wanted ? parse(wanted) : available_isas().back();
}

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa{best()};
  return isa;
}

}  // namespace

Isa current_isa() { return chosen().load(std::memory_order_relaxed); }

void force_isa(const std::string& text) { chosen() = text.empty() ? best() : parse(text); }

}  // namespace cpu
}  // namespace convx
