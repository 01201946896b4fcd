// The kernels for the matrix unit of AMX with AVX-512's products of pairs of bfloat16 in its place (pairs_product.h),
// for machines without AMX; see engine_avx512.cpp for the order of the includes.
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
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")
#endif

#define CONVX_ISA avx512_bf16
#define CONVX_BF16_PAIRS
#define CONVX_AVX512
#define CONVX_VECTOR_BYTES 64
#define CONVX_MAX_M 14
#include "engine_of_amx.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
