using TorchSharp.Native;

namespace TorchSharp;

public static partial class torch
{
    public partial class Tensor
    {
        public Tensor abs() => Ops.abs.Call(this);
        public Tensor abs_() => Ops.abs_.Update(this);
        public Tensor absolute() => abs();
        public Tensor ceil() => Ops.ceil.Call(this);
        public Tensor ceil_() => Ops.ceil_.Update(this);
        public Tensor cos() => Ops.cos.Call(this);
        public Tensor cos_() => Ops.cos_.Update(this);
        public Tensor erf() => Ops.erf.Call(this);
        public Tensor erf_() => Ops.erf_.Update(this);
        public Tensor exp() => Ops.exp.Call(this);
        public Tensor exp_() => Ops.exp_.Update(this);
        public Tensor exp2() => Ops.exp2.Call(this);
        public Tensor exp2_() => Ops.exp2_.Update(this);
        public Tensor expm1() => Ops.expm1.Call(this);
        public Tensor expm1_() => Ops.expm1_.Update(this);
        public Tensor floor() => Ops.floor.Call(this);
        public Tensor floor_() => Ops.floor_.Update(this);
        public Tensor log() => Ops.log.Call(this);
        public Tensor log_() => Ops.log_.Update(this);
        public Tensor log10() => Ops.log10.Call(this);
        public Tensor log1p() => Ops.log1p.Call(this);
        public Tensor log1p_() => Ops.log1p_.Update(this);
        public Tensor log2() => Ops.log2.Call(this);

        public Tensor nan_to_num(double nan = 0.0, double? posinf = null, double? neginf = null) =>
            Ops.nan_to_num.Call(this, nan, posinf, neginf);

        public Tensor positive() => Ops.positive.Call(this);
        public Tensor reciprocal() => Ops.reciprocal.Call(this);
        public Tensor reciprocal_() => Ops.reciprocal_.Update(this);
        public Tensor round(long decimals = 0) => Ops.round_decimals.Call(this, decimals);
        public Tensor round_(long decimals = 0) => Ops.round__decimals.Update(this, decimals);
        public Tensor rsqrt() => Ops.rsqrt.Call(this);
        public Tensor rsqrt_() => Ops.rsqrt_.Update(this);
        public Tensor sigmoid() => Ops.sigmoid.Call(this);
        public Tensor sigmoid_() => Ops.sigmoid_.Update(this);
        public Tensor sign() => Ops.sign.Call(this);
        public Tensor sign_() => Ops.sign_.Update(this);
        public Tensor sin() => Ops.sin.Call(this);
        public Tensor sin_() => Ops.sin_.Update(this);
        public Tensor sqrt() => Ops.sqrt.Call(this);
        public Tensor sqrt_() => Ops.sqrt_.Update(this);
        public Tensor square() => Ops.square.Call(this);
        public Tensor tan() => Ops.tan.Call(this);
        public Tensor tanh() => Ops.tanh.Call(this);
        public Tensor tanh_() => Ops.tanh_.Update(this);
        public Tensor trunc() => Ops.trunc.Call(this);
        public Tensor trunc_() => Ops.trunc_.Update(this);

        public Tensor relu() => Ops.relu.Call(this);
        public Tensor relu_() => Ops.relu_.Update(this);
        public Tensor gelu() => Ops.gelu.Call(this);
        public Tensor gelu(Modules.GELU.Approximate approximate) => Ops.gelu.Call(this, approximate.ToString());
        public Tensor gelu_() => Ops.gelu_.Update(this);
        public Tensor gelu_(Modules.GELU.Approximate approximate) => Ops.gelu_.Update(this, approximate.ToString());
        public Tensor silu() => Ops.silu.Call(this);
        public Tensor silu_() => Ops.silu_.Update(this);
        public Tensor softplus(double beta = 1.0, double threshold = 20.0) => Ops.softplus.Call(this, beta, threshold);
        public Tensor log_sigmoid() => Ops.log_sigmoid.Call(this);

        public Tensor real => Ops.real.Call(this);
        public Tensor imag => Ops.imag.Call(this);
        public Tensor view_as_complex() => Ops.view_as_complex.Call(this);
        public Tensor view_as_real() => Ops.view_as_real.Call(this);
    }
}
