// The C interface: kernels register themselves when their library is loaded; Python and the stand-in driver launch them.
#include <dlfcn.h>

#include <map>
#include <string>

#include "engine.h"

namespace emulation {

namespace {
struct Entry {
  Kernel kernel;
  unsigned most_threads;
};
std::map<std::string, Entry>* registering;  // of the library that is being loaded
Order order = Order::Forward;
uint32_t seed = 0;
}  // namespace

void register_kernel(const char* name, Kernel kernel, unsigned most_threads) {
  if (registering) (*registering)[name] = {kernel, most_threads};
}

}  // namespace emulation

using namespace emulation;

extern "C" {

void emulation_set_source(const char* path);

struct EmulatedModule {
  void* library;
  std::string source;
  std::map<std::string, Entry> kernels;
};
struct EmulatedKernel {
  const EmulatedModule* module;
  const char* name;
  Entry entry;
};

// Loads a translated kernel library; `source` is the path of the CUDA source for the reports.
EmulatedModule* emulation_load(const char* path, const char* source) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  auto announce = library ? reinterpret_cast<void (*)()>(dlsym(library, "emulation_register_kernels")) : nullptr;
  if (!announce) return nullptr;
  auto* module = new EmulatedModule{library, source, {}};
  registering = &module->kernels;
  announce();
  registering = nullptr;
  return module;
}

EmulatedKernel* emulation_kernel(EmulatedModule* module, const char* name) {
  auto found = module->kernels.find(name);
  if (found == module->kernels.end()) return nullptr;
  return new EmulatedKernel{module, found->first.c_str(), found->second};
}

void emulation_set_order(int which, uint32_t new_seed) {
  order = static_cast<Order>(which);
  seed = new_seed;
}

// 0, or -1 with the reason in emulation_last_error().
int emulation_launch(const EmulatedKernel* kernel, const unsigned* grid, const unsigned* block, size_t dynamic_bytes,
                     void** arguments) {
  emulation_set_source(kernel->module->source.c_str());
  const Launch launch = {kernel->entry.kernel,
                         kernel->entry.most_threads,
                         kernel->name,
                         arguments,
                         dim3(grid[0], grid[1], grid[2]),
                         dim3(block[0], block[1], block[2]),
                         dynamic_bytes};
  return run(launch, order, seed);
}

const char* emulation_last_error() { return last_error(); }
void emulation_forget_error() { forget_error(); }
void* emulation_allocate(size_t bytes) { return allocate(bytes); }
int emulation_release(void* address) { return release(address) ? 0 : -1; }

}  // extern "C"
