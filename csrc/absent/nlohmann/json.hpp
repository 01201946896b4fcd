// Stands in for a header that torch's <ATen/functorch/Interpreter.h> includes but that torch's packages leave out
// (pytorch issue 181565). It names a class there in functions that nothing here calls: they are only declared, so that
// a call would not link. Where the real header is installed the compiler takes that one: this folder is the last that
// it looks into (setup.py).
#pragma once
#include <string>

namespace nlohmann {
struct json {
  json();
  template <class T>
  json(const T&);
  static json parse(const std::string&);
  std::string dump() const;
  template <class T>
  T get() const;
};
}  // namespace nlohmann
