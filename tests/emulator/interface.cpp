// What Python calls (library.py): the CUDA algorithm list on the emulator, through a C interface of plain arrays.
#include <algorithm>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../csrc/algorithm.h"
#include "../../csrc/cuda/device.h"
#include "../../csrc/cuda/launch.h"

using namespace convx;

namespace {

Strides strides(const int64_t* s) { return {s[0], s[1], s[2], s[3]}; }

ConvProblem problem_of(const int64_t* v) {
  ConvProblem pb;
  pb.N = v[0], pb.C = v[1], pb.H = v[2], pb.W = v[3], pb.K = v[4], pb.R = v[5], pb.S = v[6];
  pb.P = v[7], pb.Q = v[8], pb.G = v[9], pb.stride_h = v[10], pb.stride_w = v[11];
  pb.pad_h = v[12], pb.pad_w = v[13], pb.dilation_h = v[14], pb.dilation_w = v[15];
  pb.padding_mode = PaddingMode(v[16]);
  return pb;
}

// Memory full of NaN, between margins that must stay so.
class PoisonedWorkspace : public Workspace {
 public:
  void* allocate(size_t bytes) override {
    blocks_.emplace_back((bytes + 2 * kMargin + kAlignment) / sizeof(uint64_t) + 1, ~uint64_t(0));
    const uintptr_t start = reinterpret_cast<uintptr_t>(blocks_.back().data()) + kMargin;
    used_.push_back({(start + kAlignment - 1) / kAlignment * kAlignment, bytes});
    return reinterpret_cast<void*>(used_.back().first);
  }
  void check_margins() const {
    for (size_t i = 0; i < used_.size(); ++i) {
      const auto* begin = reinterpret_cast<const unsigned char*>(blocks_[i].data());
      const auto* used = reinterpret_cast<const unsigned char*>(used_[i].first);
      const auto untouched = [](unsigned char c) { return c == 0xff; };
      if (!std::all_of(begin, used, untouched) ||
          !std::all_of(used + used_[i].second, begin + blocks_[i].size() * sizeof(uint64_t), untouched))
        throw std::runtime_error("a kernel wrote beyond its workspace");
    }
  }

 private:
  static constexpr size_t kMargin = 256, kAlignment = 256;
  std::vector<std::vector<uint64_t>> blocks_;
  std::vector<std::pair<uintptr_t, size_t>> used_;
};

// Runs f and returns 0, or puts what it throws into `message` and returns 1.
template <class F>
int guarded(char* message, int64_t message_bytes, F&& f) {
  try {
    f();
    return 0;
  } catch (const std::exception& e) {
    strncpy(message, e.what(), message_bytes - 1);
    return 1;
  }
}

// Ends in whatever state the barriers of a wrong kernel leave it in.
void half_of_the_threads_wait() {
  if (threadIdx.x % 2) __syncthreads();
}
void threads_wait_apart() {
  if (threadIdx.x % 2)
    __syncthreads();
  else
    __syncthreads();
}

}  // namespace

// The GPU that is pretended to be there: few multiprocessors, so that small problems are split over all of them.
const cuda::Device& cuda::current_device() {
  static const Device device = {90, 4, 227 * 1024};
  return device;
}

extern "C" int ptx_check(int which, const void* from, void* to, int count);  // of ptx_checks.cu

extern "C" {

// "name<tab>deterministic<newline>" for each row of a primitive.
void emulated_algorithms(int primitive, char* text, int64_t text_bytes) {
  std::string s;
  for (const Algorithm& a : cuda::algorithms(Primitive(primitive)))
    s += std::string(a.name) + '\t' + (a.deterministic ? "1" : "0") + '\n';
  strncpy(text, s.c_str(), text_bytes - 1);
}

// How the launches that follow are run; see emulator::Settings.
void emulated_settings(int order, uint64_t seed, int64_t max_blocks, const char* dropped) {
  emulator::settings = {emulator::Order(order), seed, max_blocks, dropped};
}

// Runs `algorithm` ("": the automatic choice). problem: 17 numbers, in the order of problem_of. data and strides: of
// x, w and y, strides four to a tensor.
int emulated_run(int primitive, const char* algorithm, int dtype, const int64_t* problem, void* const* data,
                 const int64_t* all_strides, const void* bias, int64_t bias_stride, int allow_tf32, char* message,
                 int64_t message_bytes) {
  return guarded(message, message_bytes, [&] {
    const ConvProblem pb = problem_of(problem);
    Operands o;
    o.dtype = DType(dtype);
    o.x = {data[0], strides(all_strides)};
    o.w = {data[1], strides(all_strides + 4)};
    o.y = {data[2], strides(all_strides + 8)};
    o.bias = bias, o.bias_stride = bias_stride;
    PoisonedWorkspace workspace;
    o.workspace = &workspace, o.allow_tf32 = allow_tf32 != 0;
    select(cuda::algorithms(Primitive(primitive)), Primitive(primitive), pb, o, algorithm).run(pb, o);
    workspace.check_margins();
  });
}

// The barriers and waits that the kernels have come to since the last call, a line each.
void emulated_places(char* text, int64_t text_bytes) {
  std::string s;
  for (const std::string& place : emulator::take_places()) s += place + '\n';
  strncpy(text, s.c_str(), text_bytes - 1);
}

// A kernel whose threads part at a barrier, in one of two ways: the emulator must refuse both.
int emulated_divergence(int wait_apart, char* message, int64_t message_bytes) {
  return guarded(message, message_bytes, [&] {
    if (wait_apart)
      cuda::launch("threads_wait_apart", threads_wait_apart, {1, dim3(32)}, nullptr);
    else
      cuda::launch("half_of_the_threads_wait", half_of_the_threads_wait, {1, dim3(32)}, nullptr);
  });
}

int emulated_ptx_check(int which, const void* from, void* to, int count, char* message, int64_t message_bytes) {
  return guarded(message, message_bytes, [&] {
    if (ptx_check(which, from, to, count)) throw std::runtime_error("ptx_checks.cu has no such kernel");
  });
}

}  // extern "C"
