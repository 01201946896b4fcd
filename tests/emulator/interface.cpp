// What Python calls (library.py): the CUDA algorithm list on the emulator, through a C interface of plain arrays.
#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../csrc/algorithm.h"
#include "../../csrc/cuda/device.h"
#include "../../csrc/cuda/launch.h"
#include "../../csrc/scalar.h"
#include "checker.h"
#include "mistakes.h"

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

size_t size_of(DType dtype) {
  size_t size = 0;
  with_type(dtype, [&](auto type) { size = sizeof(type); });
  return size;
}

// From a tensor's first element to its last.
void add_operand(const std::string& name, const View& v, const int64_t (&sizes)[4], size_t element, bool is_result) {
  if (std::count(sizes, sizes + 4, 0)) return;
  const int64_t last = v.strides(sizes[0] - 1, sizes[1] - 1, sizes[2] - 1, sizes[3] - 1);
  emulator::add_region(name, v.data, size_t(last + 1) * element, is_result, !is_result);
}

void add_operands(Primitive primitive, const ConvProblem& pb, const Operands& o) {
  const size_t element = size_of(o.dtype);
  add_operand("x", o.x, {pb.N, pb.C, pb.H, pb.W}, element, primitive == Primitive::grad_input);
  add_operand("w", o.w, {pb.K, pb.channels_per_group(), pb.R, pb.S}, element, primitive == Primitive::grad_weight);
  add_operand("y", o.y, {pb.N, pb.K, pb.P, pb.Q}, element, primitive == Primitive::forward);
  const int64_t channels = primitive == Primitive::forward ? pb.K : pb.C;
  if (o.bias && channels)
    emulator::add_region("bias", o.bias, size_t((channels - 1) * o.bias_stride + 1) * element, false, true);
}

struct Regions {  // of one call
  ~Regions() { emulator::clear_regions(); }
};

// Memory full of NaN.
class PoisonedWorkspace : public Workspace {
 public:
  void* allocate(size_t bytes) override {
    constexpr size_t kAlignment = 256;
    if (emulator::settings.dry) return reinterpret_cast<void*>(kAlignment);
    memory_.emplace_back(new unsigned char[bytes + kAlignment]);
    const uintptr_t start = reinterpret_cast<uintptr_t>(memory_.back().get());
    void* p = reinterpret_cast<void*>((start + kAlignment - 1) / kAlignment * kAlignment);
    memset(p, 0xff, bytes);
    emulator::add_region("workspace " + std::to_string(memory_.size()), p, bytes, true, false);
    return p;
  }

 private:
  std::vector<std::unique_ptr<unsigned char[]>> memory_;
};

// Of x, w and y, strides four to a tensor.
Operands operands_of(int dtype, void* const* data, const int64_t* all_strides) {
  Operands o;
  o.dtype = DType(dtype);
  o.x = {data[0], strides(all_strides)};
  o.w = {data[1], strides(all_strides + 4)};
  o.y = {data[2], strides(all_strides + 8)};
  return o;
}

// Runs f and returns 0, or puts what it throws into `message` and returns 1.
template <class F>
int guarded(char* message, int64_t message_bytes, F&& f) {
  try {
    f();
    return 0;
  } catch (const std::exception& e) {
    strncpy(message, e.what(), size_t(message_bytes) - 1);
    return 1;
  }
}

}  // namespace

// The GPU that is pretended to be there: few multiprocessors, so that small problems are split over all of them.
static cuda::Device device = {90, 4, 227 * 1024, true};
const cuda::Device& cuda::current_device() { return device; }

extern "C" int ptx_check(int which, const void* from, void* to, int count);  // of ptx_checks.cu
extern "C" int tma_check(int which, const void* from, void* to, const int64_t* numbers);

