"""A small service for organisations, projects, releases and commits. It uses only the public API of aiomodelcache."""
