"""The messages of the Open Inference Protocol over gRPC, made of this folder's .proto files.

`descriptors.binpb` is those files compiled (`scripts/generate_grpc.py`). Classes are made of it at
import, in a pool of their own: any protobuf runtime of the supported ones can do that, and another
package with messages of the same names isn't in the way.
"""

from pathlib import Path
from typing import Any

from google.protobuf import (  # type: ignore[import-untyped]  # no types in it
    descriptor_pool,
    message_factory,
)
from google.protobuf.descriptor_pb2 import FileDescriptorSet  # type: ignore[import-untyped]

INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"

_POOL = descriptor_pool.DescriptorPool()
for _file in FileDescriptorSet.FromString(
    (Path(__file__).parent / "descriptors.binpb").read_bytes()
).file:
    _POOL.AddSerializedFile(_file.SerializeToString())


def message(name: str) -> Any:
    """The class of a message by its full name, e.g. `inference.ModelInferRequest`."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


def methods(service: str) -> dict[str, tuple[Any, Any]]:
    """The classes of request and response for each method of a service, by the method's name."""
    found = _POOL.FindServiceByName(service).methods
    get_class = message_factory.GetMessageClass
    return {one.name: (get_class(one.input_type), get_class(one.output_type)) for one in found}
