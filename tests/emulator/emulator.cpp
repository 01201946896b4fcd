// Lets the threads of a block take turns, and brings together those that wait for one another: cuda_emulator.h and
// emulator.h.
#include "emulator.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <tuple>

#include "checker.h"
#include "fiber.h"
#include "tma.h"
#include "wgmma.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

Settings settings;

namespace {

constexpr int kWarp = 32, kMostThreads = 1024;

enum class State { ready, at_barrier, in_warp, waiting, finished };

struct Copy {  // of cp.async
  void* shared;
  const void* global;
  int bytes;
  bool valid;
};

struct Thread {
  explicit Thread(void (*main)()) : fiber(main) {}
  Fiber fiber;
  State state = State::ready;
  Place place = {"", 0};  // where it waits
  bool vote = false;
  Until until = {nullptr, nullptr, nullptr};  // if it is State::waiting
  // What it wants of its warp.
  const char* what = nullptr;
  uint32_t mask = 0;
  bool all = false;
  void* mine = nullptr;
  WarpWork work = nullptr;
  std::vector<std::vector<Copy>> copies{1};  // groups, oldest first; the last is not committed yet
};

Fiber scheduler;
std::vector<std::unique_ptr<Thread>> threads;  // kept from launch to launch: each serves one CUDA thread after another
Thread* running = nullptr;
int running_index = 0, thread_count = 0;
const char* kernel = "";
Body body = {nullptr, nullptr, 0};
std::unique_ptr<unsigned char[]> shared;
std::string failure;
bool in_fiber = false;
int votes = 0;  // of the block's last barrier
constexpr uint32_t kAllLanes = 0xffffffffu;
int alive[kMostThreads / kWarp], meeting[kMostThreads / kWarp];  // lanes of each warp: not finished; in State::in_warp
std::set<std::string> places;
std::vector<Launched> all_launched;

void thread_main() {
  for (;;) {
    body.run(body.argument);
    running->state = State::finished;
    running->fiber.switch_to(scheduler);
  }
}

// If all lanes of `mask` in the warp from thread `first` on have come, does their work and lets them go on.
void complete(int first, uint32_t mask) {
  if (mask == kAllLanes && meeting[first / kWarp] < alive[first / kWarp]) return;  // the usual case, told early
  void* lanes[kWarp] = {};
  const Thread* one = nullptr;
  bool missing = false;
  for (int i = 0; i < kWarp; ++i) {
    if (!(mask >> i & 1)) continue;
    const Thread* t = first + i < thread_count ? threads[first + i].get() : nullptr;
    if (!t || t->state == State::finished) {
      missing = true;
      continue;
    }
    if (t->state != State::in_warp) return;
    if (one && (t->what != one->what || t->mask != one->mask))
      fail("divergent warp: lanes do " + std::string(one->what) + " at " + text(one->place) + " and " + t->what +
           " at " + text(t->place) + " together");
    one = t;
    lanes[i] = t->mine;
  }
  if (!one) return;
  if (one->mask != mask) fail("divergent warp: lanes come to " + text(one->place) + " with different masks");
  if (missing && one->all)
    fail("divergent warp: " + std::string(one->what) + " at " + text(one->place) +
         " needs all 32 lanes, and some have left the kernel or don't exist");
  if (one->work) one->work(lanes);
  for (int i = 0; i < kWarp; ++i)
    if (lanes[i]) {
      threads[first + i]->state = State::ready;
      --meeting[first / kWarp];
    }
}

// Lets thread t run until it waits or finishes.
void resume(int t) {
  running = threads[t].get(), running_index = t;
  running->state = State::ready;
  threadIdx = dim3(t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y);
  in_fiber = true;
  checker::begin_turn(t, running->fiber.stack(), running->fiber.stack_bytes());
  scheduler.switch_to(running->fiber);
  checker::end_turn();
  in_fiber = false;
  if (!failure.empty()) throw std::runtime_error(failure);
  if (running->state == State::finished) {
    --alive[t / kWarp];
    check_no_product_is_left(t);
    const int first = t / kWarp * kWarp;  // others of its warp may have waited for it to come or go
    for (int i = first; i < std::min(first + kWarp, thread_count); ++i)
      if (threads[i]->state == State::in_warp) complete(first, threads[i]->mask);
  }
}

void put_in_order(std::vector<int64_t>& items, std::mt19937_64& random) {
  if (settings.order == Order::descending) std::sort(items.begin(), items.end(), std::greater<int64_t>());
  if (settings.order == Order::shuffled) std::shuffle(items.begin(), items.end(), random);
}

std::vector<int64_t> numbers(int64_t count) {
  std::vector<int64_t> items(count);
  for (int64_t i = 0; i < count; ++i) items[i] = i;
  return items;
}

bool can_go_on(const Thread& t) {
  return t.state == State::ready || (t.state == State::waiting && t.until.over(t.until.about));
}

// Lets all threads run until each waits for others or has finished. In order, a warp goes on alone as far as it can;
// shuffled, the warps mix at every instruction that they do together. False if none could go on.
bool run_in_turn(std::vector<int64_t>& order, std::mt19937_64& random) {
  bool any_ran = false;
  put_in_order(order, random);
  const size_t portion = settings.order == Order::shuffled ? order.size() : size_t(kWarp);
  const size_t cut = settings.order == Order::descending ? order.size() % kWarp : 0;  // the incomplete warp is first
  for (size_t begin = 0, end; begin < order.size(); begin = end) {
    end = begin == 0 && cut ? cut : std::min(begin + portion, order.size());
    for (bool ran = true; ran;) {
      ran = false;
      for (size_t i = begin; i < end; ++i)
        if (can_go_on(*threads[order[i]])) {
          resume(int(order[i]));
          ran = any_ran = true;
        }
      if (settings.order == Order::shuffled && ran) put_in_order(order, random);
    }
  }
  return any_ran;
}

// The same until none can go on, and nothing is on its way that one of them waits for.
void run_to_barrier(std::vector<int64_t>& order, std::mt19937_64& random) {
  do
    while (run_in_turn(order, random)) continue;
  while (bring_a_copy());
}

// What threads wait for that can't come any more.
std::string hopes(const std::vector<int64_t>& order) {
  std::set<std::string> known;
  std::string all;
  for (int64_t i : order) {
    const Thread& t = *threads[i];
    if (t.state != State::waiting) continue;
    const std::string hope = " waits at " + text(t.place) + " for " + t.until.what(t.until.about);
    if (known.insert(hope).second) all += (all.empty() ? "" : ", ") + ("thread " + std::to_string(i)) + hope;
  }
  return all;
}

// Now no thread can go on. All must be at the same barrier, or at their end; is it so?
bool all_finished(const std::vector<int64_t>& order) {
  const std::string hope = hopes(order);
  if (!hope.empty()) fail("a wait that never ends: " + hope);
  const Thread& first = *threads[order[0]];
  for (int64_t i : order) {
    const Thread& t = *threads[i];
    if (t.state == State::in_warp)
      fail("divergent warp: lane " + std::to_string(i % kWarp) + " waits in " + t.what + " at " + text(t.place) +
           " for lanes that never come");
  }
  for (int64_t i : order) {
    const Thread& t = *threads[i];
    if (t.state != first.state)
      fail("divergent barrier: some threads of a block ended while others wait at " +
           text(t.state == State::at_barrier ? t.place : first.place));
    if (t.state == State::at_barrier && (t.place.line != first.place.line || strcmp(t.place.file, first.place.file)))
      fail("divergent barrier: threads of a block wait at " + text(first.place) + " and " + text(t.place));
  }
  return first.state == State::finished;
}

void run_block(std::vector<int64_t> order, std::mt19937_64& random) {
  for (int w = 0; w < kMostThreads / kWarp; ++w) {
    alive[w] = std::max(0, std::min(kWarp, thread_count - w * kWarp));
    meeting[w] = 0;
  }
  forget_products();
  forget_barriers();
  for (int64_t i : order) {
    threads[i]->state = State::ready;
    threads[i]->copies.assign(1, {});
  }
  for (;;) {
    run_to_barrier(order, random);
    if (all_finished(order)) return check_no_copy_is_left();
    votes = 0;
    for (int64_t i : order) votes += threads[i]->vote;
    for (int64_t i : order) threads[i]->state = State::ready;
    checker::block_barrier();
  }
}

}  // namespace

