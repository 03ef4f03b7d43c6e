"""The page of a report, as a browser shows it and a keyboard drives it."""

import itertools
import json
import re
from importlib.resources import files

import pytest

from meristem.pages.page import Content, Side
from meristem.pages.render import render
from meristem.rewrite.dimensions import Dimension
from tests.browser.conftest import MANY

pytestmark = pytest.mark.browser
PAGES = ("grown_page", "refused_page", "large_page")


def messages(browser):
    return [entry["message"] for entry in browser.driver.get_log("browser")]


def requests(browser):
    """Addresses that were asked for since the last look."""
    log = (json.loads(e["message"])["message"] for e in browser.driver.get_log("performance"))
    return [
        m["params"]["request"]["url"] for m in log if m["method"] == "Network.requestWillBeSent"
    ]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_nothing_on_the_console_and_asks_for_nothing(name, browser, request):
    page = request.getfixturevalue(name)
    browser.open(page)
    assert browser.rows()
    assert messages(browser) == []
    assert requests(browser) == [page.as_uri()]


def test_a_page_is_forbidden_to_ask_for_anything(browser, grown_page):
    """The policy is in force: what would load is blocked, and a script from elsewhere does not run."""
    browser.open(grown_page)
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        "document.body.append(s); const i = new Image(); i.src = 'file:///none.png';"
        "document.body.append(i);"
    )
    assert browser.run("return window.ran") is None
    assert any("Content Security Policy" in m for m in messages(browser))


def test_names_that_look_like_markup_are_text(browser, model, tmp_path):
    nasty = "</script><img src=x onerror='window.ran=1'>&amp;\u2028"
    pinned = Dimension(f"mlp@{nasty}", "mlp", 4, nasty, ((nasty, 0),), f"because {nasty}")
    side = Side(model.graph, model.equations, [], [pinned], model.parameters, "torch")
    content = Content(
        nasty,
        side,
        refusal=ValueError(nasty),
        notes=[nasty],
        command=nasty,
        versions=[(nasty, nasty)],
    )
    page = tmp_path / "nasty.html"
    page.write_text(render(content), encoding="utf-8")
    browser.open(page)
    assert browser.rows() == [f"mlp@{nasty}"]
    assert browser.run("return window.ran") is None
    assert browser.run("return document.images.length") == 0
    assert browser.text("h1") == nasty
    assert messages(browser) == []


# -- the table -------------------------------------------------------------------------------------


def test_the_search_box_filters(browser, grown_page):
    browser.open(grown_page)
    before = browser.rows()
    browser.find("#search").send_keys("mlp")
    assert browser.rows() == [n for n in before if "mlp" in n] != before
    assert browser.text("#count").startswith(f"{len(browser.rows())} of {len(before)} dimensions")
    browser.find("#search").clear()
    browser.find("#search").send_keys("*@blocks.1.*")
    assert browser.rows() == [n for n in before if "@blocks.1." in n]
    browser.find("#search").clear()
    browser.find("#search").send_keys("nothing like it")
    assert browser.rows() == []
    browser.find("#search").clear()
    browser.find("#state option[value=pinned]").click()
    assert browser.rows() == ["vocabulary"]


def test_sorting_is_told(browser, grown_page):
    browser.open(grown_page)
    size = browser.find("#table thead button[data-column='2']")
    sizes = (
        "return [...document.querySelectorAll('#table tbody tr')].map(r => +r.cells[2].textContent)"
    )
    for word, flip in (("ascending", False), ("descending", True)):
        size.click()
        assert size.find_element("xpath", "..").get_attribute("aria-sort") == word
        found = browser.run(sizes)
        assert found == sorted(found, reverse=flip)
    assert browser.run("return document.querySelectorAll('#table [aria-sort=none]').length") == 3


def test_a_row_unfolds_its_proof_and_its_weights(browser, grown_page):
    browser.open(grown_page)
    browser.find("#search").send_keys("mlp@blocks.0.mlp")
    browser.find("#table summary").click()
    said = browser.text("#table details")
    assert "sums over new coordinates, so one factor must be zero: met" in said
    assert "blocks.0.mlp.up.weight, axis 0: 20 × 16 → 40 × 24; new entries: drawn" in said


def test_ten_thousand_dimensions_are_searched_at_once(browser, large_page, capsys):
    browser.open(large_page)
    loaded = browser.run("return performance.getEntriesByType('navigation')[0].domComplete")
    timed = """
        const box = document.getElementById('search'), start = performance.now();
        box.value = arguments[0];
        box.dispatchEvent(new Event('input'));
        document.body.getBoundingClientRect();
        return performance.now() - start;
    """
    times = {}
    for words, hits in (
        ("layers.77.", 4),
        ("mlp@*.1.experts.*", 4),
        ("logits_3", None),
        ("", MANY),
    ):
        times[words] = browser.run(timed, words)
        count = browser.text("#count")
        if hits is not None:
            assert count.startswith(f"{hits:,} of {MANY:,} dimensions match")
        assert len(browser.rows()) <= 100
    browser.find("#more").click()
    assert len(browser.rows()) == 200
    with capsys.disabled():
        shown = ", ".join(f"{words!r} {ms:.1f} ms" for words, ms in times.items())
        size = large_page.stat().st_size
        print(
            f"\n{MANY:,} dimensions: {size:,} bytes, loaded in {loaded:.0f} ms, searched: {shown}"
        )


