"""The house rules that no linter knows."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import visiondyno
from visiondyno.measurements.measure import MEASURES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "visiondyno"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Who may import what, at the top of a module or inside a function.
ONLY_HERE = {
    "faster_coco_eval": ("vision/accuracy/",),
    "onnxruntime": (
        *("runtimes/", "probes/", "operations/onnx_", "operations/quantize"),
        "operations/export_formats.py",
    ),
    "onnx": (
        *("runtimes/", "probes/", "operations/export", "operations/quantize"),
        "training/onnx_export.py",
    ),
    "pynvml": ("probes/",),
    "click": ("cli/",),
    "jinja2": ("report/", "dashboard/"),
    "sqlalchemy": ("store/",),
    "alembic": ("store/",),
    "redis": ("executors/",),
    "obstore": ("blobs/",),
    "fastapi": ("api/", "dashboard/", "serving/", "server.py"),
    "grpc": ("serving/",),
    "opentelemetry": ("telemetry/",),
    "uvicorn": ("server.py", "emulator/serve.py", "serving/"),
    "torch": (
        *("runtimes/", "state/", "training/", "operations/", "client/"),
        "vision/ultralytics_library.py",
    ),
    "keras": ("training/keras_", "runtimes/keras_conversion.py"),
    "openvino": ("runtimes/openvino", "operations/export_formats.py"),
    "torch_pruning": ("training/vision/",),
    "ai_edge_litert": ("runtimes/litert",),
    "tensorflow": ("runtimes/saved_model_conversion.py",),
    "tf2onnx": ("runtimes/saved_model_conversion.py",),
    "mlflow": ("client/loggers.py",),
    "wandb": ("client/loggers.py",),
    "IPython": ("client/notebook.py",),
    "optuna": ("client/", "tuning/"),
    "ultralytics": (
        *("runtimes/pytorch/ultralytics", "training/vision/ultralytics"),
        "vision/ultralytics_library.py",
    ),
}
# Present only with an extra: importing the module that uses them must work without.
NEVER_AT_TOP = {
    *("torch", "torchvision", "ultralytics", "onnxscript", "timm", "transformers"),
    *("keras", "mlflow", "wandb", "IPython", "optuna", "grpc", "opentelemetry"),
    *("openvino", "ai_edge_litert", "tensorflow", "tf2onnx", "h5py"),
    *("huggingface_hub", "PIL", "detectron2", "torch_pruning"),
}
# Extras that the development environment does without.
NOT_DEVELOPED_WITH = {"gpu", "tensorflow"}
# Modules that are imported only where their extra is wanted.
OF_AN_EXTRA = {
    "blobs/object_store.py",
    "executors/redis_bell.py",
    "executors/redis_connection.py",
    "executors/redis_queue.py",
}


def relative(path: Path) -> str:
    """`path` as seen from the package, for test names."""
    return path.relative_to(PACKAGE).as_posix()


def imported_names(nodes: Iterator[ast.AST]) -> set[str]:
    """Top-level names of what the nodes import."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue  # never runs
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from outside_functions(child)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_module_keeps_the_house_rules(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it is for"
    assert len(text.splitlines()) <= 400, "split it by nouns"
    at_top = imported_names(outside_functions(tree))
    assert not at_top & NEVER_AT_TOP, "import an extra where it is used"
    anywhere = imported_names(ast.walk(tree))
    for package, homes in ONLY_HERE.items():
        if package in anywhere:
            assert relative(path).startswith(homes), f"{package} is imported in {homes} only"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.name != "__main__.py"], ids=relative
)
def test_module_imports_and_its_all_names_what_is_there(path: Path) -> None:
    dotted = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    module = importlib.import_module(dotted.removesuffix(".__init__"))
    names = getattr(module, "__all__", [])
    assert not [name for name in names if not hasattr(module, name)]


def test_every_folder_of_the_package_is_a_package() -> None:
    folders = {path.parent for path in SOURCES}
    assert not [relative(folder) for folder in folders if not (folder / "__init__.py").exists()]


def test_the_package_exports_what_its_documentation_names() -> None:
    assert visiondyno.__all__ == sorted(visiondyno.__all__) == dir(visiondyno)
    assert all(getattr(visiondyno, name) is not None for name in visiondyno.__all__)
    exported = set(visiondyno.__all__)
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    used = {
        name
        for page in pages
        for name in re.findall(r"\bvisiondyno\.([a-zA-Z_]+)\(", page.read_text(encoding="utf-8"))
    }
    assert "compare" in used
    assert used <= exported


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ["cv2", "numpy", "onnxruntime", "onnx", "scipy", "rich", "jinja2", "pydantic", "torch"]
    code = f"import sys, visiondyno.cli; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stdout.strip() == "[]"