bool comes_to(Place place) {
  static Place last = {nullptr, 0};
  if (place.file != last.file || place.line != last.line) places.insert(text(last = place));
  return settings.dropped.empty() || text(place) != settings.dropped;
}

std::string text(Place place) {
  const char* slash = strrchr(place.file, '/');
  return std::string(slash ? slash + 1 : place.file) + ":" + std::to_string(place.line);
}

// Which function an address is, of those that other libraries could call.
static std::string symbol_at(const void* function) {
  Dl_info info;
  return dladdr(function, &info) && info.dli_saddr == function && info.dli_sname ? info.dli_sname : "";
}

static void note_launch(const void* function, int64_t blocks, int threads, size_t shared_bytes) {
  static std::map<std::tuple<const void*, int, size_t, bool>, size_t> known;
  if (all_launched.empty()) known.clear();
  const auto key = std::make_tuple(function, threads, shared_bytes, settings.dry);
  const auto found = known.find(key);
  if (found == known.end()) {
    known[key] = all_launched.size();
    all_launched.push_back({symbol_at(function), threads, shared_bytes, 1, blocks, settings.dry});
  } else {
    Launched& l = all_launched[found->second];
    ++l.launches;
    l.most_blocks = std::max(l.most_blocks, blocks);
  }
}

