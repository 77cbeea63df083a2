"""Compile the .proto files of `dyno serve` into the descriptors that it loads.

`python scripts/generate_grpc.py`, after every change to them; needs the group `generate`. Not
Python modules: those work with a protobuf runtime at least as new as the compiler only, and add
their names to a registry that the whole process shares.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "src" / "visiondyno" / "serving" / "inference_pb"
DESCRIPTORS = FOLDER / "descriptors.binpb"


def compile_protos() -> bytes:
    """A serialised `google.protobuf.FileDescriptorSet` of every .proto file, without comments."""
    sources = sorted(path.name for path in FOLDER.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={FOLDER}"]
    options = ["--descriptor_set_out=/dev/stdout", *sources]
    return subprocess.run([*command, *options], check=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    DESCRIPTORS.write_bytes(compile_protos())
