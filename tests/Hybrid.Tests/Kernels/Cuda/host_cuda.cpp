// A CPU that answers to the part of NVRTC and of the CUDA driver that the library calls, so that everything above those two libraries runs
// in tests where there is no GPU: "compiling" is g++ with host.h, a "cubin" is a shared library, a launch runs all threads. It is strict
// where a device is: limits of a grid, the stream, a context that must be current. Compile with -DHOST_FOLDER="..." (where host.h is).
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <iterator>
#include <string>
#include <unistd.h>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace
{
    enum { Success = 0, InvalidValue = 1, NotFound = 500, LaunchFailed = 719, TooManyBlocks = 720, InvalidContext = 201, InvalidImage = 200 };
    enum { CompilationFailed = 6 };
    constexpr int Multiprocessors = 3, BlocksOfMultiprocessor = 2;
    constexpr char Magic[8] = { 'H', 'O', 'S', 'T', 'B', 'I', 'N', '\0' };

    struct Program
    {
        std::string name, source, log;
        std::vector<std::pair<std::string, std::string>> headers;
        std::vector<char> image;
    };

    struct Image
    {
        char magic[8];
        int64_t bytes;
    };


    thread_local std::vector<void*> contexts;
    std::string failure = "unknown error";

    std::string read(const std::string& path)
    {
        std::ifstream file(path, std::ios::binary);
        return { std::istreambuf_iterator<char>(file), {} };
    }

    void write(const std::string& path, const char* data, size_t bytes) { std::ofstream(path, std::ios::binary).write(data, static_cast<std::streamsize>(bytes)); }

    std::string temporary_folder()
    {
        char folder[] = "/tmp/hybrid-host-cuda-XXXXXX";
        return mkdtemp(folder) ? folder : "";
    }
}

// --- NVRTC ---------------------------------------------------------------------------------------------------------

EXPORT int nvrtcVersion(int* major, int* minor)
{
    *major = 12;
    *minor = 8;
    return 0;
}

EXPORT int nvrtcGetNumSupportedArchs(int* count)
{
    *count = 3;
    return 0;
}

EXPORT int nvrtcGetSupportedArchs(int* archs)
{
    archs[0] = 80;
    archs[1] = 86;
    archs[2] = 90;
    return 0;
}