def test_changelog_has_this_version_on_top() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^\]]+)\]", text, flags=re.MULTILINE)
    released = [version for version in versions if version != "Unreleased"]
    assert released[0] == visiondyno.__version__


def test_pins_satisfy_what_the_package_asks_for() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {re.split("==", line)[0].lower().replace("_", "-") for line in pins if line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = [
        *project["project"]["dependencies"],
        *(
            item
            for extra, items in project["project"]["optional-dependencies"].items()
            if extra not in NOT_DEVELOPED_WITH
            for item in items
        ),
        *project["dependency-groups"]["test"],
        *project["dependency-groups"]["check"],
    ]
    names = {re.split(r"[><=\[ ;]", item)[0].lower().replace("_", "-") for item in asked}
    assert not names - pinned


def test_commands_in_the_documentation_exist() -> None:
    listed = subprocess.run(
        [sys.executable, "-c", "from visiondyno.cli import main; main()", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    commands = set(re.findall(r"^  ([a-z-]+)  ", listed, flags=re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, flags=re.DOTALL))
        used = set(re.findall(r"(?:^|[`$ ])dyno ([a-z][a-z-]*)\b", code, flags=re.MULTILINE))
        assert used <= commands, page.name
        made = set(re.findall(r"(?:^|[`$ ])make ([a-z][a-z-]*)\b", code, flags=re.MULTILINE))
        benches = {name for name in made if name.startswith("bench-")}
        assert made - benches <= targets, page.name
        for bench in benches - {"bench-"}:
            script = bench.removeprefix("bench-").replace("-", "_")
            assert (ROOT / "benchmarks" / f"{script}.py").exists(), f"{page.name}: {bench}"


def test_the_glossary_names_every_measure_with_its_unit() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = {row.split("|")[1].strip(" `"): row for row in glossary.splitlines() if "|" in row}
    for name, kind in MEASURES.items():
        assert name in rows
        assert kind.unit in rows[name]


def test_the_docs_links_checker_finds_what_is_broken(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        checker = importlib.import_module("check_docs_links")
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    (tmp_path / "a.md").write_text(
        "# One thing: `x`\n# One thing: `x`\n[ok](b.md#two-words) [self](#one-thing-x-1)\n"
        "[gone](c.md) [bad](b.md#none)\n```\n[in code](d.md)\n```\n<img src='e.svg'>\n"
        "[web](https://example.org/x#y)\n",
        encoding="utf-8",
    )
    (tmp_path / "b.md").write_text("## Two words\n", encoding="utf-8")
    found = checker.broken_links(tmp_path)
    assert [line.split(" ")[1] for line in found] == ["'c.md'", "'b.md#none'", "'e.svg'"]
    assert checker.broken_links(ROOT) == []


def test_the_cli_reference_is_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "cli_reference.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_dependencies_are_those_that_are_imported() -> None:
    distributions = {  # where the module's name isn't the distribution's
        "cv2": "opencv-python-headless",
        "faster_coco_eval": "faster-coco-eval",
        "google": "protobuf",
        "grpc": "grpcio",
        "opentelemetry": "opentelemetry-sdk",
        "IPython": "ipython",
        "PIL": "pillow",
        "ai_edge_litert": "ai-edge-litert",
        "ml_dtypes": "ml-dtypes",
        "mlflow": "mlflow-skinny",
        "mlperf_loadgen": "mlcommons-loadgen",
        "prometheus_client": "prometheus-client",
        "pydantic_core": "pydantic-core",
        "pydantic_settings": "pydantic-settings",
        "pynvml": "nvidia-ml-py",
        "python_multipart": "python-multipart",
        "sse_starlette": "sse-starlette",
        "torch_pruning": "torch-pruning",
        "yaml": "PyYAML",
    }

    def foreign(nodes: Iterator[ast.AST]) -> set[str]:
        names = imported_names(nodes) - sys.stdlib_module_names - {"visiondyno"}
        return {distributions.get(name, name) for name in names}

    def names_of(requirements: list[str]) -> set[str]:
        return {re.split(r"[><=\[ ;]", item)[0] for item in requirements}

    trees = {relative(path): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
    always = [tree for name, tree in trees.items() if name not in OF_AN_EXTRA]
    at_top = set().union(*(foreign(outside_functions(tree)) for tree in always))
    anywhere = set().union(*(foreign(ast.walk(tree)) for tree in trees.values()))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = names_of(project["dependencies"])
    extras = set().union(*map(names_of, project["optional-dependencies"].values()))
    assert not core - anywhere, "declared and not imported"
    assert not at_top - core, "imported when a module loads and not declared"
    nowhere = {"detectron2"}  # on no package index: whoever wants it builds it
    assert not anywhere - core - extras - nowhere, "imported inside a function and in no extra"
