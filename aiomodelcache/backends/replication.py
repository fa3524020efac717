"""``Unreplicated``: the failure of marks that a server has, and too few of its replicas."""

from aiomodelcache.backends.protocol import PartialFailure


class Unreplicated(PartialFailure):
    """Marks that the server has made, and that too few replicas had in time. Readers may use the server as before."""

    def __init__(self, text: str) -> None:
        super().__init__({b"": text})
        self.failed = {}
