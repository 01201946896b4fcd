// The one problem every kernel in this project solves, in the one alphabet everything here uses.
//
//   N batch   C input channels   H W input size   K output channels   R S kernel size   P Q output size   G groups
//
// A 2-d convolution is one trilinear form,
//
//   T(x, w, y) = sum over n,k,p,q,c,r,s of
//                y[n,k,p,q] * w[k,c,r,s] * x[n, c, p*stride_h - pad_h + r*dilation_h, q*stride_w - pad_w +
//                s*dilation_w]
//
// and its three derivatives are the three primitives: `forward` = dT/dy (Conv2d), `grad_input` = dT/dx
// (ConvTranspose2d) and `grad_weight` = dT/dw. ConvProblem describes T, so one ConvProblem serves all three.
//
// No torch in here: kernels include this file and nothing above it, and so compile in seconds, on their own.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#ifdef __CUDACC__
#define CONVX_HD __host__ __device__
#else
#define CONVX_HD
#endif

namespace convx {

enum class Primitive { forward, grad_input, grad_weight };
enum class DType { float32, float64, float16, bfloat16, int64 };

// What a tap reads beyond the edge of the input; the names are those of torch.nn.Conv2d's padding_mode.
enum class PaddingMode { zeros, reflect, replicate, circular };

const char* name(Primitive);
const char* name(DType);
const char* name(PaddingMode);

// Positions first..last of one virtual (padded) axis, empty if first > last.
struct Run {
  int64_t first, last;
};

// One spatial axis of the index map: `out` positions and `kernel` taps read `in` positions. Both axes of a problem
// are the same code with other numbers.
struct Axis {
  int64_t in, kernel, out, stride, pad, dilation;
  PaddingMode mode;

  // Where tap r of output p falls on the padded axis; negative or >= in means padding.
  CONVX_HD int64_t virtual_position(int64_t p, int64_t r) const { return p * stride - pad + r * dilation; }

  // The input index that virtual position v reads, or -1 if it reads nothing (zero padding).
  CONVX_HD int64_t source(int64_t v) const {
    if (v >= 0 && v < in) return v;
    switch (mode) {
      case PaddingMode::zeros: return -1;
      case PaddingMode::reflect: return v < 0 ? -v : 2 * (in - 1) - v;
      case PaddingMode::replicate: return v < 0 ? 0 : in - 1;
      case PaddingMode::circular: return v < 0 ? v + in : v - in;
    }
    return -1;
  }

  // The inverse of source(): the virtual positions that read input index i, as at most three runs. torch limits
  // reflect padding to less than the input and circular padding to at most the input, so one fold each way is all.
  CONVX_HD int preimage(int64_t i, Run runs[3]) const {
    const int64_t lowest = -pad, highest = virtual_position(out - 1, kernel - 1);
    int n = 0;
    runs[n++] = {i, i};
    if (mode == PaddingMode::replicate) {
      if (i == 0 && lowest < 0) runs[0].first = lowest;
      if (i == in - 1 && highest > i) runs[0].last = highest;
    } else if (mode == PaddingMode::reflect) {
      if (i > 0) runs[n++] = {-i, -i};
      if (i < in - 1) runs[n++] = {2 * (in - 1) - i, 2 * (in - 1) - i};
    } else if (mode == PaddingMode::circular) {
      runs[n++] = {i - in, i - in};
      runs[n++] = {i + in, i + in};
    }
    return n;
  }

  // The output whose tap r falls exactly on virtual position v, or -1 if none does.
  CONVX_HD int64_t output_reading(int64_t v, int64_t r) const {
    const int64_t t = v + pad - r * dilation;
    if (t < 0 || t % stride != 0) return -1;
    const int64_t p = t / stride;
    return p < out ? p : -1;
  }

