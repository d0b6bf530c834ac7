"""Makes the gRPC code from `shoal/v1/shoal.proto`: `python -m shoal.serve.proto.generate` (what `make proto` runs).

The file is compiled as `shoal/v1/shoal.proto`, its public name: a stub that somebody makes of the published file, under that
name, can be loaded beside ours. Only the import in the service's module is rewritten, because `shoal.v1` would be a module of its own.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

from shoal.errors import SiteError

HERE = Path(__file__).parent
NAME = "shoal/v1/shoal.proto"


def generate(out: Path) -> list[Path]:
    """Write the modules below `out`; returns their paths."""
    well_known = files("grpc_tools").joinpath("_proto")
    arguments = ["protoc", f"-I{HERE}", f"-I{well_known}"]
    arguments += [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main([*arguments, NAME]) != 0:
        raise SiteError(f"{NAME} cannot be compiled.", remedy="protoc's messages above say why.")
    folder = out / "shoal/v1"
    service = folder / "shoal_pb2_grpc.py"
    code = service.read_text(encoding="utf-8")
    service.write_text(
        code.replace("from shoal.v1 import", "from shoal.serve.proto.shoal.v1 import"), encoding="utf-8"
    )
    return [folder / "shoal_pb2.py", folder / "shoal_pb2.pyi", service]


if __name__ == "__main__":
    for path in generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE):
        print(path)
