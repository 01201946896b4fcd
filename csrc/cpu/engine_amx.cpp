// The kernels for the matrix unit of AMX. Everything around its few instructions is AVX-512, which every machine with
// AMX has; see engine_avx512.cpp for the order of the includes.
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

#define CONVX_ISA amx
#define CONVX_AVX512
#define CONVX_VECTOR_BYTES 64
#define CONVX_MAX_M 14
#include "engine_of_amx.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
