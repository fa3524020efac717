"""Additions to the applications of docs/frameworks, by which the tests of these pages ask each worker.

Each module is copied into the project of its page, where it imports the page's application as ``main``.
"""
