import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiomodelcache.encoding import native
from tests.native.building import build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("native"))


@pytest.fixture
def extension(built: Path) -> Iterator[Any]:
    """Makes the extension importable, as if it were installed."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("AIOMODELCACHE_NATIVE", raising=False)
        patched.syspath_prepend(str(built))
        patched.delitem(sys.modules, "aiomodelcache_native", raising=False)
        import aiomodelcache_native  # pyright: ignore

        native.native_extension.cache_clear()
        yield aiomodelcache_native
        sys.modules.pop("aiomodelcache_native")
        native.native_extension.cache_clear()
