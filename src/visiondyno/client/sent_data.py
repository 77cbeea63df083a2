"""A trainer's data on their way to the workers: each content once."""

from typing import Any

from visiondyno.client.client import Client
from visiondyno.client.fingerprint import fingerprint
from visiondyno.client.training_data import features_to_wire, to_wire

_KEPT = 64


class SentData:
    """What a trainer's data are called on the wire.

    Data may change between calls: arrays, tensors and lists are hashed each time, and uploaded
    where the store lacks them. A data set object (`torch.utils.data.Dataset`) is read item by item
    at its first use, when random transforms in it are drawn, and again only where what it holds or
    its code has changed since, or where that can't be seen (see `fingerprint`).
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._of: dict[str, Any] = {}

    def on_wire(self, data: Any, what: str) -> Any:
        """The data as a job's input holds them; None stays None.

        Args:
            data: see `visiondyno.client.training_data.to_wire`.
            what: they are, for messages.

        Raises:
            DatasetError: they aren't data to train on; names the place.
            SpecError: client and workers share no store of blobs.
        """
        if data is None:
            return None
        if not _is_read_by_item(data):
            return to_wire(data, self._client.put_blob, self._client.has_blob, what)
        known = self._of.get(fingerprint(data) or "")
        if known is None or self._is_gone(known):
            known = to_wire(data, self._client.put_blob, self._client.has_blob, what)
            self._keep(fingerprint(data), known)  # as it is now: reading may have changed it
        return known

    def features_on_wire(self, features: Any) -> Any:
        """Samples to predict, as a job's input holds them: features alone, or data as above.

        Raises:
            DatasetError, SpecError: as `on_wire`.
        """
        if isinstance(features, list) or hasattr(features, "dtype"):
            return features_to_wire(features, self._client.put_blob, self._client.has_blob)
        return self.on_wire(features, "features")

    def _keep(self, content: str | None, wire: Any) -> None:
        if content is not None:
            self._of[content] = wire
        while len(self._of) > _KEPT:
            del self._of[next(iter(self._of))]

    def _is_gone(self, wire: Any) -> bool:
        return isinstance(wire, str) and not self._client.has_blob(wire)


def _is_read_by_item(data: Any) -> bool:
    """Whether it is a data set object whose samples must be asked for one by one."""
    of_torch = any(
        kind.__name__ == "Dataset" and kind.__module__.startswith("torch.utils.data")
        for kind in type(data).__mro__
    )
    return of_torch and not hasattr(data, "tensors")
