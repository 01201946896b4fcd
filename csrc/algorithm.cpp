// The choice among a list's rows; see algorithm.h.
#include "algorithm.h"

#include <stdexcept>

namespace convx {

const Algorithm& select(const AlgorithmList& list, Primitive primitive, const ConvProblem& problem,
                        const Operands& operands, const std::string& forced) {
  const bool left_out = forced[0] == '-';
  if (!forced.empty() && !left_out) {
    for (const Algorithm& a : list) {
      if (forced != a.name) continue;
      if (const char* reason = a.why_not(problem, operands))
        throw std::runtime_error("algorithm '" + forced + "' was forced but can't do " + name(primitive) + " of " +
                                 name(operands.dtype) + " " + problem.to_string() + ": " + reason);
      return a;
    }
  }
  for (const Algorithm& a : list)
    if (!(left_out && forced.compare(1, std::string::npos, a.name) == 0) && !a.why_not(problem, operands) &&
        a.preferred(problem, operands))
      return a;
  throw std::runtime_error(std::string("no algorithm for ") + name(primitive) + " of " + name(operands.dtype) + " " +
                           problem.to_string());
}

}  // namespace convx
