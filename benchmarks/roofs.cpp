// What a machine can do at best, for roofs.py: multiply-adds and bytes copied per second.
//
// roofs.py compiles this file for the very processor it runs on, so vectors are as wide as that has them, and calls the
// functions at the end. Each starts its threads, lets them begin together, and adds up their rates.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__SSE__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// A multiply-add takes up to 5 cycles and two begin in each, so 10 must be under way; 12 sums and their two factors
// just fit in 16 registers.
constexpr int kChains = 12;

template <class T>
using Vector __attribute__((vector_size(kVectorBytes))) = T;

// Work per second of all threads together. make(thread) prepares a thread and returns its work: a function that does
// some and says how much. It is called until `seconds` have passed.
template <class Make>
double rate(int threads, double seconds, Make make) {
  using Clock = std::chrono::steady_clock;
  std::atomic<int> ready{0};
  std::vector<double> rates(threads);
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t)
    pool.emplace_back([&, t] {
      auto work = make(t);
      work();  // clocks, which wide vectors change, and pages are settled before the time counts
      ++ready;
      while (ready < threads) std::this_thread::yield();
      const auto start = Clock::now();
      double done = 0, passed = 0;
      while (passed < seconds) {
        done += work();
        passed = std::chrono::duration<double>(Clock::now() - start).count();
      }
      rates[t] = done / passed;
    });
  for (auto& thread : pool) thread.join();
  double sum = 0;
  for (double r : rates) sum += r;
  return sum;
}

// Floating-point operations per second, a multiply-add as two.
template <class T>
double multiply_adds(int threads, double seconds) {
  return rate(threads, seconds, [](int) {
    return [] {
      constexpr int64_t kSteps = 100000;
      volatile T half = 0.5, one = 1;  // volatile: not for the compiler to reckon with
      const Vector<T> a = Vector<T>{} + half, b = Vector<T>{} + one;
      Vector<T> sums[kChains];
      for (int c = 0; c < kChains; ++c) sums[c] = Vector<T>{} + T(c);
      for (int64_t i = 0; i < kSteps; ++i)
        for (int c = 0; c < kChains; ++c) sums[c] = sums[c] * a + b;
      volatile T sink = 0;
      for (int c = 0; c < kChains; ++c) sink = sink + sums[c][0];
      return 2.0 * kSteps * kChains * (kVectorBytes / sizeof(T));
    };
  });
}

// With stores that go past the caches: the destination's lines are not read before they are written.
void copy_streaming(char* to, const char* from, int64_t bytes) {
#if defined(__AVX512F__)
  for (int64_t i = 0; i < bytes; i += 64)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_load_si512(from + i));
  _mm_sfence();
#elif defined(__AVX__)
  for (int64_t i = 0; i < bytes; i += 32)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i),
                        _mm256_load_si256(reinterpret_cast<const __m256i*>(from + i)));
  _mm_sfence();
#elif defined(__SSE2__)
  for (int64_t i = 0; i < bytes; i += 16)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i), _mm_load_si128(reinterpret_cast<const __m128i*>(from + i)));
  _mm_sfence();
#else
  std::memcpy(to, from, bytes);
#endif
}

char* pages(int64_t bytes) {
  constexpr int64_t kHugePage = 2 << 20;
  bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  char* p = static_cast<char*>(std::aligned_alloc(kHugePage, bytes));
  if (!p) std::abort();
#if defined(__linux__)
  madvise(p, bytes, MADV_HUGEPAGE);
#endif
  std::memset(p, 1, bytes);
  return p;
}

}  // namespace

extern "C" {

double float32_flops(int threads, double seconds) { return multiply_adds<float>(threads, seconds); }

double float64_flops(int threads, double seconds) { return multiply_adds<double>(threads, seconds); }

// Bytes read and written per second, of two arrays of `bytes` each. What a store reads first (a write-allocate) is not
// counted, and where stores are streaming there is none.
double copy_bytes(int threads, double seconds, int64_t bytes, int streaming) {
  const int64_t part = bytes / threads / 64 * 64;
  std::vector<char*> from(threads), to(threads);
  const double result = rate(threads, seconds, [&](int t) {
    from[t] = pages(part);  // by the thread that will use them, and so in its part of the memory
    to[t] = pages(part);
    return [=, source = from[t], target = to[t]] {
      streaming ? copy_streaming(target, source, part) : void(std::memcpy(target, source, part));
      asm volatile("" : : "r"(target) : "memory");  // or the copy could be left out, since nobody reads it
      return 2.0 * part;
    };
  });
  for (int t = 0; t < threads; ++t) {
    std::free(from[t]);
    std::free(to[t]);
  }
  return result;
}

// Operations per second of the matrix unit AMX on bfloat16; 0 where there is none, or the system does not grant it.
double amx_bfloat16_flops(int threads, double seconds) {
#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return 0;
  return rate(threads, seconds, [](int) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};  // of eight tiles
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    asm volatile("" : : "r"(&config) : "memory");  // GCC takes _tile_loadconfig to read 8 of the 64 bytes
    _tile_loadconfig(&config);
    return [] {
      constexpr int64_t kSteps = 10000;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      _tile_zero(4);
      _tile_zero(5);
      _tile_zero(6);
      _tile_zero(7);
      for (int64_t i = 0; i < kSteps; ++i) {  // four sums, as many as a 2 x 2 block of tiles leaves room for
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      return kSteps * 4 * 2.0 * 16 * 16 * 32;  // each (16 x 32) times (32 x 16)
    };
  });
#else
  return 0 * (threads + seconds);
#endif
}

}  // extern "C"
