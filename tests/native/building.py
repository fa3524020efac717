"""Compiles the extension for tests, with the C compiler of this machine."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "native" / "aiomodelcache_native.c"
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-variable", "-Wno-cast-function-type")
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1")


def compiler() -> str:
    """Returns the C compiler. Skips the test if there is none, or no header files of Python."""
    found = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        pytest.skip("the machine has no C compiler")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("this Python has no header files")
    return found


def build(folder: Path, *flags: str, source: Path = SOURCE) -> Path:
    """Compiles the extension into a folder, and returns the folder."""
    target = folder / f"aiomodelcache_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = [compiler(), *STRICT, *(flags or ("-O2",)), "-shared", "-fPIC"]
    if sys.platform == "darwin":
        command += ["-undefined", "dynamic_lookup"]
    command += [f"-I{sysconfig.get_path('include')}", str(source), "-o", str(target)]
    subprocess.run(command, check=True)
    return folder


def sanitized_environment() -> dict[str, str]:
    """Returns the environment of a Python that loads code with sanitizers. Skips the test if there is none."""
    name = "libclang_rt.asan.so" if "clang" in compiler() else "libasan.so"
    library = subprocess.run([compiler(), f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    environment = os.environ | {
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter itself frees little at its end
        "PYTHONMALLOC": "malloc",
    }
    works = os.path.isabs(library) and subprocess.run([sys.executable, "-c", ""], env=environment).returncode == 0
    if not works:
        pytest.skip("this Python does not run with the address sanitizer of the C compiler")
    return environment
