// The checks behind checker.h; memory_hooks.cpp calls them before each load and store of a kernel.
//
// Of each byte of shared memory, and of what kernels write in global memory, a Cell remembers who wrote and who read it
// last, and when. (One Cell serves four bytes until somebody touches fewer.) Two accesses, one of them a write, are a
// race if they come from different threads and no barrier of the block, or of their warp, lies between them: whatever
// order the threads happen to run in here, on a GPU they could have met. Time is a counter that moves on at each
// barrier; an access from before the last barrier of the block is over, and so is one of the same warp from before the
// warp's last __syncwarp(). (A __syncwarp() of some lanes counts as one of all.) Between blocks nothing is over before
// the launch is. In a block with mbarriers the clocks of clocks.h say besides what is over for whom.
#include "checker.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <vector>

#include "clocks.h"
#include "emulator.h"
#include "memory_hooks.h"

namespace emulator {
namespace {

using checker::Access;
using clocks::now;

constexpr int kWarp = 32;

// Who read or wrote: a thread of the block (below 1024) or somebody else of clocks.h, with these bits, or one of these.
constexpr uint16_t kNobody = 0xffff, kManyWarps = 0xfffe;
constexpr uint16_t kBarrier = 0xfffd;    // of a writer: an mbarrier lies here
constexpr uint16_t kWarpBit = 0x8000;    // of a reader: several threads of the warp whose number is in the low bits
constexpr uint16_t kAtomicBit = 0x4000;  // of a writer: atomically
constexpr uint16_t kCopyBit = 0x2000;    // of a writer: by a copy that has not been waited for
constexpr uint16_t kThreadBits = 0x07ff;

struct Cell {
  uint32_t written = 0, read = 0;  // when; 0: never
  uint32_t write_block = 0, read_block = 0;
  uint32_t write_place = 0, read_place = 0;  // see place_number()
  uint16_t writer = kNobody, reader = kNobody;
};

constexpr int kCoarse = 2;

struct Region {
  std::string name;
  const char *begin, *end;
  bool writable, written, shared;
  std::vector<Cell> cells;  // none for what kernels only read, and for images gigabytes apart
  int shift = kCoarse;      // a cell serves 1 << shift bytes