  // The outputs first..last whose tap r falls inside the input, so that no tap has to be tested one by one.
  CONVX_HD Run outputs_inside(int64_t r) const {
    const int64_t offset = r * dilation - pad;  // virtual position = p * stride + offset
    int64_t first = offset >= 0 ? 0 : (-offset + stride - 1) / stride;
    int64_t last = in - 1 - offset < 0 ? -1 : (in - 1 - offset) / stride;
    if (last > out - 1) last = out - 1;
    return {first, last};
  }
};

struct ConvProblem {
  int64_t N = 1, C = 1, H = 1, W = 1;
  int64_t K = 1, R = 1, S = 1;
  int64_t P = 1, Q = 1, G = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_h = 0, pad_w = 0;  // before the first row and column; P and Q say how far the other end goes
  int64_t dilation_h = 1, dilation_w = 1;
  PaddingMode padding_mode = PaddingMode::zeros;

  CONVX_HD int64_t channels_per_group() const { return C / G; }
  CONVX_HD int64_t outputs_per_group() const { return K / G; }
  CONVX_HD Axis rows() const { return {H, R, P, stride_h, pad_h, dilation_h, padding_mode}; }
  CONVX_HD Axis columns() const { return {W, S, Q, stride_w, pad_w, dilation_w, padding_mode}; }

  bool is_depthwise() const { return G > 1 && G == C; }
  bool is_grouped() const { return G > 1; }
  bool is_pointwise() const { return R == 1 && S == 1 && pad_h == 0 && pad_w == 0; }
  bool is_unit_stride() const { return stride_h == 1 && stride_w == 1; }
  bool is_dilated() const { return dilation_h > 1 || dilation_w > 1; }
  bool is_zero_padded() const { return padding_mode == PaddingMode::zeros; }

  // Whether all phases of the stride read the same elements of y, so that x is made of patches of stride_h x stride_w,
  // one for each element of y (kernel = stride, or a single y), or of neighbouring y's (a line, kernel = n * stride).
  bool phases_read_the_same() const;

  // Multiply-adds of any of the three primitives, taps in the padding counted too (as is usual).
  double multiply_adds() const { return double(N) * K * P * Q * (C / (G ? G : 1)) * R * S; }

  std::string to_string() const;
};

// P from H: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (arXiv:1603.07285), relation 6.
constexpr int64_t output_size(int64_t in, int64_t kernel, int64_t stride, int64_t pad_total, int64_t dilation) {
  return (in + pad_total - dilation * (kernel - 1) - 1) / stride + 1;
}

// H from P, the transposed direction (relation 14 there): a stride maps several H to one P, output_padding picks one.
constexpr int64_t input_size(int64_t out, int64_t kernel, int64_t stride, int64_t pad_total, int64_t dilation,
                             int64_t output_padding) {
  return (out - 1) * stride - pad_total + dilation * (kernel - 1) + output_padding + 1;
}

// Distances between neighbours, in elements; any values are allowed for what is read (0: broadcast).
struct Strides {
  int64_t n, c, h, w;
  CONVX_HD int64_t operator()(int64_t in, int64_t ic, int64_t ih, int64_t iw) const {
    return in * n + ic * c + ih * h + iw * w;
  }
};

// Memory that somebody else owns. For the weight, (n, c, h, w) stand for (k, c, r, s).
struct View {
  void* data = nullptr;
  Strides strides{};
};

// Memory for one call, beyond operands and result: on the GPU, packed operands and partial sums. Whoever starts an
// algorithm owns it and takes it back when the call's work is done.
struct Workspace {
  virtual ~Workspace() = default;
  virtual void* allocate(size_t bytes) = 0;  // at least 256-byte aligned, contents undefined
};

// The three tensors of T: a primitive reads two of them and writes the third. `bias`, if any, has one element for
// each channel of the result of forward (K) or grad_input (C).
struct Operands {
  DType dtype = DType::float32;
  View x, w, y;
  const void* bias = nullptr;
  int64_t bias_stride = 1;

  // For the CPU only: w is to be a share of a gradient (cpu/pixel_shares.cpp), in the type that sums are computed in.
  bool sums = false;

  // For CUDA only: the stream to launch on, device memory to be had for this call, and whether float32 products may be
  // rounded to TF32 (torch.backends.cudnn's switches say).
  void* stream = nullptr;
  Workspace* workspace = nullptr;
  bool allow_tf32 = false;
};

}  // namespace convx
