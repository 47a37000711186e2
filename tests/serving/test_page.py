"""The search page in a real browser."""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from encoding.encoder import Encoder
from index_format.index import Index
from serving.http.app import make_app
from serving.keys import KeyRing, make_key, write_keys
from serving.searcher import Searcher
from tests.browser import MAY_SKIP, Page, browser
from tests.serving.vectors import add_texts

HOSTILE = "Bees make honey 🐝 in hives. <script>document.title=1</script><img src=x onerror='document.title=2'>"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(MAY_SKIP, reason="chromium is not installed")]


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Searcher:
    """Four documents, one of them hostile."""
    index = Index.at(tmp_path_factory.mktemp("page") / "index")
    add_texts(index, encoder, {"<b>bees</b>": HOSTILE}, legs=6, home="<i>hive</i>", wild=True)
    add_texts(index, encoder, {"cats": "Cats sleep all day.", "dogs": "Dogs bark."}, legs=4, home="house", wild=False)
    add_texts(index, encoder, {"stones": "Stones make no honey and no noise."})
    return Searcher(index, encoder)


@contextmanager
def serving(searcher: Searcher, keys: KeyRing | None = None) -> Iterator[str]:
    """The address of a running server."""
    app = make_app(searcher, "the index", keys=keys)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def address(searcher: Searcher) -> Iterator[str]:
    """A server that asks for no key."""
    with serving(searcher) as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One browser for all tests; each opens what it needs."""
    with browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


def _ask(page: Page, address: str, query: str, **more: str) -> None:
    page.open(f"{address}/?{urllib.parse.urlencode({'q': query, **more})}")
    page.wait_for("document.querySelectorAll('#hits li').length > 0 && document.readyState == 'complete'")


def _headings(page: Page) -> list[str]:
    return list(page.value("[...document.querySelectorAll('#hits h2')].map((one) => one.textContent)"))


def _matched(page: Page) -> list[str]:
    """The marks that the word at hand lights up, in the first hit."""
    return list(
        page.value("[...document.querySelectorAll('#hits li:first-child mark.matched')].map((m) => m.textContent)")
    )


def test_the_page_describes_the_index(page: Page, address: str) -> None:
    """Before any question it says what can be asked of."""
    page.open(address)
    page.wait_for("document.getElementById('status').textContent.includes('4 documents, 4 passages, version 3')")


def test_hits_are_shown_as_text_and_never_as_markup(page: Page, address: str) -> None:
    """A question in the address is asked at once; what documents contain is shown, not run."""
    _ask(page, address, "Who makes honey?")
    text = page.text()
    assert "4 passages from version 3 · waited " in text
    assert "4 scored" in text
    assert " for the question as a whole · characters 0" in text
    assert HOSTILE in text
    assert "home: <i>hive</i>" in text
    assert _headings(page)[0] == "1. <b>bees</b>"
    assert page.value("document.title") == "Colonnade"
    assert page.value("document.querySelectorAll('#hits script, #hits img, #hits i').length") == 0


def test_words_are_shaded_by_what_they_weigh(page: Page, address: str) -> None:
    """The word that was asked for is darker than the one that hardly matters, and says what matched it."""
    _ask(page, address, "Who makes honey?")
    shares = page.value(
        "Object.fromEntries([...document.querySelectorAll('#hits li:first-child mark')]"
        ".map((one) => [one.textContent, [getComputedStyle(one).backgroundColor, one.title]]))"
    )
    # As color(srgb red green blue / alpha).
    alphas = {word: float(colour.partition("/")[2].rstrip(")")) for word, (colour, _) in shares.items()}
    assert shares["honey"][1].startswith("honey 0.")
    assert alphas["honey"] > 0.3
    assert all(alpha < alphas["honey"] for word, alpha in alphas.items() if word != "honey")


def test_a_word_of_the_question_shows_what_it_matched(page: Page, address: str) -> None:
    """By mouse and by keyboard, past the emoji; Escape lets go."""
    _ask(page, address, "Bees in hives 🐝 with honey")
    assert page.value("[...document.querySelectorAll('#words button')].map((one) => one.textContent)")[0] == "Bees"
    page.hover("#words button:first-child")
    page.wait_for("document.querySelectorAll('mark.matched').length > 0")
    assert _matched(page) == ["Bees"]
    assert page.value("getComputedStyle(document.querySelector('mark.matched')).outlineStyle") == "solid"
    page.value("document.querySelector('#words button:nth-child(2)').focus()")
    page.press("Tab")
    assert page.value("document.activeElement.textContent") == "hives"
    assert "".join(_matched(page)) == "hives"
    page.press("Escape")
    assert _matched(page) == []
    page.press("/")
    assert page.value("document.activeElement.id") == "query"


def test_tokens_that_bring_the_blank_before_them_are_words_of_their_own(page: Page, address: str) -> None:
    """And those that share the span of one character are one word: so tokenizers of bytes have it, as ModernBERT's."""
    page.open(address)
    page.wait_for("document.readyState == 'complete'")

    def words(question: str, *spans: tuple[int | None, int | None]) -> list[list[object]]:
        tokens = json.dumps([{"start": start, "end": end} for start, end in spans])
        asked = f"joinWords({tokens}, Array.from({json.dumps(question)})).map((one) => [one.text, ...one.tokens])"
        return list(page.value(asked))

    assert words("Who makes honey?", (None, None), (0, 3), (3, 9), (9, 15), (15, 16), (None, None)) == [
        ["Who", 1],
        ["makes", 2],
        ["honey?", 3, 4],
    ]
    assert words("蜂蜜 😀 bees", (0, 1), (0, 1), (0, 2), (1, 2), (2, 4), (3, 4), (4, 5), (5, 7), (7, 9)) == [
        ["蜂蜜", 0, 1, 2, 3],
        ["😀", 4, 5],
        ["bees", 7, 8],
    ]
    assert words("a b", (0, 1), (2, 3)) == [["a", 0], ["b", 1]]


