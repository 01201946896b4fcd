// The matrix instructions of a warp: which lane holds which element, written down once, as tables that the PTX manual
// can be laid beside. tensor_core.h has the arithmetic of 16-bit numbers and TF32; float64 is a chain of fused
// multiply-adds in ascending k, each rounded as IEEE 754 has it.
#include "mma.h"

#include <cmath>
#include <cstring>

#include "checker.h"
#include "emulator.h"
#include "tensor_core.h"

namespace emulator {
namespace {

constexpr uint32_t kAllLanes = 0xffffffffu;
struct Fragments {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};

// With g = lane / 4 and t = lane % 4: a[j] begins at row g + 8 * (j % 2) and k = t * kPerRegister, half of the depth on
// for j >= 2; b[j] at column g and that k, half of the depth on for j = 1; d[j] is at row g + 8 * (j / 2) and column
// 2 * t + j % 2.
template <class Format>
void multiply_16_8(void* const* lanes) {
  constexpr int kDepth = Format::kDepth, kWide = Format::kPerRegister;
  Factor a[16][kDepth], b[8][kDepth];  // b by columns
  for (int lane = 0; lane < 32; ++lane) {
    const Fragments& f = *static_cast<const Fragments*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int j = 0; j < 4; ++j)
      for (int i = 0; i < kWide; ++i)
        a[g + 8 * (j % 2)][t * kWide + i + kDepth / 2 * (j / 2)] = Format::element(f.a[j], i);
    for (int j = 0; j < 2; ++j)
      for (int i = 0; i < kWide; ++i) b[g][t * kWide + i + kDepth / 2 * j] = Format::element(f.b[j], i);
  }
  constexpr int kGroup = Format::kGroup, kGroups = kDepth / kGroup;
  bool zero_a[16][kGroups], zero_b[8][kGroups], finite = true;
  for (int k = 0; k < kGroups; ++k) {
    for (int i = 0; i < 16; ++i) zero_a[i][k] = are_zeros(&a[i][k * kGroup], kGroup);
    for (int i = 0; i < 8; ++i) zero_b[i][k] = are_zeros(&b[i][k * kGroup], kGroup);
  }
  for (const auto& row : a) finite = finite && are_finite(row, kDepth);
  for (const auto& column : b) finite = finite && are_finite(column, kDepth);
  for (int lane = 0; lane < 32; ++lane) {
    const Fragments& f = *static_cast<const Fragments*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int j = 0; j < 4; ++j) {
      const int row = g + 8 * (j / 2), column = 2 * t + j % 2;
      for (int k = 0; k < kGroups; ++k)
        if (!finite || !(zero_a[row][k] || zero_b[column][k]))
          f.d[j] = add_group(f.d[j], &a[row][k * kGroup], &b[column][k * kGroup], kGroup);
    }
  }
}

struct Fragments64 {
  double* d;
  double a, b;
};

// a is at row g and k = t, b at k = t and column g, d[j] at row g and column 2 * t + j.
void multiply_8_8(void* const* lanes) {
  double a[8][4], b[8][4];  // b by columns
  for (int lane = 0; lane < 32; ++lane) {
    const auto& f = *static_cast<const Fragments64*>(lanes[lane]);
    a[lane / 4][lane % 4] = f.a;
    b[lane / 4][lane % 4] = f.b;
  }
  for (int lane = 0; lane < 32; ++lane)
    for (int j = 0; j < 2; ++j)
      for (int k = 0; k < 4; ++k) {
        double& d = static_cast<const Fragments64*>(lanes[lane])->d[j];
        d = std::fma(a[lane / 4][k], b[2 * (lane % 4) + j][k], d);
      }
}

struct Load {
  uint32_t* r;
  int count;
  bool transposed;
  const void* row;
  int thread;
  Place place;
};

void load_for_warp(void* const* lanes) {
  const Load* loads[32];
  for (int lane = 0; lane < 32; ++lane) loads[lane] = static_cast<const Load*>(lanes[lane]);
  for (int i = 0; i < loads[0]->count; ++i) {
    uint16_t matrix[8][8];
    for (int j = 0; j < 8; ++j) {
      const Load& from = *loads[8 * i + j];
      checker::access(from.thread, from.row, sizeof matrix[j], checker::Access::load, from.place);
      memcpy(matrix[j], from.row, sizeof matrix[j]);
    }
    for (int lane = 0; lane < 32; ++lane) {
      const int row = lane / 4, column = 2 * (lane % 4);
      const bool t = loads[lane]->transposed;
      const uint32_t low = t ? matrix[column][row] : matrix[row][column];
      const uint32_t high = t ? matrix[column + 1][row] : matrix[row][column + 1];
      loads[lane]->r[i] = low | high << 16;
    }
  }
}

}  // namespace

void load_matrices(const char* what, uint32_t* r, int count, bool transposed, const void* row, Place place) {
  if (lane() < 8 * count && reinterpret_cast<uintptr_t>(row) % 16)
    fail(std::string(what) + ": a row in shared memory is not aligned to 16 bytes");
  Load mine{r, count, transposed, row, thread_of_block(), place};
  together(what, kAllLanes, true, &mine, load_for_warp, place);
}

void multiply_fp16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Place place) {
  Fragments mine{d, a, b};
  together("mma_m16n8k16 of fp16", kAllLanes, true, &mine, multiply_16_8<Fp16>, place);
}
void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Place place) {
  Fragments mine{d, a, b};
  together("mma_m16n8k16 of bf16", kAllLanes, true, &mine, multiply_16_8<Bf16>, place);
}
void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Place place) {
  Fragments mine{d, a, b};
  together("mma_m16n8k8_tf32", kAllLanes, true, &mine, multiply_16_8<Tf32>, place);
}
void multiply_f64(double (&d)[2], double a, double b, Place place) {
  Fragments64 mine{d, a, b};
  together("mma_m8n8k4_f64", kAllLanes, true, &mine, multiply_8_8, place);
}

}  // namespace emulator
