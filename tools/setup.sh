#!/usr/bin/env bash
# Installs what BitLab needs to be built, and nothing that is there already. See usage().
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly CPU_INDEX=https://download.pytorch.org/whl/cpu
readonly MINIMUM_CMAKE=3.25
readonly VENV=.venv
readonly STAMP=$VENV/bitlab-requirements.sha256  # written last: its presence says that the folder is complete

usage() {
  cat <<'TEXT'
Usage: tools/setup.sh [--runtime|--tests|--dev|--peers|--census|--aarch64|--embedded|--cuda]

  (no option)  everything that `make demo` needs: Debian packages, and .venv with LibTorch
  --tests      everything that `make test` needs: as without option, and what the Python package is built and tested with
  --runtime    only what the torch-free part needs; no Python
  --dev        as --tests, and the tools of `make lint`, `make format`, `make coverage`, `make docs` and the fuzzers
  --peers      as without option, and the runtimes that `make bench` compares with
  --census     as --tests, and the packages whose models `make census` takes
  --aarch64    what the preset aarch64 needs: a cross-compiler, qemu, and libraries from the arm64 architecture of Debian
  --embedded   compilers and emulators of the machines that networks in C are tested on (0.9 GiB)
  --cuda       what the preset cuda needs: as --runtime, and from the Python package index nvcc, cuobjdump and nvdisasm where the system has none

Environment:
  BITLAB_TORCH_DIR          a LibTorch folder (it holds share/cmake/Torch) to use instead of .venv
  BITLAB_TORCH_INDEX        where pip looks for torch: a URL, or "default" for pip's own configuration;
                            unset: the CPU-only index of PyTorch if it answers within 3 seconds, otherwise "default"
  BITLAB_SKIP_PACKAGES=1    leave the system's packages alone
TEXT
}

say() { echo "setup: $*"; }
fail() {
  echo "setup: error: $*" >&2
  exit 1
}

# --- Debian packages

package_names() {  # <list>...: the names in tools/packages/<list>.txt, without comments
  local list
  for list in "$@"; do sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "tools/packages/$list.txt"; done
}

missing_packages() {  # <list>...
  local installed native
  native=$(dpkg --print-architecture)
  # A package of the own architecture goes by its name, any other by name:architecture. dpkg-query fails where it does not know a
  # name, which is the question here.
  # shellcheck disable=SC2046
  installed=$(dpkg-query -W -f='${db:Status-Status} ${Package} ${Architecture}\n' $(package_names "$@") 2>/dev/null |
    awk -v native="$native" '$1 == "installed" { print ($3 == native || $3 == "all") ? $2 : $2 ":" $3 }' || true)
  package_names "$@" | grep -vxF -e "$installed" || true
}

is_debian_like() {
  command -v dpkg-query apt-get >/dev/null && grep -qE '^ID(_LIKE)?=.*(debian|ubuntu)' /etc/os-release 2>/dev/null
}

