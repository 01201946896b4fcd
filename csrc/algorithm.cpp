// The choice among a list's rows; see algorithm.h.
#include "algorithm.h"

#include <stdexcept>

namespace convx {

const Algorithm& select(const AlgorithmList& list, Primitive primitive, const ConvProblem& problem,
                        const Operands& operands, const std::string& forced) {
  if (!forced.empty()) {
    for (const Algorithm& a : list) {
      if (forced != a.name) continue;
      if (const char* reason = a.why_not(problem, operands))
        throw std::runtime_error("algorithm '" + forced + "' was forced but can't do " + name(primitive) + " of " +
                                 name(operands.dtype) + " " + problem.to_string() + ": " + reason);
      return a;
    }
  }
  for (const Algorithm& a : list)
    if (!a.why_not(problem, operands) && a.preferred(problem, operands)) return a;
  throw std::runtime_error(std::string("no algorithm for ") + name(primitive) + " of " + name(operands.dtype) + " " +
                           problem.to_string());
}

}  // namespace convx
