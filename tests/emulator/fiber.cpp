// The exchange of stacks behind fiber.h.
#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)  // which tests may define, to take the other way here too
#define BY_HAND
#else
#include <ucontext.h>
#endif

#ifdef __SANITIZE_ADDRESS__  // it has to know of each switch, or takes the new stack for a wild pointer
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef BY_HAND

// emulator_exchange(void** save, void* load): the calling convention's six registers that outlive a call, and the
// address to return to, stay on the stack that is left.
extern "C" __attribute__((visibility("hidden"))) void emulator_exchange(void** save, void* load);
asm(R"(
.text
.p2align 4
.type emulator_exchange, @function
emulator_exchange:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_exchange, .-emulator_exchange
)");

#endif

namespace emulator {
namespace {

Fiber* coming_from = nullptr;
Fiber* going_to = nullptr;

}  // namespace

Fiber::Fiber(void (*main)()) : main_(main) {
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, kGuardBytes, PROT_NONE);
  stack_ = static_cast<char*>(memory) + kGuardBytes;
  bottom_ = stack_, bytes_ = kStackBytes;
#ifdef BY_HAND
  // As emulator_exchange leaves a stack: six registers, then where to return to, which finds the stack aligned as if
  // it had been called.
  auto* top = reinterpret_cast<uint64_t*>(static_cast<char*>(stack_) + kStackBytes);
  *--top = 0;
  *--top = reinterpret_cast<uint64_t>(&Fiber::begin);
  for (int i = 0; i < 6; ++i) *--top = 0;
  here_ = top;
#else
  auto* context = new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = stack_;
  context->uc_stack.ss_size = kStackBytes;
  context->uc_link = nullptr;
  makecontext(context, &Fiber::begin, 0);
  here_ = context;
#endif
}

Fiber::~Fiber() {
#ifdef __SANITIZE_ADDRESS__
  if (stack_) __asan_unpoison_memory_region(stack_, kStackBytes);  // a fiber may be dropped in the middle of a kernel
#endif
  if (stack_) munmap(static_cast<char*>(stack_) - kGuardBytes, kGuardBytes + kStackBytes);
#ifndef BY_HAND
  delete static_cast<ucontext_t*>(here_);
#endif
}

namespace {

void arrived([[maybe_unused]] void* sanitizer, [[maybe_unused]] const void** bottom, [[maybe_unused]] size_t* bytes) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(sanitizer, bottom, bytes);
#endif
}

}  // namespace

void Fiber::begin() {
  arrived(nullptr, &coming_from->bottom_, &coming_from->bytes_);
  going_to->main_();
}

void Fiber::switch_to(Fiber& other) {
  coming_from = this, going_to = &other;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&sanitizer_, other.bottom_, other.bytes_);
#endif
#ifdef BY_HAND
  emulator_exchange(&here_, other.here_);
#else
  if (!here_) here_ = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(here_), static_cast<ucontext_t*>(other.here_));
#endif
  arrived(sanitizer_, &coming_from->bottom_, &coming_from->bytes_);
}

}  // namespace emulator
