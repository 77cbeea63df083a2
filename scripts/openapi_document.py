"""Write the HTTP API's OpenAPI document for its clients; with `--check`, say if it is current."""

import asyncio
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from visiondyno.api.app import make_api
from visiondyno.settings import Settings
from visiondyno.wiring import make_executor, make_service

DOCUMENT = Path(__file__).resolve().parents[1] / "clients" / "typescript" / "openapi.json"


async def document() -> str:
    """The document as the server gives it at /openapi.json, as JSON text in a fixed form."""
    with TemporaryDirectory() as home:
        # Nothing of this machine's own: neither its database nor its bucket is touched.
        settings = Settings(
            home=Path(home), database_url=None, blobs_url=None, tasks_dir=None, _env_file=None
        )
        async with make_service(settings, make_executor()) as service:
            made = make_api(service).openapi()
    return json.dumps(made, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> int:
    """Write or check; the exit code."""
    wanted = asyncio.run(document())
    if "--check" not in sys.argv[1:]:
        DOCUMENT.write_text(wanted, encoding="utf-8")
        return 0
    if DOCUMENT.is_file() and DOCUMENT.read_text(encoding="utf-8") == wanted:
        return 0
    print(
        f"{DOCUMENT.name} isn't what the server says: run scripts/openapi_document.py, then "
        "'npm run generate' in clients/typescript, and commit both.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
