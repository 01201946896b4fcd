// The CPU's algorithms, best first. A new kernel is a new file and a row here.
#include "../algorithm.h"
#include "reference.h"
#include "scatter.h"

namespace convx {
namespace cpu {

const AlgorithmList& algorithms(Primitive primitive) {
  static const AlgorithmList forward = {
      {"reference", "the definition, a row at a time", can_do_all, always, forward_reference},
  };
  static const AlgorithmList grad_input = {
      {"scatter", "each y stamps the kernel onto x, a plane to a thread", can_do_all, only_when_forced,
       grad_input_scatter},
      {"reference", "the definition in gather form, a row at a time", can_do_all, always, grad_input_reference},
  };
  static const AlgorithmList grad_weight = {
      {"reference", "the definition, a tap at a time", can_do_all, always, grad_weight_reference},
  };
  switch (primitive) {
    case Primitive::forward: return forward;
    case Primitive::grad_input: return grad_input;
    case Primitive::grad_weight: break;
  }
  return grad_weight;
}

}  // namespace cpu
}  // namespace convx
