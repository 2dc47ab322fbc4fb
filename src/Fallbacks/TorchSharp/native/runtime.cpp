// The state of the library beside tensors: errors, version, threads, devices, random numbers.
#include "shim.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/version.h>

#include <mutex>

std::string& lastError() {
  thread_local std::string text;
  return text;
}

HY_EXPORT const char* hy_error() { return lastError().c_str(); }

HY_EXPORT const char* hy_version() { return TORCH_VERSION; }

HY_EXPORT int32_t hy_threads() { return at::get_num_threads(); }

HY_EXPORT int32_t hy_set_threads(int32_t count) {
  return guarded(-1, [&] { return at::set_num_threads(count), 0; });
}

HY_EXPORT int32_t hy_interop_threads() { return at::get_num_interop_threads(); }

HY_EXPORT int32_t hy_set_interop_threads(int32_t count) {
  return guarded(-1, [&] { return at::set_num_interop_threads(count), 0; });
}

// The guard of a device type is there only when its library is loaded.
HY_EXPORT int32_t hy_device_count(int32_t type) {
  auto deviceType = static_cast<c10::DeviceType>(type);
  return guarded(0, [&]() -> int {
    if (!c10::impl::hasDeviceGuardImpl(deviceType)) return 0;
    return c10::impl::VirtualGuardImpl(deviceType).deviceCount();
  });
}

HY_EXPORT int32_t hy_device_current(int32_t type) {
  return guarded(0, [&]() -> int { return c10::impl::VirtualGuardImpl(static_cast<c10::DeviceType>(type)).getDevice().index(); });
}

HY_EXPORT int32_t hy_device_synchronize(int64_t packed) {
  return guarded(-1, [&] {
    auto device = unpackDevice(packed);
    return c10::impl::VirtualGuardImpl(device.type()).getStream(device).synchronize(), 0;
  });
}

namespace {

template <class F> auto locked(const at::Generator& generator, F&& body) {
  at::Generator owned = generator;
  std::lock_guard<std::mutex> lock(owned.mutex());
  return body(owned);
}

}  // namespace

HY_EXPORT int32_t hy_manual_seed(uint64_t seed) {
  return guarded(-1, [&] { return at::manual_seed(seed), 0; });
}

HY_EXPORT at::Generator* hy_generator(int64_t device, uint64_t seed) {
  return guarded(static_cast<at::Generator*>(nullptr), [&] {
    auto where = unpackDevice(device);
    if (where.is_cpu()) return new at::Generator(at::detail::createCPUGenerator(seed));
    auto generator = at::globalContext().defaultGenerator(where).clone();
    generator.set_current_seed(seed);
    return new at::Generator(std::move(generator));
  });
}

HY_EXPORT at::Generator* hy_default_generator(int64_t device) {
  return guarded(static_cast<at::Generator*>(nullptr),
                   [&] { return new at::Generator(at::globalContext().defaultGenerator(unpackDevice(device))); });
}

HY_EXPORT void hy_generator_free(at::Generator* generator) { delete generator; }

HY_EXPORT int32_t hy_generator_set_seed(const at::Generator* generator, uint64_t seed) {
  return guarded(-1, [&] { return locked(*generator, [&](at::Generator& g) { return g.set_current_seed(seed), 0; }); });
}

HY_EXPORT uint64_t hy_generator_initial_seed(const at::Generator* generator) {
  return guarded<uint64_t>(0, [&] { return locked(*generator, [](at::Generator& g) { return g.current_seed(); }); });
}

// Seeds from the system's randomness and gives that seed.
HY_EXPORT uint64_t hy_generator_seed(const at::Generator* generator) {
  return guarded<uint64_t>(0, [&] { return locked(*generator, [](at::Generator& g) { return g.seed(); }); });
}

HY_EXPORT Handle hy_generator_state(const at::Generator* generator) {
  return guarded(static_cast<Handle>(nullptr),
                   [&] { return locked(*generator, [](at::Generator& g) { return release(g.get_state()); }); });
}

HY_EXPORT int32_t hy_generator_set_state(const at::Generator* generator, Handle state) {
  return guarded(-1, [&] { return locked(*generator, [&](at::Generator& g) { return g.set_state(borrow(state)), 0; }); });
}
