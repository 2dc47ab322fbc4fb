// Backward passes, the modes of autograd, and nodes whose backward is managed code.
#include "shim.h"

#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

using torch::autograd::AutogradContext;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

namespace {

// Nodes are owned by shared_ptr in older versions and by intrusive_ptr in newer ones.
template <class T>
std::weak_ptr<T> weaken(const std::shared_ptr<T>& node) { return std::weak_ptr<T>(node); }
template <class T, class N>
c10::weak_intrusive_ptr<T, N> weaken(const c10::intrusive_ptr<T, N>& node) { return c10::weak_intrusive_ptr<T, N>(node); }
using WeakNode = decltype(weaken(std::declval<at::Tensor>().grad_fn()));

// Fills `gradients` with one handle per tensor argument; gives 0, or else the exception is kept under that name.
using BackwardCallback = int64_t (*)(int64_t state, void* node, Handle* received, int32_t count, Handle* gradients);
using ReleaseCallback = void (*)(int64_t state);
BackwardCallback backwardCallback;
ReleaseCallback releaseCallback;

// What a node keeps for its managed backward; dies with the node. Saved tensors stay until then, also after a backward.
struct NodeState : torch::CustomClassHolder {
  int64_t managed;
  size_t tensors = 0;  // arguments, each of which gets a gradient
  variable_list outputs, dirty, nonDifferentiable;
  std::vector<SavedVariable> saved;
  Optional<WeakNode> node;

  explicit NodeState(int64_t managed) : managed(managed) {}
  ~NodeState() override { releaseCallback(managed); }
};

struct ManagedFunction : torch::autograd::Function<ManagedFunction> {
  // The managed forward has already run: this hands its outcome to the graph.
  static variable_list forward(AutogradContext* context, c10::intrusive_ptr<NodeState> state, at::TensorList) {
    context->saved_data["state"] = c10::IValue::make_capsule(state);
    context->set_materialize_grads(false);  // the managed side makes the zeros
    context->mark_dirty(state->dirty);
    context->mark_non_differentiable(state->nonDifferentiable);
    state->dirty.clear();
    state->nonDifferentiable.clear();
    return std::move(state->outputs);
  }

  static variable_list backward(AutogradContext* context, variable_list received) {
    auto capsule = context->saved_data["state"].toCapsule();
    auto& state = static_cast<NodeState&>(*capsule);

    std::vector<Handle> handles;
    for (auto& gradient : received) handles.push_back(release(std::move(gradient)));
    std::vector<Handle> returned(state.tensors);
    auto failure = backwardCallback(state.managed, &state, handles.data(), handles.size(), returned.data());

    variable_list gradients(1 + state.tensors);
    for (size_t i = 0; i < state.tensors; i++)
      if (returned[i]) gradients[1 + i] = at::Tensor(TensorPointer::reclaim(returned[i]));
    if (failure) throw std::runtime_error("managed exception " + std::to_string(failure));
    return gradients;
  }
};

variable_list borrowAll(const Handle* handles, int32_t count) {
  variable_list tensors;
  for (int32_t i = 0; i < count; i++) tensors.push_back(borrow(handles[i]));
  return tensors;
}

}  // namespace

HY_EXPORT void hy_function_callbacks(BackwardCallback backward, ReleaseCallback release) {
  backwardCallback = backward;
  releaseCallback = release;
}

struct FunctionCall {
  int64_t managed;
  const Handle *inputs, *outputs, *saved, *dirty, *nonDifferentiable;
  int32_t inputCount, outputCount, savedCount, dirtyCount, nonDifferentiableCount;
};

// Puts a node behind the outputs of a managed forward; `results` receives one handle per output.
// The managed state is released with the node, which may be before this returns.
HY_EXPORT int32_t hy_function_apply(const FunctionCall* call, Handle* results) {
  return guarded(-1, [&] {
    auto state = c10::make_intrusive<NodeState>(call->managed);
    auto inputs = borrowAll(call->inputs, call->inputCount);
    state->tensors = inputs.size();
    state->outputs = borrowAll(call->outputs, call->outputCount);
    state->dirty = borrowAll(call->dirty, call->dirtyCount);
    state->nonDifferentiable = borrowAll(call->nonDifferentiable, call->nonDifferentiableCount);

    auto outputs = ManagedFunction::apply(state, at::TensorList(inputs));

    for (auto& output : outputs)
      if (output.defined() && output.grad_fn() && !state->node) state->node.emplace(weaken(output.grad_fn()));
    if (state->node)
      for (auto& tensor : borrowAll(call->saved, call->savedCount))
        state->saved.emplace_back(tensor, tensor.defined() && tensor.grad_fn() == state->node->lock());

    for (size_t i = 0; i < outputs.size(); i++) results[i] = release(std::move(outputs[i]));
    return 0;
  });
}

HY_EXPORT int32_t hy_function_saved_count(const NodeState* state) { return state->saved.size(); }

HY_EXPORT int32_t hy_function_saved(const NodeState* state, Handle* results) {
  return guarded(-1, [&] {
    variable_list tensors;
    for (auto& saved : state->saved) tensors.push_back(saved.unpack(state->node->lock()));
    for (auto& tensor : tensors) *results++ = release(std::move(tensor));
    return 0;
  });
}

HY_EXPORT int32_t hy_backward(const Handle* roots, const Handle* gradients, int32_t count, int32_t retain, bool create,
                              const Handle* inputs, int32_t inputCount) {
  return guarded(-1, [&] {
    Optional<bool> retainGraph;
    if (retain >= 0) retainGraph = retain != 0;
    torch::autograd::backward(borrowAll(roots, count), gradients ? borrowAll(gradients, count) : variable_list(), retainGraph,
                              create, borrowAll(inputs, inputCount));
    return 0;
  });
}

HY_EXPORT int32_t hy_grad(const Handle* outputs, const Handle* gradients, int32_t count, const Handle* inputs,
                          int32_t inputCount, bool retain, bool create, bool allowUnused, Handle* results) {
  return guarded(-1, [&] {
    auto found = torch::autograd::grad(borrowAll(outputs, count), borrowAll(inputs, inputCount),
                                       gradients ? borrowAll(gradients, count) : variable_list(), retain, create, allowUnused);
    for (auto& tensor : found) *results++ = release(std::move(tensor));
    return 0;
  });
}

HY_EXPORT bool hy_grad_enabled() { return c10::GradMode::is_enabled(); }

HY_EXPORT void hy_set_grad_enabled(bool enabled) { c10::GradMode::set_enabled(enabled); }

HY_EXPORT c10::InferenceMode* hy_inference_mode_enter(bool enabled) { return new c10::InferenceMode(enabled); }

HY_EXPORT void hy_inference_mode_leave(c10::InferenceMode* guard) { delete guard; }

HY_EXPORT bool hy_inference_mode_enabled() { return c10::InferenceMode::is_enabled(); }

HY_EXPORT bool hy_anomaly_enabled() { return torch::autograd::AnomalyMode::is_enabled(); }

HY_EXPORT bool hy_anomaly_checks_nan() { return torch::autograd::AnomalyMode::should_check_nan(); }

HY_EXPORT void hy_set_anomaly(bool enabled, bool checkNan) { torch::autograd::AnomalyMode::set_enabled(enabled, checkNan); }