const std::vector<Launched>& launched() { return all_launched; }
void forget_launches() { all_launched.clear(); }

void launch_body(const char* name, const void* function, int64_t blocks, dim3 block, size_t shared_bytes, Body entry) {
  const int64_t count = int64_t(block.x) * block.y * block.z;
  if (count < 1 || count > kMostThreads || blocks < 1)
    throw std::runtime_error(std::string(name) + ": no GPU launches " + std::to_string(blocks) + " blocks of " +
                             std::to_string(count) + " threads");
  if (shared_bytes > 227 * 1024) throw std::runtime_error(std::string(name) + ": over 227 KiB of shared memory");
  note_launch(function, blocks, int(count), shared_bytes);
  if (settings.dry) return;
  while (int64_t(threads.size()) < count) threads.emplace_back(new Thread(thread_main));
  std::mt19937_64 random(settings.seed);
  kernel = name, body = entry, thread_count = int(count);
  failure.clear(), in_fiber = false;
  blockDim = block;
  gridDim = dim3(unsigned(std::min(blocks, settings.max_blocks)));
  shared.reset(new unsigned char[shared_bytes]);
  checker::begin_launch(entry.argument, entry.bytes, shared.get(), shared_bytes);
  std::vector<int64_t> order = numbers(gridDim.x);
  put_in_order(order, random);
  for (int64_t i : order) {
    blockIdx = dim3(unsigned(i));
    checker::begin_block(uint32_t(i), thread_count);
    memset(shared.get(), 0xff, shared_bytes);  // NaN in every floating-point type
    try {
      run_block(numbers(count), random);
    } catch (...) {
      threads.clear();  // some are left in the middle of the kernel
      throw;
    }
  }
}

void fail(const std::string& what) {
  failure = std::string(kernel) + ": " + what;
  if (!in_fiber) throw std::runtime_error(failure);
  running->fiber.switch_to(scheduler);  // for good
  __builtin_unreachable();
}

void* shared_memory() { return shared.get(); }

int thread_of_block() { return running_index; }

int barrier(bool vote, Place place) {
  if (!comes_to(place)) return 0;
  running->state = State::at_barrier;
  running->place = place, running->vote = vote;
  running->fiber.switch_to(scheduler);
  return votes;
}

