#!/usr/bin/env bash
# Tests the kernels on a GPU and measures them: benchmarks/cuda/run.sh in a clone, run.sh in a folder that prepare.sh made.
#   run.sh [--device cuda|cuda:N|cpu] [--quick] [--output FILE]
# The libtorch is the one of HYBRID_LIBTORCH, else that of the torch in $PYTHON (python3). Needs a C++ compiler; no CUDA toolkit, no .NET,
# no network. Nothing is measured where a test fails.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf 'run.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

device=cuda quick='' output=''
while [ $# -gt 0 ]; do
  case "$1" in
    --device) device=${2:?--device needs a value}; shift 2 ;;
    --quick) quick=--quick; shift ;;
    --output) output=${2:?--output needs a value}; shift 2 ;;
    *) die "unknown argument '$1'; usage: run.sh [--device cuda|cuda:N|cpu] [--quick] [--output FILE]" ;;
  esac
done

# --- what to run ---------------------------------------------------------------------------------------------------------

if [ ! -d "$here/dotnet" ]; then
  say "no prepared folder here; preparing one"
  "$here/prepare.sh"
  here=$(cd "$here/../../artifacts/cuda/hybrid-cuda" && pwd)
fi
output=${output:-$here/results.md}
readonly dotnet=$here/dotnet/dotnet
export DOTNET_ROOT=$here/dotnet DOTNET_CLI_TELEMETRY_OPTOUT=1 DOTNET_NOLOGO=1

# --- the libtorch of this machine -------------------------------------------------------------------------------------------

python=${PYTHON:-python3}
libtorch=${HYBRID_LIBTORCH:-$("$python" -c 'import os, torch; print(os.path.dirname(torch.__file__))' 2>/dev/null || true)}
[ -n "$libtorch" ] || die "$python has no torch; set PYTHON to one that has, or HYBRID_LIBTORCH to a libtorch folder with include and lib"
include=''
for folder in "$libtorch/include" /usr/include; do
  [ -e "$folder/ATen/ATen.h" ] && { include=$folder; break; }
done
lib=''
for folder in "$libtorch/lib" "$libtorch/lib/$(uname -m)-linux-gnu" "$libtorch/lib64"; do
  [ -e "$folder/libtorch_cpu.so" ] && { lib=$folder; break; }
done
[ -n "$include" ] && [ -n "$lib" ] || die "'$libtorch' is no libtorch: it has no include/ATen/ATen.h or no lib/libtorch_cpu.so"

