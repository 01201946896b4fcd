// Detection of the instruction sets; see isa.h.
#include "isa.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace convx {
namespace cpu {

const char* name(Isa isa) {
  switch (isa) {
    case Isa::baseline: return "baseline";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::avx512_bf16: return "avx512_bf16";
    case Isa::amx: return "amx";
    case Isa::avx512_twin: return "avx512_twin";
    case Isa::amx_twin: return "amx_twin";
  }
  return "?";
}

namespace {

#if defined(__x86_64__)
// Tiles and their products of bfloat16, and a kernel that lets this process have the tile registers: each process has
// to ask for them once (Linux, Documentation/arch/x86/xstate.rst).
bool has_amx() {
#if defined(__linux__)
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kTiles = 1u << 24, kBFloat16Products = 1u << 22;
  if ((d & (kTiles | kBFloat16Products)) != (kTiles | kBFloat16Products)) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
#else
  return false;
#endif
}
#endif

}  // namespace

std::vector<Isa> available_isas() {
  std::vector<Isa> found = {Isa::baseline};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return found;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!avx512) found.push_back(Isa::avx512_twin);
  found.push_back(Isa::amx_twin);
  found.push_back(Isa::avx2);
  if (avx512) found.push_back(Isa::avx512);
  if (avx512 && __builtin_cpu_supports("avx512bf16")) found.push_back(Isa::avx512_bf16);
  if (avx512 && has_amx()) found.push_back(Isa::amx);
#endif
  return found;
}

bool is_available(Isa isa) {
  static const std::vector<Isa> found = available_isas();
  return std::find(found.begin(), found.end(), isa) != found.end();
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
