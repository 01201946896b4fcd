// The choice among a list's rows; see algorithm.h.
#include "algorithm.h"

#include <stdexcept>

namespace convx {

const Algorithm& select(const AlgorithmList& list, Primitive primitive, const ConvProblem& problem, DType dtype,
                        const std::string& forced) {
  if (!forced.empty()) {
    for (const Algorithm& a : list) {
      if (forced != a.name) continue;
      if (const char* reason = a.why_not(problem, dtype))
        throw std::runtime_error("algorithm '" + forced + "' was forced but can't do " + name(primitive) + " of " +
                                 name(dtype) + " " + problem.to_string() + ": " + reason);
      return a;
    }
  }
  for (const Algorithm& a : list)
    if (!a.why_not(problem, dtype) && a.preferred(problem, dtype)) return a;
  throw std::runtime_error(std::string("no algorithm for ") + name(primitive) + " of " + name(dtype) + " " +
                           problem.to_string());
}

}  // namespace convx
