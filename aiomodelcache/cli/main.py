"""The group of all commands."""

import click

from aiomodelcache.cli.advise import advise_command
from aiomodelcache.cli.audit import audit_command
from aiomodelcache.cli.check import check_command
from aiomodelcache.cli.doctor import doctor_command
from aiomodelcache.cli.explain import explain_command
from aiomodelcache.cli.inspect import inspect_command
from aiomodelcache.cli.keys import keys_command, stats_command
from aiomodelcache.cli.publication import publication_command
from aiomodelcache.cli.relay import relay_command
from aiomodelcache.cli.top import top_command
from aiomodelcache.cli.triggers import triggers_command
from aiomodelcache.cli.verify import verify_command
from aiomodelcache.cli.warm import warm_command
from aiomodelcache.cli.writes import clear_command, invalidate_command, refresh_command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="aiomodelcache", prog_name="aiomodelcache")
def commands() -> None:
    """Looks at the cache of an application: its declarations, and what its store holds.

    [tool.aiomodelcache] in pyproject.toml says which application: tortoise, url, namespace, imports, config.

    Exit status: 0, 1 if faults were found, 2 for a wrong command, setting or right, 3 if a server does not answer.
    """


for each in (
    check_command,
    explain_command,
    inspect_command,
    keys_command,
    stats_command,
    clear_command,
    invalidate_command,
    refresh_command,
    warm_command,
    doctor_command,
    verify_command,
    audit_command,
    advise_command,
    top_command,
    triggers_command,
    relay_command,
    publication_command,
):
    commands.add_command(each)
