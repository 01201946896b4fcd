// The copy engine, its barriers and its maps, as the PTX manual and the driver's have them. See tma.h.
#include "tma.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "../../csrc/cuda/tensor_map.h"
#include "checker.h"
#include "clocks.h"
#include "emulator.h"
#include "wgmma.h"

namespace emulator {
namespace {

constexpr int kRowBytes = 128, kChunkBytes = 16;
constexpr int kMostDimensions = 5, kMostOffset = 255;
constexpr uint32_t kMostBytes = (1 << 20) - 1, kMostArrivals = (1 << 20) - 1;  // that a barrier can count

// What is in a TensorMap here.
struct Map {
  enum Kind : uint32_t { tile = 0x656c6974, im2col = 0x326d6931 } kind;
  convx::cuda::MapElements elements;
  const unsigned char* data;
  uint32_t sizes[kMostDimensions];
  int64_t strides[kMostDimensions - 1];  // in bytes, of all dimensions but the first
  uint16_t box[kMostDimensions];         // of a tile
  convx::cuda::PixelAxis columns, rows;  // of im2col, whose dimensions are C, W, H, N
  uint16_t pixels;

  int element_bytes() const { return elements == convx::cuda::MapElements::bits16 ? 2 : 4; }
  int row_elements() const { return kRowBytes / element_bytes(); }
};
static_assert(sizeof(Map) <= sizeof(convx::cuda::TensorMap), "a map is copied as a kernel's parameter");

bool is_between(int64_t value, int64_t least, int64_t most) { return value >= least && value <= most; }

// What both kinds of maps want of a tensor; `map`, which knows its elements, gets it.
bool describe(Map& map, const void* data, const int64_t* sizes, const int64_t* strides, int dimensions) {
  map.data = static_cast<const unsigned char*>(data);
  if (reinterpret_cast<uintptr_t>(data) % kChunkBytes != 0) return false;
  for (int i = 0; i < dimensions; ++i) {
    if (!is_between(sizes[i], 1, 0xffffffff)) return false;
    map.sizes[i] = uint32_t(sizes[i]);
  }
  for (int i = 0; i < dimensions - 1; ++i) {
    map.strides[i] = strides[i] * map.element_bytes();
    if (map.strides[i] % kChunkBytes != 0 || !is_between(map.strides[i], 1, (int64_t(1) << 40) - 1)) return false;
  }
  return true;
}

bool fits(convx::cuda::PixelAxis axis, int64_t size) {
  const int64_t past = axis.first + int64_t(axis.count - 1) * axis.step + 1 - size;
  return axis.count > 0 && is_between(axis.step, 1, 8) && is_between(axis.first, -128, 127) &&
         is_between(past, -128, 127);
}

Map map_at(const void* map, Map::Kind kind, const char* what, Place place) {
  Map m;
  memcpy(&m, map, sizeof m);
  if (m.kind != kind) fail(std::string(what) + " at " + text(place) + ": its map was not made for it");
  return m;
}

struct Barrier {
  int number;  // in the order in which they were initialised
  uint32_t arrivals;
  Place place;         // where it was initialised,
  int initialised_by;  // by whom and
  uint32_t initialised_at, fenced_at = 0;
  // Of the phase that is not over yet: its number, and what it lacks.
  uint32_t phase = 0;
  int64_t missing, bytes = 0;
  clocks::Clock clock, over;  // what arrivals so far have told; what those of the last phase had
  int waiting = 0;

  void end_phase_if_all_came() {
    if (missing != 0 || bytes != 0) return;
    ++phase;
    missing = arrivals;
    over = clock;
  }
  std::string lacks() const {
    return std::to_string(missing) + " arrivals and " + std::to_string(bytes) + " bytes at the mbarrier that was " +
           "initialised at " + text(place);
  }
};

// What of a row lies in the tensor: this many bytes of it, from byte `begin` of the row on.
struct Row {
  const unsigned char* from;
  int begin, bytes;
};

struct Copy {
  unsigned char* to;
  std::vector<Row> rows;
  convx::cuda::MapElements elements;
  Barrier* barrier;
  int thread;
  Place place;

