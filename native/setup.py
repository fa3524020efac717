"""Builds the extension. Without a compiler, the distribution is installed without the extension."""

import os

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "aiomodelcache_native",
            ["aiomodelcache_native.c"],
            optional="AIOMODELCACHE_NATIVE_REQUIRED" not in os.environ,
        )
    ]
)
