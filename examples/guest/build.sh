#!/usr/bin/env bash
# build.sh - builds the guest: build.sh FILE makes the ELF image FILE. Needs a C compiler for
# 32-bit x86; no library and no header of the system are used. CC names another compiler.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -eq 1 ] || { echo "Usage: build.sh FILE" >&2; exit 2; }
read -ra cc <<<"${CC:-gcc -m32}"
[[ $(echo | "${cc[@]}" -E -dM - 2>/dev/null) = *__i386__* ]] ||
    { echo "build.sh: \`${cc[*]}\` does not compile for 32-bit x86; install gcc on an x86 machine, or set CC to a compiler that does, such as i686-linux-gnu-gcc." >&2; exit 1; }

# The processor of the host has no MMX or SSE, and this code needs no floating point. Position,
# stack protection and endbr are things of user programs.
"${cc[@]}" -std=gnu11 -O2 -march=i686 -mgeneral-regs-only -ffreestanding -fno-builtin -fno-pie -fno-stack-protector \
    -fcf-protection=none -fno-asynchronous-unwind-tables -fno-strict-aliasing -Wall -Wextra \
    -nostdlib -static -no-pie -Wl,-T,"$here/guest.ld" -Wl,--build-id=none -Wl,-z,max-page-size=4096 \
    -Wl,-z,norelro -s -o "$1" "$here"/*.S "$here"/*.c
