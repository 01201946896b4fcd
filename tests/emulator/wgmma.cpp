// Products of matrices by a warpgroup, as the PTX manual has them: the descriptor of an operand, the swizzles of 64
// and of 128 bytes, and which lane has which sums. Each warp makes its 16 rows of the 64 by itself, and at the wait for
// its products waits for the others of its warpgroup: that one's are made means that all are.
#include "wgmma.h"

#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "checker.h"
#include "clocks.h"
#include "emulator.h"
#include "tensor_core.h"

namespace emulator {
namespace {

constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr int kMostThreads = 1024;
constexpr uint32_t kDepthBytes = 32;

// Numbers of a product: of how many bytes, how many the reduction has and how many of them are added at a time.
struct Numbers {
  int bytes, depth, group;
  Factor (*element)(uint32_t, int);

  template <class Format>
  static Numbers of() {
    return {4 / Format::kPerRegister, Format::kDepth, Format::kGroup, Format::element};
  }
};

struct Product {
  float* d;
  int count;
  WgmmaOperand a, b;
  Numbers numbers;
  Place place;
};

struct Thread {
  std::vector<Product> open;                // not committed yet
  std::deque<std::vector<Product>> groups;  // oldest first
  std::map<float*, std::vector<float>> sums;
  int waits = 0;  // how often it has made the products that it waited for

  bool is_at_work_on(const float* d) const {
    for (const Product& p : open)
      if (p.d == d) return true;
    for (const auto& group : groups)
      for (const Product& p : group)
        if (p.d == d) return true;
    return false;
  }
};
std::vector<Thread> threads(kMostThreads);
uint32_t last_reads[kMostThreads / clocks::kGroup] = {};  // of each warpgroup, for products that were waited for

// An operand, from its descriptor, as lines in shared memory: rows of 64 or of 128 bytes, or, across the reduction, the
// sixteen numbers of the reduction with 64 rows each, which have 128 bytes.
struct Operand {
  uint32_t start, first, second, line;  // in bytes
  uint32_t bytes_each;                  // of a number
  bool across;

  Operand(WgmmaOperand operand, const Numbers& numbers, Place place)
      : start(bytes(operand.descriptor)),
        first(bytes(operand.descriptor >> 16)),
        second(bytes(operand.descriptor >> 32)),
        line(operand.descriptor >> 62 == 2 ? 64 : 128),
        bytes_each(uint32_t(numbers.bytes)),
        across(operand.across) {
    const uint64_t swizzle = operand.descriptor >> 62;
    if (swizzle != 1 && (across || swizzle != 2))
      fail("wgmma at " + text(place) + ": emulated is the swizzle of 128 bytes" +
           (across ? "" : ", and along the reduction that of 64"));
    const uint32_t past = start % (8 * line);  // a multiple of 1024 bytes, or of 512
    if ((operand.descriptor >> 49 & 7) != 0 || (across ? past != 0 : past >= line || past % kDepthBytes != 0))
      fail("wgmma at " + text(place) + ": an operand does not begin at a multiple of " + std::to_string(8 * line) +
           " bytes");
  }
  static uint32_t bytes(uint64_t bits) { return uint32_t(bits & 0x3fff) << 4; }