as_root() {
  if [[ $(id -u) == 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "needs root to run '$*', found no sudo. Run it as root, then tools/setup.sh again."
  fi
}

install_packages() {  # <list>...
  if [[ ${BITLAB_SKIP_PACKAGES:-0} == 1 ]]; then
    say "packages: skipped (BITLAB_SKIP_PACKAGES=1)"
    return
  fi
  if ! is_debian_like; then
    fail "knows Debian and Ubuntu, found another system. Install what these packages of Debian hold, then run again with" \
      "BITLAB_SKIP_PACKAGES=1:" $(package_names "$@")
  fi
  local missing
  mapfile -t missing < <(missing_packages "$@")
  if ((${#missing[@]} == 0)); then
    say "packages: nothing missing"
    return
  fi
  say "packages: installing ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q ||
    say "apt-get update failed for a source; trying with what is known"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# --- Python

# A Python 3.10 or newer that can make virtual environments: the one on PATH, else the system's.
find_python() {
  local python
  for python in python3 /usr/bin/python3; do
    if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  fail "expected Python 3.10 or newer with venv and ensurepip, found none (Debian's package is python3-venv)"
}

ensure_venv() {
  "$VENV/bin/python" -c 'import pip' 2>/dev/null && return
  local python
  python=$(find_python)
  say "python: making $VENV with $python"
  "$python" -m venv --clear "$VENV"
}

pip_install() { "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$@"; }

answers() {  # <url>
  timeout 5 "$VENV/bin/python" -c 'import sys, urllib.request
urllib.request.urlopen(urllib.request.Request(sys.argv[1], method="HEAD"), timeout=3)' "$1" 2>/dev/null
}

# On Linux the torch of the Python package index brings gigabytes of CUDA libraries that BitLab does not use.
torch_index() {
  if [[ -n ${BITLAB_TORCH_INDEX:-} ]]; then
    echo "$BITLAB_TORCH_INDEX"
  elif answers "$CPU_INDEX/torch/"; then
    echo "$CPU_INDEX"
  else
    echo default
  fi
}

install_requirements() {
  local index
  index=$(torch_index)
  say "python: installing requirements.txt into $VENV (index: $index)"
  if [[ $index == default ]]; then
    pip_install -r requirements.txt
  elif ! pip_install -r requirements.txt --extra-index-url "$index"; then
    [[ -z ${BITLAB_TORCH_INDEX:-} ]] || fail "pip failed with BITLAB_TORCH_INDEX=$index"
    say "python: $index answered but did not deliver; installing from pip's default index"
    pip_install -r requirements.txt
  fi
}

install_torch() {
  if [[ -n ${BITLAB_TORCH_DIR:-} ]]; then
    [[ -f $BITLAB_TORCH_DIR/share/cmake/Torch/TorchConfig.cmake ]] ||
      fail "expected LibTorch in BITLAB_TORCH_DIR, found no share/cmake/Torch/TorchConfig.cmake in '$BITLAB_TORCH_DIR'"
    say "python: skipped, LibTorch is $BITLAB_TORCH_DIR"
    return
  fi
  local wanted
  wanted=$(sha256sum <requirements.txt)
  if [[ -f $STAMP && $(<"$STAMP") == "$wanted" ]] && "$VENV/bin/python" -c '' 2>/dev/null; then
    say "python: $VENV is up to date"
    return
  fi
  rm -f "$STAMP"
  ensure_venv
  install_requirements
  echo "$wanted" >"$STAMP"
}

# --- CMake

cmake_suffices() {
  local version
  version=$("$1" --version 2>/dev/null | sed -n 's/^cmake version //p') || return 1
  [[ -n $version ]] && printf '%s\n' "$MINIMUM_CMAKE" "$version" | sort -C -V
}

# Ubuntu 22.04 has CMake 3.22. The Makefile puts .venv/bin first on PATH, so a newer one there is found.
ensure_cmake() {  # <mode>
  if cmake_suffices cmake || cmake_suffices "$VENV/bin/cmake"; then return; fi
  if [[ $1 == runtime ]]; then
    fail "expected CMake $MINIMUM_CMAKE or newer, found '$(cmake --version 2>/dev/null | head -n 1 || true)'. Get one from" \
      "https://apt.kitware.com, 'snap install cmake --classic' or 'pip install cmake', then run again."
  fi
  say "cmake: the system's is older than $MINIMUM_CMAKE; installing one into $VENV"
  ensure_venv
  pip_install "cmake>=$MINIMUM_CMAKE,<4"
}

# As Python packages; nvcc looks for its libraries in lib64, which they leave out.
install_nvcc() {
  install_more cuda tools/cuda-requirements.txt
  ln -sfn lib "$(echo "$VENV"/lib/python3*/site-packages/nvidia/cu13)/lib64"
}

has_cuda_tool() { command -v "$1" >/dev/null || [[ -x /usr/local/cuda/bin/$1 ]]; }

add_architecture() {  # <architecture>
  if [[ ${BITLAB_SKIP_PACKAGES:-0} == 1 ]] || dpkg --print-foreign-architectures | grep -qx "$1"; then return; fi
  # Ubuntu keeps arm64 on another server; adding it here would break the user's apt-get update.
  grep -qx 'ID=debian' /etc/os-release ||
    fail "adds the architecture $1 on Debian only. Add it and its package source yourself, then run again."
  say "packages: adding the architecture $1"
  as_root dpkg --add-architecture "$1"
}

# What some targets take from the Python package index beside LibTorch, once for every change of the lists.
install_more() {  # <name> <list of requirements>...
  local name=$1 wanted stamp file arguments=()
  shift
  stamp=$VENV/bitlab-$name-requirements.sha256
  wanted=$(cat "$@" | sha256sum)
  if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then return; fi
  ensure_venv
  say "python: installing $* into $VENV"
  for file in "$@"; do arguments+=(-r "$file"); done
  pip_install "${arguments[@]}"
  echo "$wanted" >"$stamp"
}

main() {
  local mode=default lists=(runtime train)
  case ${1:-} in
    '') ;;
    --runtime) mode=runtime lists=(runtime) ;;
    --tests | --census) mode=${1#--} ;;
    --dev) mode=dev lists=(runtime train dev) ;;
    --peers) mode=peers ;;
    --aarch64) mode=runtime lists=(aarch64) && add_architecture arm64 ;;
    --embedded) mode=runtime lists=(embedded) ;;
    --cuda) mode=cuda lists=(runtime) ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && fail "unknown option '$1'" ;;
  esac
  install_packages "${lists[@]}"
  [[ $mode == runtime || $mode == cuda ]] || install_torch
  [[ $mode != cuda ]] || has_cuda_tool nvcc || install_nvcc
  [[ $mode != cuda ]] || { has_cuda_tool cuobjdump && has_cuda_tool nvdisasm; } || install_more cuda-code tools/cuda-code-requirements.txt
  [[ $mode != tests && $mode != dev && $mode != census ]] || install_more tests python/tests/requirements.txt
  [[ $mode != census ]] || install_more census tools/census-requirements.txt
  # `make docs` and `make lint`; `make bench`.
  [[ $mode != dev ]] || install_more dev docs/requirements.txt tools/requirements.txt
  [[ $mode != peers ]] || install_more peers benchmarks/peers/requirements.txt
  ensure_cmake "$mode"
}

main "$@"