# -- for everybody ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dark", "width"),
    [
        *((name, False, 1100) for name in PAGES),
        ("grown_page", True, 1100),
        ("refused_page", True, 360),
    ],
)
def test_the_rules_of_accessibility_hold(name, dark, width, browser, request):
    browser.open(request.getfixturevalue(name), dark=dark, width=width)
    browser.run("for (const d of document.querySelectorAll('details')) d.open = true")
    source = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    browser.run(source + "; window.axe = axe;")
    found = browser.driver.execute_async_script(
        "const done = arguments[arguments.length - 1]; axe.run().then(done, e => done({error: `${e}`}))"
    )
    assert "error" not in found, found
    wrong = [
        f"{v['id']}: {v['help']}: {[n['html'][:160] for n in v['nodes'][:3]]}"
        for v in found["violations"]
    ]
    assert not wrong, "\n".join(wrong)
    assert len(found["passes"]) > 20


def test_a_page_works_by_keyboard_alone(browser, grown_page):
    from selenium.webdriver import Keys

    browser.open(grown_page)
    seen = []
    for _ in range(60):
        browser.press(Keys.TAB)
        at = browser.run(
            "const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();"
            "return [e.id || e.className || e.tagName, s.outlineStyle, parseFloat(s.outlineWidth),"
            " r.width * r.height, r.bottom > 0 && r.top < innerHeight]"
        )
        seen.append(at[0])
        assert at[1] != "none", at
        assert at[2] >= 2, at
        assert at[3] > 0, at
        assert at[4], f"{at[0]} has the focus out of sight"
        if at[0] == "search":
            break
    assert seen[:2] == ["skip", "theme"]
    assert seen[-1] == "search"
    browser.press("hidden")
    assert browser.rows() == ["hidden"]
    browser.press(Keys.TAB, Keys.TAB, Keys.TAB)  # the list of states, the table, its first column
    browser.press(Keys.ENTER)
    assert browser.find("#table th").get_attribute("aria-sort") == "ascending"
    for _ in range(4):
        browser.press(Keys.TAB)
    browser.press(Keys.ENTER)
    assert browser.find("#table details").get_attribute("open") is not None


def test_more_rows_take_the_keyboard_with_them(browser, large_page):
    from selenium.webdriver import Keys

    browser.open(large_page)
    browser.run("document.getElementById('more').focus()")
    browser.press(Keys.ENTER)
    at = browser.run(
        "return [...document.activeElement.parentNode.children].indexOf(document.activeElement)"
    )
    assert at == 100


def test_headings_and_landmarks_are_in_order(browser, grown_page):
    browser.open(grown_page)
    levels = browser.run(
        "return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    for landmark in ("header", "nav[aria-label]", "main", "footer", "form[role=search]"):
        assert browser.find(landmark)
    targets = browser.run(
        "return [...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))"
    )
    assert all(browser.find(target) for target in targets)
    drawn = browser.text("svg.blocks desc")
    assert "2 → 4 blocks in blocks, hidden 16 to 24" in drawn
    assert "adds attention in blocks.*.attention: heads 4 to 6" in drawn


# -- light and dark --------------------------------------------------------------------------------


def luminance(browser, selector="body"):
    colour = browser.run(
        "return getComputedStyle(document.querySelector(arguments[0])).backgroundColor", selector
    )
    r, g, b = map(float, re.findall(r"[\d.]+", colour)[:3])
    return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255


def test_colours_follow_the_system_and_the_button(browser, grown_page):
    browser.open(grown_page)
    assert luminance(browser) > 0.9
    browser.open(grown_page, dark=True)
    assert luminance(browser) < 0.1
    button = browser.find("#theme")
    button.click()
    assert button.text == "Theme: light"
    assert luminance(browser) > 0.9
    browser.driver.refresh()
    assert luminance(browser) > 0.9, "the choice is forgotten"
    for _ in range(2):
        browser.find("#theme").click()
    assert browser.find("#theme").text == "Theme: as the system"
    assert luminance(browser) < 0.1


@pytest.mark.parametrize("name", PAGES)
def test_a_narrow_window_scrolls_parts_and_not_the_page(name, browser, request):
    browser.open(request.getfixturevalue(name), width=360)
    assert browser.run("return document.documentElement.scrollWidth") <= 360


def test_without_scripts_the_rest_is_there(browser, grown_page):
    browser.open(grown_page)
    with browser.without_scripts():
        browser.driver.refresh()
        assert browser.find("noscript p").is_displayed()
        assert not browser.find("#theme").is_displayed()
        assert "zero, so each old sum is what it was" in browser.text("main")