void wait_until(Until until, Place place) {
  running->state = State::waiting;
  running->until = until, running->place = place;
  running->fiber.switch_to(scheduler);
}

bool has_ended(int thread) { return thread >= thread_count || threads[thread]->state == State::finished; }

void together(const char* what, uint32_t mask, bool all, void* mine, WarpWork work, Place place) {
  Thread& t = *running;
  if (!(mask >> lane() & 1))
    fail("lane " + std::to_string(lane()) + " is not in the mask of " + what + " at " + text(place));
  t.what = what, t.mask = mask, t.all = all, t.mine = mine, t.work = work, t.place = place;
  t.state = State::in_warp;
  ++meeting[running_index / kWarp];
  complete(running_index - lane(), mask);
  if (t.state == State::in_warp) t.fiber.switch_to(scheduler);
}

void warp_barrier(uint32_t mask, Place place) {
  static const auto note = [](void* const*) { checker::warp_barrier(running_index / kWarp); };
  if (comes_to(place)) together("__syncwarp", mask, false, running, note, place);
}

void shuffle(const char* what, uint32_t mask, const void* value, void* result, size_t bytes, int source, Place place) {
  struct Exchange {
    const void* value;
    void* result;
    size_t bytes;
    int source;
  } mine{value, result, bytes, source};
  const auto exchange = [](void* const* lanes) {
    for (int i = 0; i < kWarp; ++i) {
      if (!lanes[i]) continue;
      const auto* to = static_cast<const Exchange*>(lanes[i]);
      if (const auto* from = static_cast<const Exchange*>(lanes[to->source]))
        memcpy(to->result, from->value, to->bytes);
      else
        memset(to->result, 0xff, to->bytes);  // undefined on the hardware: NaN
    }
  };
  together(what, mask, false, &mine, exchange, place);
}

void atomic(const void* address, size_t bytes, Place place) {
  checker::access(running_index, address, bytes, checker::Access::atomic, place);
}

uint32_t ballot(const char* what, uint32_t mask, bool vote, Place place) {
  struct Vote {
    bool mine;
    uint32_t all;
  } v{vote, 0};
  const auto count = [](void* const* lanes) {
    uint32_t all = 0;
    for (int i = 0; i < kWarp; ++i)
      if (lanes[i] && static_cast<Vote*>(lanes[i])->mine) all |= 1u << i;
    for (int i = 0; i < kWarp; ++i)
      if (lanes[i]) static_cast<Vote*>(lanes[i])->all = all;
  };
  together(what, mask, false, &v, count, place);
  return v.all;
}

void copy_async(void* to, const void* from, int bytes, bool valid, Place place) {
  const auto misaligned = [&](const void* p) { return reinterpret_cast<uintptr_t>(p) % size_t(bytes) != 0; };
  if (misaligned(to) || (valid && misaligned(from)))
    fail("cp.async of " + std::to_string(bytes) + " bytes at " + text(place) + " is not aligned to them");
  checker::access(running_index, to, size_t(bytes), checker::Access::copy_begins, place);
  if (valid) checker::access(running_index, from, size_t(bytes), checker::Access::load, place);
  memset(to, 0xff, size_t(bytes));
  running->copies.back().push_back({to, from, bytes, valid});
}

void copy_async_commit() { running->copies.emplace_back(); }

void copy_async_wait(int youngest, Place place) {
  if (!comes_to(place)) return;
  auto& groups = running->copies;
  while (int(groups.size()) - 1 > youngest) {
    for (const Copy& c : groups.front()) {
      checker::access(running_index, c.shared, size_t(c.bytes), checker::Access::copy_ends, place);
      if (c.valid)
        memcpy(c.shared, c.global, size_t(c.bytes));
      else
        memset(c.shared, 0, size_t(c.bytes));
    }
    groups.erase(groups.begin());
  }
}

void fence_async(Place place) {
  if (comes_to(place)) checker::fence_async(running_index);
}

std::vector<std::string> take_places() {
  std::vector<std::string> taken(places.begin(), places.end());
  places.clear();
  return taken;
}

}  // namespace emulator
