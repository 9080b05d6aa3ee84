// libcuda.so.1 as far as TVM's runtime uses it: modules are translated kernel libraries, launches run on the emulator.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))

extern "C" {
void* emulation_load(const char* path, const char* source);
void* emulation_kernel(void* module, const char* name);
int emulation_launch(const void* kernel, const unsigned* grid, const unsigned* block, size_t dynamic_bytes, void** arguments);
const char* emulation_last_error();
int emulation_encode_tensor_map(void* map, int type, uint32_t rank, void* address, const uint64_t* extents,
                                const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides, int interleave,
                                int swizzle);
}

namespace {

enum Result : int { kSuccess = 0, kInvalidValue = 1, kInvalidImage = 200, kNotFound = 500, kLaunchFailed = 719 };
constexpr char kMagic[] = "EMULATED:";  // then the path of the library, a newline, the path of the source
constexpr size_t kMostShared = 227 << 10, kSharedWithoutAsking = 48 << 10;

std::string message(int code) {
  switch (code) {
    case kSuccess: return "no error";
    case kInvalidValue: return "invalid value";
    case kInvalidImage: return "not a module of the emulator";
    case kNotFound: return "no such kernel";
    case kLaunchFailed: return emulation_last_error();
    default: return "error " + std::to_string(code);
  }
}

struct Function {
  void* kernel;
  size_t dynamic_limit;
};

}  // namespace

struct LaunchConfiguration {  // CUlaunchConfig
  unsigned grid[3], block[3], shared_bytes;
  void* stream;
  void* attributes;
  unsigned attribute_count;
};

EXPORT int cuInit(unsigned) { return kSuccess; }

EXPORT int cuDriverGetVersion(int* version) {
  *version = 13000;
  return kSuccess;
}

EXPORT int cuDeviceGetCount(int* count) {
  *count = 1;
  return kSuccess;
}

EXPORT int cuDeviceGet(int* device, int number) {
  *device = number;
  return kSuccess;
}

EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
  constexpr int kMajor = 75;
  *value = attribute == kMajor ? 9 : 0;
  return kSuccess;
}

EXPORT int cuDeviceTotalMem_v2(size_t* bytes, int) {
  *bytes = size_t(16) << 30;
  return kSuccess;
}

EXPORT int cuDeviceGetName(char* name, int length, int) {
  snprintf(name, size_t(length), "CUDA emulator");
  return kSuccess;
}

EXPORT int cuGetErrorName(int code, const char** text) {
  static std::string kept;
  kept = message(code);
  *text = kept.c_str();
  return kSuccess;
}

EXPORT int cuGetErrorString(int code, const char** text) { return cuGetErrorName(code, text); }

EXPORT int cuModuleLoadData(void** module, const void* image) {
  const char* text = static_cast<const char*>(image);
  if (strncmp(text, kMagic, strlen(kMagic))) return kInvalidImage;
  const std::string paths = text + strlen(kMagic);
  const size_t newline = paths.find('\n');
  *module = emulation_load(paths.substr(0, newline).c_str(), paths.substr(newline + 1).c_str());
  return *module ? kSuccess : kInvalidImage;
}

EXPORT int cuModuleUnload(void*) { return kSuccess; }

EXPORT int cuModuleGetFunction(void** function, void* module, const char* name) {
  void* kernel = emulation_kernel(module, name);
  if (!kernel) return kNotFound;
  *function = new Function{kernel, kSharedWithoutAsking};
  return kSuccess;
}

EXPORT int cuFuncSetAttribute(void* function, int attribute, int value) {
  constexpr int kMaxDynamicSharedSize = 8;
  if (attribute != kMaxDynamicSharedSize) return kSuccess;
  if (size_t(value) > kMostShared) return kInvalidValue;
  static_cast<Function*>(function)->dynamic_limit = size_t(value);
  return kSuccess;
}

EXPORT int cuLaunchKernelEx(const LaunchConfiguration* launch, void* function, void** arguments, void**) {
  const Function& f = *static_cast<Function*>(function);
  if (launch->shared_bytes > f.dynamic_limit) return kInvalidValue;
  return emulation_launch(f.kernel, launch->grid, launch->block, launch->shared_bytes, arguments) ? kLaunchFailed : kSuccess;
}

EXPORT int cuTensorMapEncodeTiled(void* map, int type, uint32_t rank, void* address, const uint64_t* extents,
                                  const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides, int interleave,
                                  int swizzle, int, int) {
  return emulation_encode_tensor_map(map, type, rank, address, extents, strides, box, element_strides, interleave, swizzle)
             ? kInvalidValue
             : kSuccess;
}
