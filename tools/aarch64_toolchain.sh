#!/bin/sh
# Unpacks a cross compiler for aarch64 and an emulator into a folder, from the Debian packages that this machine's apt
# knows: rustc with the aarch64 standard library, gcc as the linker, the C library, qemu. Nothing is installed and no
# root is needed: apt resolves against an empty system, with state of its own, and dpkg-deb only unpacks.
#
#   tools/aarch64_toolchain.sh FOLDER      about 400 MB of downloads, 1.8 GB unpacked
set -eu

mkdir -p "$1"
top=$(cd "$1" && pwd)
for needed in apt-get dpkg-deb; do
    command -v $needed >/dev/null || { echo "missing: $needed (the aarch64 toolchain is made of Debian packages)" >&2; exit 1; }
done
host=$(dpkg --print-architecture)
if [ "$host" != amd64 ]; then
    echo "not made for $host: on an aarch64 machine the usual tests run the NEON kernels" >&2
    exit 1
fi

rm -rf "$top/apt" "$top/root"
mkdir -p "$top/apt/lists/partial" "$top/apt/archives/partial" "$top/root"
: >"$top/apt/status"
cat >"$top/apt/apt.conf" <<CONFIGURATION
Dir::State "$top/apt";
Dir::State::status "$top/apt/status";
Dir::Cache "$top/apt";
APT::Architectures { "amd64"; "arm64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
CONFIGURATION
export APT_CONFIG="$top/apt/apt.conf"

apt-get -qq update
# Some releases carry a newer compiler for browsers beside their own, as rustc-web.
suffix=
if apt-cache show rustc-web >/dev/null 2>&1; then
    suffix=-web
fi
apt-get -qq install --yes --download-only \
    "rustc$suffix" "libstd-rust$suffix-dev:arm64" gcc-aarch64-linux-gnu libc6-dev:arm64 qemu-user-static
for package in "$top"/apt/archives/*.deb; do
    dpkg-deb --extract "$package" "$top/root"
done
rm -rf "$top/apt"
"$top/root/usr/bin/qemu-aarch64-static" --version | head -1
LD_LIBRARY_PATH="$top/root/usr/lib/x86_64-linux-gnu:$top/root/lib/x86_64-linux-gnu" "$top/root/usr/bin/rustc" --version
