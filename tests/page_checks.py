"""What every self-contained page must pass in a browser."""

from pathlib import Path
from typing import Any

LEAST_LETTERS_PX = 9


def check_page_opens_alone(
    browser: Any, file: Path, width: int, scheme: str, least_figures: int = 0
) -> None:
    """It needs no network, logs nothing, doesn't scroll sideways, and its plots can be read."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    problems: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    figures = page.locator("figure.plot").all()
    assert len(figures) >= least_figures
    for figure in figures:
        (shown,) = [one for one in figure.locator("svg:not(.key)").all() if one.is_visible()]
        size = shown.locator("text").first.evaluate(
            "e => parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.getScreenCTM().a"
        )
        assert size >= LEAST_LETTERS_PX
    assert problems == []
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
    context.close()