def test_a_question_is_typed_and_sent_with_the_keyboard(page: Page, address: str) -> None:
    """The page begins in the box, and its address tells what was asked."""
    page.open(address)
    page.wait_for("document.getElementById('status').textContent.includes('version 3')")
    page.type("Which animal barks?")
    page.press("Enter")
    page.wait_for("document.querySelectorAll('#hits li').length > 0")
    assert _headings(page)[0] == "1. dogs"
    assert page.value("new URLSearchParams(location.search).get('q')") == "Which animal barks?"


def test_a_filter_is_built_from_the_columns(page: Page, address: str) -> None:
    """Column, condition and value make the expression, which narrows the hits and stands in the address."""
    _ask(page, address, "honey")
    page.value("document.getElementById('filter').open = true; document.getElementById('add').click()")
    columns = page.value("[...document.querySelector('.condition select').options].map((one) => one.value)")
    assert columns == ["id", "legs", "home", "wild"]
    page.value(
        "(() => { const [column, form, value] = document.querySelector('.condition').children;"
        "column.value = 'legs'; column.dispatchEvent(new Event('change'));"
        "form.value = '<='; form.dispatchEvent(new Event('change'));"
        "value.value = '4'; value.dispatchEvent(new Event('input')); })()"
    )
    expression = {"op": "<=", "column": "legs", "value": 4}
    assert json.loads(page.value("document.getElementById('expression').value")) == expression
    page.value("document.getElementById('form').requestSubmit()")
    page.wait_for("document.querySelectorAll('#hits li').length == 2")
    assert sorted(one[3:] for one in _headings(page)) == ["cats", "dogs"]
    assert json.loads(page.value("new URLSearchParams(location.search).get('filter')")) == expression


def _add_condition(page: Page, column: str, form: str, value: str) -> None:
    page.value("document.getElementById('add').click()")
    page.value(
        "(() => { const [column, form, value] = document.querySelector('.condition:last-child').children;"
        f"column.value = '{column}'; column.dispatchEvent(new Event('change'));"
        f"form.value = '{form}'; form.dispatchEvent(new Event('change'));"
        f"value.value = '{value}'; value.dispatchEvent(new Event('input')); }})()"
    )


def _expression(page: Page) -> object:
    return json.loads(page.value("document.getElementById('expression').value"))


