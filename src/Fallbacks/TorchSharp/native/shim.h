// What the parts of the shim share: handles, values that cross the boundary, and the guard that keeps exceptions inside.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <cstring>
#include <string>

#define HY_EXPORT extern "C" __attribute__((visibility("default")))

// A tensor handle is an owned TensorImpl*; null is the undefined tensor.
using Handle = at::TensorImpl*;
using TensorPointer = c10::intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>;

inline at::Tensor borrow(Handle handle) {
  return handle ? at::Tensor(TensorPointer::reclaim_copy(handle)) : at::Tensor();
}

inline Handle release(at::Tensor tensor) {
  return tensor.defined() ? tensor.unsafeReleaseTensorImpl() : nullptr;
}

// c10::optional in old versions, std::optional in new ones: whatever the headers use.
template <class T> struct OptionalTemplate;
template <template <class> class O, class T> struct OptionalTemplate<O<T>> { template <class U> using Of = O<U>; };
template <class T> using Optional =
    OptionalTemplate<std::decay_t<decltype(std::declval<at::TensorOptions>().dtype_opt())>>::template Of<T>;

enum class Tag : int32_t {
  Default, None, Tensor, Int, Double, Bool, Device, Generator,
  Complex, String, IntList, DoubleList, BoolList, TensorList, OptionalTensorList
};

// One argument or result. Lists and strings are pointer and count.
struct Value {
  Tag tag;
  int32_t count;
  union {
    int64_t integer;
    double real;
    const void* pointer;
  };
};

inline int64_t pack(c10::Device device) {
  return static_cast<int64_t>(device.type()) | (static_cast<int64_t>(device.index()) << 32);
}

inline c10::Device unpackDevice(int64_t packed) {
  return c10::Device(static_cast<c10::DeviceType>(packed & 0xff), static_cast<c10::DeviceIndex>(packed >> 32));
}

// Text of this thread's last error.
std::string& lastError();

// Runs a piece of libtorch; an exception becomes lastError() and `failed`.
template <class R, class F> R guarded(R failed, F&& body) noexcept {
  try {
    return body();
  } catch (const c10::Error& error) {
    lastError() = error.what_without_backtrace();
  } catch (const std::exception& error) {
    lastError() = error.what();
  } catch (...) {
    lastError() = "unknown native exception";
  }
  return failed;
}
