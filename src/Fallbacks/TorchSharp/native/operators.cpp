// Every ATen operator through the boxed dispatcher: autograd, promotion and devices come with it.
#include "shim.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

namespace {

struct Operator {
  c10::OperatorHandle handle;
  size_t arguments;
};

// The stack of this thread is taken out while an operator runs, so that an operator that gets back here finds none.
thread_local torch::jit::Stack spareStack;

c10::IValue unpack(const Value& value) {
  switch (value.tag) {
    case Tag::None: return c10::IValue();
    case Tag::Tensor: return borrow(static_cast<Handle>(const_cast<void*>(value.pointer)));
    case Tag::Int: return value.integer;
    case Tag::Double: return value.real;
    case Tag::Bool: return value.integer != 0;
    case Tag::Complex: {
      auto parts = static_cast<const double*>(value.pointer);
      return c10::IValue(c10::complex<double>(parts[0], parts[1]));
    }
    case Tag::Device: return unpackDevice(value.integer);
    case Tag::String: return std::string(static_cast<const char*>(value.pointer), value.count);
    case Tag::IntList:
      return c10::IValue(at::IntArrayRef(static_cast<const int64_t*>(value.pointer), value.count));
    case Tag::DoubleList:
      return c10::IValue(at::ArrayRef<double>(static_cast<const double*>(value.pointer), value.count));
    case Tag::BoolList: {
      c10::List<bool> list;
      for (int i = 0; i < value.count; i++) list.push_back(static_cast<const uint8_t*>(value.pointer)[i] != 0);
      return list;
    }
    case Tag::TensorList: {
      c10::List<at::Tensor> list;
      list.reserve(value.count);
      for (int i = 0; i < value.count; i++) list.push_back(borrow(static_cast<const Handle*>(value.pointer)[i]));
      return list;
    }
    case Tag::OptionalTensorList: {
      c10::List<Optional<at::Tensor>> list;
      list.reserve(value.count);
      for (int i = 0; i < value.count; i++) {
        auto handle = static_cast<const Handle*>(value.pointer)[i];
        list.push_back(handle ? Optional<at::Tensor>(borrow(handle)) : Optional<at::Tensor>());
      }
      return list;
    }
    case Tag::Generator: return *static_cast<const at::Generator*>(value.pointer);
    default: TORCH_CHECK(false, "value of unknown kind ", static_cast<int>(value.tag));
  }
}

Value pack(c10::IValue&& result) {
  Value value{};
  if (result.isTensor()) {
    value.tag = Tag::Tensor;
    value.pointer = release(std::move(result).toTensor());
  } else if (result.isTensorList()) {
    auto list = std::move(result).toTensorVector();
    auto handles = new Handle[list.size()];
    for (size_t i = 0; i < list.size(); i++) handles[i] = release(std::move(list[i]));
    value.tag = Tag::TensorList;
    value.count = static_cast<int32_t>(list.size());
    value.pointer = handles;
  } else if (result.isBool()) {
    value.tag = Tag::Bool;
    value.integer = result.toBool();
  } else if (result.isInt()) {
    value.tag = Tag::Int;
    value.integer = result.toInt();
  } else if (result.isDouble()) {
    value.tag = Tag::Double;
    value.real = result.toDouble();
  } else if (result.isNone()) {
    value.tag = Tag::None;
  } else {
    TORCH_CHECK(false, "result of unknown kind ", result.tagKind());
  }
  return value;
}

void run(const Operator& op, const Value* arguments, int32_t count, torch::jit::Stack& stack) {
  TORCH_CHECK(static_cast<size_t>(count) <= op.arguments, op.handle.schema(), ": too many arguments, ", count);
  stack.reserve(op.arguments);
  const auto defaulted = [&](size_t i) {
    const auto& argument = op.handle.schema().arguments()[i];
    TORCH_CHECK(argument.default_value().has_value(), op.handle.schema(), ": missing argument ", argument.name());
    stack.push_back(*argument.default_value());
  };
  for (int32_t i = 0; i < count; i++) {
    if (arguments[i].tag == Tag::Default) defaulted(i); else stack.push_back(unpack(arguments[i]));
  }
  for (size_t i = count; i < op.arguments; i++) defaulted(i);
  op.handle.callBoxed(&stack);
}

}  // namespace

HY_EXPORT Operator* hy_operator(const char* name, const char* overload) {
  return guarded(static_cast<Operator*>(nullptr), [&] {
    auto handle = c10::Dispatcher::singleton().findSchemaOrThrow(name, overload);
    return new Operator{handle, handle.schema().arguments().size()};
  });
}

HY_EXPORT bool hy_operator_exists(const char* name, const char* overload) {
  return guarded(false, [&] { return c10::Dispatcher::singleton().findSchema({name, overload}).has_value(); });
}

// Calls an operator that returns one tensor.
HY_EXPORT int32_t hy_call_tensor(const Operator* op, const Value* arguments, int32_t count, Handle* result) {
  return guarded(-1, [&] {
    auto stack = std::move(spareStack);
    stack.clear();
    run(*op, arguments, count, stack);
    *result = release(std::move(stack.front()).toTensor());
    stack.clear();
    spareStack = std::move(stack);
    return 0;
  });
}

// Calls any operator; gives the number of results, at most `capacity`.
HY_EXPORT int32_t hy_call(const Operator* op, const Value* arguments, int32_t count, Value* results, int32_t capacity) {
  return guarded(-1, [&] {
    torch::jit::Stack stack;
    run(*op, arguments, count, stack);
    TORCH_CHECK(stack.size() <= static_cast<size_t>(capacity), op->handle.schema(), ": more than ", capacity, " results");
    for (size_t i = 0; i < stack.size(); i++) results[i] = pack(std::move(stack[i]));
    return static_cast<int>(stack.size());
  });
}

HY_EXPORT void hy_list_free(const Handle* handles) {
  delete[] handles;
}