def test_one_of_no_values_is_no_condition(page: Page, address: str) -> None:
    """Nor is a comma without anything behind it another value."""
    _ask(page, address, "honey")
    _add_condition(page, "home", "in", " , ")
    assert page.value("document.getElementById('expression').value") == ""
    page.value("document.querySelector('.condition button').click()")
    _add_condition(page, "home", "in", "hive, house,")
    assert _expression(page) == {"op": "in", "column": "home", "values": ["hive", "house"]}


@pytest.mark.parametrize("number", ["9007199254740993", "-123456789012345678901234567890"])
def test_a_whole_number_that_the_page_would_round_is_refused(page: Page, address: str, number: str) -> None:
    """Typed as a value or as JSON, or come with a link and joined by a condition; numbers in texts are none."""
    refused = f"document.getElementById('status').textContent.includes('the filter has {number}')"
    send = "document.getElementById('status').textContent = ''; document.getElementById('form').requestSubmit()"
    _ask(page, address, "honey")
    _add_condition(page, "legs", "==", number)
    page.value(send)
    page.wait_for(refused)
    page.open(f"{address}/?q=honey&filter=" + urllib.parse.quote(f'{{"op":"!=","column":"legs","value":{number}}}'))
    page.wait_for(refused)
    _add_condition(page, "legs", "!=", "7")
    page.value(send)
    page.wait_for(refused)
    told = {"op": "and", "filters": [{"op": "!=", "column": "home", "value": f'"{number}, {number}'}] * 2}
    page.open("about:blank")
    _ask(page, address, "honey", filter=json.dumps(told))


def test_a_filter_of_a_link_is_shown_as_it_is_and_conditions_are_added_to_it(page: Page, address: str) -> None:
    """What the builder cannot say stays when a condition joins it, and when that goes again."""
    linked = '{"op":  "not", "filter": {"op": "is_null", "column": "legs"}}'
    _ask(page, address, "honey", filter=linked)
    assert page.value("document.getElementById('filter').open")
    assert page.value("document.getElementById('expression').value") == linked
    page.value("document.getElementById('add').click()")
    assert _expression(page) == json.loads(linked)
    page.value("document.querySelector('.condition button').click()")
    _add_condition(page, "legs", "<=", "4")
    least = {"op": "<=", "column": "legs", "value": 4}
    assert _expression(page) == {"op": "and", "filters": [json.loads(linked), least]}
    page.value("document.querySelector('.condition button').click()")
    assert page.value("document.getElementById('expression').value") == linked


def test_a_filter_that_was_typed_stays_when_a_condition_is_added(page: Page, address: str) -> None:
    """Typing takes the place of the conditions before it; those after it are joined to it."""
    _ask(page, address, "honey")
    page.value("document.getElementById('filter').open = true")
    _add_condition(page, "home", "==", "hive")
    page.value("document.getElementById('expression').focus(); document.getElementById('expression').select()")
    page.type('{"op": "is_null", "column": "home"}')
    assert page.value("document.querySelectorAll('.condition').length") == 0
    _add_condition(page, "wild", "false", "")
    page.value(
        "(() => { const how = document.getElementById('joined'); how.value = 'or';"
        "how.dispatchEvent(new Event('change')); })()"
    )
    assert _expression(page) == {
        "op": "or",
        "filters": [{"op": "is_null", "column": "home"}, {"op": "==", "column": "wild", "value": False}],
    }


def test_a_word_is_pinned_by_key_and_by_finger(page: Page, address: str) -> None:
    """It stays lit while others are looked at, until it is let go of in the same way."""
    _ask(page, address, "Bees with honey")
    page.value("document.querySelector('#words button:first-child').focus()")
    page.press("Enter")
    page.press("Tab")
    page.value("document.activeElement.blur()")
    assert _matched(page) == ["Bees"]
    assert page.value("document.querySelector('#words button:first-child').getAttribute('aria-pressed')") == "true"
    page.look_like(360, 740, phone=True)
    try:
        _ask(page, address, "Bees with honey")
        page.tap("#words button:last-child")
        pressed = "document.querySelector('#words button:last-child').getAttribute('aria-pressed')"
        page.wait_for(f"{pressed} == 'true'")
        page.value("document.activeElement.blur()")
        assert set(_matched(page)) == {"honey"}
        page.tap("#words button:last-child")
        page.wait_for(f"{pressed} == 'false'")
        assert _matched(page) == []
    finally:
        page.look_like(1000, 800)


