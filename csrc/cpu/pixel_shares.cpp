// The gradient of the weight is a sum over pixels, and kernels that divide its results among threads (all but the
// depthwise ones do) have each thread pack the same pixels. Where weights are few that is most of the work. So pixels
// are divided here, into shares of whole images or of rows of results: each share is a problem of its own, whose
// gradient a thread sums up alone, and the shares' gradients are added in order at the end.
//
// Measured in float32 and bfloat16 with two threads: 0.65 to 1 of the time with fewer than 35,000 weights (most with
// planes of 100 x 100 and more, and few channels), as long with 36,864 (64 x 64 channels, 3x3), 1.0 to 1.2 times as
// long with more, whose sums then don't stay in a core's cache. Groups are divided without packing anything twice, and
// so are the inputs where outputs are few (1.2 times as long with three outputs).
//
// How many shares there are depends on the problem alone, never on the threads: the bits don't either.
//
// Limit: a share's gradient is written, read and added once: about 3 cycles a weight, beside a pixel's multiply-adds of
// a thirty-second of a cycle a weight. From some 2000 pixels a share on that is a twentieth.
#include "pixel_shares.h"

#include <atomic>
#include <vector>

#include "../scalar.h"
#include "parallel.h"
#include "scratch.h"

namespace convx {
namespace cpu {

namespace {

int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

// The pixels in shares: some images each, or some rows of results of one.
class Shares {
 public:
  Shares(const ConvProblem& pb, int64_t bytes_of_sum) : pb_(pb), images_(pb.N), rows_(pb.P) {
    constexpr int64_t kWeights = 35 << 10, kFewOutputs = 8, kPixels = 2048, kMost = 64, kBytes = 2 << 20, kGroups = 8;
    const int64_t bytes = weights() * bytes_of_sum;
    if (pb.G >= kGroups || bytes == 0 || weights() > kWeights || pb.outputs_per_group() <= kFewOutputs) return;
    const int64_t wanted = even(at_most(at_most(pb.N * pb.P * pb.Q / kPixels, kBytes / bytes), kMost));
    if (wanted < 2) return;
    images_ = (pb.N + wanted - 1) / wanted;
    if (images_ == 1 && pb.is_zero_padded()) {
      const int64_t overlap = (pb.R - 1) * pb.dilation_h / pb.stride_h;  // rows that two shares read
      const int64_t parts = even(at_most(wanted / pb.N, pb.P / (4 * overlap + 1)));
      if (parts > 1) rows_ = (pb.P + parts - 1) / parts;
    }
    down_ = (pb.P + rows_ - 1) / rows_;
    count_ = (pb.N + images_ - 1) / images_ * down_;
  }

  int64_t count() const { return count_; }
  int64_t weights() const { return pb_.K * pb_.channels_per_group() * pb_.R * pb_.S; }

  // The problem of share s. Rows of x that none of its results reads are left out, as padding is that none does.
  ConvProblem problem(int64_t s, Operands& o, int64_t bytes_of_element) const {
    ConvProblem pb = pb_;
    const int64_t n = s / down_ * images_, i = s % down_ * rows_;
    pb.N = at_most(images_, pb_.N - n);
    int64_t first_row = 0;
    if (down_ > 1) {
      pb.P = at_most(rows_, pb_.P - i);
      const int64_t top = i * pb.stride_h - pb_.pad_h,
                    end = top + (pb.P - 1) * pb.stride_h + (pb.R - 1) * pb.dilation_h + 1;
      first_row = top < 0 ? 0 : at_most(top, pb_.H - 1);
      pb.pad_h = first_row - top;
      pb.H = at_most(pb_.H, end) - first_row;
      if (pb.H < 1) pb.H = 1;
    }
    move(o.x, o.x.strides(n, 0, first_row, 0) * bytes_of_element);
    move(o.y, o.y.strides(n, 0, i, 0) * bytes_of_element);
    return pb;
  }

