"""The dashboard in a real browser, over the real service with worker processes of its own.

Screenshots are kept in tests/output/dashboard.
"""

import re
from importlib import resources
from pathlib import Path

import pytest

from live_site import LiveSiteWithWorkers
from told_study import half_done, running_study
from visiondyno.errors import TransportDown

pytestmark = [pytest.mark.browser, pytest.mark.slow]

OUTPUT = Path(__file__).resolve().parents[1] / "output" / "dashboard"
SHORT = {
    "operation": "evaluate",
    "model": "visiondyno:street-n",
    "data": "street:demo",
    "max_images": 8,
}
LONG = {
    "operation": "benchmark",
    "models": ["visiondyno:street-n"],
    "data": "street:demo",
    "duration_s": 600,
}
JOB_S = 150_000
"""How long a page may wait for a job's end, milliseconds; only a stuck one takes so long."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with LiveSiteWithWorkers(tmp_path_factory.mktemp("home"), workers_min=2, workers_max=2) as site:
        yield site


class Viewer:
    """One browser window on the site; what the browser complains about fails the test."""

    def __init__(self, browser, site, width=1280, scheme="light", script=True):
        self._context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=script,
            base_url=site.url,
        )
        self.page = self._context.new_page()
        self.page.set_default_timeout(30_000)
        self.problems, self.elsewhere = [], []
        self.page.on("console", lambda message: self._complain(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda asked: self._look(asked.url, site.url))

    def _complain(self, text):
        # The browser notes every answer of 400 and above; the tests look at those themselves.
        if "the server responded with a status of 4" not in text:
            self.problems.append(text)

    def _look(self, url, own):
        if not url.startswith((own, "data:", "about:")):
            self.elsewhere.append(url)

    def __enter__(self):
        return self.page

    def __exit__(self, kind, *_):
        self._context.close()
        if kind is None:
            assert self.problems == []
            assert self.elsewhere == []


def press_tab_until(page, selector):
    """Reach a control as a keyboard does; the focus is to be seen on every stop."""
    for _ in range(60):
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
    pytest.fail(f"no Tab leads to {selector}")


def chip(page, state):
    """The chip of a job's own page."""
    return page.locator(f'[data-region="state"] p .chip[title="{state}"]')


def test_the_overview_follows_a_job(site, browser):
    with Viewer(browser, site) as page:
        page.goto("/")
        page.wait_for_selector("#fresh-text:text-is('live')")
        page.evaluate("window.notReloaded = true")
        job = site.submit(**SHORT)
        row = page.locator(f'[data-region="latest"] tr[data-key="{job.id}"]')
        row.wait_for()
        row.locator('.chip[title="COMPLETED"]').wait_for(timeout=JOB_S)
        page.locator('[data-region="workers"] .worker').nth(1).wait_for()
        ended = re.compile(r"Ended in the last 10 minutes\s+1 job")
        page.locator('[data-region="figures"]').filter(has_text=ended).wait_for()
        assert page.evaluate("window.notReloaded")
        assert " ago" in row.locator("time").inner_text()


def test_a_jobs_page_follows_it_and_cancels_it_by_keyboard(site, browser):
    job = site.submit(**LONG)
    with Viewer(browser, site) as page:
        page.goto(f"/jobs/{job.id}")
        chip(page, "IN_PROGRESS").wait_for(timeout=JOB_S)
        page.locator("[data-rows] tr").nth(2).wait_for(timeout=JOB_S)
        page.locator('[data-region="progress"] progress').wait_for()
        names = "|".join(worker.name for worker in site.call(site.service.jobs.workers()))
        # Until its end only the workers know whose a job is, and the first page may come before.
        page.locator('[data-region="state"] dd').filter(has_text=re.compile(names)).wait_for()
        shoot(page, "job-running")
        press_tab_until(page, "#cancel")
        page.keyboard.press("Enter")
        chip(page, "CANCELLED").wait_for(timeout=JOB_S)
        page.wait_for_selector("#fresh", state="hidden")
        rows = page.locator("[data-rows] tr").last
        rows.locator('.chip[title="CANCELLED"]').wait_for()
        assert page.locator("#cancel").count() == 0
        keys = page.eval_on_selector_all("[data-rows] tr", "rows => rows.map(r => r.dataset.key)")
        assert len(keys) == len(set(keys))


def test_without_javascript_a_job_is_cancelled_too(site, browser):
    job = site.submit(**LONG)
    with Viewer(browser, site, script=False) as page:
        page.goto(f"/jobs/{job.id}")
        page.locator("#cancel").click()
        assert page.locator(".did").inner_text() == "Cancelling was asked for."
        site.call(site.service.jobs.wait(job.id, 50))
        page.goto(f"/jobs/{job.id}")
        assert chip(page, "CANCELLED").is_visible()
        assert "reload to see newer" in page.locator("footer").inner_text()


