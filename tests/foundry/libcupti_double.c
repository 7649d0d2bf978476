/* Stands in for libcupti.so: calls back what subscribed, with the structs of CUPTI's headers. */
#include <cupti.h>

static CUpti_CallbackFunc call;
static int enabled, busy;

void double_busy(int now) { busy = now; }

CUptiResult cuptiSubscribe(CUpti_SubscriberHandle *subscriber, CUpti_CallbackFunc callback, void *own) {
  (void)own;
  if (busy) return CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED;
  *subscriber = (CUpti_SubscriberHandle)&call;
  call = callback;
  return CUPTI_SUCCESS;
}

CUptiResult cuptiUnsubscribe(CUpti_SubscriberHandle subscriber) {
  if (subscriber != (CUpti_SubscriberHandle)&call) return CUPTI_ERROR_INVALID_PARAMETER;
  enabled = 0;
  return CUPTI_SUCCESS;
}

CUptiResult cuptiEnableCallback(uint32_t enable, CUpti_SubscriberHandle subscriber, CUpti_CallbackDomain domain,
                                CUpti_CallbackId what) {
  (void)subscriber;
  if (domain != CUPTI_CB_DOMAIN_RESOURCE || what != CUPTI_CBID_RESOURCE_MODULE_LOADED) return CUPTI_ERROR_INVALID_PARAMETER;
  enabled = (int)enable;
  return CUPTI_SUCCESS;
}

void double_load(const char *raw, size_t size) {
  if (!enabled) return;
  CUpti_ModuleResourceData module = {.moduleId = 1, .cubinSize = size, .pCubin = raw};
  CUpti_ResourceData data = {.resourceDescriptor = &module};
  call(0, CUPTI_CB_DOMAIN_RESOURCE, CUPTI_CBID_RESOURCE_MODULE_LOADED, &data);
  call(0, CUPTI_CB_DOMAIN_RESOURCE, CUPTI_CBID_RESOURCE_MODULE_UNLOAD_STARTING, &data); /* not asked for */
}
