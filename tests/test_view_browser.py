"""The pages of results in headless Chromium: hostile texts, 20 models by 20 tasks, lost samples, keys, a phone, a running run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, find_browser
from test_view import HOSTILE, TRACE, page_of, serving, write_model

from dlm_eval.reports.pages.index import index_page
from dlm_eval.reports.pages.samples import samples_page
from dlm_eval.reports.pages.site import Site, read_site
from dlm_eval.reports.pages.viewer import Viewer

MODELS = TASKS = 20
DOCUMENTS = 30
LABELS = "[...document.querySelectorAll('#board tbody tr')].filter(e => e.checkVisibility()).map(e => e.querySelector('.label bdi').textContent)"
COLUMNS = "[...document.querySelectorAll('#board thead th[data-column]')].filter(e => e.checkVisibility()).length"
LISTED = "[...document.querySelectorAll('#documents tbody tr')].map(e => +e.dataset.number)"
TITLE = "document.querySelector('#document h2').textContent"
QUIET = "performance.getEntriesByType('resource').length === 0 && window.pwned === undefined && document.images.length === 0"
FITS = "document.documentElement.scrollWidth <= innerWidth"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = find_browser()
    if found is None:
        pytest.skip("no browser: neither chromium nor google-chrome is installed")
    with Browser(found, tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Path, dict[Any, list[float]]]:
    """20 models by 20 tasks: the site, the folder of its pages, and (model, task) -> scores."""
    folder, draw = tmp_path_factory.mktemp("many"), random.Random(7)
    scores: dict[Any, list[float]] = {}
    for m in range(MODELS):
        own = {
            f"task_{t}": [float(draw.random() < 0.3 + 0.02 * m) for _ in range(DOCUMENTS)]
            for t in range(TASKS)
        }
        scores |= {(m, task): values for task, values in own.items()}
        write_model(folder / "runs" / str(m), f"model{m}", own, forwards=1.0 + m, prompt="Q")
    site = read_site([folder / "runs"])
    pages = folder / "site"
    (pages / "samples").mkdir(parents=True)
    (pages / "index.html").write_text(index_page(site))
    for m in (3, 4):
        page = page_of(site, f"model{m} ", "task_5")
        (pages / "samples" / f"{page.id}.html").write_text(samples_page(site, page))
    return site, pages, scores


def click(browser: Browser, selector: str) -> None:
    """Scrolls to an element and clicks on it."""
    middle = "{block: 'center', inline: 'center'}"
    browser.value(f"document.querySelector('{selector}').scrollIntoView({middle})")
    browser.click(selector)


def test_hostile_texts_do_nothing(browser: Browser, tmp_path: Path) -> None:
    for number, name in enumerate(HOSTILE):
        write_model(
            tmp_path / str(number), name, {"made": [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]},
            answers=HOSTILE, prompt=HOSTILE[0], errors={5: HOSTILE[1]},
            extra={"target": HOSTILE[2], "exit": [HOSTILE[0]], "trajectory": [{**TRACE, "text": HOSTILE[:3]}]},
        )  # fmt: skip
    site = read_site([tmp_path])
    (tmp_path / "samples").mkdir()
    index = tmp_path / "index.html"
    index.write_text(index_page(site))
    browser.look(1000, 760)
    browser.open(index.as_uri())
    assert browser.value(QUIET)
    shown = browser.value(LABELS)
    assert len(shown) == len(HOSTILE) and f"{HOSTILE[0]} 4" in shown
    assert browser.value("getComputedStyle(document.querySelector('.wide')).overflowX") == "auto"
    for number, page in enumerate(site.pages.values()):
        file = tmp_path / "samples" / f"{page.id}.html"
        file.write_text(samples_page(site, page))
        browser.open(file.as_uri())
        assert browser.value(QUIET)
        if number:
            continue
        for text in HOSTILE[:3]:
            assert browser.value("document.querySelectorAll('.text')[1].textContent") == text
            assert browser.value("document.querySelector('.text').textContent").startswith(
                HOSTILE[0]
            )
            browser.press("j")
        assert "U+202E" in browser.value("document.querySelectorAll('.text')[1].textContent")
        browser.press("End")
        assert browser.value(QUIET)


def test_a_huge_text_does_not_widen_the_page(browser: Browser, tmp_path: Path) -> None:
    write_model(tmp_path, "n" * 3000, {"t" * 100: [1.0, 0.0]}, answers=["x" * 300_000, "y"], prompt="p" * 300_000)  # fmt: skip
    site = read_site([tmp_path])
    (tmp_path / "index.html").write_text(index_page(site))
    (page,) = site.pages.values()
    (tmp_path / "page.html").write_text(samples_page(site, page))
    for width in (390, 1000):
        browser.look(width, 760)
        for name in ("index.html", "page.html", "page.html#doc=" + "0"):
            browser.open((tmp_path / name).as_uri())
            assert browser.value(FITS), (width, name)


def test_twenty_models_by_twenty_tasks(browser: Browser, many: Any) -> None:
    site, pages, scores = many
    browser.look(1200, 800)
    browser.open((pages / "index.html").as_uri())
    assert browser.value(QUIET) and browser.value(FITS)
    labels = [f"model{m} {1 + m}" for m in range(MODELS)]
    assert browser.value(LABELS) == labels and browser.value(COLUMNS) == TASKS
    means = {f"model{m} {1 + m}": sum(scores[m, "task_5"]) for m in range(MODELS)}
    place = [column.name for column in site.board.columns].index("task_5 (exact_match)")
    button = f'#board th[data-column="{place}"] button'
    click(browser, button)
    shown = [means[label] for label in browser.value(LABELS)]
    assert shown == sorted(means.values(), reverse=True)
    assert (
        browser.value(f"document.querySelector('{button}').parentElement.ariaSort") == "descending"
    )
    click(browser, button)
    assert [means[label] for label in browser.value(LABELS)] == sorted(means.values())
    browser.value("document.querySelector('#query').value = 'model1 -model19'")
    browser.value("document.querySelector('#query').dispatchEvent(new Event('input'))")
    wanted = {label for label in labels if label.startswith("model1") and "model19" not in label}
    assert set(browser.value(LABELS)) == wanted
    browser.value("document.querySelector('#picker').open = true")
    click(browser, "#no")
    assert browser.value(COLUMNS) == 0
    click(browser, f'#picker input[data-column="{place}"]')
    assert browser.value(COLUMNS) == 1
    link = browser.value("document.querySelector('#link').href")
    browser.open("about:blank")
    browser.open(link)
    assert set(browser.value(LABELS)) == wanted and browser.value(COLUMNS) == 1
    assert browser.value("document.querySelectorAll('figure:not([hidden])').length") == 1


def test_samples_that_b_lost_against_a_are_found(browser: Browser, many: Any) -> None:
    """From the index page: choose B and A, follow the task's link, and the lost documents are there."""
    _, pages, scores = many
    a, b = scores[3, "task_5"], scores[4, "task_5"]
    browser.look(1200, 800)
    browser.open((pages / "index.html").as_uri() + "#a=model3+4&b=model4+5")
    link = (
        "[...document.querySelectorAll('#losses a')].find(e => e.textContent.startsWith('task_5 '))"
    )
    url = browser.value(f"{link}.href")
    browser.open(url)
    lost = [k for k in range(DOCUMENTS) if b[k] < a[k]]
    browser.wait_for(f"({LISTED}).length > 0")  # the page lists them when it has read its address
    assert lost and browser.value(LISTED) == lost
    assert browser.value(TITLE) == f"document {lost[0]} ✗ wrong"
    for show, wanted in (
        ("won", [k for k in range(DOCUMENTS) if b[k] > a[k]]),
        ("bothright", [k for k in range(DOCUMENTS) if a[k] == b[k] == 1]),
        ("wrong", [k for k in range(DOCUMENTS) if b[k] == 0]),
    ):
        browser.value(f"at('show').value = '{show}'")
        browser.value("at('show').dispatchEvent(new Event('change'))")
        assert browser.value(LISTED) == wanted
    there = "[...document.querySelectorAll('#document details a')].find(e => e.textContent === 'model3 4')"
    same = browser.value(f"{TITLE}.split(' ')[1]")
    browser.open(browser.value(f"{there}.href"))
    assert "model3" in browser.value("document.title")
    assert browser.value(TITLE).startswith(f"document {same} ")