  size_t bytes() const { return rows.size() * kRowBytes; }
};

std::map<uint32_t, Barrier> barriers;  // by their places in shared memory
std::vector<Copy> copies;              // on their way, the oldest first

std::string of_thread(int thread) { return "thread " + std::to_string(thread); }

// The barrier that the running thread names, if it may.
Barrier& barrier_at(const void* barrier, const char* what, Place place) {
  const auto found = barriers.find(shared_offset(barrier));
  const int thread = thread_of_block();
  if (found == barriers.end()) fail(std::string(what) + " at " + text(place) + ": nobody has initialised the mbarrier");
  Barrier& b = found->second;
  if (!checker::is_over(b.initialised_at, b.initialised_by, thread))
    fail(std::string(what) + " by " + of_thread(thread) + " at " + text(place) + ": " + of_thread(b.initialised_by) +
         " has initialised the mbarrier at " + text(b.place) + " without a barrier between them");
  return b;
}

// The row of 128 bytes of the first dimension, from element `first` on, that begins at `row`; null: there is none.
Row row_of(const Map& map, const unsigned char* row, int64_t first) {
  const int64_t begin = first < 0 ? -first : 0;
  const int64_t end = std::min<int64_t>(map.row_elements(), int64_t(map.sizes[0]) - first);
  if (!row || begin >= end) return {nullptr, 0, 0};
  const int each = map.element_bytes();
  return {row + (first + begin) * each, int(begin) * each, int(end - begin) * each};
}

void begin_copy(const char* what, void* shared, std::vector<Row> rows, const Map& map, const void* barrier,
                Place place) {
  Barrier& b = barrier_at(barrier, what, place);
  const int thread = thread_of_block();
  if (b.fenced_at == 0 || !checker::is_over(b.fenced_at, b.initialised_by, thread))
    fail(std::string(what) + " at " + text(place) + ": the mbarrier was initialised at " + text(b.place) +
         " without a fence.mbarrier_init and a barrier after it");
  if (shared_offset(shared) % 1024 != 0)
    fail(std::string(what) + " at " + text(place) + " to what does not begin at a multiple of 1024 bytes");
  Copy copy = {static_cast<unsigned char*>(shared), std::move(rows), map.elements, &b, thread, place};
  checker::copy_by_engine_begins(thread, b.number, copy.to, copy.bytes(), place);
  for (const Row& row : copy.rows)
    if (row.from) checker::access(thread, row.from, size_t(row.bytes), checker::Access::load, place);
  memset(copy.to, 0xff, copy.bytes());
  copies.push_back(std::move(copy));
}

// To the nearest number of 11 significant bits, ties to even.
uint32_t rounded_to_tf32(uint32_t word) {
  const bool nan = (word & 0x7fffffffu) > 0x7f800000u;
  return nan ? 0x7fffe000u : (word + 0xfffu + (word >> 13 & 1)) & ~0x1fffu;
}

void end_copy(const Copy& copy) {
  Barrier& b = *copy.barrier;
  checker::copy_by_engine_ends(copy.thread, b.number, copy.to, copy.bytes(), copy.place);
  memset(copy.to, 0, copy.bytes());
  for (size_t r = 0; r < copy.rows.size(); ++r) {
    const Row& row = copy.rows[r];
    for (int i = 0; i < row.bytes; ++i) {
      const int at = row.begin + i, chunk = at / kChunkBytes ^ int(r % 8);
      copy.to[r * kRowBytes + size_t(chunk * kChunkBytes + at % kChunkBytes)] = row.from[i];
    }
  }
  if (copy.elements == convx::cuda::MapElements::tf32)
    for (size_t i = 0; i < copy.bytes(); i += sizeof(float)) {
      uint32_t word;
      memcpy(&word, copy.to + i, sizeof word);
      word = rounded_to_tf32(word);
      memcpy(copy.to + i, &word, sizeof word);
    }
  b.clock[size_t(clocks::kEngine + b.number)] = clocks::now++;
  b.bytes -= int64_t(copy.bytes());
  b.end_phase_if_all_came();
}

// Which pixel of an axis a coordinate is; fails if none.
int64_t position(int coordinate, convx::cuda::PixelAxis axis, const char* name, Place place) {
  const int64_t from_first = int64_t(coordinate) - axis.first, index = from_first / axis.step;
  if (from_first < 0 || from_first % axis.step != 0 || index >= axis.count)
    fail("copy_im2col at " + text(place) + ": " + name + " " + std::to_string(coordinate) +
         " is not where the map has a pixel");
  return index;
}

}  // namespace

void init_barrier(const void* barrier, uint32_t arrivals, Place place) {
  const int thread = thread_of_block();
  const uint32_t offset = shared_offset(barrier);
  if (offset % 8 != 0 || arrivals < 1 || arrivals > kMostArrivals)
    fail("mbarrier_init at " + text(place) + ": of " + std::to_string(arrivals) + " arrivals, at byte " +
         std::to_string(offset) + " of shared memory");
  if (int(barriers.size()) == clocks::kBarriers) fail("more mbarriers than the emulator has clocks for");
  clocks::keep();
  checker::access(thread, barrier, 8, checker::Access::barrier, place);
  const clocks::Clock empty(clocks::kAll);
  Barrier b{};
  b.number = int(barriers.size()), b.arrivals = arrivals, b.missing = arrivals, b.place = place;
  b.initialised_by = thread, b.initialised_at = clocks::now;
  b.clock = b.over = empty;
  barriers.emplace(offset, b);
}

void fence_barriers(Place place) {
  if (!comes_to(place)) return;
  for (auto& b : barriers)
    if (b.second.initialised_by == thread_of_block()) b.second.fenced_at = clocks::now;
}

void arrive(const void* barrier, uint32_t announced_bytes, Place place) {
  if (!comes_to(place)) return;
  Barrier& b = barrier_at(barrier, "an arrival", place);
  if (announced_bytes > kMostBytes) fail("mbarrier_expect at " + text(place) + ": more bytes than it can count");
  if (b.missing == 0)
    fail("an arrival by " + of_thread(thread_of_block()) + " at " + text(place) + ", and all " +
         std::to_string(b.arrivals) + " of this phase have come before");
  clocks::tell(thread_of_block(), b.clock);
  --b.missing;
  b.bytes += announced_bytes;
  b.end_phase_if_all_came();
}

void wait_for_phase(const void* barrier, uint32_t parity, Place place) {
  if (!comes_to(place)) return;
  Barrier& b = barrier_at(barrier, "a wait", place);
  if (parity > 1) fail("mbarrier_wait at " + text(place) + " for parity " + std::to_string(parity));
  struct Wait {
    Barrier& barrier;
    uint32_t parity;
    bool is_over() const { return barrier.phase % 2 != parity; }
  } wait{b, parity};
  if (!wait.is_over()) {
    ++b.waiting;
    wait_until({[](const void* about) { return static_cast<const Wait*>(about)->is_over(); },
                [](const void* about) { return static_cast<const Wait*>(about)->barrier.lacks(); }, &wait},
               place);
    --b.waiting;
  }
  clocks::learn(thread_of_block(), b.over);
}

void copy_tile(void* shared, const void* map, const void* barrier, const int (&at)[5], Place place) {
  const Map m = map_at(map, Map::tile, "copy_tile", place);
  std::vector<Row> rows;
  int i[5] = {};  // of the row in the box
  for (i[4] = 0; i[4] < m.box[4]; ++i[4])
    for (i[3] = 0; i[3] < m.box[3]; ++i[3])
      for (i[2] = 0; i[2] < m.box[2]; ++i[2])
        for (i[1] = 0; i[1] < m.box[1]; ++i[1]) {
          const unsigned char* row = m.data;
          for (int d = 1; d < 5 && row; ++d) {
            const int64_t position = int64_t(at[d]) + i[d];
            row = is_between(position, 0, int64_t(m.sizes[d]) - 1) ? row + position * m.strides[d - 1] : nullptr;
          }
          rows.push_back(row_of(m, row, at[0]));
        }
  begin_copy("copy_tile", shared, std::move(rows), m, barrier, place);
}

void copy_im2col(void* shared, const void* map, const void* barrier, const int (&at)[4], int across, int down,
                 Place place) {
  const Map m = map_at(map, Map::im2col, "copy_im2col", place);
  if (!is_between(across, 0, kMostOffset) || !is_between(down, 0, kMostOffset))
    fail("copy_im2col at " + text(place) + ": " + std::to_string(across) + " across and " + std::to_string(down) +
         " down are not offsets between 0 and 255");
  int64_t column = position(at[1], m.columns, "column", place), line = position(at[2], m.rows, "row", place);
  int64_t image = at[3];
  std::vector<Row> rows;
  for (int pixel = 0; pixel < m.pixels; ++pixel) {
    const int64_t w = m.columns.first + column * m.columns.step + across;
    const int64_t h = m.rows.first + line * m.rows.step + down;
    const bool inside = is_between(w, 0, int64_t(m.sizes[1]) - 1) && is_between(h, 0, int64_t(m.sizes[2]) - 1) &&
                        is_between(image, 0, int64_t(m.sizes[3]) - 1);
    rows.push_back(
        row_of(m, inside ? m.data + w * m.strides[0] + h * m.strides[1] + image * m.strides[2] : nullptr, at[0]));
    if (++column < m.columns.count) continue;
    column = 0;
    if (++line < m.rows.count) continue;
    line = 0, ++image;
  }
  begin_copy("copy_im2col", shared, std::move(rows), m, barrier, place);
}

void forget_barriers() {
  barriers.clear();
  copies.clear();
}

bool bring_a_copy() {
  for (size_t i = 0; i < copies.size(); ++i)
    if (copies[i].barrier->waiting) {
      end_copy(copies[i]);
      copies.erase(copies.begin() + ptrdiff_t(i));
      return true;
    }
  return false;
}

void check_no_copy_is_left() {
  for (const Copy& copy : copies)
    fail("all threads have ended, and the copy that was asked for at " + text(copy.place) + " is still on its way");
  for (const auto& b : barriers)
    if (b.second.bytes != 0) fail("all threads have ended, and nobody waited for " + b.second.lacks());
}

}  // namespace emulator

