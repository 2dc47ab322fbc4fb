#!/usr/bin/env bash
# Prepares the tests and the benchmarks for a machine with a GPU that has neither a .NET SDK nor a network:
#   benchmarks/cuda/prepare.sh            here, where the SDK is; leaves artifacts/cuda/hybrid-cuda.tar.gz
#   tar xzf hybrid-cuda.tar.gz && hybrid-cuda/run.sh      there, where Python has a torch, or HYBRID_LIBTORCH names a libtorch
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly target=artifacts/cuda/hybrid-cuda
readonly archive=$target.tar.gz
readonly limit_mib=64
readonly projects=(tests/Hybrid.Tests benchmarks/Hybrid.DeviceBenchmarks)

say() { printf 'prepare.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

command -v dotnet >/dev/null || die "the .NET SDK 10 is needed here: dotnet was not found on PATH"
rm -rf "$target" "$archive"
mkdir -p "$target"

# Built against the fallback of TorchSharp, whose native half is compiled on the other machine, against the libtorch there.
for project in "${projects[@]}"; do
  say "building $project"
  dotnet build "$project" -c Release -v quiet -p:TorchSource=system >"$target.log" 2>&1 || { cat "$target.log" >&2; die "$project does not compile"; }
  mkdir -p "$target/$(basename "$project")"
  cp -r "$project"/bin/Release/net10.0/. "$target/$(basename "$project")"
done
# What of it is not for there: what was compiled for this machine, names for debuggers, data of models.
rm -rf "$target"/*/{libHybridTorchShim.so,host-cuda,TestResults,Golden/models}
find "$target" \( -name '*.pdb' -o -name '*.xml' \) -delete

# The runtime, of the newest version here that the programs run on.
runtime() { dotnet --list-runtimes | sed -n "s:^$1 \(10\.[^ ]*\) \[\(.*\)\]$:\2/\1:p" | sort -V | tail -n 1; }
for framework in Microsoft.NETCore.App Microsoft.AspNetCore.App; do
  folder=$(runtime $framework)
  [ -d "$folder" ] || die "there is no runtime $framework 10 among dotnet --list-runtimes"
  mkdir -p "$target/dotnet/shared/$framework"
  cp -rL "$folder" "$target/dotnet/shared/$framework/"
done
root=$(dirname "$(dirname "$(dirname "$(runtime Microsoft.NETCore.App)")")")
mkdir -p "$target/dotnet/host/fxr"
cp -rL "$root/host/fxr/$(basename "$(runtime Microsoft.NETCore.App)")" "$target/dotnet/host/fxr/"
cp -L "$root/dotnet" "$target/dotnet/dotnet"

# What is there for debuggers and other garbage collectors is a fifth of the runtime.
rm -f "$target"/dotnet/shared/*/*/{libmscordbi,libmscordaccore,libclrgc,libclrgcexp,libcoreclrtraceptprovider}.so "$target"/dotnet/shared/*/*/createdump

cp -r src/Fallbacks/TorchSharp/native "$target/native"
cp benchmarks/cuda/run.sh "$target/"
{ git describe --always --dirty 2>/dev/null || echo unknown; } >"$target/VERSION"

tar -cf - -C "$(dirname "$target")" "$(basename "$target")" | gzip -9 >"$archive"
size=$(($(stat -c %s "$archive") / 1048576))
[ "$size" -lt "$limit_mib" ] || die "$archive has $size MiB; it should stay below $limit_mib"
say "$archive: $size MiB, for $(uname -m)"
