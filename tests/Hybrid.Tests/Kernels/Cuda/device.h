// What NVRTC knows by itself, for clang, which compiles for NVIDIA devices without a toolkit.
#pragma once

#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(threads) __attribute__((launch_bounds(threads)))

struct Index { unsigned x; };
#define blockIdx (Index { (unsigned)__nvvm_read_ptx_sreg_ctaid_x() })
#define threadIdx (Index { (unsigned)__nvvm_read_ptx_sreg_tid_x() })

#define gridDim (Index { (unsigned)__nvvm_read_ptx_sreg_nctaid_x() })

extern "C" __device__ float expf(float);
extern "C" __device__ float exp2f(float);
extern "C" __device__ float log1pf(float);
extern "C" __device__ float expm1f(float);
extern "C" __device__ float fmaf(float, float, float);
extern "C" __device__ float sqrtf(float);
extern "C" __device__ float sinf(float);
extern "C" __device__ float cosf(float);
extern "C" __device__ float tanhf(float);

__device__ inline float __uint_as_float(unsigned bits) { return __builtin_bit_cast(float, bits); }
__device__ inline unsigned __float_as_uint(float value) { return __builtin_bit_cast(unsigned, value); }
__device__ inline float __shfl_xor_sync(unsigned lanes, float value, int mask) { return __nvvm_shfl_sync_bfly_f32(lanes, value, mask, 0x1f); }
__device__ inline void __threadfence() { __nvvm_membar_gl(); }
__device__ inline unsigned atomicAdd(unsigned* address, unsigned value) { return (unsigned)__nvvm_atom_add_gen_i((int*)address, (int)value); }
__device__ inline void __syncwarp() { __nvvm_bar_warp_sync(0xffffffffu); }
