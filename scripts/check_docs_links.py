"""Check that every relative link and anchor in the project's Markdown leads somewhere.

Links to other hosts aren't fetched: a check that needs the network fails for reasons that aren't
ours. Exit code 1 and one line for each broken link.
"""

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
# Hidden folders hold environments and caches; a benchmark's output isn't documentation.
NOT_OURS = {"build", "dist", "out", "demo-report", "node_modules"}

_FENCE = re.compile(r"^(```|~~~)")
_INLINE_CODE = re.compile(r"`[^`]*`")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+[\"'][^)]*)?\)")
_REFERENCE = re.compile(r"^\s*\[[^\]]+\]:\s*(\S+)")
_HTML = re.compile(r"<(?:a|img|source)\b[^>]*?\b(?:href|src|srcset)=[\"']([^\"']+)[\"']")
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*\s*$")
_HTML_ANCHOR = re.compile(r"<[^>]*?\b(?:id|name)=[\"']([^\"']+)[\"']")


def markdown_files(root: Path) -> list[Path]:
    """Every `.md` file of the project, sorted."""
    return sorted(
        path
        for path in root.rglob("*.md")
        if not any(
            part.startswith(".") or part in NOT_OURS for part in path.relative_to(root).parts
        )
    )


def prose_lines(text: str) -> Iterator[tuple[int, str]]:
    """Line numbers and lines outside fenced code blocks."""
    fence: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        mark = _FENCE.match(line.strip())
        if mark and fence is None:
            fence = mark.group(1)
        elif mark and mark.group(1) == fence:
            fence = None
        elif fence is None:
            yield number, line


def links(text: str) -> Iterator[tuple[int, str]]:
    """Line numbers and targets of every link, image and reference definition."""
    for number, line in prose_lines(text):
        bare = _INLINE_CODE.sub("``", line)
        for pattern in (_LINK, _REFERENCE, _HTML):
            for match in pattern.finditer(bare):
                yield number, match.group(1)


def slug(heading: str) -> str:
    """A heading's anchor by GitHub's rule: lower case, punctuation dropped, spaces to hyphens."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    text = re.sub(r"[^\w\- ]", "", text.strip().lower())
    return text.replace(" ", "-")


@cache
def anchors(path: Path) -> frozenset[str]:
    """Every anchor of a Markdown file; the second of two equal headings gets `-1`, and so on."""
    found: dict[str, int] = {}
    explicit: set[str] = set()
    for _, line in prose_lines(path.read_text(encoding="utf-8")):
        explicit.update(_HTML_ANCHOR.findall(line))
        if match := _HEADING.match(line):
            base = slug(match.group(1))
            count = found.get(base, 0)
            found[base] = count + 1
            explicit.add(f"{base}-{count}" if count else base)
    return frozenset(explicit)


def problem_with(target: str, page: Path, root: Path) -> str | None:
    """Why `target` in `page` leads nowhere, or None if it is fine."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return None
    if parts.path.startswith("/"):
        return "is absolute; make it relative to this page"
    path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not path.exists():
        return "leads to no file"
    if not path.is_relative_to(root):
        return "leads out of the project"
    if parts.fragment and path.suffix == ".md" and unquote(parts.fragment) not in anchors(path):
        return f"names no heading of {path.relative_to(root)}"
    return None


def broken_links(root: Path) -> list[str]:
    """One line for each broken link: file, line, target, reason."""
    found = []
    for page in markdown_files(root):
        for number, target in links(page.read_text(encoding="utf-8")):
            reason = problem_with(target, page, root)
            if reason:
                found.append(f"{page.relative_to(root)}:{number}: '{target}' {reason}")
    return found


def main() -> int:
    """Print what is broken."""
    found = broken_links(ROOT)
    for line in found:
        print(line, file=sys.stderr)
    if not found:
        print(f"Links: all good in {len(markdown_files(ROOT))} files")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
