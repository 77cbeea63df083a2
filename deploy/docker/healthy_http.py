"""Health check of an HTTP server in its container: exit code 0 if PATH is answered with 200.

    healthy_http.py PATH PORT [VARIABLE...]

PORT is where the server listens unless one of the environment variables says otherwise; the first
that is set counts, as it does for the server. Only the standard library, and no proxy: this runs
every few seconds.
"""

import http.client
import os
import sys
from collections.abc import Mapping

TIMEOUT_S = 4.0


def problem(path: str, port: int) -> str | None:
    """Why the server on `port` of this machine isn't well, or None if it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"http://127.0.0.1:{port}{path} doesn't answer: {error or type(error).__name__}."
    finally:
        connection.close()
    return None if status == 200 else f"http://127.0.0.1:{port}{path} answers {status}."


def port_of(default: str, variables: list[str], environ: Mapping[str, str]) -> int:
    """The first of `variables` that is set, else `default`."""
    return int(next((environ[name] for name in variables if environ.get(name)), default))


def main(arguments: list[str]) -> str | None:
    """What is wrong, which the container's runtime keeps as the check's output."""
    path, default, *variables = arguments
    return problem(path, port_of(default, variables, os.environ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
