// The engine as AVX-512 has it, 64-byte vectors and register tiles of 14 x 2, but compiled for AVX2, where each vector
// is two: so that its blocks and edges are tested on machines without AVX-512. Only the masks are missing, and slow it
// is.
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

#define CONVX_ISA avx512_twin
#define CONVX_VECTOR_BYTES 64
#define CONVX_MAX_M 14
#include "engine_of_isa.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
