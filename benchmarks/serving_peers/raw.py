"""The raw loop: `python raw.py JPEG`; no server at all.

Prints the answer's JSON, then for each line with a number of seconds on its input a line of JSON:
how many times it did the work, and in what time.
"""

import json
import sys
import time
from pathlib import Path

from serving_work import Work


def main() -> None:
    """Serve the parent until its end of the pipe closes."""
    work = Work()
    jpeg = Path(sys.argv[1]).read_bytes()
    print(work(jpeg).decode(), flush=True)
    for line in sys.stdin:
        spent_s: list[float] = []
        begin = now = time.perf_counter()
        end = begin + float(line)
        while now < end:
            work(jpeg)
            before, now = now, time.perf_counter()
            spent_s.append(now - before)
        print(json.dumps({"seconds": now - begin, "each_ms": [1e3 * s for s in spent_s]}))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
