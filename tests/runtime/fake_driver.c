/* libcuda.so.1 of a machine with GPUS GPUs of compute capability MAJOR.MINOR, and a driver for CUDA VERSION. */
#include <stddef.h>
#include <stdio.h>

int cuInit(unsigned flags) { return GPUS ? 0 : 100; }
int cuDriverGetVersion(int *version) { return *version = VERSION, 0; }
int cuDeviceGetCount(int *count) { return *count = GPUS, 0; }
int cuDeviceGet(int *device, int number) { return *device = number, 0; }
int cuDeviceGetName(char *name, int length, int device) { return snprintf(name, length, "GPU of a test"), 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { return *value = attribute == 75 ? MAJOR : MINOR, 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { return *bytes = (size_t)80 << 30, 0; }
int cuGetErrorName(int code, const char **name) { return *name = "CUDA_ERROR_NO_DEVICE", 0; }
