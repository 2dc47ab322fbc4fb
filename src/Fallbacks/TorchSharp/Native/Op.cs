using System.Runtime.CompilerServices;
using System.Text;

namespace TorchSharp.Native;

/// <summary>An ATen operator, looked up at its first call: "add.Tensor" is the overload Tensor of aten::add.</summary>
internal sealed unsafe class Op(string name)
{
    private nint handle;

    public static implicit operator Op(string name) => new(name);

    /// <summary>Whether this libtorch has the operator; old ones lack some.</summary>
    public bool Exists
    {
        get
        {
            var (text, overload) = Split();
            fixed (byte* operatorName = text, overloadName = overload) return Shim.hy_operator_exists(operatorName, overloadName) != 0;
        }
    }

    public torch.Tensor Call(Arg a)
    {
        fixed (byte* pa = a)
        {
            var values = stackalloc Value[] { a.At(pa) };
            var result = Run(values, 1);
            GC.KeepAlive(a.Owner);
            return result;
        }
    }

    public torch.Tensor Call(Arg a, Arg b)
    {
        fixed (byte* pa = a, pb = b)
        {
            var values = stackalloc Value[] { a.At(pa), b.At(pb) };
            var result = Run(values, 2);
            GC.KeepAlive(a.Owner);
            GC.KeepAlive(b.Owner);
            return result;
        }
    }

    public torch.Tensor Call(Arg a, Arg b, Arg c)
    {
        fixed (byte* pa = a, pb = b, pc = c)
        {
            var values = stackalloc Value[] { a.At(pa), b.At(pb), c.At(pc) };
            var result = Run(values, 3);
            GC.KeepAlive(a.Owner);
            GC.KeepAlive(b.Owner);
            GC.KeepAlive(c.Owner);
            return result;
        }
    }

    public torch.Tensor Call(
        Arg a, Arg b, Arg c, Arg d, Arg e = default, Arg f = default, Arg g = default, Arg h = default, Arg i = default,
        Arg j = default, Arg k = default, Arg l = default)
    {
        fixed (byte* pa = a, pb = b, pc = c, pd = d, pe = e, pf = f)
        fixed (byte* pg = g, ph = h, pi = i, pj = j, pk = k, pl = l)
        {
            var values = stackalloc Value[]
            {
                a.At(pa), b.At(pb), c.At(pc), d.At(pd), e.At(pe), f.At(pf), g.At(pg), h.At(ph), i.At(pi), j.At(pj), k.At(pk), l.At(pl),
            };
            var result = Run(values, Given(values, 12));
            KeepAlive(a.Owner, b.Owner, c.Owner, d.Owner, e.Owner, f.Owner, g.Owner, h.Owner, i.Owner, j.Owner, k.Owner, l.Owner);
            return result;
        }
    }

    /// <summary>For operators that change their first tensor, which is also what TorchSharp returns: the same object.</summary>
    public torch.Tensor Update(torch.Tensor self, Arg b = default, Arg c = default, Arg d = default, Arg e = default)
    {
        Arg a = self;
        fixed (byte* pa = a, pb = b, pc = c, pd = d, pe = e)
        {
            var values = stackalloc Value[] { a.At(pa), b.At(pb), c.At(pc), d.At(pd), e.At(pe) };
            nint result;
            if (Shim.hy_call_tensor(Handle, values, Given(values, 5), &result) < 0) Shim.Throw();
            Shim.hy_tensor_free(result);
            KeepAlive(self, b.Owner, c.Owner, d.Owner, e.Owner);
            return self;
        }
    }

    /// <summary>For operators that return something else than one tensor.</summary>
    public Results Calls(
        Arg a, Arg b = default, Arg c = default, Arg d = default, Arg e = default, Arg f = default, Arg g = default, Arg h = default,
        Arg i = default)
    {
        fixed (byte* pa = a, pb = b, pc = c, pd = d, pe = e)
        fixed (byte* pf = f, pg = g, ph = h, pi = i)
        {
            var values = stackalloc Value[] { a.At(pa), b.At(pb), c.At(pc), d.At(pd), e.At(pe), f.At(pf), g.At(pg), h.At(ph), i.At(pi) };
            Results results;
            Shim.Check(Shim.hy_call(Handle, values, Given(values, 9), (Value*)&results, Results.Capacity));
            KeepAlive(a.Owner, b.Owner, c.Owner, d.Owner, e.Owner, f.Owner, g.Owner, h.Owner, i.Owner);
            return results;
        }
    }

    private nint Handle => handle != 0 ? handle : Resolve();

    private torch.Tensor Run(Value* values, int count)
    {
        nint result;
        if (Shim.hy_call_tensor(Handle, values, count, &result) < 0) Shim.Throw();
        return new torch.Tensor(result);
    }

    private static int Given(Value* values, int count)
    {
        while (count > 0 && values[count - 1].Tag == Tag.Default) count--;
        return count;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void KeepAlive(
        object? a, object? b, object? c, object? d, object? e, object? f = null, object? g = null, object? h = null, object? i = null,
        object? j = null, object? k = null, object? l = null) { }

    private nint Resolve()
    {
        var (text, overload) = Split();
        fixed (byte* operatorName = text, overloadName = overload)
            return handle = Shim.Check(Shim.hy_operator(operatorName, overloadName));
    }

    private (byte[] Name, byte[] Overload) Split()
    {
        var dot = name.IndexOf('.', StringComparison.Ordinal);
        var (text, overload) = dot < 0 ? (name, "") : (name[..dot], name[(dot + 1)..]);
        return (Encoding.ASCII.GetBytes($"aten::{text}\0"), Encoding.ASCII.GetBytes($"{overload}\0"));
    }
}

/// <summary>What an operator returned; the tensors in it belong to the reader.</summary>
[InlineArray(Capacity)]
internal unsafe struct Results
{
    public const int Capacity = 5;
    private Value first;

    public torch.Tensor Tensor(int index) => new((nint)this[index].Integer);

    public bool Bool => this[0].Integer != 0;

    public (torch.Tensor, torch.Tensor) Pair => (Tensor(0), Tensor(1));

    public torch.Tensor[] List
    {
        get
        {
            var handles = (nint*)this[0].Pointer;
            var tensors = new torch.Tensor[this[0].Count];
            for (var i = 0; i < tensors.Length; i++) tensors[i] = new torch.Tensor(handles[i]);
            Shim.hy_list_free(handles);
            return tensors;
        }
    }
}