  void make_cells() {
    shift = kCoarse;
    cells.assign((size_t(end - begin) >> kCoarse) + 1, Cell());
  }
  // Cells fine enough for an access: what was known of several bytes is known of each.
  void refine(size_t offset, size_t bytes) {
    while (((offset | bytes) & ((size_t(1) << shift) - 1)) != 0) {
      --shift;
      cells.resize(2 * cells.size());
      for (size_t i = cells.size(); i-- > 0;) cells[i] = cells[i / 2];
    }
  }
};

constexpr size_t kMostCells = 16 << 20;

std::vector<Region> regions(1);  // the first is the block's shared memory
uint32_t launch_began = 0, block_began = 0, last_block_barrier = 0, last_warp_barrier[1024 / kWarp] = {};
uint32_t last_async_fence[1024] = {};  // of each thread
uint32_t block = 0;
// When each of clocks.h last read anything of each line of shared memory, in blocks with mbarriers: for cells that only
// know of many readers.
constexpr size_t kLine = 128;
std::vector<uint32_t> readers_of_lines;
std::vector<std::string> places;  // those that are known by file and line
constexpr uint32_t kKnownPlace = 0x80000000u;

// A place in the code as a number: an offset in the library, which library.py turns into a file and line, or one that
// is known by file and line.
uint32_t place_number(Place place) {
  static std::map<std::pair<const char*, int>, uint32_t> numbers;
  const auto found = numbers.find({place.file, place.line});
  if (found != numbers.end()) return found->second;
  places.push_back(text(place));
  return numbers[{place.file, place.line}] = kKnownPlace | uint32_t(places.size() - 1);
}

std::string place_text(uint32_t number) {
  if (number & kKnownPlace) return places[number & ~kKnownPlace];
  char text[24];
  snprintf(text, sizeof text, "[+0x%x]", number);
  return text;
}

// What `who` of block `whose` did at `when`: is it over, as far as thread t is concerned?
bool is_over(const Region& r, uint32_t when, uint16_t who, uint32_t whose, int t) {
  if (when < launch_began) return true;
  if (!r.shared && whose != block) return false;
  if (when < last_block_barrier) return true;
  if (who == kManyWarps) return false;
  const int number = who & kThreadBits, warp = who & kWarpBit ? number : number / kWarp;
  if (warp == t / kWarp && when < last_warp_barrier[warp]) return true;
  if (who & kWarpBit) return false;
  return number == t || (clocks::are_kept() && clocks::is_over(when, number, t));
}

// Who of a line's readers is not done with it, as far as thread t is concerned; kNobody if all are.
uint16_t reader_at_work(size_t offset, int t) {
  const uint32_t* readers = &readers_of_lines[offset / kLine * clocks::kEngine];
  for (int who = 0; who < clocks::kEngine; ++who)
    if (readers[who] >= block_began && !checker::is_over(readers[who], who, t)) return uint16_t(who);
  return kNobody;
}

std::string name_of(uint16_t who, uint32_t whose) {
  const int number_of_all = who & kThreadBits;
  if (who < kManyWarps && number_of_all >= clocks::kEngine) return "the copy engine";
  if (who < kManyWarps && number_of_all >= clocks::kTensorCores)
    return "a wgmma of warpgroup " + std::to_string(number_of_all - clocks::kTensorCores);
  const std::string number = std::to_string(number_of_all);
  const std::string of_block = whose == block ? "" : " of block " + std::to_string(whose);
  if (who == kManyWarps) return "threads of several warps" + of_block;
  return (who & kWarpBit ? "threads of warp " : "thread ") + number + of_block;
}

[[noreturn]] void report(int t, size_t bytes, Access kind, uint32_t place, const std::string& what) {
  const char* verb = kind == Access::load          ? " reads "
                     : kind == Access::atomic      ? " adds atomically to "
                     : kind == Access::copy_begins ? " begins to copy to "
                                                   : " writes ";
  const int x = int(blockDim.x), y = int(blockDim.y);
  fail("thread " + std::to_string(t) + " (" + std::to_string(t % x) + ", " + std::to_string(t / x % y) + ", " +
       std::to_string(t / x / y) + ") of block " + std::to_string(block) + verb + std::to_string(bytes) + " bytes " +
       what + ", at " + place_text(place));
}

// One access to one byte.
struct Checked {
  Region& region;
  size_t offset;  // of the byte
  int t;
  size_t bytes;  // of the access
  Access kind;
  uint32_t place;
  uint16_t who;  // does it: thread t, or somebody else for it

  [[noreturn]] void say(const std::string& what) const {
    report(t, bytes, kind, place, "of " + region.name + " at byte " + std::to_string(offset) + what);
  }
  [[noreturn]] void say_race(const char* verb, uint16_t who, uint32_t whose, uint32_t where) const {
    say(std::string(verb) + name_of(who, whose) + " at " + place_text(where) + " without a barrier between them");
  }

