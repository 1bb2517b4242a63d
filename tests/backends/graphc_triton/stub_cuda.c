/* A CUDA driver without a GPU, which tells on standard error what it is asked: device memory is the host's, a kernel does
   nothing but report how it was launched and what its parameters point at. Built as libcuda.so.1 by the tests. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
typedef unsigned long long Pointer;
enum { NODES = 256, PARAMETERS = 32, FUNCTIONS = 64, NOT_SUPPORTED = 801 };

struct function { char name[256]; int parameters; };
struct node { struct function *function; unsigned grid, block, shared; uint64_t values[PARAMETERS]; Pointer to, from; size_t bytes; };
struct graph { int nodes; struct node node[NODES]; };

static struct function functions[FUNCTIONS];
static int known, made, capturing;
static struct graph *current;
static char blocks[1];

/* How many parameters a kernel has: a real driver reads it in the code. */
void stub_parameters(const char *name, int count) {
  snprintf(functions[known].name, sizeof functions[known].name, "%s", name);
  functions[known++].parameters = count;
}

static void run(const struct node *n) {
  if (n->function == NULL) {
    fprintf(stderr, "copy %llu %llu %zu\n", n->to, n->from, n->bytes);
    memmove((void *)n->to, (void *)n->from, n->bytes);
    return;
  }
  fprintf(stderr, "kernel %s %u %u %u", n->function->name, n->grid, n->block, n->shared);
  for (int i = 0; i < n->function->parameters; i++) fprintf(stderr, " %llu", (unsigned long long)n->values[i]);
  fprintf(stderr, "\n");
}

static Result enqueue(const struct node *n) {
  if (!capturing) { run(n); return 0; }
  if (current->nodes == NODES) return 2;
  current->node[current->nodes++] = *n;
  return 0;
}

Result cuInit(unsigned flags) { return 0; }
Result cuDriverGetVersion(int *version) { *version = 13000; return 0; }
Result cuDeviceGet(int *device, int number) { *device = number; return 0; }
Result cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 9 : 0; return 0; }
Result cuDevicePrimaryCtxRetain(void **context, int device) { *context = blocks; return 0; }
Result cuCtxSetCurrent(void *context) { return context == blocks ? 0 : 201; }
Result cuStreamCreate(void **stream, unsigned flags) { *stream = blocks; return flags == 1 ? 0 : 1; }
Result cuStreamSynchronize(void *stream) { fprintf(stderr, "synchronize\n"); return capturing ? 900 : 0; }

Result cuMemAlloc(Pointer *address, size_t bytes) {
  *address = (Pointer)aligned_alloc(512, (bytes + 511) / 512 * 512);
  memset((void *)*address, 0, bytes);
  fprintf(stderr, "allocate %llu %zu\n", *address, bytes);
  return 0;
}
Result cuMemFree(Pointer address) { fprintf(stderr, "free %llu\n", address); free((void *)address); return 0; }
Result cuMemcpyHtoDAsync(Pointer to, const void *from, size_t bytes, void *stream) {
  fprintf(stderr, "send %llu %zu\n", to, bytes);
  memcpy((void *)to, from, bytes);
  return 0;
}
Result cuMemcpyDtoHAsync(void *to, Pointer from, size_t bytes, void *stream) {
  fprintf(stderr, "receive %llu %zu\n", from, bytes);
  memcpy(to, (void *)from, bytes);
  return 0;
}
Result cuMemcpyDtoDAsync(Pointer to, Pointer from, size_t bytes, void *stream) {
  struct node n = {.to = to, .from = from, .bytes = bytes};
  return enqueue(&n);
}
Result cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, void *stream) { memset((void *)to, value, bytes); return 0; }

Result cuModuleLoadData(void **module, const void *image) {
  fprintf(stderr, "module\n");
  *module = blocks;
  return memcmp(image, "\177ELF", 4) == 0 ? 0 : 200;
}
Result cuModuleGetFunction(void **function, void *module, const char *name) {
  for (int i = 0; i < known; i++)
    if (strcmp(functions[i].name, name) == 0) { *function = &functions[i]; return 0; }
  return 500;
}
Result cuFuncSetAttribute(void *function, int attribute, int value) {
  fprintf(stderr, "attribute %d %d\n", attribute, value);
  return 0;
}
Result cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, void *stream, void **parameters, void **extra) {
  struct node n = {.function = function, .grid = x, .block = bx, .shared = shared};
  if (y != 1 || z != 1 || by != 1 || bz != 1 || extra != NULL) return 1;
  for (int i = 0; i < n.function->parameters; i++) n.values[i] = *(uint64_t *)parameters[i];
  return enqueue(&n);
}

Result cuStreamBeginCapture(void *stream, int mode) {
  capturing = 1;
  current = calloc(1, sizeof *current);
  return 0;
}
Result cuStreamEndCapture(void *stream, void **graph) { capturing = 0; *graph = current; return 0; }
Result cuGraphInstantiateWithFlags(void **made_graph, void *graph, unsigned long long flags) {
  struct graph *copy = malloc(sizeof *copy);
  *copy = *(struct graph *)graph;
  *made_graph = copy;
  fprintf(stderr, "instantiate %d\n", ++made);
  return 0;
}
Result cuGraphDestroy(void *graph) { free(graph); return 0; }
Result cuGraphExecDestroy(void *graph) { fprintf(stderr, "destroy\n"); free(graph); return 0; }
Result cuGraphLaunch(void *graph, void *stream) {
  const struct graph *g = graph;
  fprintf(stderr, "launch\n");
  for (int i = 0; i < g->nodes; i++) run(&g->node[i]);
  return 0;
}
Result cuGetErrorName(int status, const char **name) { *name = "STUB"; return 0; }

static Result not_supported(void) { return NOT_SUPPORTED; }
Result cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status) {
  *function = dlsym(RTLD_DEFAULT, symbol);
  if (*function == NULL) *function = (void *)not_supported;
  if (status != NULL) *status = 0;
  return 0;
}
Result cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags, int *status) {
  return cuGetProcAddress_v2(symbol, function, version, flags, status);
}
