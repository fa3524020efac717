"""Private Redis servers that accept nothing but TLS, with a certificate authority of their own."""

from pathlib import Path
from urllib.parse import urlencode

import trustme

from tests.support.servers.redis import PATIENT, RedisServer
from tests.support.servers.redis_cluster import ClusterNode
from tests.support.servers.server import HOST


class Certificates:
    """A new certificate authority, the certificate of a server and that of a client, as files."""

    def __init__(self, folder: Path, host: str = HOST) -> None:
        authority = trustme.CA()
        self.authority, self.server, self.client = folder / "ca.pem", folder / "server.pem", folder / "client.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        authority.issue_cert(host).private_key_and_cert_chain_pem.write_to_path(str(self.server))
        authority.issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(str(self.client))

    def options(self) -> list[str | Path]:
        """Returns the options of a server, which asks its clients for certificates, too."""
        files = {"ca-cert": self.authority, "cert": self.server, "key": self.server}
        return [part for name, path in files.items() for part in (f"--tls-{name}-file", path)]

    def query(self, **options: str) -> str:
        """Returns the query of a client's URL, in which ``options`` replace the right ones."""
        right = {"ssl_ca_certs": self.authority, "ssl_certfile": self.client, "ssl_keyfile": self.client}
        patience = {"socket_timeout": PATIENT, "socket_connect_timeout": PATIENT}
        return urlencode({name: value for name, value in (right | patience | options).items() if value})


def _encrypted(command: list[str | Path], certificates: Certificates) -> list[str | Path]:
    at = command.index("--port")
    return [*command[:at], "--port", "0", "--tls-port", *command[at + 1 :], *certificates.options()]


class TLSServer(RedisServer):
    """A server that accepts TLS only, beside its Unix socket."""

    def __init__(self, certificates: Certificates) -> None:
        super().__init__()
        self.certificates = certificates

    @property
    def url(self) -> str:
        return self.url_with()

    def url_with(self, **options: str) -> str:
        """Returns the URL with other options than the right ones. Empty ones are left out."""
        return f"rediss://{HOST}:{self.port}/0?{self.certificates.query(**options)}"

    def _command(self) -> list[str | Path]:
        return _encrypted(super()._command(), self.certificates)


class TLSClusterNode(ClusterNode):
    """A node of a Cluster that speaks TLS with clients and with the other nodes."""

    def __init__(self, certificates: Certificates) -> None:
        super().__init__()
        self.certificates = certificates

    def _command(self) -> list[str | Path]:
        return [*_encrypted(super()._command(), self.certificates), "--tls-cluster", "yes"]