# CUDA's own libraries, NVRTC among them, lie in wheels beside that of torch.
wheels=$(printf '%s:' "$libtorch"/../nvidia/*/lib)
export LD_LIBRARY_PATH=$lib:$wheels${LD_LIBRARY_PATH:-}

# --- the native half of TorchSharp's fallback ---------------------------------------------------------------------------------

# As CMakeLists.txt in native/ has it, for machines without CMake.
compile_directly() {
  local compiler=${CXX:-g++} symbols abi=() headers=(-isystem "$include/torch/csrc/api/include") libraries=(-ltorch -ltorch_cpu -lc10) optional standard
  command -v "$compiler" >/dev/null || die "there is no C++ compiler '$compiler'; set CXX to one"
  # The compiler's own folder must keep its place among its folders.
  [ "$include" = /usr/include ] || headers+=(-isystem "$include")
  symbols=$(grep -aoE 'c105ErrorC2[A-Za-z0-9_]*' "$lib/libc10.so" || true)
  if grep -q 'Ss' <<<"$symbols" && ! grep -q '__cxx11' <<<"$symbols"; then abi=(-D_GLIBCXX_USE_CXX11_ABI=0); fi
  for optional in torch_cuda c10_cuda; do
    if [ -e "$lib/lib$optional.so" ]; then libraries+=("-l$optional"); fi
  done
  for standard in 17 20 23; do
    if "$compiler" "-std=c++$standard" -O2 -fPIC -shared -fvisibility=hidden -fvisibility-inlines-hidden ${abi[@]+"${abi[@]}"} \
      "${headers[@]}" "$here"/native/*.cpp -o "$shim.new" \
      -L"$lib" -Wl,--no-as-needed -Wl,--disable-new-dtags -Wl,-rpath,"$lib" "${libraries[@]}" >"$here/native.log" 2>&1; then
      mv "$shim.new" "$shim"
      return 0
    fi
  done
  return 1
}

compile_with_cmake() {
  cmake -S "$here/native" -B "$here/native.build" -DCMAKE_BUILD_TYPE=Release -DHYBRID_LIBTORCH="$libtorch" \
    -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$here" >"$here/native.log" 2>&1 && cmake --build "$here/native.build" -j >>"$here/native.log" 2>&1
}

readonly shim=$here/libHybridTorchShim.so
stamp=$({ cat "$here"/native/*; printf '%s' "$lib"; stat -L -c '%s %Y' "$lib/libtorch_cpu.so"; } | sha256sum)
if [ ! -e "$shim" ] || [ "$(cat "$here/native.stamp" 2>/dev/null)" != "$stamp" ]; then
  say "compiling against the libtorch in $lib"
  if command -v cmake >/dev/null && command -v make >/dev/null; then compile_with_cmake; else compile_directly; fi ||
    { tail -n 40 "$here/native.log" >&2; die "the native half did not compile ($here/native.log)"; }
  printf '%s' "$stamp" >"$here/native.stamp"
fi
cp "$shim" "$here/Hybrid.Tests/"
cp "$shim" "$here/Hybrid.DeviceBenchmarks/"

# --- tests, then figures ------------------------------------------------------------------------------------------------

# On a CPU the tests of the GPU skip themselves; the others of the kernels run.
tests='Hybrid.Tests.Kernels.Cuda'
[ "${device%%:*}" = cuda ] || tests='Hybrid.Tests.Kernels'
say "testing $tests"
(cd "$here/Hybrid.Tests" && "$dotnet" Hybrid.Tests.dll -noColor -namespace "$tests") >"$here/tests.log" 2>&1 ||
  { grep -A 12 'FAIL\]' "$here/tests.log" | head -n 80 >&2; tail -n 3 "$here/tests.log" >&2; die "a test failed ($here/tests.log); nothing is measured"; }
summary=$(grep -oE 'Total: .*' "$here/tests.log" | tail -n 1)
[ -n "$summary" ] || die "no test ran ($here/tests.log)"

name_of_device() {
  if [ "${device%%:*}" = cuda ]; then
    local index=0
    case "$device" in *:*) index=${device##*:} ;; esac
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader -i "$index" 2>/dev/null || echo "a CUDA device"
  else
    sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1
  fi
}

# Old headers have it in the one place, new ones in the other.
version_of_torch() {
  cat "$include"/torch/csrc/api/include/torch/version.h "$include"/torch/headeronly/version.h 2>/dev/null |
    sed -nE 's/^#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ([0-9]+).*/\2/p' | head -n 3 | paste -sd.
}

{
  echo "## $(name_of_device)"
  echo
  echo "torch $(version_of_torch), Hybrid $(cat "$here/VERSION"), $(nproc) processors. Tests: $summary."
  echo "Medians; each case in a process of its own; the memory is the most that the process has held by then."
  echo
  echo "| what | precision | time | | peak memory |"
  echo "|---|---|---|---|---|"
} >"$output"

# torch has no float16 on CPUs; bfloat16 stands for both.
failed=0
readonly fallback='the reference kernel runs'
: >"$here/fallbacks.log"
for case in scan block convolution norm recurrence rg_lru average wkv gated_delta duality train decode; do
  for precision in float32 bfloat16; do
    say "measuring $case, $precision"
    if ! (cd "$here/Hybrid.DeviceBenchmarks" &&
      "$dotnet" Hybrid.DeviceBenchmarks.dll "$case" --device "$device" --precision "$precision" $quick) >>"$output" 2>"$here/$case.log"; then
      echo "| $case | $precision | failed: $(grep -v "$fallback" "$here/$case.log" | grep -m 1 . | cut -c 1-120) | | |" >>"$output"
      failed=1
    fi
    grep "$fallback" "$here/$case.log" >>"$here/fallbacks.log" || true
  done
done
if [ -s "$here/fallbacks.log" ]; then
  { echo; echo "Tensor operations ran in the place of these kernels:"; echo; sort -u "$here/fallbacks.log" | sed 's/^/- /'; } >>"$output"
fi
cat "$output"
exit $failed