def test_words_are_ranked_too_where_that_is_chosen(page: Page, address: str) -> None:
    """Both sides of each hit are told, the choice stands in the address, and plain ranking comes back with it."""
    _ask(page, address, "honey", hybrid="rank")
    facts = "document.querySelector('#hits li .facts').textContent"
    assert "BM25 0." in page.value(facts)
    assert page.value("document.getElementById('ranked').value") == "rank"
    page.value(
        "(() => { const ranked = document.getElementById('ranked');"
        "ranked.value = ''; ranked.dispatchEvent(new Event('change')); })()"
    )
    page.wait_for(f"!{facts}.includes('BM25')")
    assert page.value("new URLSearchParams(location.search).get('hybrid')") is None


def test_a_filter_that_cannot_be_is_told(page: Page, address: str) -> None:
    """With the server's reason, in place of hits."""
    page.open(f"{address}/?q=honey&filter=" + urllib.parse.quote('{"op": "is_null", "column": "yaer"}'))
    page.wait_for("document.getElementById('status').textContent.includes(\"there is no column 'yaer'\")")
    page.open(f"{address}/?q=honey&filter=year")
    page.wait_for("document.getElementById('status').textContent.includes('the filter is not JSON')")


def test_a_question_that_another_took_the_place_of_is_no_failure(page: Page, address: str) -> None:
    """Also where its answer was being read; an answer that is no JSON is one."""
    _ask(page, address, "honey")
    answered = """(async () => {{
      const real = window.fetch, tell = document.getElementById("status");
      const json = () => Promise.reject({error});
      window.fetch = async () => ({{ ok: {ok}, status: {status}, statusText: "Bad Gateway", json }});
      tell.textContent = "as it was";
      await run();
      window.fetch = real;
      return tell.textContent;
    }})()"""
    aborted, unread = 'new DOMException("aborted", "AbortError")', 'new SyntaxError("no JSON")'
    assert page.value(answered.format(ok="true", status=200, error=aborted)) == "Searching…"
    assert page.value(answered.format(ok="false", status=502, error=aborted)) == "Searching…"
    assert page.value(answered.format(ok="true", status=200, error=unread)) == "That did not work: no JSON"
    assert page.value(answered.format(ok="false", status=502, error=unread)) == "That did not work: Bad Gateway"


def test_a_server_with_keys_is_asked_with_one(page: Page, searcher: Searcher, tmp_path: Path) -> None:
    """The page says so, takes a key, and goes on with the question."""
    key, secret = make_key("page", ["search"])
    write_keys(tmp_path / "keys.json", [key])
    with serving(searcher, KeyRing(tmp_path / "keys.json")) as address:
        page.open(f"{address}/?q=honey")
        page.wait_for("document.activeElement && document.activeElement.id == 'key'")
        page.type("colonnade_wrong")
        page.press("Enter")
        page.wait_for("document.getElementById('status').textContent.includes('that key is not valid')")
        page.type(secret)
        page.press("Enter")
        page.wait_for("document.querySelectorAll('#hits li').length == 4")
        assert page.value("document.getElementById('entry').hidden")
        assert secret not in page.value("location.href + document.documentElement.outerHTML")


def test_the_page_fits_a_phone_and_follows_the_dark(page: Page, address: str) -> None:
    """Nothing is wider than the screen; colours follow the system, and the button turns them around."""
    page.look_like(360, 740, phone=True, dark=True)
    try:
        _ask(page, address, "Who makes honey in hives?")
        page.value("document.getElementById('filter').open = true; document.getElementById('add').click()")
        assert page.value("document.documentElement.scrollWidth") <= 360
        ground = "getComputedStyle(document.body).backgroundColor"
        assert page.value(ground) == "rgb(22, 23, 27)"
        page.value("document.getElementById('theme').click()")
        assert page.value(ground) == "rgb(251, 251, 252)"
        page.value("localStorage.clear()")
    finally:
        page.look_like(1000, 800)
