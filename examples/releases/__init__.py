"""A small service around organisations, projects, releases and commits, written as a user of aiomodelcache would."""