  // Where an element is, in the block's shared memory: by the table of canonical layouts, and the swizzle, which is an
  // exclusive or of bits of the address.
  const unsigned char* at(int row, int k) const {
    const uint32_t r = uint32_t(row), n = uint32_t(k);
    const uint32_t straight = across ? start + r / 64 * first + n / 8 * second + n % 8 * 128 + r % 64 * 2
                                     : start + r / 8 * second + r % 8 * line + n * bytes_each;
    return static_cast<const unsigned char*>(shared_memory()) +
           (straight ^ (straight >> 7 & (line == 128 ? 7 : 3)) << 4);
  }
};

// Tells which chunks of rows [row, row + rows) lanes read, every 32nd each.
template <class F>
void each_chunk(const Operand& operand, int row, int rows, F f) {
  for (int i = 0; i < 2 * rows; ++i)
    f(i % 32, operand.across ? operand.at(row + i / 16 * 8, i % 16)
                             : operand.at(row + i / 2, i % 2 * int(16 / operand.bytes_each)));
}

void note_reads(const Product& p, int first) {
  const auto note = [&](int lane, const unsigned char* chunk) {
    checker::read_by_async_proxy(first + lane, chunk, 16, p.place);
  };
  each_chunk(Operand(p.a, p.numbers, p.place), first / 32 % 4 * 16, 16, note);
  each_chunk(Operand(p.b, p.numbers, p.place), 0, 2 * p.count, note);
}

struct Begun {
  Product product;
  int thread;
};

void begin_for_warp(void* const* lanes) {
  const auto* one = static_cast<const Begun*>(lanes[0]);
  for (int i = 0; i < 32; ++i) {
    const auto* mine = static_cast<const Begun*>(lanes[i]);
    if (mine->product.a.descriptor != one->product.a.descriptor ||
        mine->product.b.descriptor != one->product.b.descriptor)
      fail("wgmma at " + text(one->product.place) + ": lanes of a warp come with different operands");
  }
  note_reads(one->product, one->thread);
  for (int i = 0; i < 32; ++i) {
    const auto* mine = static_cast<const Begun*>(lanes[i]);
    Thread& t = threads[mine->thread];
    float* const d = mine->product.d;
    if (!t.sums.count(d)) {
      t.sums[d].assign(d, d + mine->product.count);
      std::fill(d, d + mine->product.count, std::numeric_limits<float>::quiet_NaN());
    }
    t.open.push_back(mine->product);
  }
}

void begin(float* d, int count, WgmmaOperand a, WgmmaOperand b, const Numbers& numbers, Place place) {
  Begun mine{{d, count, a, b, numbers, place}, thread_of_block()};
  together("wgmma", kAllLanes, true, &mine, begin_for_warp, place);
}

// The elements of rows [row, row + rows) of an operand.
std::vector<Factor> elements(const Operand& operand, int row, int rows, const Numbers& numbers) {
  std::vector<Factor> all;
  for (int i = 0; i < rows; ++i)
    for (int k = 0; k < numbers.depth; ++k) {
      uint32_t bits = 0;
      memcpy(&bits, operand.at(row + i, k), size_t(numbers.bytes));
      all.push_back(numbers.element(bits, 0));
    }
  return all;
}

// Makes the same product for all lanes of the warp from thread `first` on.
void make_product(const std::vector<Product>& by_lane, int first) {
  const Product& p = by_lane[0];
  note_reads(p, first);
  const int columns = 2 * p.count, group = p.numbers.group, groups = p.numbers.depth / group;
  const auto a = elements(Operand(p.a, p.numbers, p.place), first / 32 % 4 * 16, 16, p.numbers);
  const auto b = elements(Operand(p.b, p.numbers, p.place), 0, columns, p.numbers);
  const bool finite = are_finite(a.data(), int(a.size())) && are_finite(b.data(), int(b.size()));
  std::vector<bool> a_is_zero, b_is_zero;
  for (size_t i = 0; i < a.size(); i += size_t(group)) a_is_zero.push_back(are_zeros(&a[i], group));
  for (size_t i = 0; i < b.size(); i += size_t(group)) b_is_zero.push_back(are_zeros(&b[i], group));
  for (int lane = 0; lane < 32; ++lane) {
    float* const sums = threads[first + lane].sums.at(by_lane[lane].d).data();
    for (int i = 0; i < p.count; ++i) {
      const int row = lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      for (int k = 0; k < groups; ++k) {
        const int of_a = row * groups + k, of_b = column * groups + k;
        if (!finite || !(a_is_zero[size_t(of_a)] || b_is_zero[size_t(of_b)]))
          sums[i] = add_group(sums[i], &a[size_t(of_a * group)], &b[size_t(of_b * group)], group);
      }
    }
  }
}

struct Wait {
  int youngest, thread;
};

void wait_for_warp(void* const* lanes) {
  const int first = static_cast<const Wait*>(lanes[0])->thread;
  const size_t youngest = size_t(static_cast<const Wait*>(lanes[0])->youngest);
  while (threads[first].groups.size() > youngest) {
    for (size_t i = 0; i < threads[first].groups.front().size(); ++i) {
      std::vector<Product> by_lane;
      for (int lane = 0; lane < 32; ++lane) by_lane.push_back(threads[first + lane].groups.front().at(i));
      make_product(by_lane, first);
    }
    for (int lane = 0; lane < 32; ++lane) threads[first + lane].groups.pop_front();
  }
  last_reads[first / clocks::kGroup] = clocks::now++;
  for (int lane = 0; lane < 32; ++lane) {
    Thread& t = threads[first + lane];
    ++t.waits;
    for (auto it = t.sums.begin(); it != t.sums.end();) {
      if (t.is_at_work_on(it->first)) {
        ++it;
        continue;
      }
      std::copy(it->second.begin(), it->second.end(), it->first);
      it = t.sums.erase(it);
    }
  }
}

// Have the other warps of the warpgroup come to the wait that this thread is at, or ended?
bool warpgroup_has_come(const void* about) {
  const int thread = *static_cast<const int*>(about), group = thread / clocks::kGroup * clocks::kGroup;
  for (int first = group; first < group + clocks::kGroup; first += 32)
    if (!has_ended(first) && threads[first].waits < threads[thread].waits) return false;
  return true;
}

}  // namespace

uint32_t shared_offset(const void* shared) {
  return uint32_t(static_cast<const unsigned char*>(shared) - static_cast<const unsigned char*>(shared_memory()));
}

void begin_product_fp16(float* d, int count, WgmmaOperand a, WgmmaOperand b, Place place) {
  begin(d, count, a, b, Numbers::of<Fp16>(), place);
}
void begin_product_bf16(float* d, int count, WgmmaOperand a, WgmmaOperand b, Place place) {
  begin(d, count, a, b, Numbers::of<Bf16>(), place);
}
void begin_product_tf32(float* d, int count, WgmmaOperand a, WgmmaOperand b, Place place) {
  begin(d, count, a, b, Numbers::of<Tf32>(), place);
}

void commit_products() {
  Thread& t = threads[thread_of_block()];
  t.groups.push_back(std::move(t.open));
  t.open.clear();
}

void wait_for_products(int youngest, Place place) {
  if (!comes_to(place)) return;
  Wait mine{youngest, thread_of_block()};
  together("wgmma.wait_group", kAllLanes, true, &mine, wait_for_warp, place);
  const auto warps = [](const void*) { return std::string("the other warps of its warpgroup"); };
  if (!warpgroup_has_come(&mine.thread)) wait_until({warpgroup_has_come, warps, &mine.thread}, place);
  const int group = mine.thread / clocks::kGroup;
  if (clocks::are_kept()) clocks::learn(mine.thread, clocks::kTensorCores + group, last_reads[group]);
}

void fence_sums(Place place) {
  int nothing = 0;
  together("wgmma.fence", kAllLanes, true, &nothing, nullptr, place);
}

void forget_products() {
  for (Thread& t : threads) t = {};
}

void check_no_product_is_left(int thread) {
  const Thread& t = threads[thread];
  if (!t.open.empty() || !t.groups.empty() || !t.sums.empty())
    fail("thread " + std::to_string(thread) + " ends while products of wgmma are still at work");
}

}  // namespace emulator
