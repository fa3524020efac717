"""The two versions to compare: commits or folders."""

import io
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def git(*arguments: str) -> str:
    """Returns what Git prints in this checkout."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def default_base() -> str:
    """Returns the commit where this branch left ``main``. On ``main``, it is the one before the last change."""
    base, head = git("merge-base", "HEAD", "main"), git("rev-parse", "HEAD")
    if base != head or git("status", "--porcelain", "--", "aiomodelcache"):
        return base
    return git("rev-parse", "HEAD~1")


def checkout(version: str, folder: Path) -> Path:
    """Returns a folder with the package as it was in a commit. A folder is returned as it is."""
    if Path(version).is_dir():
        return Path(version).resolve()
    archive = subprocess.run(["git", "archive", version, "aiomodelcache"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        raise SystemExit(f"{version} is neither a folder nor a commit: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder
