// Prints what csrc/problem.h computes, for test_problem_formulas.py to compare with counting by hand. Reads axes from
// stdin, one a line: in kernel out stride pad dilation mode (0 zeros, 1 reflect, 2 replicate, 3 circular).
#include <cstdio>

#include "../csrc/problem.h"

using namespace convx;

static void print_axis(const Axis& a) {
  std::printf("source");
  for (int64_t p = 0; p < a.out; ++p)
    for (int64_t r = 0; r < a.kernel; ++r) std::printf(" %lld", (long long)a.source(a.virtual_position(p, r)));
  std::printf("\noutputs_inside");
  for (int64_t r = 0; r < a.kernel; ++r) {
    const Run run = a.outputs_inside(r);
    std::printf(" %lld %lld", (long long)run.first, (long long)run.last);
  }
  // Every (output, tap) that reads input i, as grad_input finds them: the positions that read i, then their readers.
  for (int64_t i = 0; i < a.in; ++i) {
    std::printf("\nreaders");
    Run runs[3];
    const int n = a.preimage(i, runs);
    for (int k = 0; k < n; ++k)
      for (int64_t v = runs[k].first; v <= runs[k].last; ++v)
        for (int64_t r = 0; r < a.kernel; ++r) {
          const int64_t p = a.output_reading(v, r);
          if (p >= 0) std::printf(" %lld %lld", (long long)p, (long long)r);
        }
  }
  const int64_t natural = output_size(a.in, a.kernel, a.stride, 2 * a.pad, a.dilation);
  std::printf("\noutput_size %lld", (long long)natural);
  std::printf("\ninput_size");
  for (int64_t extra = 0; extra < a.stride; ++extra)
    std::printf(" %lld", (long long)input_size(natural, a.kernel, a.stride, 2 * a.pad, a.dilation, extra));
  std::printf("\n");
}

static void print_problem(const ConvProblem& p) {
  std::printf("%d %d %d %d %d %d %.0f %s\n", p.is_depthwise(), p.is_grouped(), p.is_pointwise(), p.is_unit_stride(),
              p.is_dilated(), p.is_zero_padded(), p.multiply_adds(), p.to_string().c_str());
}

int main() {
  ConvProblem plain, ugly;
  ugly.N = 2, ugly.C = 4, ugly.H = 9, ugly.W = 8, ugly.K = 6, ugly.R = 3, ugly.S = 2, ugly.P = 4, ugly.Q = 7,
  ugly.G = 2;
  ugly.stride_h = 2, ugly.pad_h = 1, ugly.dilation_h = 2, ugly.padding_mode = PaddingMode::reflect;
  ConvProblem depthwise = ugly;
  depthwise.G = 4, depthwise.K = 8;
  for (const ConvProblem& p : {plain, ugly, depthwise}) print_problem(p);

  long long in, kernel, out, stride, pad, dilation;
  int mode;
  while (std::scanf("%lld %lld %lld %lld %lld %lld %d", &in, &kernel, &out, &stride, &pad, &dilation, &mode) == 7)
    print_axis({in, kernel, out, stride, pad, dilation, PaddingMode(mode)});
}