 private:
  // For an even number of threads.
  static int64_t even(int64_t n) { return n >= 4 ? n / 4 * 4 : n >= 2 ? 2 : n; }
  static void move(View& v, int64_t bytes) { v.data = static_cast<char*>(v.data) + bytes; }

  const ConvProblem& pb_;
  int64_t images_, rows_;  // of a share
  int64_t down_ = 1, count_ = 1;
};

// The shares' gradients, one after another, each as a contiguous weight.
class Gradients {
 public:
  explicit Gradients(size_t bytes) : data_(static_cast<char*>(take_scratch(bytes))) {}
  ~Gradients() { give_scratch(data_); }
  Gradients(const Gradients&) = delete;
  Gradients& operator=(const Gradients&) = delete;
  char* data() const { return data_; }

 private:
  char* data_;
};

// w = the sum of the shares' gradients, in their order.
template <class T, class Part>
void add_shares(const ConvProblem& pb, const View& w, const Part* parts, int64_t count) {
  const int64_t filters = pb.channels_per_group() * pb.R * pb.S, weights = pb.K * filters;
  parallel_for(pb.K, grain_for(double(count * filters)), [&](int64_t begin, int64_t end) {
    std::vector<typename Sum<T>::type> sums(filters);
    for (int64_t k = begin; k < end; ++k) {
      sums.assign(filters, {});
      for (int64_t share = 0; share < count; ++share)
        for (int64_t i = 0; i < filters; ++i) sums[i] += parts[share * weights + k * filters + i];
      for (int64_t c = 0, i = 0; c < pb.channels_per_group(); ++c)
        for (int64_t r = 0; r < pb.R; ++r)
          for (int64_t s = 0; s < pb.S; ++s, ++i) static_cast<T*>(w.data)[w.strides(k, c, r, s)] = narrow<T>(sums[i]);
    }
  });
}

}  // namespace

bool grad_weight_in_shares(Engine::Run run, const ConvProblem& pb, const Operands& o) {
  const bool wide = o.dtype == DType::float64;
  const int64_t bytes_of_sum = wide ? 8 : 4, bytes_of_element = wide ? 8 : o.dtype == DType::float32 ? 4 : 2;
  const Shares shares(pb, bytes_of_sum);
  if (shares.count() == 1) return run(pb, o);
  const int64_t bytes = shares.weights() * bytes_of_sum;
  const Gradients gradients(size_t(shares.count() * bytes));
  std::atomic<bool> done{true};
  const auto run_some = [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end && done; ++s) {
      Operands part = o;
      const ConvProblem share = shares.problem(s, part, bytes_of_element);
      part.w = {gradients.data() + s * bytes, {pb.channels_per_group() * pb.R * pb.S, pb.R * pb.S, pb.S, 1}};
      part.sums = true;
      if (!run(share, part)) done = false;
    }
  };
  // Each thread its shares, unless some would be without one for long: then all threads help with each.
  const int64_t threads = thread_count(), rounds = (shares.count() + threads - 1) / threads;
  if (shares.count() * 8 >= rounds * threads * 7)
    parallel_for_balanced(shares.count(), 1, [&](int64_t begin, int64_t end) { run_some(begin, end); });
  else
    run_some(0, shares.count());
  if (!done) return false;
  const auto* const parts = reinterpret_cast<const float*>(gradients.data());
  switch (o.dtype) {
    case DType::float32: add_shares<float>(pb, o.w, parts, shares.count()); break;
    case DType::float16: add_shares<Half>(pb, o.w, parts, shares.count()); break;
    case DType::bfloat16: add_shares<BFloat16>(pb, o.w, parts, shares.count()); break;
    case DType::float64:
      add_shares<double>(pb, o.w, reinterpret_cast<const double*>(gradients.data()), shares.count());
      break;
    case DType::int64: return false;
  }
  return true;
}

}  // namespace cpu
}  // namespace convx