extern "C" {

// "name<tab>deterministic<newline>" for each row of a primitive.
void emulated_algorithms(int primitive, char* text, int64_t text_bytes) {
  std::string s;
  for (const Algorithm& a : cuda::algorithms(Primitive(primitive)))
    s += std::string(a.name) + '\t' + (a.deterministic ? "1" : "0") + '\n';
  strncpy(text, s.c_str(), text_bytes - 1);
}

// How the launches that follow are run; see emulator::Settings.
void emulated_settings(int order, uint64_t seed, int64_t max_blocks, const char* dropped, int dry) {
  emulator::settings = {emulator::Order(order), seed, max_blocks, dropped, dry != 0};
}

// Another GPU to pretend.
void emulated_device(int capability, int multiprocessors, int64_t shared_per_block) {
  device = {capability, multiprocessors, size_t(shared_per_block), capability == 90};
}

// Why `algorithm` can't do a problem; empty if it can. See emulated_run.
void emulated_refusal(int primitive, const char* algorithm, int dtype, const int64_t* problem, void* const* data,
                      const int64_t* all_strides, int allow_tf32, char* text, int64_t text_bytes) {
  Operands o = operands_of(dtype, data, all_strides);
  o.allow_tf32 = allow_tf32 != 0;
  for (const Algorithm& a : cuda::algorithms(Primitive(primitive)))
    if (std::string(a.name) == algorithm)
      if (const char* reason = a.why_not(problem_of(problem), o)) strncpy(text, reason, size_t(text_bytes) - 1);
}

// Runs `algorithm` ("": the automatic choice). problem: 17 numbers, in the order of problem_of. data and strides: see
// operands_of.
int emulated_run(int primitive, const char* algorithm, int dtype, const int64_t* problem, void* const* data,
                 const int64_t* all_strides, const void* bias, int64_t bias_stride, int allow_tf32, char* message,
                 int64_t message_bytes) {
  return guarded(message, message_bytes, [&] {
    const ConvProblem pb = problem_of(problem);
    Operands o = operands_of(dtype, data, all_strides);
    o.bias = bias, o.bias_stride = bias_stride;
    const Regions regions;
    if (!emulator::settings.dry) add_operands(Primitive(primitive), pb, o);
    PoisonedWorkspace workspace;
    o.workspace = &workspace, o.allow_tf32 = allow_tf32 != 0;
    select(cuda::algorithms(Primitive(primitive)), Primitive(primitive), pb, o, algorithm).run(pb, o);
  });
}

// The barriers and waits that the kernels have come to since the last call, a line each.
void emulated_places(char* text, int64_t text_bytes) {
  std::string s;
  for (const std::string& place : emulator::take_places()) s += place + '\n';
  strncpy(text, s.c_str(), text_bytes - 1);
}

// "symbol<tab>threads<tab>shared bytes<tab>launches<tab>most blocks<tab>dry<newline>" for each kernel with each size of
// blocks, since the last call with `forget`. Returns the text's length; more than text_bytes - 1 is cut off.
int64_t emulated_launches(char* text, int64_t text_bytes, int forget) {
  std::string s;
  for (const emulator::Launched& l : emulator::launched())
    s += l.symbol + '\t' + std::to_string(l.threads) + '\t' + std::to_string(l.shared_bytes) + '\t' +
         std::to_string(l.launches) + '\t' + std::to_string(l.most_blocks) + '\t' + (l.dry ? "1" : "0") + '\n';
  strncpy(text, s.c_str(), size_t(text_bytes) - 1);
  if (forget) emulator::forget_launches();
  return int64_t(s.size());
}

// A kernel of mistakes.cu on memory for 128 elements each.
int emulated_mistake(const char* name, int mistake, const float* in, float* out, char* message, int64_t message_bytes) {
  return guarded(message, message_bytes, [&] {
    const Regions regions;
    emulator::add_region("the operand", in, 128 * sizeof(float), false, true);
    emulator::add_region("the result", out, 128 * sizeof(float), true, false);
    cuda::mistakes::run_mistake(name, mistake != 0, in, out);
  });
}

// A kernel of ptx_checks.cu.
int emulated_ptx_check(int which, const void* from, int64_t from_bytes, void* to, int64_t to_bytes, int count,
                       char* message, int64_t message_bytes) {
  return guarded(message, message_bytes, [&] {
    const Regions regions;
    emulator::add_region("the source", from, size_t(from_bytes), false, true);
    emulator::add_region("the result", to, size_t(to_bytes), true, true);
    if (ptx_check(which, from, to, count)) throw std::runtime_error("ptx_checks.cu has no such kernel");
  });
}

// One of its copies by the copy engine.
int emulated_tma_check(int which, const void* from, int64_t from_bytes, void* to, int64_t to_bytes,
                       const int64_t* numbers, char* message, int64_t message_bytes) {
  return guarded(message, message_bytes, [&] {
    const Regions regions;
    emulator::add_region("the source", from, size_t(from_bytes), false, true);
    emulator::add_region("the result", to, size_t(to_bytes), true, false);
    if (tma_check(which, from, to, numbers)) throw std::runtime_error("there is no such map");
  });
}

}  // extern "C"
