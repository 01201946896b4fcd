// The engine for AVX-512: 64-byte vectors, 32 registers, so register tiles of 14 x 2.
//
// The target is set after the shared headers, so that their code stays runnable everywhere, and to the end of the file.
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
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

#define CONVX_ISA avx512
#define CONVX_AVX512
#define CONVX_VECTOR_BYTES 64
#define CONVX_MAX_M 14
#include "engine_of_isa.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
