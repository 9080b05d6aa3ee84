// Fibers: one per CUDA thread, all on the calling host thread. A fiber runs until it has to wait; the order in which
// runnable fibers are resumed is a parameter of the launch, so that missing barriers show as different results too.
#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <map>
#include <utility>

#include "engine.h"
#include "traffic.h"

// Saves the callee-saved registers on the current stack, stores the stack pointer and continues on the other stack.
extern "C" void emulation_switch(void** save, void* resume);
__asm__(
    ".text\n"
    ".type emulation_switch,@function\n"
    "emulation_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size emulation_switch,.-emulation_switch\n");

namespace emulation {

Thread* current = nullptr;
Thread threads[kMostThreads];
int thread_count = 0, alive = 0;
Launch launch_state;
uint3 block_index_now;
Order order_now = Order::Forward;

namespace {

void* scheduler_stack;
bool failed = false;
std::string error;

[[noreturn]] void leave_for_good() {
  void* unused;
  emulation_switch(&unused, scheduler_stack);
  __builtin_unreachable();
}

void switch_to_scheduler() {
  settle_writes();
  emulation_switch(&current->stack_pointer, scheduler_stack);
}

void fiber_main() {
  launch_state.kernel(launch_state.arguments);
  settle_writes();
  finish_bulk_stores();
  thread_left_copies(*current);
  current->state = State::Done;
  --alive;
  lane_left(*current);
  thread_left_barriers();
  leave_for_good();
}

unsigned char* stacks() {
  static unsigned char* all = [] {
    void* memory =
        mmap(nullptr, kStackBytes * kMostThreads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? nullptr : static_cast<unsigned char*>(memory);
  }();
  return all;
}

void prepare(Thread& thread, int linear) {
  const dim3 block = launch_state.block;
  thread.linear = linear;
  thread.lane = linear % kWarpSize;
  thread.index = {linear % block.x, linear / block.x % block.y, linear / (block.x * block.y)};
  thread.state = State::Runnable;
  thread.waits_for = "";
  thread.polling = thread.fenced = false;
  thread.open_copies.clear();
  thread.copy_groups.clear();
  thread.stack_low = reinterpret_cast<uintptr_t>(stacks() + kStackBytes * linear);
  // The frame that emulation_switch pops: six registers, then the address of fiber_main, entered as if called.
  void** top = reinterpret_cast<void**>(thread.stack_low + kStackBytes - 64);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  thread.stack_pointer = top;
}

std::string deadlock() {
  std::map<std::string, std::vector<int>> waiting;
  for (int t = 0; t < thread_count; ++t) {
    const Thread& thread = threads[t];
    std::string what = "left the kernel";
    if (thread.polling) what = "polls memory";
    if (thread.state == State::Blocked)
      what = std::string("waits for ") + thread.waits_for + " at line " + std::to_string(thread.line);
    waiting[what].push_back(t);
  }
  std::string text = "deadlock: no thread can go on;";
  for (const auto& [what, which] : waiting) {
    text += " " + std::to_string(which.size()) + " threads (first " + std::to_string(which.front()) + ", last " +
            std::to_string(which.back()) + "): " + what + ";";
  }
  text.pop_back();
  return text;
}

struct Random {  // xorshift64*; Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016
  uint64_t state;

  uint64_t below(uint64_t bound) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 2685821657736338717u % bound;
  }

  template <class T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }
};

void run_block(Order order, Random& random) {
  thread_count = alive = int(launch_state.block.x * launch_state.block.y * launch_state.block.z);
  start_block_clocks();
  start_block_memory(launch_state.dynamic_bytes);
  start_block_copies();
  start_block_warpgroups();
  start_barriers();
  for (int t = 0; t < thread_count; ++t) prepare(threads[t], t);
  start_warps();

  std::vector<int> sequence(thread_count);
  for (int t = 0; t < thread_count; ++t) sequence[t] = order == Order::Reverse ? thread_count - 1 - t : t;
  for (int idle = 0; alive > 0;) {
    if (order == Order::Random) random.shuffle(sequence);
    bool progress = false;
    for (int t : sequence) {
      if (threads[t].state != State::Runnable) continue;
      current = &threads[t];
      current->polling = false;
      current->accesses = 0;
      emulation_switch(&scheduler_stack, current->stack_pointer);
      current = nullptr;
      if (failed) return;
      progress |= !threads[t].polling;
    }
    progress |= release_active_masks();
    idle = progress || alive == 0 || land_bulk_copy() ? 0 : idle + 1;
    if (idle > 2) fail("%s", deadlock().c_str());
  }
}

}  // namespace

void block_thread(const char* waits_for, int line) {
  current->state = State::Blocked;
  current->waits_for = waits_for;
  current->line = line;
  switch_to_scheduler();
}

void wake(Thread& thread) { thread.state = State::Runnable; }

void yield_thread() {
  current->polling = true;
  switch_to_scheduler();
}

void fail(const char* format, ...) {
  char text[2048];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  char place[256] = "";
  if (launch_state.name) {
    const uint3 b = block_index_now;
    if (current) {
      const uint3 t = current->index;
      snprintf(place, sizeof place, " [kernel %s, block (%u,%u,%u), thread (%u,%u,%u)]", launch_state.name, b.x, b.y, b.z, t.x,
               t.y, t.z);
    } else {
      snprintf(place, sizeof place, " [kernel %s, block (%u,%u,%u)]", launch_state.name, b.x, b.y, b.z);
    }
  }
  error = std::string(text) + place;
  failed = true;
  if (!current) throw Failure(error);
  leave_for_good();
}

void trap(int line) { fail("the kernel calls __trap() at line %d", line); }

const char* last_error() { return error.c_str(); }
void forget_error() { error.clear(); }

int run(const Launch& launch, Order order, uint32_t seed) {
  failed = false;
  error.clear();
  launch_state = launch;
  order_now = order;
  block_index_now = {0, 0, 0};
  Random random = {(uint64_t(seed) + 1) * 0x9e3779b97f4a7c15u};
  start_launch_clocks();
  // Blocks run one after the other; their order follows the order of the threads.
  const uint64_t blocks = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
  std::vector<uint64_t> sequence(blocks);
  for (uint64_t b = 0; b < blocks; ++b) sequence[b] = order == Order::Reverse ? blocks - 1 - b : b;
  if (order == Order::Random) random.shuffle(sequence);
  try {
    if (!stacks()) fail("no memory for the stacks of the threads");
    const uint64_t size = uint64_t(launch.block.x) * launch.block.y * launch.block.z;
    if (size == 0 || size > launch.most_threads)
      fail("blocks of %zu threads; the kernel is made for 1 to %u", size_t(size), launch.most_threads);
    for (uint64_t b : sequence) {
      block_index_now = {unsigned(b % launch.grid.x), unsigned(b / launch.grid.x % launch.grid.y),
                         unsigned(b / (uint64_t(launch.grid.x) * launch.grid.y))};
      run_block(order, random);
      if (counting) finish_counting_block();
      if (failed) break;
    }
  } catch (const Failure&) {}
  current = nullptr;
  launch_state.name = nullptr;
  return failed ? -1 : 0;
}

uint3 thread_index() { return current->index; }
uint3 block_index() { return block_index_now; }
dim3 block_size() { return launch_state.block; }
dim3 grid_size() { return launch_state.grid; }
uint32_t lane() { return uint32_t(current->lane); }

}  // namespace emulation
