// What capturing CUDA graphs needs in C: an allocator that torch can call without Python, and the callback by which CUPTI
// shows kernel binaries while the driver loads them. CUPTI's headers are needed to compile, its library only to collect.
#include <cupti.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

// Addresses from a range that somebody else has reserved and mapped. What is freed is not used again: where a tensor
// lies depends on the order of allocations alone.
static const uint64_t align = 2 << 20;
static uint64_t base, limit, next, refused;

void foundry_arena(uint64_t start, uint64_t size) {
  base = start, limit = start + size, refused = 0;
  __atomic_store_n(&next, start, __ATOMIC_SEQ_CST);
}

void *foundry_alloc(ssize_t size, int device, void *stream) {
  (void)device, (void)stream;
  if (size <= 0) return NULL;
  uint64_t whole = ((uint64_t)size + align - 1) / align * align;
  uint64_t at = __atomic_load_n(&next, __ATOMIC_SEQ_CST);
  do {
    if (whole > limit - at) {
      refused = whole;
      return NULL; // torch reports it as out of memory
    }
  } while (!__atomic_compare_exchange_n(&next, &at, at + whole, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
  return (void *)at;
}

void foundry_free(void *at, ssize_t size, int device, void *stream) { (void)at, (void)size, (void)device, (void)stream; }

uint64_t foundry_used(void) { return __atomic_load_n(&next, __ATOMIC_SEQ_CST) - base; }

uint64_t foundry_refused(void) { return refused; }

// Images, copied while they are shown.
typedef struct { void *raw; size_t size; } image;
static image *images;
static size_t count, room, lost;
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static void *library;
static CUpti_SubscriberHandle subscriber;

static void shown(void *own, CUpti_CallbackDomain domain, CUpti_CallbackId what, const void *data) {
  (void)own;
  if (domain != CUPTI_CB_DOMAIN_RESOURCE || what != CUPTI_CBID_RESOURCE_MODULE_LOADED || !data) return;
  const CUpti_ModuleResourceData *module = ((const CUpti_ResourceData *)data)->resourceDescriptor;
  if (!module || !module->pCubin || !module->cubinSize) return;
  pthread_mutex_lock(&guard);
  if (count == room) {
    image *more = realloc(images, (room ? 2 * room : 64) * sizeof *images);
    if (more) images = more, room = room ? 2 * room : 64;
  }
  void *copy = count < room ? malloc(module->cubinSize) : NULL;
  if (copy) {
    memcpy(copy, module->pCubin, module->cubinSize);
    images[count++] = (image){copy, module->cubinSize};
  } else {
    ++lost;
  }
  pthread_mutex_unlock(&guard);
}

static int fail(char *said, size_t size, const char *what, int code) {
  const char *why = NULL;
  CUptiResult (*text)(CUptiResult, const char **) = NULL;
  if (library && code) *(void **)&text = dlsym(library, "cuptiGetResultString");
  if (text) text((CUptiResult)code, &why);
  const char *hint = code == CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED ? "; a profiler runs in this process" : "";
  snprintf(said, size, code ? "%s: %s (%d)%s" : "%s", what, why ? why : "error", code, hint);
  return 1;
}

// Begin to collect. `path` is a libcupti; 0, or 1 with the reason in `said`.
int foundry_collect(const char *path, char *said, size_t size) {
  if (library) return fail(said, size, "images are collected already", 0);
  library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return fail(said, size, dlerror(), 0);
  CUptiResult (*subscribe)(CUpti_SubscriberHandle *, CUpti_CallbackFunc, void *);
  CUptiResult (*enable)(uint32_t, CUpti_SubscriberHandle, CUpti_CallbackDomain, CUpti_CallbackId);
  *(void **)&subscribe = dlsym(library, "cuptiSubscribe");
  *(void **)&enable = dlsym(library, "cuptiEnableCallback");
  const char *what = "this is no libcupti";
  int code = 0;
  if (subscribe && enable) {
    what = "cuptiSubscribe failed";
    code = subscribe(&subscriber, shown, NULL);
    if (!code) {
      what = "cuptiEnableCallback failed";
      code = enable(1, subscriber, CUPTI_CB_DOMAIN_RESOURCE, CUPTI_CBID_RESOURCE_MODULE_LOADED);
      if (!code) return 0;
    }
  }
  fail(said, size, what, code);
  dlclose(library);
  library = NULL;
  return 1;
}

// End collecting; images stay until foundry_forget.
int foundry_stop(void) {
  if (!library) return 0;
  CUptiResult (*unsubscribe)(CUpti_SubscriberHandle);
  *(void **)&unsubscribe = dlsym(library, "cuptiUnsubscribe");
  int code = unsubscribe ? (int)unsubscribe(subscriber) : -1;
  library = NULL; // CUPTI stays loaded: the driver may still call into it
  return code;
}

size_t foundry_images(void) {
  pthread_mutex_lock(&guard);
  size_t n = count;
  pthread_mutex_unlock(&guard);
  return n;
}

size_t foundry_lost(void) { return lost; }

// Size of image `i`, and its address; 0 when there is none.
size_t foundry_image(size_t i, const void **raw) {
  pthread_mutex_lock(&guard);
  size_t size = i < count ? images[i].size : 0;
  if (size) *raw = images[i].raw;
  pthread_mutex_unlock(&guard);
  return size;
}

void foundry_forget(void) {
  pthread_mutex_lock(&guard);
  while (count) free(images[--count].raw);
  pthread_mutex_unlock(&guard);
}
