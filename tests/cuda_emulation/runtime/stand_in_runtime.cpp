// libcudart.so.13 as far as TVM's runtime uses it: device memory is the emulator's, streams are in order by themselves.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#define EXPORT extern "C" __attribute__((visibility("default")))

extern "C" {
void* emulation_allocate(size_t bytes);
int emulation_release(void* address);
}

namespace {
enum Error : int { kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2 };
constexpr size_t kMemory = size_t(16) << 30;
}  // namespace

EXPORT int cudaGetDeviceCount(int* count) {
  *count = 1;
  return kSuccess;
}
EXPORT int cudaGetDevice(int* device) {
  *device = 0;
  return kSuccess;
}
EXPORT int cudaSetDevice(int) { return kSuccess; }

EXPORT int cudaDeviceGetAttribute(int* value, int attribute, int) {
  switch (attribute) {
    case 8: *value = 48 << 10; break;   // shared memory per block
    case 10: *value = 32; break;        // warp size
    case 12: *value = 65536; break;     // registers per block
    case 13: *value = 1755000; break;   // clock rate in kHz
    case 16: *value = 132; break;       // multiprocessors
    case 38: *value = 50 << 20; break;  // L2 cache
    case 75: *value = 9; break;         // compute capability
    case 76: *value = 0; break;
    case 81: *value = 228 << 10; break;  // shared memory per multiprocessor
    case 97: *value = 227 << 10; break;  // shared memory per block, opted in
    default: *value = 1024;              // threads per block, extents of blocks and grids
  }
  return kSuccess;
}

EXPORT int cudaGetDeviceProperties(void* properties, int) {
  strcpy(static_cast<char*>(properties), "CUDA emulator");
  constexpr size_t kTotalMemory = 288;  // offset of totalGlobalMem
  memcpy(static_cast<char*>(properties) + kTotalMemory, &kMemory, sizeof kMemory);
  return kSuccess;
}

EXPORT int cudaMalloc(void** address, size_t bytes) {
  *address = emulation_allocate(bytes);
  return *address ? kSuccess : kOutOfMemory;
}
EXPORT int cudaFree(void* address) { return address && emulation_release(address) ? kInvalidValue : kSuccess; }
EXPORT int cudaMallocHost(void** address, size_t bytes) {
  *address = malloc(bytes);
  return *address ? kSuccess : kOutOfMemory;
}
EXPORT int cudaFreeHost(void* address) {
  free(address);
  return kSuccess;
}
EXPORT int cudaMemGetInfo(size_t* available, size_t* total) {
  *available = *total = kMemory;
  return kSuccess;
}
EXPORT int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int, void*) {
  memmove(to, from, bytes);
  return kSuccess;
}
EXPORT int cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, void*) {
  memmove(to, from, bytes);
  return kSuccess;
}

EXPORT const char* cudaGetErrorName(int error) { return error == kSuccess ? "cudaSuccess" : "cudaError"; }
EXPORT const char* cudaGetErrorString(int error) {
  return error == kOutOfMemory ? "out of memory" : error == kSuccess ? "no error" : "invalid value";
}
EXPORT int cudaGetLastError() { return kSuccess; }
EXPORT int cudaPeekAtLastError() { return kSuccess; }

EXPORT int cudaStreamCreate(void** stream) {
  *stream = nullptr;
  return kSuccess;
}
EXPORT int cudaStreamCreateWithFlags(void** stream, unsigned) { return cudaStreamCreate(stream); }
EXPORT int cudaStreamDestroy(void*) { return kSuccess; }
EXPORT int cudaStreamSynchronize(void*) { return kSuccess; }
EXPORT int cudaStreamWaitEvent(void*, void*, unsigned) { return kSuccess; }
EXPORT int cudaDeviceSynchronize() { return kSuccess; }

EXPORT int cudaEventCreate(void** event) {
  *event = calloc(1, sizeof(timespec));
  return kSuccess;
}
EXPORT int cudaEventDestroy(void* event) {
  free(event);
  return kSuccess;
}
EXPORT int cudaEventRecord(void* event, void*) {
  clock_gettime(CLOCK_MONOTONIC, static_cast<timespec*>(event));
  return kSuccess;
}
EXPORT int cudaEventSynchronize(void*) { return kSuccess; }
EXPORT int cudaEventElapsedTime(float* milliseconds, void* start, void* stop) {
  const timespec &a = *static_cast<timespec*>(start), &b = *static_cast<timespec*>(stop);
  *milliseconds = float(double(b.tv_sec - a.tv_sec) * 1e3 + double(b.tv_nsec - a.tv_nsec) * 1e-6);
  return kSuccess;
}

// Graphs are not modelled.
EXPORT int cudaGraphDestroy(void*) { return kInvalidValue; }
EXPORT int cudaGraphExecDestroy(void*) { return kInvalidValue; }
EXPORT int cudaGraphInstantiate(void*, void*, unsigned long long) { return kInvalidValue; }
EXPORT int cudaGraphLaunch(void*, void*) { return kInvalidValue; }
EXPORT int cudaStreamBeginCapture(void*, int) { return kInvalidValue; }
EXPORT int cudaStreamEndCapture(void*, void*) { return kInvalidValue; }