namespace convx {
namespace cuda {

using emulator::Map;

static bool made(TensorMap* map, const Map& m) {
  *map = {};
  memcpy(static_cast<void*>(map), &m, sizeof m);
  return true;
}

bool tile_map(TensorMap* map, MapElements elements, const void* data, const int64_t (&sizes)[5],
              const int64_t (&strides)[4], const int (&box)[5]) {
  Map m = {};
  m.kind = Map::tile, m.elements = elements;
  if (!emulator::describe(m, data, sizes, strides, 5) || box[0] != m.row_elements()) return false;
  for (int i = 0; i < 5; ++i) {
    if (!emulator::is_between(box[i], 1, 256)) return false;
    m.box[i] = uint16_t(box[i]);
  }
  return made(map, m);
}

bool im2col_map(TensorMap* map, MapElements elements, const void* data, int64_t C, int64_t W, int64_t H, int64_t N,
                int64_t stride_w, int64_t stride_h, int64_t stride_n, PixelAxis columns, PixelAxis rows, int pixels) {
  Map m = {};
  m.kind = Map::im2col, m.elements = elements;
  const int64_t sizes[] = {C, W, H, N}, strides[] = {stride_w, stride_h, stride_n};
  if (!emulator::describe(m, data, sizes, strides, 4) || !emulator::fits(columns, W) || !emulator::fits(rows, H) ||
      !emulator::is_between(pixels, 1, 256))
    return false;
  m.columns = columns, m.rows = rows, m.pixels = uint16_t(pixels);
  return made(map, m);
}

}  // namespace cuda
}  // namespace convx
