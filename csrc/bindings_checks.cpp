// Every check that stands between a caller and a kernel, in one place. Wording and exception types follow torch's, so
// that whoever searches for a message finds the same advice.
#include <c10/core/SymInt.h>
#include <c10/util/Exception.h>

#include "bindings.h"

namespace convx {
namespace {

template <class Int>
c10::ArrayRef<Int> sizes_of(const Tensor& t) {
  if constexpr (std::is_same_v<Int, int64_t>)
    return t.sizes();
  else
    return t.sym_sizes();
}

const char* operator_name(Primitive p) {
  switch (p) {
    case Primitive::forward: return "convx::forward";
    case Primitive::grad_input: return "convx::grad_input";
    case Primitive::grad_weight: return "convx::grad_weight";
  }
  return "?";
}

void check_tensors(Primitive primitive, const Tensor& first, const Tensor& second, const std::optional<Tensor>& bias) {
  const char* op = operator_name(primitive);
  const char* first_name = "Input";  // of the layer: grad_input is ConvTranspose2d
  const char* second_name = primitive == Primitive::grad_weight ? "grad_output" : "weight";
  auto check_pair = [&](const Tensor& t, const char* name) {
    TORCH_CHECK(first.layout() == at::kStrided && t.layout() == at::kStrided, op, ": ", first_name, " type (",
                first.toString(), ") and ", name, " type (", t.toString(), ") should be strided (dense) tensors");
    TORCH_CHECK(first.device() == t.device(), "Expected all tensors to be on the same device, but found at least two ",
                "devices, ", first.device(), " (", first_name, ") and ", t.device(), " (", name, ")!");
    TORCH_CHECK(first.scalar_type() == t.scalar_type(), first_name, " type (", first.toString(), ") and ", name,
                " type (", t.toString(), ") should be the same");
  };
  check_pair(second, second_name);
  if (bias) check_pair(*bias, "bias");
  const auto dtype = first.scalar_type();
  const bool floating = dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16;
  TORCH_CHECK_NOT_IMPLEMENTED(floating || (dtype == at::kLong && !first.is_cuda()), "\"", op,
                              "\" not implemented for '", c10::toString(dtype), "' on ", first.device().type(),
                              "; expected float32, float64, float16, bfloat16, or int64 on the CPU");
}

template <class Int>
void check_pair_of(const char* what, c10::ArrayRef<Int> values) {
  TORCH_CHECK(values.size() == 2, "expected ", what,
              " to be a single integer value or a list of 2 values to match the ", "convolution dimensions, but got ",
              what, "=", values);
}

// Products of positions must fit 64 bits with room to spare for the sums of a few of them.
template <class Int>
void check_reach(const char* what, const Int& factor, const Int& count) {
  const Int most = int64_t(1) << 60;
  TORCH_CHECK(count <= 1 || factor <= most / (count - 1), what, " is too large: ", factor, " * ", count - 1,
              " overflows the 64-bit index range");
}

template <class Int>
PaddingMode parse_mode(const Geometry<Int>& g) {
  for (PaddingMode m : {PaddingMode::zeros, PaddingMode::reflect, PaddingMode::replicate, PaddingMode::circular})
    if (g.padding_mode == name(m)) return m;
  TORCH_CHECK_VALUE(false, "padding_mode must be one of {'zeros', 'reflect', 'replicate', 'circular'}, but got ",
                    "padding_mode='", g.padding_mode, "'");
}

template <class Int>
void check_geometry(const Geometry<Int>& g) {
  check_pair_of("stride", g.stride);
  check_pair_of("padding", g.padding);
  check_pair_of("dilation", g.dilation);
  check_pair_of("the size of the result", g.result_size);
  TORCH_CHECK(g.groups > 0, "non-positive groups is not supported, expected groups > 0 but got groups=", g.groups);
  for (int i : {0, 1}) {
    TORCH_CHECK(g.stride[i] > 0, "non-positive stride is not supported, got stride=", g.stride);
    TORCH_CHECK(g.padding[i] >= 0, "negative padding is not supported, got padding=", g.padding);
    TORCH_CHECK(g.dilation[i] > 0, "non-positive dilation is not supported: dilation should be greater than zero, ",
                "but got dilation=", g.dilation);
    const Int most = int64_t(1) << 60;
    TORCH_CHECK(g.padding[i] <= most, "Given padding=", g.padding[i], " at dimension ", i,
                ", expected padding to be at most ", most);
  }
}

// One spatial axis, after everything else about the shapes is known to fit together.
template <class Int>
void check_axis(const Geometry<Int>& g, PaddingMode mode, int i, const Int& in, const Int& kernel, const Int& out) {
  check_reach<Int>("dilation", g.dilation[i], kernel);
  check_reach<Int>("stride", g.stride[i], out);
  if (mode == PaddingMode::zeros) return;
  const Int before = g.padding[i];
  const Int after = (out - 1) * g.stride[i] - before + (kernel - 1) * g.dilation[i] - (in - 1);
  for (const Int& padding : {before, after}) {  // not the larger of both: which that is would be a guard of its own
    if (mode == PaddingMode::reflect)
      TORCH_CHECK(padding < in, "Padding size should be less than the corresponding input dimension, but got: padding ",
                  padding, " at dimension ", i + 2, " of size ", in, " (padding_mode='reflect')");
    if (mode == PaddingMode::circular)
      TORCH_CHECK(padding <= in, "Padding value causes wrapping around more than once: expected padding of at most ",
                  in, " at dimension ", i + 2, ", but got ", padding, " (padding_mode='circular')");
  }
  TORCH_CHECK(in > 0, "expected a non-empty input for padding_mode='", name(mode), "', but dimension ", i + 2,
              " has size ", in);
}

}  // namespace

template <class Int>
std::vector<Int> check(Primitive primitive, const Tensor& first, const Tensor& second,
                       const std::optional<Tensor>& bias, const Geometry<Int>& g) {
  check_tensors(primitive, first, second, bias);
  const auto a = sizes_of<Int>(first), b = sizes_of<Int>(second);
  const bool transposed = primitive == Primitive::grad_input;
  const bool is_grad_weight = primitive == Primitive::grad_weight;
  const char* b_name = is_grad_weight ? "grad_output" : "weight";
  TORCH_CHECK(b.size() == 4, "Expected 4-dimensional ", b_name, " for ", operator_name(primitive), ", but got ",
              b.size(), "-dimensional ", b_name, " of size ", b, " instead");
  TORCH_CHECK(a.size() == 4, "Expected 4-dimensional input for 4-dimensional ", b_name, " ", b, ", but got ", a.size(),
              "-dimensional input of size ", a, " instead");
  check_geometry(g);
  const PaddingMode mode = parse_mode(g);
  const Int &G = g.groups, &size_0 = g.result_size[0], &size_1 = g.result_size[1];

  if (is_grad_weight) {
    TORCH_CHECK(a[0] == b[0], "Expected input and grad_output of one batch size, but got input of size ", a,
                " and grad_output of size ", b);
    TORCH_CHECK(a[1] % G == 0 && b[1] % G == 0, "Given groups=", G, ", expected the channels of input and grad_output ",
                "to be divisible by ", G, ", but got input of size ", a, " and grad_output of size ", b);
    TORCH_CHECK(size_0 > 0 && size_1 > 0, "kernel size should be greater than zero, but got ", g.result_size);
    check_axis(g, mode, 0, a[2], size_0, b[2]);
    check_axis(g, mode, 1, a[3], size_1, b[3]);
    return {b[1], a[1] / G, size_0, size_1};
  }

  const auto given = [&] { return c10::str("Given ", transposed ? "transposed=1" : c10::str("groups=", G)); };
  TORCH_CHECK(b[0] >= G, "Given groups=", G, ", expected weight to be at least ", G,
              " at dimension 0, but got weight of size ", b, " instead");
  TORCH_CHECK(b[0] % G == 0, "Given groups=", G, ", expected weight to be divisible by ", G,
              " at dimension 0, but got weight of size ", b, " instead");
  TORCH_CHECK(b[2] > 0 && b[3] > 0, "kernel size should be greater than zero, but got weight of size ", b);
  const Int channels = transposed ? b[0] : b[1] * G;
  TORCH_CHECK(a[1] == channels, given(), ", weight of size ", b, ", expected input", a, " to have ", channels,
              " channels, but got ", a[1], " channels instead");
  const Int result_channels = transposed ? b[1] * G : b[0];
  if (bias) {
    const auto s = sizes_of<Int>(*bias);
    TORCH_CHECK(s.size() == 1 && s[0] == result_channels, given(), ", weight of size ", b,
                ", expected bias to be 1-dimensional with ", result_channels, " elements, but got bias of size ", s,
                " instead");
  }
  if (transposed) {
    TORCH_CHECK(size_0 >= 0 && size_1 >= 0, "Given input size per channel: (", a[2], " x ", a[3],
                "). Calculated output size per channel: (", size_0, " x ", size_1, "). Output size is too small");
    check_axis(g, mode, 0, size_0, b[2], a[2]);
    check_axis(g, mode, 1, size_1, b[3], a[3]);
  } else {
    TORCH_CHECK(size_0 > 0 && size_1 > 0, "Calculated padded input size per channel: (", a[2] + 2 * g.padding[0], " x ",
                a[3] + 2 * g.padding[1], "). Kernel size: (", (b[2] - 1) * g.dilation[0] + 1, " x ",
                (b[3] - 1) * g.dilation[1] + 1, "). Kernel size can't be greater than actual input size");
    check_axis(g, mode, 0, a[2], b[2], size_0);
    check_axis(g, mode, 1, a[3], b[3], size_1);
  }
  return {a[0], result_channels, size_0, size_1};
}

template std::vector<int64_t> check(Primitive, const Tensor&, const Tensor&, const std::optional<Tensor>&,
                                    const Geometry<int64_t>&);
template std::vector<c10::SymInt> check(Primitive, const Tensor&, const Tensor&, const std::optional<Tensor>&,
                                        const Geometry<c10::SymInt>&);

bool prefers_channels_last(const Tensor& input, const Tensor& weight) {
  return input.suggest_memory_format() == at::MemoryFormat::ChannelsLast ||
         weight.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
}

}  // namespace convx
