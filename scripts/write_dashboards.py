"""Write Grafana's dashboards from `scripts/dashboards`; with `--check`, only say whether they are.

python scripts/write_dashboards.py            writes deploy/observability/grafana
python scripts/write_dashboards.py --check    fails where a file is another, or one too many
"""

import json
import sys
from pathlib import Path

from dashboards.cloud_run import CLOUD_RUN
from dashboards.fleet import FLEET
from dashboards.inference import INFERENCE

FOLDER = Path(__file__).resolve().parents[1] / "deploy" / "observability" / "grafana"


def files() -> dict[Path, str]:
    """Each dashboard's file and text."""
    dashboards = {
        "visiondyno/inference.json": INFERENCE,
        "visiondyno/fleet.json": FLEET,
        "google-cloud/cloud-run.json": CLOUD_RUN,
    }
    return {
        FOLDER / path: json.dumps(dashboard.to_json(), indent=2, ensure_ascii=False) + "\n"
        for path, dashboard in dashboards.items()
    }


def main() -> int:
    """Write the files, or compare with `--check`."""
    wanted = files()
    if "--check" not in sys.argv[1:]:
        for path, text in wanted.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        print(f"Wrote {len(wanted)} dashboards")
        return 0
    there = {path: path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.json")}
    if there != wanted:
        print(
            "deploy/observability/grafana isn't what scripts/dashboards says; run: "
            "python scripts/write_dashboards.py",
            file=sys.stderr,
        )
        return 1
    print("deploy/observability/grafana: up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
