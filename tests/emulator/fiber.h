// Stacks that take turns on one processor. switch_to() saves where one stands and goes on where another stood.
//
// On x86-64 by hand: a function call anyway gives up all but six registers, so these and the stack pointer are all
// there is to exchange. Elsewhere by swapcontext(), which also saves the signal mask, with a system call each time, and
// is some thirty times slower.
#pragma once
#include <cstddef>

namespace emulator {

class Fiber {
 public:
  Fiber() = default;               // for the stack that the program began with
  explicit Fiber(void (*main)());  // main must not return
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Leaves this fiber, which must be the running one, and goes on with the other.
  void switch_to(Fiber& other);

  const void* stack() const { return stack_; }
  size_t stack_bytes() const { return kStackBytes; }

 private:
  static constexpr size_t kStackBytes = 256 * 1024;
  static constexpr size_t kGuardBytes = 64 * 1024;  // below the stack, and not accessible

  static void begin();

  void* stack_ = nullptr;
  void* here_ = nullptr;  // where it stands: a stack pointer, or a ucontext_t
  void (*main_)() = nullptr;
  void* sanitizer_ = nullptr;  // what AddressSanitizer keeps of a stack that is left
  const void* bottom_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace emulator
