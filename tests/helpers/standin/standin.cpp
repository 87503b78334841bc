// A stand-in device: its memory is the processor's, its device type is its own. Every operator runs on the processor, but
// only where all of its tensors are on the device, as on a GPU; float64 can be switched off, as on backends without it.
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_copy_from.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/_local_scalar_dense_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>
#include <torch/library.h>

#include <atomic>
#include <chrono>
#include <set>
#include <string>

namespace {

constexpr auto kind = c10::DeviceType::PrivateUse1;
std::atomic<bool> has_float64{true};
std::atomic<int64_t> limit{-1};  // bytes that may be held; below zero: any
std::atomic<int64_t> held{0};
std::atomic<int64_t> peak{0};

c10::Device here() { return {kind, 0}; }

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kind; }
  c10::Device exchangeDevice(c10::Device) const override { return here(); }
  c10::Device getDevice() const override { return here(); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device d) const override { return c10::Stream(c10::Stream::DEFAULT, d); }
  c10::Stream getNewStream(c10::Device d, int = 0) const override { return c10::Stream(c10::Stream::DEFAULT, d); }
  c10::Stream exchangeStream(c10::Stream s) const override { return s; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  // What is called is done when it returns: an event is a moment.
  void record(void** event, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {
    if (!*event) *event = new std::chrono::steady_clock::time_point;
    *static_cast<std::chrono::steady_clock::time_point*>(*event) = std::chrono::steady_clock::now();
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  double elapsedTime(void* a, void* b, const c10::DeviceIndex) const override {
    using moment = std::chrono::steady_clock::time_point;
    return std::chrono::duration<double, std::milli>(*static_cast<moment*>(b) - *static_cast<moment*>(a)).count();
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<std::chrono::steady_clock::time_point*>(event);
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Piece {
  c10::DataPtr memory;
  int64_t bytes;
};

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    const auto bytes = static_cast<int64_t>(n);
    if (limit >= 0 && held + bytes > limit)
      C10_THROW_ERROR(OutOfMemoryError, "standin out of memory. Tried to allocate " + std::to_string(bytes) + " bytes.");
    auto* piece = new Piece{c10::GetCPUAllocator()->allocate(n), bytes};
    held += bytes;
    if (held > peak) peak = held.load();
    void* data = piece->memory.get();
    return {data, piece, &free_piece, here()};
  }
  static void free_piece(void* context) {
    auto* piece = static_cast<Piece*>(context);
    held -= piece->bytes;
    delete piece;
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t n) const override { default_copy_data(to, from, n); }
};
Memory memory;

void refuse(c10::ScalarType dtype) {
  TORCH_CHECK_TYPE(has_float64 || (dtype != at::kDouble && dtype != at::kComplexDouble),
                   "Cannot convert a standin Tensor to float64 dtype as the standin backend does not support float64.");
}

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const auto type = dtype.value_or(c10::typeMetaToScalarType(c10::get_default_dtype()));
  refuse(type);
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), type, format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  const auto type = dtype.value_or(c10::typeMetaToScalarType(c10::get_default_dtype()));
  refuse(type);
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), type);
}

// The same memory seen as the processor's.
at::Tensor on_cpu(const at::Tensor& x) {
  if (x.device().type() != kind) return x;
  auto keep = x.unsafeGetTensorImpl()->storage();
  return at::from_blob(x.data_ptr(), x.sizes(), x.strides(), [keep](void*) {}, x.options().device(at::kCPU).requires_grad(false));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  at::NoGradGuard no_grad;
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

at::Tensor copy_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

const at::Tensor& resize(const at::Tensor& self, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  auto* impl = self.unsafeGetTensorImpl();
  if (self.sizes() != sizes) {
    int64_t n = self.storage_offset();
    int64_t count = 1;
    for (auto s : sizes) count *= s;
    const auto bytes = static_cast<size_t>((n + count) * self.itemsize());
    auto& storage = impl->storage();
    if (bytes > storage.nbytes()) {
      auto grown = memory.allocate(bytes);
      if (storage.nbytes()) std::memcpy(grown.get(), storage.data(), storage.nbytes());
      storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(grown));
      storage.unsafeGetStorageImpl()->set_nbytes(bytes);
    }
    impl->set_sizes_contiguous(sizes);
  }
  if (format && *format != at::MemoryFormat::Preserve) impl->empty_tensor_restride(*format);
  return self;
}

