using System.Globalization;
using TorchSharp.Native;

namespace TorchSharp;

public enum DeviceType
{
    CPU = 0,
    CUDA = 1,
    MKLDNN = 2,
    OPENGL = 3,
    OPENCL = 4,
    IDEEP = 5,
    HIP = 6,
    FPGA = 7,
    MSNPU = 8,
    XLA = 9,
    MPS = 13,
    META = 14,
}

public static partial class torch
{
    public class Device
    {
        public DeviceType type { get; } = DeviceType.CPU;

        /// <summary>-1 is the current device of the type.</summary>
        public int index { get; } = -1;

        internal long Packed => (long)type | ((long)index << 32);

        public Device(string description)
        {
            var parts = description.Split(':');
            type = Parse(parts[0]);
            if (parts.Length == 1) return;
            if (parts.Length > 2 || !int.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out var parsed))
                throw new ArgumentException($"Invalid device '{description}'; expected 'type' or 'type:index'.", nameof(description));
            index = parsed;
        }

        public Device(string deviceType, int index = -1) : this(Parse(deviceType), index) { }

        public Device(DeviceType deviceType, int index = -1)
        {
            type = deviceType;
            this.index = index;
        }

        public Device(int index) : this(DeviceType.CUDA, index) { }

        public static implicit operator Device(string description) => new(description);

        public override string ToString() =>
            index == -1 ? Name : string.Create(CultureInfo.InvariantCulture, $"{Name}:{index}");

        private string Name => type.ToString().ToLowerInvariant();

        private static DeviceType Parse(string name) =>
            name.Length > 0 && char.IsLetter(name[0]) && Enum.TryParse<DeviceType>(name, ignoreCase: true, out var type)
                ? type
                : throw new ArgumentException($"Unknown device type '{name}'.", nameof(name));
    }

    public static readonly Device CPU = new(DeviceType.CPU);
    public static readonly Device META = new(DeviceType.META);

    // Unlike a constructor these ask for a device that can be used; an index alone is not looked at, as in TorchSharp.
    public static Device CUDA => InitializeDevice(new(DeviceType.CUDA));

    public static Device device(string description) => InitializeDevice(new(description));
    public static Device device(string deviceType, int index = -1) => InitializeDevice(new(deviceType, index));
    public static Device device(DeviceType deviceType, int index = -1) => InitializeDevice(new(deviceType, index));
    public static Device device(int index) => new(index);

    private static Device defaultDevice = CPU;

    public static Device get_default_device() => defaultDevice;
    public static void set_default_device(Device device) => defaultDevice = device;
    public static void set_default_device(string device) => defaultDevice = new Device(device);

    /// <summary>The device to create on: the given one, if this libtorch can use it, else the default one.</summary>
    public static Device InitializeDevice(Device? device)
    {
        var chosen = device ?? get_default_device();
        InitializeDeviceType(chosen.type);
        return chosen;
    }

    public static void InitializeDeviceType(DeviceType deviceType)
    {
        if (!TryInitializeDeviceType(deviceType))
            throw new InvalidOperationException($"Torch device type {deviceType} did not initialise on the current machine.");
    }

    public static bool TryInitializeDeviceType(DeviceType deviceType) =>
        deviceType is not DeviceType.CUDA || Shim.hy_device_count((int)DeviceType.CUDA) > 0;

    public static bool cuda_is_available() => cuda.is_available();

    public static class cuda
    {
        public static bool is_available() => device_count() > 0;

        public static int device_count() => Shim.hy_device_count((int)DeviceType.CUDA);

        public static void manual_seed(long seed)
        {
            InitializeDeviceType(DeviceType.CUDA);
            using var generator = Generator.DefaultOf(new Device(DeviceType.CUDA, Shim.hy_device_current((int)DeviceType.CUDA)));
            generator.manual_seed(seed);
        }

        public static void manual_seed_all(long seed)
        {
            for (var index = 0; index < device_count(); index++)
            {
                using var generator = Generator.DefaultOf(new Device(DeviceType.CUDA, index));
                generator.manual_seed(seed);
            }
        }

        public static void synchronize(Device? device = null)
        {
            InitializeDeviceType(DeviceType.CUDA);
            var index = device?.index ?? -1;
            if (index < 0) index = Shim.hy_device_current((int)DeviceType.CUDA);
            Shim.Check(Shim.hy_device_synchronize(new Device(DeviceType.CUDA, index).Packed));
        }
    }
}
