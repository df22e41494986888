// SPDX-License-Identifier: Apache-2.0
#include "runtime/backend/cuda/cuda_backend.h"

#include <algorithm>

#include "runtime/base/strings.h"

namespace adapmoe {

bool built_with_cuda() { return true; }

bool without_gpu() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  return error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice;
}

Result<std::unique_ptr<Backend>> make_cuda_backend(const BackendShape& shape,
                                                   bool integrated_only) {
  return cuda::CudaBackend::make(shape, integrated_only);
}

namespace cuda {
Status failed(std::string_view what, cudaError_t error) {
  return unavailable(str_cat("backend=\"cuda\": ", what, ": ", cudaGetErrorString(error)));
}

Result<std::unique_ptr<Backend>> CudaBackend::make(const BackendShape& shape,
                                                   bool integrated_only) {
  int devices = 0;
  cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaErrorInsufficientDriver) {  // also CUDA's word for no driver at all
    return unavailable(
        "backend=\"cuda\": no NVIDIA driver here, or one older than the CUDA of this build");
  }
  int device = 0;
  if (error == cudaSuccess) error = cudaGetDevice(&device);
  if (error != cudaSuccess) return failed("no usable GPU", error);
  int major = 0;
  int minor = 0;
  int registers = 0;
  int integrated = 0;
  for (const auto& [value, attribute] : {std::pair{&major, cudaDevAttrComputeCapabilityMajor},
                                         std::pair{&minor, cudaDevAttrComputeCapabilityMinor},
                                         std::pair{&integrated, cudaDevAttrIntegrated},
                                         std::pair{&registers, cudaDevAttrHostRegisterSupported}}) {
    error = cudaDeviceGetAttribute(value, attribute, device);
    if (error != cudaSuccess) return failed("the GPU does not answer", error);
  }
  const bool w4a16 = shape.expert_path == ExpertPath::kW4A16;
  const std::string name = str_cat("cuda/sm_", major, minor, w4a16 ? "/w4a16" : "");
  if (registers == 0) {
    return unavailable(str_cat("backend=\"cuda\": the GPU (", name,
                               ") cannot share memory with the CPU (cudaHostRegister)"));
  }
  error = check_kernels();
  if (error != cudaSuccess) return failed(str_cat("this build has no kernels for ", name), error);
  if (integrated_only && integrated == 0) {
    return unavailable(
        str_cat("backend=\"cuda\": ", name,
                " has memory of its own, and no such GPU has been tried yet; ask for it by name"));
  }
  cudaStream_t stream = nullptr;
  error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error != cudaSuccess) return failed("cannot start on the GPU", error);
  auto backend = std::unique_ptr<CudaBackend>(
      new CudaBackend(shape, device, integrated != 0, stream, CopyLane(), name));
  error = backend->copies_.open(device);
  if (error != cudaSuccess) return failed("cannot start on the GPU", error);
  return std::unique_ptr<Backend>(std::move(backend));
}

CudaBackend::~CudaBackend() {
  (void)cudaSetDevice(device_);
  (void)cudaStreamSynchronize(stream_);
  (void)cudaStreamDestroy(stream_);
}

CudaBackend::Scratch CudaBackend::layout(Bump& bump) const {
  const ModelConfig& c = shape_.config;
  Scratch s;
  s.input.layout(bump, shape_.max_rows, std::max(c.hidden_size, c.q_rows()), true);
  const bool quantized = quantized_experts();
  if (quantized) s.expert_input.layout(bump, shape_.max_rows, c.hidden_size, true);
  s.expert_act.layout(bump, shape_.max_rows * c.router.top_k, intermediate(), quantized);
  s.expert_act.group = quantized ? shape_.tile.down_proj.group_size : 0;
  s.gate = bump.take<float>(kRowsAtOnce * intermediate());
  s.up = bump.take<float>(kRowsAtOnce * intermediate());
  s.parameters = bump.take<std::byte>(ring_bytes() + table_bytes() + kPageBytes);
  s.plan = layout_plan(bump);
  s.attention = layout_attention(bump);
  return s;
}

// What one operator needs at most, several times over, so that few of them wait; whole pages.
int64_t CudaBackend::ring_bytes() const {
  const ModelConfig& c = shape_.config;
  const int64_t experts = c.num_local_experts;
  const int64_t row = static_cast<int64_t>(sizeof(KVPlace)) + int64_t{16} * c.router.top_k;
  return align_up(4 * (shape_.max_rows * row + experts * (shape_.tiles * 8 + 256) + 4096),
                  kPageBytes);
}

int64_t CudaBackend::scratch_bytes() const {
  Bump count;
  layout(count);
  return count.used();
}