at::Tensor as_strided(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
                                           offset ? std::optional<int64_t>(offset->guard_int(__FILE__, __LINE__)) : std::nullopt);
}
at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef size) { return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size)); }
at::Tensor reshape_alias(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}
at::Tensor unfold(const at::Tensor& self, int64_t dim, int64_t size, int64_t step) { return at::native::unfold(self, dim, size, step); }
at::Tensor view_as_real(const at::Tensor& self) { return at::native::view_as_real(self); }
at::Tensor view_as_complex(const at::Tensor& self) { return at::native::view_as_complex(self); }
at::Scalar scalar(const at::Tensor& self) { return at::native::_local_scalar_dense_cpu(on_cpu(self)); }
at::Tensor& set_storage(at::Tensor& self, at::Storage source, c10::SymInt offset, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), offset.guard_int(__FILE__, __LINE__));
  return self;
}

at::Tensor to_device(const at::Tensor& x) { return x.defined() ? x.to(here()) : x; }
std::optional<at::Tensor> on_cpu(const std::optional<at::Tensor>& x) {
  return x && x->defined() ? std::optional<at::Tensor>(on_cpu(*x)) : std::nullopt;
}

void same(const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK(a.device() == b.device(), "Expected all tensors to be on the same device, but found at least two devices, ",
              a.device(), " and ", b.device(), "!");
}

at::Tensor convolution(const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& b, c10::SymIntArrayRef stride,
                       c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed,
                       c10::SymIntArrayRef output_padding, c10::SymInt groups) {
  same(x, w);
  return to_device(at::convolution_symint(on_cpu(x), on_cpu(w), on_cpu(b), stride, padding, dilation, transposed, output_padding, groups));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& g, const at::Tensor& x, const at::Tensor& w, c10::SymIntArrayRef stride, c10::SymIntArrayRef padding,
    c10::SymIntArrayRef dilation, bool transposed, c10::SymIntArrayRef output_padding, c10::SymInt groups, std::array<bool, 3> mask) {
  same(x, w);
  const auto bias = mask[2] ? c10::OptionalArrayRef<c10::SymInt>(c10::SymIntArrayRef(g.sym_sizes().data() + 1, 1)) : std::nullopt;
  auto [a, b, c] = at::convolution_backward_symint(on_cpu(g), on_cpu(x), on_cpu(w), bias, stride, padding, dilation, transposed,
                                                   output_padding, groups, mask);
  return {to_device(a), to_device(b), to_device(c)};
}

at::Tensor& set_whole(at::Tensor& self, at::Storage source) {
  const auto n = static_cast<int64_t>(source.nbytes() / self.itemsize());
  return set_storage(self, std::move(source), 0, {c10::SymInt(n)}, {c10::SymInt(1)});
}
at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  return set_storage(self, source.storage(), source.sym_storage_offset(), source.sym_sizes(), source.sym_strides());
}

// Index tensors may be on the processor here, as CUDA takes them.
const std::set<std::string> indexing{"aten::index.Tensor", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_",
                                     "aten::index.Tensor_out", "aten::_unsafe_index.Tensor"};

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto name = schema.operator_name().name + (schema.overload_name().empty() ? "" : "." + schema.overload_name());
  const auto count = schema.arguments().size();
  const bool loose = indexing.count(name) > 0;
  auto check = [&](const at::Tensor& x) {
    if (!x.defined() || x.device().type() == kind) return;
    if (x.dim() == 0 || (loose && !x.is_floating_point())) return;
    C10_THROW_ERROR(Error, "Expected all tensors to be on the same device, but found at least two devices, standin:0 and " +
                               x.device().str() + "! (when checking argument of " + name + ")");
  };
  for (const auto& value : torch::jit::last(*stack, count)) {
    if (value.isTensor()) check(value.toTensor());
    else if (value.isTensorList())
      for (const at::Tensor x : value.toTensorList()) check(x);
    else if (value.isOptionalTensorList())
      for (const std::optional<at::Tensor> x : value.toOptionalTensorList())
        if (x) check(*x);
  }
  at::native::cpu_fallback(op, stack);
}

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_and_resize);
  m.impl("resize_", &resize);
  m.impl("as_strided", &as_strided);
  m.impl("view", &view);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("unfold", &unfold);
  m.impl("view_as_real", &view_as_real);
  m.impl("view_as_complex", &view_as_complex);
  m.impl("_local_scalar_dense", &scalar);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
  m.impl("set_.source_Storage", &set_whole);
  m.impl("set_.source_Tensor", &set_tensor);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
}

struct Hooks final : at::PrivateUse1HooksInterface {
  void init() const override {}
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
};

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  c10::SetAllocator(kind, &memory);
  m.def("float64", [](bool given) { has_float64 = given; });
  m.def("limit", [](int64_t bytes) { limit = bytes; });
  m.def("held", [] { return held.load(); });
  m.def("peak", [] { const auto p = peak.load(); peak = held.load(); return p; });
}
