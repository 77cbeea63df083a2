"""Model state on the wire: named tensors as safetensors, compressed, as a delta, or rounded.

`encode` and `decode` carry a state from one process to another; `from_module` and `load_into` take
it out of a torch module and put it into one. Nothing here unpickles, and only the functions
that touch a module or a tensor of torch need torch.
"""

from visiondyno.state.bases import Bases
from visiondyno.state.codec import (
    FORMATS,
    INLINE_LIMIT_BYTES,
    EncodedState,
    Placement,
    decode,
    decode_identified,
    encode,
    encode_held,
    from_text,
    inline_or_blob,
    to_text,
)
from visiondyno.state.feedback import ErrorFeedback
from visiondyno.state.reading import from_safetensors
from visiondyno.state.tensors import MAX_STATE_BYTES, State, Tensor
from visiondyno.state.torch_modules import (
    from_module,
    from_tensors,
    load_into,
    to_tensors,
)
from visiondyno.state.writing import identity, safetensors_pieces, to_safetensors

__all__ = [
    "FORMATS",
    "INLINE_LIMIT_BYTES",
    "MAX_STATE_BYTES",
    "Bases",
    "EncodedState",
    "ErrorFeedback",
    "Placement",
    "State",
    "Tensor",
    "decode",
    "decode_identified",
    "encode",
    "encode_held",
    "from_module",
    "from_safetensors",
    "from_tensors",
    "from_text",
    "identity",
    "inline_or_blob",
    "load_into",
    "safetensors_pieces",
    "to_safetensors",
    "to_tensors",
    "to_text",
]
