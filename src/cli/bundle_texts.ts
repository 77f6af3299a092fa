/** Text files of a bundle. */

/** Finds the folder; `lib/` holds a C++ runtime for systems whose own is older than Dawn wants. */
const HERE = `#!/bin/sh
# Starts the emigm of this folder; works through symbolic links.
self=$0
while [ -h "$self" ]; do
  link=$(readlink "$self")
  case $link in /*) self=$link ;; *) self=$(dirname "$self")/$link ;; esac
done
here=$(cd "$(dirname "$self")" && pwd -P)

# Dawn wants the C++ runtime of GCC 12 or newer.
found=
for folder in /usr/lib/x86_64-linux-gnu /lib/x86_64-linux-gnu /usr/lib64 /lib64 /usr/lib; do
  if grep -qs GLIBCXX_3.4.30 "$folder/libstdc++.so.6"; then found=yes; fi
done
libraries=$LD_LIBRARY_PATH
if [ -z "$found" ]; then libraries=$here/lib\${libraries:+:$libraries}; fi
# Where some container runtimes put the GPU's driver.
if [ -d /usr/local/nvidia/lib64 ]; then libraries=\${libraries:+$libraries:}/usr/local/nvidia/lib64; fi
if [ -n "$libraries" ]; then export LD_LIBRARY_PATH="$libraries"; fi
`;

/** The start script. */
export const START = `${HERE}
# Compiled JavaScript is kept beside the other things that can be made again.
cache=\${EMIGM_CACHE:-\${XDG_CACHE_HOME:-\${HOME:-/tmp}/.cache}/emigm-wgsl}
export NODE_COMPILE_CACHE="\${NODE_COMPILE_CACHE:-$cache/node}"
exec "$here/bin/node" "$here/app/dist/cli/main.js" "$@"
`;

/** Starts tests and benchmarks of a development bundle. */
export const START_DEVELOPMENT = `${HERE}
name=$1
[ $# -gt 0 ] && shift
case $name in
  '' | -h | --help)
    echo "emigm-dev test [vitest's flags]     the tests, on the adapter that EMIGM_ADAPTER names (swiftshader)"
    echo "emigm-dev gpu | bench | peers | startup | ablation [flags]     a benchmark; --help shows its flags"
    exit 0 ;;
  # Some tests start the node of PATH.
  test) export PATH="$here/bin:$PATH"; cd "$here/app" && exec "$here/bin/node" node_modules/vitest/vitest.mjs run "$@" ;;
  bench) file=run.ts ;;
  *) file=$name.ts; if [ ! -f "$here/app/bench/$file" ]; then file=$name/run.ts; fi ;;
esac
exec "$here/bin/node" "$here/app/bench/$file" "$@"
`;

/** In the place of the package tsx: Node runs TypeScript by itself, as long as types can be erased. */
export const TSX = {
  'package.json': '{ "name": "tsx", "type": "module", "exports": { ".": "./index.js", "./esm/api": "./index.js" } }\n',
  'index.js': '// Node strips types by itself.\nexport const register = () => {};\n',
};

export const README = `# emigm, bundled

Masked image generation on WebGPU compute kernels, with all that it needs: Linux x64 with glibc 2.34 or newer (Ubuntu
22.04, Debian 12, RHEL 9) and, for speed, a GPU driver. Without a GPU it runs on the CPU driver that it carries.

    ./emigm doctor --check     # which adapter is used, and whether every kernel computes right on it
    ./emigm sample             # images of the model in app/weights, to out/
    ./emigm --help

Nothing is installed, and nothing is written but results and a cache (~/.cache/emigm-wgsl, or EMIGM_CACHE). The folder
may be moved and be read-only. A GPU whose driver is not found: name its Vulkan file by VK_DRIVER_FILES=/path/icd.json.

app/ is the product and its packages with their licences, app/driver the CPU driver and Vulkan loader (SwiftShader,
Apache 2.0), bin/ Node, lib/ GCC's C++ runtime for systems whose own is older.
`;
