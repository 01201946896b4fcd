// The ordered list of algorithms that each device keeps for each primitive: best first, the reference last.
//
// Adding a kernel is adding its file and its row. The first row that can do the problem and is preferred for it runs;
// the reference can do everything, so there is always an answer. A user may force a row by its name; forcing one that
// can't do the problem is an error that says why.
#pragma once
#include <string>
#include <vector>

#include "problem.h"

namespace convx {

struct Algorithm {
  const char* name;
  const char* summary;  // one line for listings
  // Why this algorithm can't do the problem (its sizes, its dtype, its memory layouts); nullptr if it can.
  const char* (*why_not)(const ConvProblem&, const Operands&);
  // Of the problems it can do, is it the right one for this?
  bool (*preferred)(const ConvProblem&, const Operands&);
  void (*run)(const ConvProblem&, const Operands&);
  bool deterministic = true;
};

using AlgorithmList = std::vector<Algorithm>;

// Predicates that several rows share.
inline const char* can_do_all(const ConvProblem&, const Operands&) { return nullptr; }
inline bool always(const ConvProblem&, const Operands&) { return true; }
inline bool only_when_forced(const ConvProblem&, const Operands&) { return false; }

// The row to run. `forced` is a name, or empty for the automatic choice; a name that this list lacks leaves the choice
// automatic (a name may belong to one primitive only), and "-name" leaves that row out of it. Throws std::runtime_error
// if a forced row can't do the problem.
const Algorithm& select(const AlgorithmList&, Primitive, const ConvProblem&, const Operands&,
                        const std::string& forced);

namespace cpu {
const AlgorithmList& algorithms(Primitive);
}
namespace cuda {
const AlgorithmList& algorithms(Primitive);
}

}  // namespace convx
