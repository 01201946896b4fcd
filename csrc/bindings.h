// What the binding files share: the three operators' arguments, the checks that guard every kernel, and the one path
// from tensors to a kernel. The bindings are the only files that include torch.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>
#include <c10/util/python_stub.h>

#include <array>
#include <optional>
#include <string>

#include "algorithm.h"

namespace convx {

using at::Tensor;

// Arguments common to the three operators, for sizes known (Int = int64_t) or symbolic (Int = c10::SymInt).
// `result_size` is what the two operands can't tell: P Q for forward, H W for grad_input, R S for grad_weight.
template <class Int>
struct Geometry {
  c10::ArrayRef<Int> stride, padding, dilation;
  Int groups;
  c10::ArrayRef<Int> result_size;
  c10::string_view padding_mode;
  bool channels_last;
};

// The same arguments as an operator's parameter list, and packed: the dispatcher wants them one by one.
#define CONVX_GEOMETRY(INTS, INT)                                                                        \
  INTS stride, INTS padding, INTS dilation, INT groups, INTS result_size, c10::string_view padding_mode, \
      bool channels_last
#define CONVX_PACK {stride, padding, dilation, groups, result_size, padding_mode, channels_last}

using SymbolicGeometry = Geometry<c10::SymInt>;

// Checks everything a kernel relies on, raising what torch raises with a message that names what was expected and what
// was got; returns the sizes of the result. `first` and `second` are the operands in the operator's order.
template <class Int>
std::vector<Int> check(Primitive, const Tensor& first, const Tensor& second, const std::optional<Tensor>& bias,
                       const Geometry<Int>&);

// What kernels on a GPU get beyond their tensors; see Operands.
struct OnDevice {
  void* stream = nullptr;
  Workspace* workspace = nullptr;
  bool allow_tf32 = false;
};

// Checks, allocates the result, picks the algorithm and runs it. The caller has made the device current.
Tensor run(Primitive, const Tensor& first, const Tensor& second, const std::optional<Tensor>& bias,
           const Geometry<int64_t>&, const AlgorithmList&, const OnDevice& = {});

// The operator with all its derivatives, as the dispatcher calls it, but by a shorter way where that can be
// (bindings_autograd.cpp).
Tensor call(Primitive, const Tensor& first, const Tensor& second, const std::optional<Tensor>& bias,
            const SymbolicGeometry&);

// Whether a transform of torch.func is active.
bool in_transform();

// What the module's initialisation asks of the files beside it: the names of autograd's nodes in Python
// (bindings_autograd.cpp), and the functions that take Python's arguments as they are (bindings_call.cpp).
void name_nodes();
void add_plain_calls(PyObject* module);

// Ends the calling thread's idle helpers, for a fork (bindings_parallel.cpp).
void release_threads();

// The algorithm a user forces for a primitive; empty for the automatic choice. Process-wide, because autograd may run
// the backward on another thread than the one that asked.
std::string forced_algorithm(Primitive);
void force_algorithm(Primitive, const std::string& name);

// True where torch's convolutions return channels_last: if either operand of the layer is laid out so.
bool prefers_channels_last(const Tensor& input, const Tensor& weight);

}  // namespace convx
