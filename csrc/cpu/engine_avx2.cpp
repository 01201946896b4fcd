// The engine for AVX2 and FMA: 32-byte vectors, 16 registers, so register tiles of 6 x 2.
//
// The target is set after the shared headers, so that their code stays runnable everywhere, and to the end of the file.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

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

#define CONVX_ISA avx2
#define CONVX_VECTOR_BYTES 32
#define CONVX_MAX_M 6
#include "engine_of_isa.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
