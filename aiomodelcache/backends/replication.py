"""``Unreplicated``: the failure of marks that a server has, and too few of its replicas."""

from aiomodelcache.backends.protocol import PartialFailure


class Unreplicated(PartialFailure):
    """Marks of which the server has made every one, and too few replicas had them in time.

    Readers may use the server as before.
    """

    def __init__(self, text: str) -> None:
        super().__init__({b"": text})
        self.failed = {}