def test_a_model_is_handed_in_until_it_is_on_the_board(site, browser):
    model = resources.files("visiondyno") / "shipped" / "depth-n.onnx"
    with Viewer(browser, site) as page:
        page.goto("/tasks")
        press_tab_until(page, 'a[href="/tasks/task2"]')
        page.keyboard.press("Enter")
        page.wait_for_url("**/tasks/task2")
        page.locator("#file").set_input_files(str(model))
        press_tab_until(page, "#name")
        page.keyboard.type("visiondyno:depth-n")
        press_tab_until(page, "#upload button")
        page.keyboard.press("Enter")
        page.locator(".did", has_text="The model was taken in").wait_for()
        assert page.url == f"{site.url}/tasks/task2"
        sent = page.locator('[data-region="sent"] tbody tr')
        assert sent.count() == 1
        row = page.locator('[data-region="board"] tbody tr')
        row.wait_for(timeout=JOB_S)
        assert row.locator("th").inner_text() == "visiondyno:depth-n"
        assert re.search(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", row.inner_text())
        assert row.locator("svg circle").count() == 1
        sent.locator('.chip[title="completed"]').wait_for()
        shoot(page, "board")


def test_a_file_that_is_no_model_is_refused_at_the_form(site, browser, tmp_path):
    text = tmp_path / "notes.onnx"
    text.write_bytes(b"PK\x03\x04 a zip file")
    with Viewer(browser, site) as page:
        page.goto("/tasks/task2")
        page.fill("#name", "mine")
        page.locator("#file").set_input_files(str(text))
        page.locator("#upload button").click()
        page.locator("#upload-error").wait_for()
        assert "isn't ONNX" in page.locator("#upload-error").inner_text()
        assert page.input_value("#name") == "mine"
        assert page.evaluate("document.activeElement.id") == "file"
        assert page.locator("#upload-error").get_attribute("role") == "alert"


def test_a_comparison_is_started_from_the_page_until_its_report_shows(site, browser):
    with Viewer(browser, site) as page:
        page.goto("/comparisons")
        page.locator("#start button").click()  # the browser itself asks for the data
        assert page.evaluate("document.activeElement.id") == "data"
        page.fill("#data", "street:demo")
        page.fill("#duration_s", "long")
        page.locator("#start button").click()
        page.locator("#models-error").wait_for()
        assert page.locator("#duration_s-error").count() == 0  # models come first
        assert page.evaluate("document.activeElement.id") == "others"
        page.get_by_label("visiondyno:street-n").check()
        page.locator("#start button").click()
        page.locator("#duration_s-error").wait_for()
        page.fill("#duration_s", "0.5")
        page.fill("#max_images", "8")
        page.get_by_label("visiondyno:street-s").check()
        press_tab_until(page, "#start button")
        page.keyboard.press("Enter")
        page.wait_for_url("**/comparisons/*-*")
        page.locator('[data-region="comparison"] progress').wait_for()
        report = page.frame_locator("iframe.report")
        page.locator("iframe.report").wait_for(timeout=JOB_S)
        page.locator("iframe.report").scroll_into_view_if_needed()
        report.locator("table.results tbody tr").nth(1).wait_for()
        assert page.locator("h1").inner_text() == "2 detectors on street:demo"
        shoot(page, "comparison")
        page.set_viewport_size({"width": 390, "height": 900})
        assert page.get_by_role("heading", name="Winners").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_text("Open the report alone").click()
        page.locator("table.results").wait_for()


def test_the_same_comparison_again_is_said_to_be_cached(site, browser):
    form = {"data": "street:demo", "duration_s": "0.5", "max_images": "8"}
    with Viewer(browser, site) as page:
        for _ in range(2):
            page.goto("/comparisons")
            for name, text in form.items():
                page.fill(f"#{name}", text)
            page.get_by_label("visiondyno:street-n").check()
            page.locator("#start button").click()
            page.wait_for_url("**/comparisons/*-*")
            page.locator("iframe.report").wait_for(timeout=JOB_S)
        assert page.get_by_text("Cached.").is_visible()


def test_a_worker_is_drained_and_resumed(site, browser):
    with Viewer(browser, site) as page:
        page.goto("/workers")
        page.locator("#drain-1").click()
        page.locator(".did", has_text="takes no other.").wait_for()
        page.locator('.worker .chip[title="drained"]').wait_for()
        page.locator("#resume-1").click()
        page.locator('.worker .chip[title="drained"]').wait_for(state="detached")


def test_what_is_stale_says_so_and_heals(site, browser, monkeypatch):
    async def away(*_):
        raise TransportDown("The database is away.")

    with Viewer(browser, site) as page:
        page.goto("/")
        page.wait_for_selector("#fresh-text:text-is('live')")
        with monkeypatch.context() as patch:
            patch.setattr(site.service.jobs, "counts", away)
            page.locator("#lost", has_text="The database is away.").wait_for()
            page.wait_for_selector("#fresh-text:has-text('last seen')")
            assert "stale" in page.locator("body").get_attribute("class")
            assert page.evaluate(_WEAK_TEXT) == []
            shoot(page, "stale")
        page.wait_for_selector("#fresh-text:text-is('live')")
        page.wait_for_selector("#lost", state="hidden")


def test_a_lost_server_is_told(browser, tmp_path):
    with LiveSiteWithWorkers(tmp_path, workers_min=0) as site:
        viewer = Viewer(browser, site)
        viewer.page.goto("/")
        viewer.page.wait_for_selector("#fresh-text:text-is('live')")
    page = viewer.page
    page.locator("#lost", has_text="The connection to the server is lost").wait_for()
    page.wait_for_selector("#fresh-text:has-text('last seen')")
    page.goto("about:blank")  # what the browser now complains about is what the test is about
    viewer.problems.clear()
    with viewer:
        pass


def test_an_action_on_a_lost_server_is_told_at_its_form(browser, tmp_path):
    with LiveSiteWithWorkers(tmp_path, workers_min=0) as site:
        viewer = Viewer(browser, site)
        viewer.page.goto("/tasks/task2")
    viewer.page.locator("#file").set_input_files(__file__)
    viewer.page.locator("#upload button").click()
    viewer.page.get_by_text("The server could not be reached, so nothing was done.").wait_for()
    viewer.page.goto("about:blank")
    viewer.problems.clear()
    with viewer:
        pass


PAGES = (
    "/",
    "/jobs",
    "/workers",
    "/comparisons",
    "/studies",
    "/tasks",
    "/tasks/task2",
    "/jobs/unknown",
)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark"), (390, "light")])
def test_every_page_fits_and_can_be_read(site, browser, tmp_path, width, scheme):
    site.run_to_end(operation="evaluate", model="no/such.onnx", data="street:demo")
    failed = site.call(site.service.jobs.find(_newest()))[0]
    with (
        running_study(site, tmp_path) as (study, name),
        Viewer(browser, site, width, scheme) as page,
    ):
        half_done(study)
        for path in (*PAGES, f"/jobs/{failed.id}", f"/studies/{name}"):
            page.goto(path)
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            weak = page.evaluate(_WEAK_TEXT)
            assert weak == [], path
            shown = path.strip("/").replace("/", "-").replace(failed.id, "failed") or "overview"
            shoot(page, f"{shown.replace(name, 'study')}-{width}-{scheme}")


def test_a_study_is_followed_until_its_end(site, browser, tmp_path):
    with Viewer(browser, site) as page:
        with running_study(site, tmp_path) as (study, name):
            page.goto("/studies")
            page.locator(f'[data-key="{name}"] a').click()
            page.get_by_text("No trial has begun yet").wait_for()
            half_done(study)
            page.get_by_text("2 of 8 ended").wait_for()
            assert page.get_by_label("Trial 2").evaluate("bar => bar.value") == 0.75
            assert page.get_by_role("img", name="val_accuracy of 1 completed trial").count() == 1
        page.get_by_text("Its process is gone.").wait_for()
        assert page.locator("#fresh").is_hidden()


def test_the_skip_link_leads_past_the_navigation(site, browser):
    with Viewer(browser, site) as page:
        page.goto("/jobs")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "state"


def test_the_script_tells_times_as_the_server_does(site, browser):
    from visiondyno.dashboard.wording import span_text

    seconds = [0, 0.4, 59.9, 60, 3599, 3600, 86399, 86400, 10**6]
    with Viewer(browser, site) as page:
        page.goto("/")
        told = page.evaluate("seconds => seconds.map(s => spanText(s))", seconds)
    assert told == [span_text(second) for second in seconds]


def test_what_a_reader_opened_and_focused_survives_an_update(site, browser):
    job = site.run_to_end(**SHORT)
    with Viewer(browser, site) as page:
        page.goto("/jobs")
        link = page.locator(f'[data-region="jobs"] tr[data-key="{job.id}"] a')
        link.focus()
        new = site.submit(**SHORT)
        page.locator(f'[data-region="jobs"] tr[data-key="{new.id}"]').wait_for()
        assert page.evaluate("document.activeElement.getAttribute('href')") == f"/jobs/{job.id}"
        site.call(site.service.jobs.wait(new.id, 50))


def _newest():
    from visiondyno.store.records import JobFilter

    return JobFilter(limit=1)


def shoot(page, name):
    """Keep a picture of the whole page."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=OUTPUT / f"{name}.png", full_page=True)


# Every visible text whose contrast to what lies under it is below 4.5.
_WEAK_TEXT = """() => {
  const light = text => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const weak = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !element.checkVisibility() || element.closest('svg, option, .hidden, .skip'))
      continue;
    let ground = element;
    while (ground.parentElement && /rgba\\(.*, 0\\)|transparent/.test(
      getComputedStyle(ground).backgroundColor)) ground = ground.parentElement;
    const a = light(getComputedStyle(element).color);
    const b = light(getComputedStyle(ground).backgroundColor);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) weak.push([element.tagName, element.className, element.innerText, ratio]);
  }
  return weak;
}"""
