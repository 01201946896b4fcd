// _C.conv2d and _C.conv_transpose2d: the calls that nearly everybody makes, from Python's arguments to the kernel
// without a line of Python. For a convolution of 0.1 MFLOP the checks of convx/functional.py take longer than the sums.
//
// They return None for whatever is not plain: wrong types or values (functional.py says what is wrong), other ranks,
// dtypes and devices, subclasses, autocast, torch.jit.trace. So each test here errs to that side, none raises, and
// functional.py stays the one description of what the arguments mean. What fits no kernel in a plain call is said by
// the operator's checks, the same ones.
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/TracerMode.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include "bindings.h"

namespace convx {
namespace {

using Pair = std::array<int64_t, 2>;
struct Arguments {
  Pair stride, padding, dilation;
  int64_t groups;
  Pair result_size;
  std::string padding_mode;
};

// Sizes and steps below this can be multiplied and a few products added in 64 bits.
constexpr int64_t small = int64_t(1) << 30;

bool read(PyObject* object, int64_t least, int64_t& value) {
  if (!PyLong_CheckExact(object)) return false;
  int overflow = 0;
  value = PyLong_AsLongLongAndOverflow(object, &overflow);
  return !overflow && value >= least && value < small;
}

// An int, or a tuple or list of one or two.
bool read(PyObject* object, int64_t least, Pair& pair) {
  if (PyTuple_CheckExact(object) && PyTuple_GET_SIZE(object) == 2)
    return read(PyTuple_GET_ITEM(object, 0), least, pair[0]) && read(PyTuple_GET_ITEM(object, 1), least, pair[1]);
  if (PyList_CheckExact(object) && PyList_GET_SIZE(object) == 2)
    return read(PyList_GET_ITEM(object, 0), least, pair[0]) && read(PyList_GET_ITEM(object, 1), least, pair[1]);
  if (!read(object, least, pair[0])) return false;
  pair[1] = pair[0];
  return true;
}

bool read(PyObject* object, std::string& text) {
  Py_ssize_t length = 0;
  const char* data = PyUnicode_CheckExact(object) ? PyUnicode_AsUTF8AndSize(object, &length) : nullptr;
  if (!data) return PyErr_Clear(), false;
  text.assign(data, size_t(length));
  return true;
}

// conv2d's padding: as above, or 'valid' or, without strides, 'same', which pads by the span of the kernel's taps.
bool read_padding(PyObject* object, const Pair& stride, const Pair& span, Pair& padding, Pair& total) {
  if (!PyUnicode_CheckExact(object)) {
    if (!read(object, 0, padding)) return false;
    total = {2 * padding[0], 2 * padding[1]};
    return true;
  }
  if (PyUnicode_CompareWithASCIIString(object, "valid") == 0) {
    padding = total = {0, 0};
    return true;
  }
  padding = {span[0] / 2, span[1] / 2}, total = span;
  return PyUnicode_CompareWithASCIIString(object, "same") == 0 && stride == Pair{1, 1};
}

struct Tensors {
  Tensor input, weight;
  std::optional<Tensor> bias;
};

bool is_plain(const Tensor& t) {
  if (t.dim() != 4 || t.layout() != at::kStrided) return false;
  const auto dtype = t.scalar_type();
  return (t.is_cpu() || t.is_cuda()) &&
         (dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16);
}

bool fits(const Tensor& t, const Tensor& input) {
  return t.layout() == at::kStrided && t.device() == input.device() && t.scalar_type() == input.scalar_type();
}

bool has_small_sizes(const Tensor& t) {
  return t.size(2) > 0 && t.size(2) < small && t.size(3) > 0 && t.size(3) < small;
}

// Whether torch was asked to pass over one call of __torch_function__; older versions can't be asked to.
template <class State>
auto passes_over_next(int) -> decltype(State::peek_skip_next()) {
  return State::peek_skip_next();
}
template <class State>
bool passes_over_next(...) {
  return false;
}

// Plain tensors in a thread that nothing but autograd watches.
bool read(PyObject* const* objects, Tensors& t) {
  if (!THPVariable_CheckExact(objects[0]) || !THPVariable_CheckExact(objects[1])) return false;
  t.input = THPVariable_Unpack(objects[0]), t.weight = THPVariable_Unpack(objects[1]);
  if (!is_plain(t.input) || t.weight.dim() != 4 || !fits(t.weight, t.input)) return false;
  if (objects[2] != Py_None) {
    if (!THPVariable_CheckExact(objects[2])) return false;
    t.bias = THPVariable_Unpack(objects[2]);
    if (!fits(*t.bias, t.input)) return false;
  }
  return has_small_sizes(t.input) && has_small_sizes(t.weight) && !at::impl::torch_function_mode_enabled() &&
         !passes_over_next<at::impl::PythonTorchFunctionTLS>(0) &&
         !at::autocast::is_autocast_enabled(t.input.device().type()) && !at::tracer::impl::is_dispatch_enabled();
}

PyObject* run_plain(Primitive primitive, const Tensors& t, const Arguments& a) {
  const auto symbolic = [](const Pair& pair) { return c10::fromIntArrayRefSlow(pair); };
  Tensor result;
  {
    pybind11::gil_scoped_release no_gil;
    result = call(primitive, t.input, t.weight, t.bias,
                  {symbolic(a.stride), symbolic(a.padding), symbolic(a.dilation), a.groups, symbolic(a.result_size),
                   a.padding_mode, prefers_channels_last(t.input, t.weight)});
  }
  return THPVariable_Wrap(std::move(result));
}

// conv2d(input, weight, bias, stride, padding, dilation, groups, padding_mode)
PyObject* conv2d(PyObject*, PyObject* const* objects, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Tensors t;
  Arguments a;
  if (count != 8 || !read(objects, t) || !read(objects[3], 1, a.stride) || !read(objects[5], 1, a.dilation) ||
      !read(objects[6], 1, a.groups) || !read(objects[7], a.padding_mode))
    Py_RETURN_NONE;
  const Pair span = {a.dilation[0] * (t.weight.size(2) - 1), a.dilation[1] * (t.weight.size(3) - 1)};
  Pair total;
  if (!read_padding(objects[4], a.stride, span, a.padding, total)) Py_RETURN_NONE;
  for (int i : {0, 1}) {
    if (t.input.size(i + 2) + total[i] <= span[i]) Py_RETURN_NONE;  // the kernel does not fit
    a.result_size[i] = output_size(t.input.size(i + 2), t.weight.size(i + 2), a.stride[i], total[i], a.dilation[i]);
  }
  return run_plain(Primitive::forward, t, a);
  END_HANDLE_TH_ERRORS
}

// conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
PyObject* conv_transpose2d(PyObject*, PyObject* const* objects, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Tensors t;
  Arguments a;
  Pair extra;
  if (count != 8 || !read(objects, t) || !read(objects[3], 1, a.stride) || !read(objects[4], 0, a.padding) ||
      !read(objects[5], 0, extra) || !read(objects[6], 1, a.groups) || !read(objects[7], 1, a.dilation))
    Py_RETURN_NONE;
  a.padding_mode = "zeros";
  for (int i : {0, 1}) {
    a.result_size[i] =
        input_size(t.input.size(i + 2), t.weight.size(i + 2), a.stride[i], 2 * a.padding[i], a.dilation[i], extra[i]);
    if (a.result_size[i] < 1 || (extra[i] >= a.stride[i] && extra[i] >= a.dilation[i])) Py_RETURN_NONE;
  }
  return run_plain(Primitive::grad_input, t, a);
  END_HANDLE_TH_ERRORS
}

PyMethodDef methods[] = {
    {"conv2d", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(conv2d)), METH_FASTCALL,
     "A plain call of convx.conv2d, or None."},
    {"conv_transpose2d", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(conv_transpose2d)), METH_FASTCALL,
     "A plain call of convx.conv_transpose2d, or None."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void add_plain_calls(PyObject* module) {
  if (PyModule_AddFunctions(module, methods) != 0) throw pybind11::error_already_set();
}

}  // namespace convx
