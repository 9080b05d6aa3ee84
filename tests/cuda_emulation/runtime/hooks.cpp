// What g++ calls from instrumented kernels: -fsanitize=thread announces every access to memory that others can see,
// -fsanitize=alignment,bounds,... the defects that it finds itself. The sanitizers' own libraries are not linked.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

#include "engine.h"

using emulation::Access;
using emulation::access;

#define EMULATION_HOOK(name, bytes, kind)                                   \
  extern "C" void name(void* pointer) {                                     \
    const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);         \
    if (emulation::current && !emulation::is_own_stack(address)) {          \
      access(address, bytes, Access::kind, 1, __builtin_return_address(0)); \
    }                                                                       \
  }
#define EMULATION_HOOKS(bytes)                                \
  EMULATION_HOOK(__tsan_read##bytes, bytes, Read)             \
  EMULATION_HOOK(__tsan_write##bytes, bytes, Write)           \
  EMULATION_HOOK(__tsan_unaligned_read##bytes, bytes, Read)   \
  EMULATION_HOOK(__tsan_unaligned_write##bytes, bytes, Write) \
  EMULATION_HOOK(__tsan_volatile_read##bytes, bytes, Read)    \
  EMULATION_HOOK(__tsan_volatile_write##bytes, bytes, Write)
EMULATION_HOOKS(1)
EMULATION_HOOKS(2)
EMULATION_HOOKS(4)
EMULATION_HOOKS(8)
EMULATION_HOOKS(16)

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void*, void*) {}

void __tsan_read_range(void* address, size_t bytes) {
  access(reinterpret_cast<uintptr_t>(address), bytes, Access::Read, 1, __builtin_return_address(0));
}

void __tsan_write_range(void* address, size_t bytes) {
  access(reinterpret_cast<uintptr_t>(address), bytes, Access::Write, 1, __builtin_return_address(0));
}

// ---- the layouts of GCC's libubsan ----
struct SourceLocation {
  const char* file;
  uint32_t line, column;
};
struct TypeDescriptor {
  uint16_t kind, info;
  char name[1];
};
struct TypeMismatch {
  SourceLocation location;
  TypeDescriptor* type;
  uint8_t log_alignment, check;
};
struct OutOfBounds {
  SourceLocation location;
  TypeDescriptor *array, *index;
};
struct Overflow {
  SourceLocation location;
  TypeDescriptor* type;
};

static std::string place(const SourceLocation& location) {
  return emulation::source_line(reinterpret_cast<const void*>(uintptr_t(location.line)));
}

void __ubsan_handle_type_mismatch_v1(TypeMismatch* data, void* pointer) {
  const size_t alignment = size_t(1) << data->log_alignment;
  if (reinterpret_cast<uintptr_t>(pointer) % alignment) {
    emulation::fail("misaligned: an object of type %s at %s%s is not aligned to %zu bytes", data->type->name,
                    emulation::describe(pointer).c_str(), place(data->location).c_str(), alignment);
  }
  emulation::fail("out of bounds: an object of type %s does not fit into the variable%s", data->type->name,
                  place(data->location).c_str());
}

void __ubsan_handle_out_of_bounds(OutOfBounds* data, size_t index) {
  emulation::fail("out of bounds: index %ld of an array of type %s%s", long(index), data->array->name,
                  place(data->location).c_str());
}

void __ubsan_handle_divrem_overflow(Overflow* data, size_t, size_t) {
  emulation::fail("integer division by zero or overflow%s", place(data->location).c_str());
}

void __ubsan_handle_shift_out_of_bounds(OutOfBounds* data, size_t, size_t amount) {
  emulation::fail("shift of a %s by %ld%s", data->array->name, long(amount), place(data->location).c_str());
}

}  // extern "C"

namespace emulation {

namespace {
std::string source_path;
}

// The source of the kernel that runs, for the reports.
extern "C" void emulation_set_source(const char* path) { source_path = path; }

static std::string with_text(int line) {
  FILE* file = fopen(source_path.c_str(), "r");
  if (!file || line <= 0) return " (line " + std::to_string(line) + ")";
  std::string text;
  for (int at = 1, c; at <= line && (c = fgetc(file)) != EOF;) {
    if (c == '\n') {
      ++at;
    } else if (at == line) {
      text += char(c);
    }
  }
  fclose(file);
  const size_t first = text.find_first_not_of(" \t");
  text = first == std::string::npos ? "" : text.substr(first);
  if (text.size() > 160) text = text.substr(0, 157) + "...";
  return " (line " + std::to_string(line) + ": `" + text + "`)";
}

// " (line 12: `...`)" for a line of the source or an address in the kernel's code; binutils' addr2line reads the latter.
std::string source_line(const void* where) {
  const uintptr_t value = reinterpret_cast<uintptr_t>(where);
  if (value < (1u << 24)) return value ? with_text(int(value)) : "";
  Dl_info info;
  if (!dladdr(where, &info) || !info.dli_fname) return "";
  char command[1024];
  snprintf(command, sizeof command, "addr2line -e '%s' 0x%zx 2>/dev/null", info.dli_fname,
           size_t(value - 1 - reinterpret_cast<uintptr_t>(info.dli_fbase)));
  FILE* pipe = popen(command, "r");
  if (!pipe) return "";
  char output[1024] = "";
  const bool read = fgets(output, sizeof output, pipe);
  pclose(pipe);
  const std::string text = read ? output : "";
  const size_t colon = text.rfind(':');
  const int line = colon == std::string::npos ? 0 : atoi(text.c_str() + colon + 1);
  return line > 0 ? with_text(line) : "";
}

}  // namespace emulation
