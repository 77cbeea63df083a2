"""Compile the .proto files of `dyno serve` into the descriptors that it loads.

`python scripts/generate_grpc.py`, after every change to them, or with
`--check`; needs the group `generate`. Not
Python modules: those work with a protobuf runtime at least as new as the compiler only, and add
their names to a registry that the whole process shares.
"""

import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet  # type: ignore[import-untyped]

FOLDER = Path(__file__).resolve().parents[1] / "src" / "visiondyno" / "serving" / "inference_pb"
DESCRIPTORS = FOLDER / "descriptors.binpb"


def compile_protos() -> bytes:
    """A serialised `google.protobuf.FileDescriptorSet` of every .proto file, without comments."""
    sources = sorted(path.name for path in FOLDER.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={FOLDER}"]
    options = ["--descriptor_set_out=/dev/stdout", *sources]
    return subprocess.run([*command, *options], check=True, stdout=subprocess.PIPE).stdout


def main() -> None:
    """Write the descriptors, or (`--check`) fail if those that are there aren't current."""
    compiled = compile_protos()
    if "--check" not in sys.argv[1:]:
        DESCRIPTORS.write_bytes(compiled)
    elif FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()) != FileDescriptorSet.FromString(
        compiled
    ):
        sys.exit(f"{DESCRIPTORS.name} isn't current: run scripts/generate_grpc.py.")


if __name__ == "__main__":
    main()