  void check(Cell& c) const {
    const uint32_t fresh = region.shared ? block_began : 0;  // what lies in shared memory from another block is nothing
    const bool written = c.writer != kNobody && c.written >= fresh, read = c.reader != kNobody && c.read >= fresh;
    if (kind == Access::copy_ends) {
      c.writer = who, c.written = now;
      return;
    }
    if (written) {
      if (c.writer == kBarrier) say(", which are an mbarrier's, since " + place_text(c.write_place));
      if (c.writer & kCopyBit && (c.writer & kThreadBits) >= clocks::kEngine)
        say(", while the copy that was asked for at " + place_text(c.write_place) + " is on its way there");
      if (c.writer & kCopyBit)
        say(" before anybody waited for the cp.async that " + name_of(c.writer, c.write_block) + " began at " +
            place_text(c.write_place));
      const bool both_atomic = kind == Access::atomic && c.writer & kAtomicBit;
      if (!both_atomic && !is_over(region, c.written, c.writer, c.write_block, t))
        say_race(", written by ", c.writer, c.write_block, c.write_place);
    } else if ((kind == Access::load || kind == Access::atomic) && !region.written) {
      say(", which nobody has written yet");
    }
    const bool meets_reader = read && !is_over(region, c.read, c.reader, c.read_block, t);
    const bool keeps_readers = region.shared && clocks::are_kept();
    if (kind == Access::load) {
      uint16_t reader = who;
      if (keeps_readers) readers_of_lines[offset / kLine * clocks::kEngine + who] = now;
      if (meets_reader && c.reader != who) {  // not one after the other: both are readers from now on
        const int number = c.reader & kThreadBits, warp = c.reader & kWarpBit ? number : number / kWarp;
        const bool same_warp = c.reader != kManyWarps && c.read_block == block && warp == who / kWarp;
        reader = same_warp ? uint16_t(kWarpBit | warp) : kManyWarps;
      }
      c.reader = reader, c.read = now, c.read_block = block, c.read_place = place;
      return;
    }
    if (meets_reader) {
      const bool many = c.reader == kManyWarps || c.reader & kWarpBit;
      const uint16_t reader = keeps_readers && many ? reader_at_work(offset, t) : c.reader;
      if (reader != kNobody) say_race(", read by ", reader, c.read_block, c.read_place);
    }
    const int how = kind == Access::atomic ? kAtomicBit : kind == Access::copy_begins ? kCopyBit : 0;
    c.reader = kNobody;
    c.writer = kind == Access::barrier ? kBarrier : uint16_t(who | how);
    c.written = now, c.write_block = block, c.write_place = place;
  }
};

std::string nearest(const char* p) {
  const Region* best = nullptr;
  size_t distance = ~size_t(0);
  for (const Region& r : regions) {
    const size_t d = p < r.begin ? size_t(r.begin - p) : size_t(p - r.end);
    if (r.begin && d < distance) distance = d, best = &r;
  }
  if (!best || distance > (1 << 20)) return "that belong to no operand";
  return "that begin " + std::to_string(distance) + " bytes " + (p < best->begin ? "before " : "after the end of ") +
         best->name + " (" + std::to_string(best->end - best->begin) + " bytes)";
}

void check_access(int t, const char* p, size_t bytes, Access kind, uint32_t place, uint16_t who) {
  for (Region& r : regions) {
    if (p < r.begin || p + bytes > r.end) continue;
    if (kind != Access::load && !r.writable) report(t, bytes, kind, place, "of " + r.name + ", an operand");
    if (r.cells.empty()) return;
    const size_t offset = size_t(p - r.begin), mask = (size_t(1) << r.shift) - 1;
    if ((offset | bytes) & mask) r.refine(offset, bytes);
    const size_t last = (offset + bytes - 1) >> r.shift;
    for (size_t i = offset >> r.shift; i <= last; ++i)
      Checked{r, i << r.shift, t, bytes, kind, place, who}.check(r.cells[i]);
    return;
  }
  report(t, bytes, kind, place, nearest(p));
}

// What the async proxy meets must have been fenced by who wrote it.
void check_fences(int t, const void* address, size_t bytes, Access kind, Place place) {
  const Region& r = regions[0];
  const char* const p = static_cast<const char*>(address);
  if (p < r.begin || p + bytes > r.end) return;
  const size_t offset = size_t(p - r.begin);
  for (size_t i = offset >> r.shift; i <= (offset + bytes - 1) >> r.shift; ++i) {
    const Cell& c = r.cells[i];
    const int writer = c.writer & kThreadBits;
    if (c.writer < kBarrier && writer < clocks::kThreads && c.written >= block_began &&
        last_async_fence[writer] <= c.written)
      report(t, bytes, kind, place_number(place),
             std::string("of shared memory by ") + (kind == Access::load ? "wgmma" : "the copy engine") +
                 " that thread " + std::to_string(writer) + " wrote, at " + place_text(c.write_place) +
                 ", without a fence.proxy.async after it");
  }
}

void access_by(uint16_t who, int thread, const void* address, size_t bytes, Access kind, Place place) {
  check_access(thread, static_cast<const char*>(address), bytes, kind, place_number(place), who);
}

}  // namespace

void add_region(const std::string& name, const void* begin, size_t bytes, bool writable, bool written) {
  const char* p = static_cast<const char*>(begin);
  regions.push_back({name, p, p + bytes, writable, written, false, {}});
  if (writable && bytes <= kMostCells) regions.back().make_cells();
}

void clear_regions() { regions.resize(1); }

namespace checker {

void begin_launch(const void* arguments, size_t argument_bytes, void* shared, size_t shared_bytes) {
  launch_began = ++now;
  Region& r = regions[0];
  r.name = "shared memory", r.writable = true, r.written = false, r.shared = true;
  r.begin = static_cast<const char*>(shared), r.end = r.begin + shared_bytes;
  r.make_cells();
  readers_of_lines.assign((shared_bytes / kLine + 1) * clocks::kEngine, 0);
  hooks::ignore_arguments(arguments, argument_bytes);
}

void begin_block(uint32_t index, int threads) {
  clocks::begin_block(threads);
  block = index;
  block_began = last_block_barrier = ++now;
}

void begin_turn(int thread, const void* stack, size_t stack_bytes) { hooks::begin(thread, stack, stack_bytes); }
void end_turn() { hooks::end(); }
void block_barrier() {
  clocks::meet(0, clocks::kThreads);
  last_block_barrier = ++now;
}
void warp_barrier(int warp) {
  clocks::meet(warp * kWarp, kWarp);
  last_warp_barrier[warp] = ++now;
}

void access(int thread, const void* address, size_t bytes, Access kind, Place place) {
  if (hooks::present()) access_by(uint16_t(thread), thread, address, bytes, kind, place);
}

void read_by_async_proxy(int thread, const void* address, size_t bytes, Place place) {
  if (!hooks::present()) return;
  const int warpgroup = clocks::kTensorCores + thread / clocks::kGroup;
  access_by(uint16_t(warpgroup), thread, address, bytes, Access::load, place);
  check_fences(thread, address, bytes, Access::load, place);
}

void copy_by_engine_begins(int thread, int barrier, const void* address, size_t bytes, Place place) {
  if (!hooks::present()) return;
  check_fences(thread, address, bytes, Access::copy_begins, place);
  access_by(uint16_t(clocks::kEngine + barrier), thread, address, bytes, Access::copy_begins, place);
}

void copy_by_engine_ends(int thread, int barrier, const void* address, size_t bytes, Place place) {
  if (hooks::present())
    access_by(uint16_t(clocks::kEngine + barrier), thread, address, bytes, Access::copy_ends, place);
}

bool is_over(uint32_t when, int other, int thread) {
  return emulator::is_over(regions[0], when, uint16_t(other), block, thread);
}

void fence_async(int thread) { last_async_fence[thread] = ++now; }

}  // namespace checker

void hooks::seen(int thread, const void* address, size_t bytes, bool write, uint32_t place) {
  const char* p = static_cast<const char*>(address);
  const size_t alignment = std::min<size_t>(bytes, 8);
  if ((bytes & (bytes - 1)) == 0 && reinterpret_cast<uintptr_t>(p) % alignment)
    report(thread, bytes, write ? Access::store : Access::load, place, "that are not aligned");
  check_access(thread, p, bytes, write ? Access::store : Access::load, place, uint16_t(thread));
}

}  // namespace emulator
