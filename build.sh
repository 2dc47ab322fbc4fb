#!/usr/bin/env bash
# One entry for everything: ./build.sh build | test | sample NAME [args] | bench [args] | pack
#
# The first run decides where TorchSharp and Tomlyn come from and records it in artifacts/torch.props:
#   nuget    the package feed has them and they run here: they are plain package references;
#   system   else: src/Fallbacks stands in for them, over a libtorch of this machine (installed here if missing).
# HYBRID_TORCH=nuget|system overrides the decision, HYBRID_LIBTORCH=DIR names a libtorch to use in system mode.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

export DOTNET_CLI_TELEMETRY_OPTOUT=1 DOTNET_NOLOGO=1
readonly configuration=Release
readonly props=artifacts/torch.props
readonly shim_source=src/Fallbacks/TorchSharp/native
readonly shim=artifacts/native/libHybridTorchShim.so

say() { printf 'build.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

usage() {
  cat >&2 <<'USAGE'
usage: ./build.sh COMMAND
  build               compile everything
  test [ARGS]         compile and run the whole suite (ARGS go to dotnet test)
  sample NAME [ARGS]  run samples/NAME
  bench [ARGS]        run the benchmarks (ARGS go to BenchmarkDotNet)
  pack                build the NuGet packages into artifacts/packages
USAGE
  exit 2
}

# --- where TorchSharp comes from -------------------------------------------------------------------------------------

recorded_source() { [ -f "$props" ] && sed -n 's:.*<TorchSource>\(.*\)</TorchSource>.*:\1:p' "$props"; }

record_source() {
  mkdir -p artifacts
  printf '<Project>\n  <PropertyGroup>\n    <TorchSource>%s</TorchSource>\n  </PropertyGroup>\n</Project>\n' "$1" >"$props.tmp"
  mv "$props.tmp" "$props"
}

central_version() { sed -n "s:.*Include=\"$1\" Version=\"\([^\"]*\)\".*:\1:p" Directory.Packages.props; }

# Restores a project that references just the two packages; only "not found" means that the feed lacks them. The native library
# inside TorchSharp may ask for a newer C++ runtime than this system's, which restoring does not tell.
probe_feed() {
  local probe=artifacts/probe version_torch version_tomlyn log
  version_torch=$(central_version TorchSharp)
  version_tomlyn=$(central_version Tomlyn)
  rm -rf "$probe" && mkdir -p "$probe"
  printf '<Project />\n' | tee "$probe/Directory.Build.props" "$probe/Directory.Packages.props" >"$probe/Directory.Build.targets"
  cat >"$probe/probe.csproj" <<PROBE
<Project Sdk="Microsoft.NET.Sdk">
  <PropertyGroup><TargetFramework>net10.0</TargetFramework></PropertyGroup>
  <ItemGroup>
    <PackageReference Include="TorchSharp" Version="$version_torch" />
    <PackageReference Include="Tomlyn" Version="$version_tomlyn" />
  </ItemGroup>
</Project>
PROBE
  if log=$(dotnet restore "$probe/probe.csproj" 2>&1); then
    native_problem "$probe" >"$probe/problem"
    if [ -s "$probe/problem" ]; then
      say "TorchSharp $version_torch is on the feed but does not load on this system: $(head -n 1 "$probe/problem")"
      echo system
    else
      echo nuget
    fi
  elif grep -qE 'NU1101|NU1102|NU1103' <<<"$log"; then
    echo system
  else
    printf '%s\n' "$log" >&2
    die "the package feed could not be read (above); set HYBRID_TORCH=nuget or HYBRID_TORCH=system to skip this check"
  fi
  rm -rf "$probe"
}

# What the loader says of symbol versions that TorchSharp's native library needs and this system lacks; nothing where all is there.
native_problem() {
  local packages library
  packages=$(sed -n 's:.*<NuGetPackageRoot[^>]*>\(.*\)</NuGetPackageRoot>.*:\1:p' "$1"/obj/*.nuget.g.props | head -n 1)
  library="$packages/torchsharp/$(central_version TorchSharp)/runtimes/linux-$(uname -m | sed 's/x86_64/x64/;s/aarch64/arm64/')/native/libLibTorchSharp.so"
  [ -n "$packages" ] && [ "$(uname -s)" = Linux ] && command -v ldd >/dev/null || return 0
  if [ -f "$library" ]; then
    LC_ALL=C ldd "$library" 2>&1 | grep -oE "version \`[^']*' not found" || true
  else
    echo "it has no native library for $(uname -m)"
  fi
}

decide_source() {
  local wanted=${HYBRID_TORCH:-} recorded
  recorded=$(recorded_source || true)
  case "$wanted" in
    nuget | system) ;;
    '') wanted=${recorded:-$(probe_feed)} ;;
    *) die "HYBRID_TORCH must be nuget or system; got '$wanted'" ;;
  esac
  [ -n "$wanted" ] || exit 1
  if [ "$wanted" != "$recorded" ]; then
    record_source "$wanted"
    say "TorchSharp and Tomlyn come from: $wanted"
  fi
  if [ "$wanted" = system ]; then prepare_native; fi
}

# --- system mode: a libtorch, an optimised BLAS, a compiler, the shim --------------------------------------------------

have_libtorch() {
  if [ -n "${HYBRID_LIBTORCH:-}" ]; then
    [ -e "$HYBRID_LIBTORCH/lib/libtorch.so" ] ||
      die "HYBRID_LIBTORCH must be a libtorch folder with lib/libtorch.so and include/; got '$HYBRID_LIBTORCH'"
  else
    [ -e /usr/include/torch/script.h ] || [ -e /usr/include/torch/csrc/api/include/torch/torch.h ]
  fi
}

have_blas() { [ -n "${HYBRID_LIBTORCH:-}" ] || ldconfig -p | grep -E 'openblas|mkl_rt' >/dev/null; }

install_missing() {
  local missing=()
  have_libtorch || missing+=(libtorch-dev)
  have_blas || missing+=(libopenblas0-pthread)
  command -v g++ >/dev/null || missing+=(g++)
  command -v cmake >/dev/null || missing+=(cmake)
  command -v make >/dev/null || missing+=(make)
  [ ${#missing[@]} -gt 0 ] || return 0

  local manual="install ${missing[*]} (a libtorch elsewhere: set HYBRID_LIBTORCH=/path/to/libtorch) and run this again"
  command -v apt-get >/dev/null || die "this machine has no apt-get: $manual"
  local root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "not root and no sudo: $manual"
    root=(sudo)
  fi
  say "installing ${missing[*]} (once)"
  mkdir -p artifacts
  { "${root[@]}" apt-get update && "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
    >artifacts/apt.log 2>&1 || { tail -n 20 artifacts/apt.log >&2; die "apt-get failed (artifacts/apt.log): $manual"; }
}

# The shim is rebuilt where its source, its compiler settings or the libtorch under it changed.
shim_stamp() {
  { cat "$shim_source"/*; printf '%s\n' "${HYBRID_LIBTORCH:-system}"
    if [ -n "${HYBRID_LIBTORCH:-}" ]; then stat -L -c '%s %Y' "$HYBRID_LIBTORCH/lib/libtorch.so"
    else dpkg-query -W -f '${Version}' libtorch-dev 2>/dev/null || true; fi
  } | sha256sum | cut -d' ' -f1
}

prepare_native() {
  local stamp_file=artifacts/native/stamp
  install_missing
  local stamp
  stamp=$(shim_stamp)
  if [ -f "$shim" ] && [ "$(cat "$stamp_file" 2>/dev/null)" = "$stamp" ]; then return 0; fi
  say "compiling the libtorch shim (once)"
  rm -rf artifacts/native && mkdir -p artifacts/native/build
  { cmake -S "$shim_source" -B artifacts/native/build -DCMAKE_BUILD_TYPE=Release -DHYBRID_LIBTORCH="${HYBRID_LIBTORCH:-}" \
      -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$PWD/artifacts/native" &&
    cmake --build artifacts/native/build; } >artifacts/native/build.log 2>&1 ||
    { tail -n 40 artifacts/native/build.log >&2; die "the shim did not compile (artifacts/native/build.log)"; }
  printf '%s' "$stamp" >"$stamp_file"
}

# --- commands ----------------------------------------------------------------------------------------------------------

compile() {
  mkdir -p artifacts
  dotnet build "$1" -c $configuration -v quiet >artifacts/build.log 2>&1 || { cat artifacts/build.log >&2; die "$1 does not compile"; }
}

# The fallbacks are tested where they are used; on a feed with the real packages nothing of them is built.
run_tests() {
  local status=0 project projects=(tests/Hybrid.Tests/Hybrid.Tests.csproj)
  compile Hybrid.sln
  if [ "$(recorded_source)" = system ]; then
    projects+=(tests/Fallbacks.Tests/Fallbacks.Tests.csproj)
    compile tests/Fallbacks.Tests/Fallbacks.Tests.csproj
  fi
  rm -rf artifacts/test-results
  for project in "${projects[@]}"; do
    dotnet test "$project" -c $configuration --no-build --logger 'console;verbosity=minimal' --logger trx \
      --results-directory artifacts/test-results "$@" || status=$?
  done
  # One closing line over all test projects.
  cat artifacts/test-results/*.trx | grep -o '<Counters [^>]*>' | awk '
    function number(name) { return match($0, " " name "=\"[0-9]+\"") ? substr($0, RSTART + length(name) + 3) + 0 : 0 }
    { total += number("total"); passed += number("passed"); failed += number("failed") + number("error") + number("timeout") + number("aborted") }
    END { printf "%d passed, %d failed, %d skipped\n", passed, failed, total - passed - failed; exit total == 0 }' || status=1
  return $status
}

# Folders of samples/ that can be run; the others are libraries of theirs.
samples() { grep -l '<OutputType>Exe</OutputType>' samples/*/*.csproj | xargs -n 1 dirname | xargs -n 1 basename | tr '\n' ' '; }

pack() {
  compile src/Hybrid/Hybrid.csproj
  dotnet pack src/Hybrid/Hybrid.csproj -c $configuration --no-build -o artifacts/packages -v quiet
  # Whatever it was compiled against, the package must depend on the real packages.
  local package nuspec
  nuspec=$(cat src/Hybrid/obj/$configuration/Hybrid.*.nuspec)
  for package in TorchSharp Tomlyn Microsoft.Extensions.Logging.Abstractions; do
    grep -q "id=\"$package\" version=\"$(central_version "$package")\"" <<<"$nuspec" ||
      die "the package does not depend on $package $(central_version "$package")"
  done
  say "packages are in artifacts/packages"
}

command -v dotnet >/dev/null || die "the .NET SDK 10 is needed: dotnet was not found on PATH"
[ $# -ge 1 ] || usage
command=$1
shift
case "$command" in
  build) decide_source; compile Hybrid.sln ;;
  test) decide_source; run_tests "$@" ;;
  sample)
    [ $# -ge 1 ] || die "which sample? one of: $(samples)"
    name=$1
    shift
    [[ " $(samples)" == *" $name "* ]] || die "there is no sample '$name'; there are: $(samples)"
    decide_source; compile "samples/$name/$name.csproj"
    exec dotnet run --project "samples/$name/$name.csproj" -c $configuration --no-build -- "$@"
    ;;
  bench)
    decide_source; compile benchmarks/Hybrid.Benchmarks/Hybrid.Benchmarks.csproj
    # One heap for all threads: glibc gives what other heaps freed back to the system, and calls would pay for faulting it in again.
    export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-1}"
    exec dotnet run --project benchmarks/Hybrid.Benchmarks/Hybrid.Benchmarks.csproj -c $configuration --no-build -- "$@"
    ;;
  pack) decide_source; pack ;;
  *) usage ;;
esac
