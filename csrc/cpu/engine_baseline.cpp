// The engine for any processor: 16-byte vectors, which every x86-64 and every 64-bit Arm has.
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

#define CONVX_ISA baseline
#define CONVX_VECTOR_BYTES 16
#define CONVX_MAX_M 6
#include "engine_of_isa.h"
