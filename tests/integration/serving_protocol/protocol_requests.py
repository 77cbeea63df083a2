"""Bodies of requests of the Open Inference Protocol over HTTP."""

import base64
import json
from typing import Any

from numpy.typing import NDArray

HEADER = "Inference-Header-Content-Length"
NAME, IMAGES = "street-n", "street-n-images"


def binary_request(tensor: NDArray[Any], **other: Any) -> tuple[bytes, dict[str, str]]:
    about = {
        "name": "images",
        "shape": list(tensor.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": tensor.nbytes},
    }
    header = json.dumps({"inputs": [about], **other}).encode()
    return header + tensor.tobytes(), {HEADER: str(len(header))}


def images_request(*data: bytes, **parameters: Any) -> dict[str, Any]:
    elements = [base64.b64encode(one).decode() for one in data]
    one = {"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": elements}
    return {"inputs": [one], "parameters": parameters}
