#include "clocks.h"

#include <algorithm>

namespace emulator {
namespace clocks {
namespace {

std::vector<Clock> of_thread;
int threads = 0;
bool kept = false;

void join(Clock& into, const Clock& other) {
  for (size_t i = 0; i < other.size(); ++i) into[i] = std::max(into[i], other[i]);
}

}  // namespace

uint32_t now = 1;

void begin_block(int count) { threads = count, kept = false; }

void keep() {
  if (kept) return;
  kept = true;
  of_thread.assign(size_t(threads), Clock(kAll));
}

bool are_kept() { return kept; }

bool is_over(uint32_t when, int who, int thread) { return when <= of_thread[size_t(thread)][size_t(who)]; }

void tell(int thread, Clock& clock) {
  clock.resize(kAll);
  join(clock, of_thread[size_t(thread)]);
  clock[size_t(thread)] = now++;
}

void learn(int thread, const Clock& clock) { join(of_thread[size_t(thread)], clock); }

void learn(int thread, int who, uint32_t until) {
  uint32_t& known = of_thread[size_t(thread)][size_t(who)];
  known = std::max(known, until);
}

void meet(int first, int count) {
  if (!kept) return;
  const int end = std::min(first + count, threads);
  Clock all(kAll);
  for (int t = first; t < end; ++t) join(all, of_thread[size_t(t)]);
  for (int t = first; t < end; ++t) all[size_t(t)] = now;
  for (int t = first; t < end; ++t) of_thread[size_t(t)] = all;
  ++now;
}

}  // namespace clocks
}  // namespace emulator