def test_keys_walk_through_the_documents(browser: Browser, many: Any) -> None:
    site, pages, scores = many
    page = page_of(site, "model4 ", "task_5")
    browser.look(1200, 800)
    browser.open((pages / "samples" / f"{page.id}.html").as_uri() + "#show=wrong")
    wrong = [k for k in range(DOCUMENTS) if scores[4, "task_5"][k] == 0]
    seen = []
    for key in ("j", "j", "k"):
        browser.press(key)
        seen.append(browser.value(TITLE))
    assert seen == [f"document {wrong[k]} ✗ wrong" for k in (1, 2, 1)]
    link = browser.value("location.href")
    browser.open("about:blank")
    browser.open(link)
    assert browser.value(TITLE) == seen[-1] and browser.value(LISTED) == wrong


def test_the_trace_of_an_answer(browser: Browser, tmp_path: Path) -> None:
    trace = {**TRACE, "text": ["one", " two", " three"], "step": [2, 0, 5], "confidence": [0.5, 1.0, None]}  # fmt: skip
    write_model(tmp_path, "m", {"made": [1.0]}, extra={"trajectory": [trace]})
    site = read_site([tmp_path])
    (page,) = site.pages.values()
    (tmp_path / "page.html").write_text(samples_page(site, page))
    browser.look(1000, 760)
    browser.open((tmp_path / "page.html").as_uri())
    tokens = "[...document.querySelectorAll('.trace .token')].map(e => e.textContent)"
    assert browser.value("document.querySelectorAll('.strip i').length") == 3
    assert browser.value(tokens) == ["one", " two", " three"]
    colours = "new Set([...document.querySelectorAll('.strip i')].map(e => getComputedStyle(e).backgroundColor)).size"
    assert browser.value(colours) == 3
    for wanted in (["one", " two"], [" two"], []):
        browser.press("ArrowLeft")
        assert browser.value(tokens) == wanted
    browser.press("ArrowRight")
    assert (
        browser.value("document.querySelector('.trace-row output').textContent")
        == "step 0 (1 of 3)"
    )


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_in_light_and_dark(browser: Browser, many: Any, dark: bool) -> None:
    site, pages, _ = many
    browser.look(390, 800, dark)
    browser.open((pages / "index.html").as_uri())
    assert browser.value(FITS)
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 100"
    assert browser.value(ground) is dark
    page = page_of(site, "model4 ", "task_5")
    browser.open((pages / "samples" / f"{page.id}.html").as_uri())
    assert browser.value(FITS) and not browser.value("at('one').checkVisibility()")
    browser.click("#documents tbody tr")
    assert browser.value("at('one').checkVisibility()") and browser.value(FITS)
    assert not browser.value("at('list').checkVisibility()")
    browser.click("#back")
    assert browser.value("at('list').checkVisibility()")


def test_a_served_page_follows_a_running_run(browser: Browser, tmp_path: Path) -> None:
    write_model(tmp_path / "a", "first", {"made": [1.0, 0.0]})
    browser.look(1000, 760)
    with serving(Viewer([tmp_path])) as server:
        browser.open(server.url + "#q=r")
        browser.wait_for("known !== null")
        assert browser.value(LABELS) == ["first 4"]
        write_model(tmp_path / "b", "another", {"made": [1.0, 1.0]})
        browser.wait_for(f"{LABELS}.length === 2", seconds=40)
        assert browser.value("location.hash") == "#q=r"
        browser.open("about:blank")
