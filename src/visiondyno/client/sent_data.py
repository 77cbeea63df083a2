"""A trainer's data on their way to the workers: each content once."""

import weakref
from typing import Any

from visiondyno.client.client import Client
from visiondyno.client.training_data import features_to_wire, to_wire


class SentData:
    """What a trainer's data are called on the wire.

    Arrays, tensors and lists may change between calls: they are hashed each time, and uploaded
    where the store lacks them. A data set object (`torch.utils.data.Dataset`) is read once, at its
    first use: random transforms in it are drawn then.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._of: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

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
        is_kept = _is_fixed(data)
        known = self._of.get(data) if is_kept else None
        if known is not None and not self._is_gone(known):
            return known
        wire = to_wire(data, self._client.put_blob, self._client.has_blob, what)
        if is_kept:
            self._of[data] = wire
        return wire

    def features_on_wire(self, features: Any) -> Any:
        """Samples to predict, as a job's input holds them: features alone, or data as above.

        Raises:
            DatasetError, SpecError: as `on_wire`.
        """
        if isinstance(features, list) or hasattr(features, "dtype"):
            return features_to_wire(features, self._client.put_blob, self._client.has_blob)
        return self.on_wire(features, "features")

    def _is_gone(self, wire: Any) -> bool:
        return isinstance(wire, str) and not self._client.has_blob(wire)


def _is_fixed(data: Any) -> bool:
    """Whether it is a data set object whose samples must be asked for one by one."""
    of_torch = any(
        kind.__name__ == "Dataset" and kind.__module__.startswith("torch.utils.data")
        for kind in type(data).__mro__
    )
    return of_torch and type(data).__hash__ is not None and not hasattr(data, "tensors")
