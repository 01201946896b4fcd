// The same kernels on the matrix unit written out in C++ (amx_unit.h): slow, for tests on machines without AMX.
// AVX2 is enough for it.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

#include "../scalar.h"
#include "engine.h"
#include "parallel.h"
#include "scratch.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define CONVX_ISA amx_twin
#define CONVX_AMX_TWIN
#define CONVX_VECTOR_BYTES 64
#define CONVX_MAX_M 14
#include "engine_of_amx.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