void CudaBackend::set_scratch(std::span<std::byte> scratch) {
  Bump bump(scratch);
  scratch_ = layout(bump);
  // The ring and the tables, which the host writes, have a page to spare: they begin on one.
  const auto at = reinterpret_cast<intptr_t>(scratch_.parameters);
  scratch_.parameters += align_up(at, kPageBytes) - at;
  const auto ring = static_cast<size_t>(ring_bytes());
  const auto tables = static_cast<size_t>(table_bytes());
  ring_ = ParameterRing({scratch_.parameters, ring});
  Bump after_ring({scratch_.parameters + ring, tables});
  scratch_.step = layout_tables(after_ring);
  auto shared = memory_.share({scratch_.parameters, ring + tables});
  if (shared.ok()) {
    parameters_on_device_ = shared.value();
  } else {
    error_ = shared.status();
  }
}

void CudaBackend::note(cudaError_t error) {
  idle_ = false;
  if (error != cudaSuccess && error_.ok()) error_ = failed("the GPU failed", error);
}

Status CudaBackend::wait() {
  if (idle_) return error_;
  ++waits_;
  note(cudaStreamSynchronize(stream_));
  idle_ = true;
  tables_in_use_ = false;
  ring_.clear();
  return error_;
}

void CudaBackend::make_room(int64_t bytes) {
  if (!ring_.fits(bytes)) (void)wait();
}

ActRows CudaBackend::device_act(const ActRows& act) const {
  ActRows moved = act;
  if (act.q != nullptr) {
    moved.q = device(act.q);
    moved.scale = device(act.scale);
    moved.sum = device(act.sum);
  } else {
    moved.x = device(act.x);
  }
  return moved;
}

void CudaBackend::quantize(Rows x, int64_t cols, int64_t group, ActBuffer& into) {
  into.group = group;
  note(launch_quantize({.x = device(x.data),
                        .stride = x.stride,
                        .rows = x.rows,
                        .groups = cols / group,
                        .group = group,
                        .q = device(into.q),
                        .scale = device(into.scale),
                        .sum = device(into.sum),
                        .q_stride = into.cols,
                        .group_stride = into.cols / group},
                       stream_));
}

void CudaBackend::embed(const Matrix& table, std::span<const int32_t> ids, Rows out) {
  (void)wait();                                      // a step that failed may have left work behind
  const cudaError_t error = cudaSetDevice(device_);  // the caller's thread may be new
  if (error != cudaSuccess) note(error);
  EmbedArgs args{.w = pieces(table.shape, 0),
                 .rows = out.rows,
                 .cols = table.shape.cols,
                 .out = device(out.data),
                 .out_stride = out.stride};
  args.w.only = device(table.data);
  args.ids = parameter(ids);
  note(launch_embed(args, stream_));
}

void CudaBackend::rms_norm(const float* weight, Rows x, Rows y) {
  const ModelConfig& c = shape_.config;
  note(launch_rms_norm({.x = device(x.data),
                        .x_stride = x.stride,
                        .weight = device(weight),
                        .rows = x.rows,
                        .n = c.hidden_size,
                        .padded = align_up(c.hidden_size, kBlockRows),
                        .eps = c.rms_norm_eps,
                        .y = device(y.data),
                        .y_stride = y.stride},
                       stream_));
}

PackedPieces CudaBackend::pieces(const PackedShape& shape, int64_t offset) const {
  return {.dtype = shape.dtype,
          .offset = offset,
          .blocks = shape.blocks(),
          .block_bytes = shape.block_bytes(),
          .scale_bytes = shape.scale_bytes(),
          .cols = shape.cols_padded(),
          .group_size = shape.group_size};
}

void CudaBackend::linear(Rows x, std::span<const LinearOp> ops) {
  bool quantized = false;
  for (const LinearOp& op : ops) {
    const PackedShape& s = op.w->shape;
    if (is_quantized(s.dtype) && !quantized) {
      quantize(x, s.cols_padded(), s.group_size, scratch_.input);
      quantized = true;
    }
    ProductArgs args{.w = pieces(s, 0),
                     .act = is_quantized(s.dtype)
                                ? device_act(scratch_.input.view(0, 0))
                                : ActRows{.x = device(x.data), .x_stride = x.stride},
                     .rows = x.rows,
                     .y = device(op.y.data),
                     .y_stride = op.y.stride};
    args.w.only = device(op.w->data);
    note(launch_product(args, stream_));
  }
}

void CudaBackend::add(Rows x, Rows into) {
  note(launch_add({.x = device(x.data),
                   .x_stride = x.stride,
                   .into = device(into.data),
                   .into_stride = into.stride,
                   .rows = x.rows,
                   .n = shape_.config.hidden_size},
                  stream_));
}

void CudaBackend::combine(const CombineOp& op) {
  make_room(ParameterRing::bytes_of<float>(op.weights.size()) +
            ParameterRing::bytes_of<int32_t>(op.outputs.size()));
  const float* weights = parameter(op.weights);
  note(launch_combine({.outputs = parameter(op.outputs),
                       .weights = weights,
                       .top_k = shape_.config.router.top_k,
                       .expert_out = device(op.expert_out.data),
                       .out_stride = op.expert_out.stride,
                       .hidden = {.into = device(op.hidden.data),
                                  .into_stride = op.hidden.stride,
                                  .rows = op.hidden.rows,
                                  .n = shape_.config.hidden_size}},
                      stream_));
}

}  // namespace cuda
}  // namespace adapmoe
