// Tensor handles: life, shape, type, memory, and what autograd keeps on a tensor.
#include "shim.h"

#include <torch/csrc/autograd/variable.h>

HY_EXPORT void hy_tensor_free(Handle handle) {
  TensorPointer::reclaim(handle);
}

HY_EXPORT Handle hy_tensor_alias(Handle handle) {
  return release(borrow(handle));
}

HY_EXPORT int64_t hy_tensor_dim(Handle handle) { return guarded<int64_t>(-1, [&]() -> int64_t { return handle->dim(); }); }

HY_EXPORT int64_t hy_tensor_numel(Handle handle) { return guarded<int64_t>(-1, [&]() -> int64_t { return handle->numel(); }); }

// Writes up to `capacity` sizes and gives the number of dimensions.
HY_EXPORT int64_t hy_tensor_sizes(Handle handle, int64_t* sizes, int64_t capacity) {
  return guarded<int64_t>(-1, [&]() -> int64_t {
    auto all = handle->sizes();
    std::copy_n(all.begin(), std::min<int64_t>(capacity, all.size()), sizes);
    return all.size();
  });
}

HY_EXPORT int64_t hy_tensor_strides(Handle handle, int64_t* strides, int64_t capacity) {
  return guarded<int64_t>(-1, [&]() -> int64_t {
    auto all = handle->strides();
    std::copy_n(all.begin(), std::min<int64_t>(capacity, all.size()), strides);
    return all.size();
  });
}

HY_EXPORT int32_t hy_tensor_dtype(Handle handle) { return static_cast<int32_t>(c10::typeMetaToScalarType(handle->dtype())); }

HY_EXPORT int64_t hy_tensor_element_size(Handle handle) { return handle->itemsize(); }

HY_EXPORT int64_t hy_tensor_device(Handle handle) { return pack(handle->device()); }

HY_EXPORT int64_t hy_tensor_storage_offset(Handle handle) {
  return guarded<int64_t>(-1, [&]() -> int64_t { return handle->storage_offset(); });
}

HY_EXPORT bool hy_tensor_is_contiguous(Handle handle) { return guarded(false, [&] { return borrow(handle).is_contiguous(); }); }

HY_EXPORT bool hy_tensor_is_sparse(Handle handle) { return handle->is_sparse(); }

HY_EXPORT void* hy_tensor_data(Handle handle) {
  return guarded(static_cast<void*>(nullptr), [&] { return borrow(handle).data_ptr(); });
}

HY_EXPORT void* hy_storage_data(Handle handle) {
  return guarded(static_cast<void*>(nullptr), [&] { return const_cast<void*>(borrow(handle).storage().data_ptr().get()); });
}

HY_EXPORT uint64_t hy_storage_bytes(Handle handle) {
  return guarded<uint64_t>(0, [&]() -> uint64_t { return borrow(handle).storage().nbytes(); });
}

// A contiguous CPU tensor holding a copy of `source`.
HY_EXPORT Handle hy_tensor_copy_of(const void* source, const int64_t* sizes, int32_t dimensions, int32_t dtype) {
  return guarded(static_cast<Handle>(nullptr), [&] {
    auto tensor = at::empty(at::IntArrayRef(sizes, dimensions), at::TensorOptions(static_cast<at::ScalarType>(dtype)));
    if (tensor.nbytes() > 0) std::memcpy(tensor.data_ptr(), source, tensor.nbytes());
    return release(std::move(tensor));
  });
}

// The one element of a tensor, as the widest number of its kind; a complex number is its two parts.
HY_EXPORT int32_t hy_tensor_item(Handle handle, double* real, double* imaginary, int64_t* integer) {
  return guarded(-1, [&] {
    auto scalar = borrow(handle).item();
    if (scalar.isComplex()) {
      auto number = scalar.toComplexDouble();
      *real = number.real();
      *imaginary = number.imag();
    } else if (scalar.isFloatingPoint()) {
      *real = scalar.toDouble();
    } else {
      *integer = scalar.toLong();
    }
    return 0;
  });
}

HY_EXPORT bool hy_tensor_requires_grad(Handle handle) { return handle->requires_grad(); }

HY_EXPORT int32_t hy_tensor_set_requires_grad(Handle handle, bool value) {
  return guarded(-1, [&] { return borrow(handle).set_requires_grad(value), 0; });
}

HY_EXPORT bool hy_tensor_is_leaf(Handle handle) { return guarded(false, [&] { return borrow(handle).is_leaf(); }); }

HY_EXPORT int32_t hy_tensor_retain_grad(Handle handle) {
  return guarded(-1, [&] { return borrow(handle).retain_grad(), 0; });
}

HY_EXPORT Handle hy_tensor_grad(Handle handle) {
  return guarded(static_cast<Handle>(nullptr), [&] { return release(handle->grad()); });
}

HY_EXPORT int32_t hy_tensor_set_grad(Handle handle, Handle grad) {
  return guarded(-1, [&] { return handle->mutable_grad() = borrow(grad), 0; });
}

HY_EXPORT int32_t hy_tensor_set_data(Handle handle, Handle data) {
  return guarded(-1, [&] { return borrow(handle).set_data(borrow(data)), 0; });
}
