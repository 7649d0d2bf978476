/* Stands in for libcuda.so.1: hands out the functions that a test has put there, and says of others that there are none. */
#include <string.h>

static struct { char name[64]; void *call; } served[128];
static int count;

int double_serve(const char *name, void *call) {
  if (count == 128 || strlen(name) > 63) return 1;
  strcpy(served[count].name, name);
  served[count++].call = call;
  return 0;
}

int cuGetProcAddress_v2(const char *name, void **call, int version, unsigned long long flags, int *status) {
  (void)version, (void)flags;
  *call = 0;
  for (int i = 0; i < count; ++i)
    if (!strcmp(served[i].name, name)) *call = served[i].call;
  if (status) *status = *call ? 0 : 1;
  return *call ? 0 : 500; /* CUDA_ERROR_NOT_FOUND */
}

int cuGetProcAddress(const char *name, void **call, int version, unsigned long long flags) {
  return cuGetProcAddress_v2(name, call, version, flags, 0);
}
