// The module convx._C: what Python needs beside the operators themselves. Eager calls, recorded by
// bindings_autograd.cpp, the algorithm lists, and facts about the build.
#include <torch/csrc/utils/pybind.h>

#include <mutex>
#include <set>
#include <thread>

#include "bindings.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"

namespace py = pybind11;
using namespace convx;

namespace {

Tensor forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
               CONVX_GEOMETRY(c10::SymIntArrayRef, c10::SymInt)) {
  return call(Primitive::forward, input, weight, bias, CONVX_PACK);
}

Tensor grad_input(const Tensor& grad_output, const Tensor& weight, const std::optional<Tensor>& bias,
                  CONVX_GEOMETRY(c10::SymIntArrayRef, c10::SymInt)) {
  return call(Primitive::grad_input, grad_output, weight, bias, CONVX_PACK);
}

Tensor grad_weight(const Tensor& input, const Tensor& grad_output, CONVX_GEOMETRY(c10::SymIntArrayRef, c10::SymInt)) {
  return call(Primitive::grad_weight, input, grad_output, std::nullopt, CONVX_PACK);
}

Primitive primitive_of(const std::string& text) {
  for (Primitive p : {Primitive::forward, Primitive::grad_input, Primitive::grad_weight})
    if (text == name(p)) return p;
  throw py::value_error("expected a primitive, one of forward, grad_input, grad_weight, but got '" + text + "'");
}

const AlgorithmList& list_of(const std::string& device, Primitive p) {
  if (device == "cpu") return cpu::algorithms(p);
#ifdef CONVX_WITH_CUDA
  if (device == "cuda") return cuda::algorithms(p);
#endif
  static const AlgorithmList none;
  return none;
}

std::vector<std::tuple<std::string, std::string, bool>> algorithms(const std::string& device,
                                                                   const std::string& primitive) {
  std::vector<std::tuple<std::string, std::string, bool>> rows;
  for (const Algorithm& a : list_of(device, primitive_of(primitive)))
    rows.emplace_back(a.name, a.summary, a.deterministic);
  return rows;
}

std::vector<std::string> cpu_isas() {
  std::vector<std::string> names;
  for (cpu::Isa isa : cpu::available_isas()) names.push_back(cpu::name(isa));
  return names;
}

// How many distinct threads a parallel loop runs on.
int64_t parallel_threads() {
  std::mutex mutex;
  std::set<std::thread::id> seen;
  parallel_for(64, 1, [&](int64_t, int64_t) {
    std::lock_guard<std::mutex> lock(mutex);
    seen.insert(std::this_thread::get_id());
  });
  return int64_t(seen.size());
}

py::dict build_info() {
  py::dict d;
#if defined(__clang__)
  d["compiler"] = "Clang " __clang_version__;
#elif defined(__GNUC__)
  d["compiler"] = "GCC " __VERSION__;
#else
  d["compiler"] = "unknown";
#endif
  d["cxx_standard"] = __cplusplus;
#ifdef CONVX_WITH_CUDA
  d["cuda"] = true;
#else
  d["cuda"] = false;
#endif
#ifdef CONVX_CUDA_ARCHS
  d["cuda_archs"] = CONVX_CUDA_ARCHS;
#else
  d["cuda_archs"] = "";
#endif
  return d;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "convx's compiled part; see csrc/";
  using release_gil = py::call_guard<py::gil_scoped_release>;
  m.def("forward", forward, release_gil());
  m.def("grad_input", grad_input, release_gil());
  m.def("grad_weight", grad_weight, release_gil());
  name_nodes();
  add_plain_calls(m.ptr());
  m.def("prefers_channels_last", prefers_channels_last);
  m.def("algorithms", algorithms, py::arg("device"), py::arg("primitive"));
  m.def("forced_algorithm", [](const std::string& p) { return forced_algorithm(primitive_of(p)); });
  m.def("force_algorithm", [](const std::string& p, const std::string& n) { force_algorithm(primitive_of(p), n); });
  m.def("cpu_isas", cpu_isas);
  m.def("cpu_isa", [] { return std::string(cpu::name(cpu::current_isa())); });
  m.def("force_cpu_isa", cpu::force_isa);
  m.def("parallel_threads", parallel_threads, release_gil());
  m.def("release_threads", release_threads);
  m.def("build_info", build_info);
}