EXPORT const char* nvrtcGetErrorString(int code) { return code == CompilationFailed ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR"; }

EXPORT int nvrtcCreateProgram(void** program, const char* source, const char* name, int count, const char** headers, const char** names)
{
    auto* created = new Program { name, source, "", {}, {} };
    for (int i = 0; i < count; ++i)
    {
        created->headers.emplace_back(names[i], headers[i]);
    }

    *program = created;
    return 0;
}

EXPORT int nvrtcCompileProgram(void* handle, int count, const char** options)
{
    auto& program = *static_cast<Program*>(handle);
    const std::string folder = temporary_folder();
    for (const auto& [name, text] : program.headers)
    {
        write(folder + "/" + name, text.data(), text.size());
    }

    write(folder + "/" + program.name, program.source.data(), program.source.size());
    std::string command = "g++ -x c++ -O2 -march=native -shared -fPIC -pthread -fno-strict-aliasing -U_FORTIFY_SOURCE -DHYBRID_HOST -Wall -Wno-unused-function -Wno-unknown-pragmas "
        "-I" HOST_FOLDER " -I" + folder;
    for (int i = 0; i < count; ++i)
    {
        const std::string option = options[i];
        if (option.rfind("-D", 0) == 0 || option.rfind("-std=", 0) == 0)
        {
            command += " '" + option + "'";
        }
    }

    command += " " + folder + "/" + program.name + " -o " + folder + "/kernel.so >" + folder + "/log 2>&1";
    const int status = std::system(command.c_str());
    program.log = read(folder + "/log");
    if (status == 0)
    {
        const std::string library = read(folder + "/kernel.so");
        Image image {};
        std::memcpy(image.magic, Magic, sizeof(Magic));
        image.bytes = static_cast<int64_t>(library.size());
        program.image.assign(reinterpret_cast<char*>(&image), reinterpret_cast<char*>(&image + 1));
        program.image.insert(program.image.end(), library.begin(), library.end());
    }

    if (std::system(("rm -rf " + folder).c_str()) != 0)
    {
        program.log += "the folder " + folder + " is left behind";
    }

    return status == 0 ? 0 : CompilationFailed;
}

EXPORT int nvrtcGetProgramLogSize(void* program, size_t* bytes)
{
    *bytes = static_cast<Program*>(program)->log.size() + 1;
    return 0;
}

EXPORT int nvrtcGetProgramLog(void* program, char* log)
{
    std::strcpy(log, static_cast<Program*>(program)->log.c_str());
    return 0;
}

EXPORT int nvrtcGetCUBINSize(void* program, size_t* bytes)
{
    *bytes = static_cast<Program*>(program)->image.size();
    return 0;
}

EXPORT int nvrtcGetCUBIN(void* program, char* image)
{
    const auto& bytes = static_cast<Program*>(program)->image;
    std::memcpy(image, bytes.data(), bytes.size());
    return 0;
}

EXPORT int nvrtcGetPTXSize(void* program, size_t* bytes) { return nvrtcGetCUBINSize(program, bytes); }
EXPORT int nvrtcGetPTX(void* program, char* image) { return nvrtcGetCUBIN(program, image); }

EXPORT int nvrtcDestroyProgram(void** program)
{
    delete static_cast<Program*>(*program);
    *program = nullptr;
    return 0;
}

// --- the driver ----------------------------------------------------------------------------------------------------

EXPORT int cuInit(unsigned int) { return Success; }

EXPORT int cuDeviceGet(int* device, int ordinal)
{
    *device = ordinal;
    return ordinal == 0 ? Success : InvalidValue;
}

// 8.6 with three multiprocessors, so that small tests are cut into several chunks of time.
EXPORT int cuDeviceGetAttribute(int* value, int attribute, int)
{
    switch (attribute)
    {
        case 16: *value = Multiprocessors; return Success;
        case 75: *value = 8; return Success;
        case 76: *value = 6; return Success;
        default: return InvalidValue;
    }
}

EXPORT int cuDevicePrimaryCtxRetain(void** context, int)
{
    static char primary;
    *context = &primary;
    return Success;
}

EXPORT int cuCtxPushCurrent_v2(void* context)
{
    contexts.push_back(context);
    return Success;
}

EXPORT int cuCtxPopCurrent_v2(void** context)
{
    if (contexts.empty())
    {
        return InvalidContext;
    }

    *context = contexts.back();
    contexts.pop_back();
    return Success;
}

EXPORT int cuModuleLoadData(void** module, const void* data)
{
    Image image {};
    std::memcpy(&image, data, sizeof(image));
    if (contexts.empty())
    {
        return InvalidContext;
    }

    if (std::memcmp(image.magic, Magic, sizeof(Magic)) != 0)
    {
        return InvalidImage;
    }

    const std::string folder = temporary_folder(), path = folder + "/kernel.so";
    write(path, static_cast<const char*>(data) + sizeof(image), static_cast<size_t>(image.bytes));
    *module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (*module == nullptr)
    {
        failure = dlerror();
    }

    unlink(path.c_str());
    rmdir(folder.c_str());
    return *module == nullptr ? InvalidImage : Success;
}

EXPORT int cuModuleGetFunction(void** function, void* module, const char* name)
{
    *function = dlsym(module, name);
    return *function == nullptr ? NotFound : Success;
}

namespace
{
    int launch(
        void* function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream, void** parameters, bool together)
    {
        if (contexts.empty())
        {
            return InvalidContext;
        }

        if (x < 1 || x > 0x7fffffffu || y != 1 || z != 1 || bx < 1 || bx > 1024 || by != 1 || bz != 1 || shared != 0 || stream != nullptr)
        {
            return InvalidValue;
        }

        if (together && x > Multiprocessors * BlocksOfMultiprocessor)
        {
            return TooManyBlocks;
        }

        const char* problem = reinterpret_cast<const char* (*)(void**, long long, int, bool)>(function)(parameters, x, static_cast<int>(bx), together);
        if (problem != nullptr)
        {
            failure = problem;
            return LaunchFailed;
        }

        return Success;
    }
}

EXPORT int cuLaunchKernel(
    void* function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream, void** parameters, void**)
{
    return launch(function, x, y, z, bx, by, bz, shared, stream, parameters, false);
}

EXPORT int cuLaunchCooperativeKernel(
    void* function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream, void** parameters)
{
    return launch(function, x, y, z, bx, by, bz, shared, stream, parameters, true);
}

EXPORT int cuMemAlloc_v2(void** address, size_t bytes)
{
    *address = std::malloc(bytes);
    return contexts.empty() ? InvalidContext : Success;
}

EXPORT int cuMemsetD32_v2(void* address, unsigned value, size_t count)
{
    std::fill_n(static_cast<unsigned*>(address), count, value);
    return contexts.empty() ? InvalidContext : Success;
}

EXPORT int cuGetErrorString(int code, const char** text)
{
    switch (code)
    {
        case InvalidValue: *text = "invalid argument"; break;
        case InvalidContext: *text = "invalid device context"; break;
        case TooManyBlocks: *text = "too many blocks in cooperative launch"; break;
        case NotFound: *text = "named symbol not found"; break;
        default: *text = failure.c_str(); break;
    }

    return Success;
}
