// The weights of pixels.h and pixel_panels.h. Their vectors are pixels, so a weight is broadcast: those that a step
// takes for its few outputs lie side by side, and the steps follow one another.
#pragma once
#include "convolution.h"

namespace convx {
namespace cpu {
namespace CONVX_ISA {

// The output channels of a group in nearly equal chunks of at most CONVX_MAX_M, the weights of each convolution packed
// [step][m].
template <class T>
struct PixelWeights {
  int64_t outputs, chunks;
  Scratch<int64_t> steps, start;
  Scratch<T> weights, bias;
  bool finite = true;

  int64_t first(int64_t chunk) const { return outputs * chunk / chunks; }
  const T* of(int64_t j, int64_t g, int64_t chunk) const {
    return weights.data() + start[j] + (g * outputs + first(chunk)) * steps[j];
  }

  template <class In>
  PixelWeights(const Convolution<T, In>* cv, int64_t count)
      : outputs(cv[0].outputs),
        chunks(ceil_div(outputs, CONVX_MAX_M)),
        steps(count),
        start(count + 1),
        weights(set_steps(cv, count)),
        bias(cv[0].G * outputs) {
    std::atomic<bool> all{true};
    parallel_for(count * cv[0].G * chunks, grain_for(double(steps[0]) * CONVX_MAX_M), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t j = i / (cv[0].G * chunks), g = i / chunks % cv[0].G, chunk = i % chunks;
        const int64_t k = first(chunk), m = first(chunk + 1) - k;
        if (!pack_weights(const_cast<T*>(of(j, g, chunk)), cv[j], g, k, m, 0, steps[j])) all = false;
        if (j == 0) pack_bias(bias.data() + g * outputs + k, cv[0], g, k, m);
      }
    });
    finite = all;
  }

 private:
  template <class In>
  int64_t set_steps(const Convolution<T, In>* cv, int64_t count) {
    start[0] = 0;
    for (int64_t j = 0; j < count; ++j) {
      steps[j] = cv[j].inputs * cv[j].taps();
      start[j + 1] = start[j] + cv[j].G * outputs * steps[j];
    }
    return start[count];
  }
};

}  // namespace CONVX_ISA
}  // namespace cpu
}  // namespace convx
