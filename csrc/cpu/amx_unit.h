// The matrix unit of AMX: eight tile registers of 16 lines of 64 bytes, and one instruction that multiplies two tiles
// of bfloat16 and adds the product to a third of float32 (Intel 64 and IA-32 Architectures Software Developer's Manual,
// volume 1, chapter 18, "Programming with Intel AMX"; volume 2, TDPBF16PS).
//
// multiply<c, a, b>() is, for 16 lines m and 16 columns n,
//
//   c[m][n] += sum over 16 pairs p of  a[m][2p] * b[p][2n] + a[m][2p+1] * b[p][2n+1]
//
// 8192 multiply-adds in 16 cycles: 16 times what the vector units do with float32. Numbers below 2^-126 are taken and
// given as zero. The sums of the even and of the odd elements start from zero and are added to c at the end.
//
// The same unit is also written out in C++ (CONVX_AMX_TWIN), slow and bit for bit as the manual has it, so that what is
// built on it is tested on machines without AMX: CONVX_CPU_ISA=amx_twin. And where vectors multiply pairs of bfloat16
// there is no unit at all (CONVX_BF16_PAIRS): pairs_product.h has the inner loop then, and all around it is the same.
#pragma once
#include "vec.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

constexpr int64_t kLine = 64;               // bytes
constexpr int64_t kTileLines = 16;          // of a tile, and float32 columns too
constexpr int64_t kDepth = 32;              // bfloat16 elements of a line: products that one multiply sums up
constexpr int64_t kTileElements = 16 * 32;  // of bfloat16
constexpr int64_t kTileBytes = 16 * kLine;

// An operand: a tile is 16 lines, neighbours in memory. Where step k's first tile is, in elements; and how far from it,
// in bytes, the second tile (of 32 results, or 32 outputs) and those of the next term are.
struct Tiles {
  const uint16_t* data;
  const int32_t* step;
  int64_t half, term;

  const char* at(int64_t k) const { return reinterpret_cast<const char*>(data + step[k]); }
};

constexpr int64_t kPairRows = 14;  // pixels of a block where there is no unit, at most

// Of each of `rounds` rounds of `of_round` steps, where some may be left out (pairs_product.h): those from `first` to
// `last`, and of every `row` of them those from `left` to `right`. And how many pairs of a line those of the last round
// have.
struct Steps {
  int64_t rounds, of_round, first, last, row, left, right, pairs = kDepth / 2;
  Steps(int64_t all) : rounds(1), of_round(all), first(0), last(all), row(all > 0 ? all : 1), left(0), right(all) {}
  Steps(int64_t rounds, int64_t of_round, int64_t first, int64_t last, int64_t row, int64_t left, int64_t right,
        int64_t pairs)
      : rounds(rounds),
        of_round(of_round),
        first(first),
        last(last),
        row(row),
        left(left),
        right(right),
        pairs(pairs) {}
};

#if defined(CONVX_BF16_PAIRS)

class MatrixUnit {};

#elif defined(CONVX_AMX_TWIN)

class MatrixUnit {
 public:
  template <int t>
  static void zero() {
    std::memset(tiles()[t], 0, kTileBytes);
  }
  template <int t>
  static void load(const void* from, int64_t pitch) {
    for (int64_t m = 0; m < kTileLines; ++m)
      std::memcpy(tiles()[t] + m * kLine, static_cast<const char*>(from) + m * pitch, kLine);
  }
  template <int t>
  static void store(void* to, int64_t pitch) {
    for (int64_t m = 0; m < kTileLines; ++m)
      std::memcpy(static_cast<char*>(to) + m * pitch, tiles()[t] + m * kLine, kLine);
  }
  template <int c, int a, int b>
  static void multiply() {
    using V = Vec<float>::type;
    typedef uint32_t Bits __attribute__((vector_size(64)));
    constexpr unsigned kFlushSubnormals = 0x8040;  // FTZ and DAZ
    const unsigned mode = _mm_getcsr();
    _mm_setcsr((mode & ~0x6000u) | kFlushSubnormals);
    for (int64_t m = 0; m < kTileLines; ++m) {
      V even{}, odd{};
      for (int64_t p = 0; p < 16; ++p) {
        uint32_t left;
        std::memcpy(&left, tiles()[a] + m * kLine + p * 4, 4);
        Bits right;
        std::memcpy(&right, tiles()[b] + p * kLine, kLine);
        // products of two bfloat16 are exact, so it is all the same whether the additions are fused
        even += V(Bits{} + (left << 16)) * V(right << 16);
        odd += V(Bits{} + (left & 0xffff0000u)) * V(right & 0xffff0000u);
      }
      V sum;
      std::memcpy(&sum, tiles()[c] + m * kLine, kLine);
      sum += even + odd;
      std::memcpy(tiles()[c] + m * kLine, &sum, kLine);
    }
    _mm_setcsr(mode);
  }

 private:
  typedef char Tile[kTileBytes];
  static Tile* tiles() {
    alignas(64) static thread_local Tile all[8];
    return all;
  }
};

#else

// Held by a thread while it uses the unit. Whoever else uses it in this process (torch's own kernels do) finds the
// shapes of the tiles as before.
class MatrixUnit {
 public:
  MatrixUnit() {
    asm volatile("sttilecfg %0" : "=m"(before_));
    Shapes mine = {};
    mine.palette = 1;
    for (int t = 0; t < 8; ++t) mine.line_bytes[t] = kLine, mine.lines[t] = kTileLines;
    asm volatile("ldtilecfg %0" ::"m"(mine));
  }
  ~MatrixUnit() {
    if (before_.palette)
      asm volatile("ldtilecfg %0" ::"m"(before_));
    else
      asm volatile("tilerelease");
  }
  MatrixUnit(const MatrixUnit&) = delete;
  MatrixUnit& operator=(const MatrixUnit&) = delete;

  template <int t>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(t));
  }
  template <int t>
  static void load(const void* from, int64_t pitch) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(pitch), "i"(t) : "memory");
  }
  template <int t>
  static void store(void* to, int64_t pitch) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(pitch), "i"(t) : "memory");
  }
  template <int c, int a, int b>
  static void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
  }

 private:
  struct alignas(64) Shapes {  // the 64 bytes of LDTILECFG
    uint8_t palette, start_row, reserved[14];
    uint16_t line_bytes[16];
    uint8_t lines[16];
  };
  static_assert(sizeof(Shapes) == 64, "as the manual has it");
  Shapes before_;
};

#endif

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
