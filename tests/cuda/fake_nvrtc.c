/* libnvrtc.so that takes one call of each function in order, remembers the options, and refuses sources with `wrong` in them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  int wrong;
  char ptx[4096];
} Program;

static const char said[] =
    "ptxas info    : Compiling entry function 'scale_kernel' for 'sm_90a'\n"
    "    0 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n"
    "ptxas info    : Used 40 registers, used 1 barriers, 2048 bytes smem\n";
static const char refused[] = "kernel.cu(1): error: wrong";

int nvrtcVersion(int *major, int *minor) { return *major = 12, *minor = 9, 0; }
const char *nvrtcGetErrorString(int code) { return code == 5 ? "NVRTC_ERROR_INVALID_OPTION" : "NVRTC_ERROR"; }
int nvrtcCreateProgram(Program **made, const char *source, const char *name, int headers, char **texts, char **names) {
  if (headers || texts || names || strcmp(name, "kernel.cu")) return 3;
  *made = calloc(1, sizeof(Program));
  (*made)->wrong = strstr(source, "wrong") != NULL;
  return 0;
}
int nvrtcCompileProgram(Program *program, int count, const char **options) {
  for (int i = 0; i < count; ++i) {
    if (!strncmp(options[i], "--unknown", 9)) return 5;
    strcat(strcat(program->ptx, options[i]), "\n");
  }
  return program->wrong ? 6 : 0;
}
int nvrtcGetProgramLogSize(Program *program, size_t *size) {
  return *size = program->wrong ? sizeof refused : sizeof said, 0;
}
int nvrtcGetProgramLog(Program *program, char *text) {
  return strcpy(text, program->wrong ? refused : said), 0;
}
int nvrtcGetPTXSize(Program *program, size_t *size) { return *size = strlen(program->ptx) + 1, 0; }
int nvrtcGetPTX(Program *program, char *text) { return strcpy(text, program->ptx), 0; }
int nvrtcGetCUBINSize(Program *program, size_t *size) { return *size = 8, 0; }
int nvrtcGetCUBIN(Program *program, char *text) { return memcpy(text, "\177ELF\0\0\1\0", 8), 0; }
int nvrtcDestroyProgram(Program **program) { return free(*program), *program = NULL, 0; }
