// Names and the printer of ConvProblem: the text that algorithm listings, error messages and benchmarks show.
#include "problem.h"

#include <sstream>

namespace convx {

const char* name(Primitive p) {
  switch (p) {
    case Primitive::forward: return "forward";
    case Primitive::grad_input: return "grad_input";
    case Primitive::grad_weight: return "grad_weight";
  }
  return "?";
}

const char* name(DType d) {
  switch (d) {
    case DType::float32: return "float32";
    case DType::float64: return "float64";
    case DType::float16: return "float16";
    case DType::bfloat16: return "bfloat16";
    case DType::int64: return "int64";
  }
  return "?";
}

const char* name(PaddingMode m) {
  switch (m) {
    case PaddingMode::zeros: return "zeros";
    case PaddingMode::reflect: return "reflect";
    case PaddingMode::replicate: return "replicate";
    case PaddingMode::circular: return "circular";
  }
  return "?";
}

bool ConvProblem::phases_read_the_same() const {
  const auto plain = [](const Axis& a) { return a.pad == 0 && a.dilation == 1; };
  const auto one_tap = [](const Axis& a) { return a.in == a.out * a.kernel && (a.stride == a.kernel || a.out == 1); };
  const Axis r = rows(), c = columns();
  if (!is_zero_padded() || R * S == 1 || !plain(r) || !plain(c) || !one_tap(r)) return false;
  if (one_tap(c)) return true;
  return channels_per_group() == 1 && R == 1 && c.kernel % c.stride == 0 && c.in == (c.out - 1) * c.stride + c.kernel;
}

std::string ConvProblem::to_string() const {
  std::ostringstream s;
  s << "N" << N << " C" << C << " H" << H << " W" << W << " K" << K << " R" << R << " S" << S << " P" << P << " Q" << Q
    << " G" << G << " stride " << stride_h << "x" << stride_w << " pad " << pad_h << "x" << pad_w << " dilation "
    << dilation_h << "x" << dilation_w << " " << name(padding_mode);
  return s.str();
}

}  // namespace convx
