# SPDX-License-Identifier: Apache-2.0
"""The page in a real Chromium, with the real server and the real small model.

With PAGE_SCREENSHOTS=FOLDER it writes page-light.png and page-dark.png there.
"""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from adapmoe_export import export_pack
from support.machine.browser import Watched, chromium
from support.machine.serving import Server

pytestmark = pytest.mark.slow

QUESTION = "What does the function return if the list that it is given holds no number at all?"
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
LOST = ("ERR_", "Failed to load resource")  # what Chromium says when the server is away or refuses


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def pack(pack_factory):
    return pack_factory()


@pytest.fixture(scope="module")
def server(browser, pack):
    options = ("--experts-resident", "50%", "--no-warm-restart", "--model-name", "tiny-mixtral")
    with Server(pack, *options) as running:
        yield running


@pytest.fixture
def watch(browser):
    """Open tabs on servers; at the end each must have behaved."""
    opened = []

    def make(server, **context):
        opened.append(Watched(browser, f"{server.url}/", **context))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def page(watch, server):
    return watch(server).open()


def chat(server, content, **options):
    """What the API answers."""
    body = {"model": server.model, "messages": [{"role": "user", "content": content}], **options}
    return server.http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]


def test_a_round_trip_gives_the_answer_of_the_api(page, server):
    page.set(temperature=0, max_tokens=40, system="Be short.")
    expected = server.http.post(
        "/v1/chat/completions",
        json={
            "model": server.model,
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": QUESTION},
            ],
            "temperature": 0,
            "max_tokens": 40,
        },
    ).json()["choices"][0]["message"]["content"]
    assert page.ask(QUESTION) == expected
    assert page.tab.locator(".entry.user .entry-text").text_content() == QUESTION
    foot = page.foot()
    assert "40 tokens" in foot
    assert "tokens/s" in foot
    assert "first after" in foot
    assert page.tab.locator("#announcer").text_content() == expected  # read aloud once
    page.ask("And then?")
    *_, last = page.posted()
    assert [each["role"] for each in last["messages"]] == ["system", "user", "assistant", "user"]
    assert last["messages"][2]["content"] == expected


def test_text_grows_while_it_is_written_and_is_read_aloud_at_its_end_only(page):
    page.let_answers_be_long()
    page.send(QUESTION)
    seen = []
    while not page.tab.locator(".entry-foot").count():
        seen.append(
            page.tab.evaluate(
                "[document.querySelector('.entry.model')?.textContent.length ?? 0,"
                " document.querySelector('#announcer').textContent.length]"
            )
        )
    assert len({length for length, _ in seen}) > 4
    assert {aloud for _, aloud in seen[:-1]} == {0}
    assert page.tab.locator("#announcer").text_content() == page.answer()


@pytest.mark.parametrize("way", ["Escape", "button"])
def test_an_answer_is_stopped(page, server, way):
    page.let_answers_be_long()
    page.send(QUESTION)
    page.until_answer_begins()
    if way == "Escape":
        page.tab.keyboard.press("Escape")
    else:
        page.tab.click("#stop")
    page.tab.wait_for_selector(".entry-foot")
    assert page.foot().startswith("stopped")
    server.wait_for(lambda: server.metric("choices_running") == 0)
    text = page.answer()
    assert text
    page.tab.wait_for_timeout(300)
    assert page.answer() == text
    assert page.tab.locator("#send").is_enabled()


def test_an_answer_is_made_again_and_a_chat_begins_anew(page):
    page.set(max_tokens=20, seed=7)
    first = page.ask(QUESTION)
    page.tab.click("#regenerate")
    page.tab.wait_for_selector(".entry-foot")
    assert page.answer() == first  # of the same seed
    assert page.tab.locator(".entry").count() == 2
    page.tab.click("#new-chat")
    assert page.tab.locator(".entry").count() == 0
    assert page.tab.locator("#welcome").is_visible()
    page.ask("Hello")
    assert [len(body["messages"]) for body in page.posted()] == [1, 1, 1]


def test_a_chat_that_begins_anew_forgets_the_answer_that_was_running(page, server):
    page.let_answers_be_long()
    page.send(QUESTION)
    page.until_answer_begins()
    page.tab.click("#new-chat")
    page.tab.wait_for_selector("#stop[disabled]")
    server.wait_for(lambda: server.metric("choices_running") == 0)
    assert page.tab.locator(".entry").count() == 0
    assert page.tab.locator("#prompt").input_value() == ""
    assert page.tab.locator("#regenerate").is_disabled()
    page.set(max_tokens=4)
    page.ask("Hello")
    assert [len(body["messages"]) for body in page.posted()] == [1, 1]


def test_a_text_is_continued(page, server):
    page.set(max_tokens=16, temperature=0)
    page.tab.check("input[value=text]", force=True)
    assert page.tab.locator("#prompt-label").text_content() == "The text to continue"
    prompt = "The function returns"
    expected = server.complete(prompt, 16)[1]["choices"][0]["text"]
    assert page.ask(prompt) == prompt + expected


def test_a_model_that_cannot_chat_can_continue_text(watch, tiny_checkpoint, tmp_path):
    checkpoint, pack = tmp_path / "checkpoint", tmp_path / "tiny.adapmoe"
    shutil.copytree(tiny_checkpoint, checkpoint)
    tokenizer = json.loads((checkpoint / "tokenizer_config.json").read_text())
    del tokenizer["chat_template"]
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(tokenizer, allow_nan=False))
    export_pack(checkpoint, pack, experts="int4", dense="int8", group_size=32)
    with Server(pack, "--max-sequences", 1) as server:
        page = watch(server).open()
        page.allowed = LOST
        page.set(max_tokens=8)
        page.send("Once upon a time")
        assert "no chat template" in page.alert()
        assert page.tab.locator("#prompt").input_value() == "Once upon a time"
        page.tab.click("#alert button")
        assert page.tab.locator("input[value=text]").is_checked()
        assert page.ask("Once upon a time").startswith("Once upon a time")
        assert page.tab.locator("#alert p").count() == 0


def test_the_map_and_the_figures_change_while_it_answers(page):
    tab = page.tab
    page.until("document.getElementById('map').getAttribute('aria-label').includes('8 layers')")
    tab.click("#map-details summary")
    pictures, rates, running = set(), set(), set()
    page.let_answers_be_long()
    page.send(QUESTION)
    for _ in range(12):
        tab.wait_for_timeout(120)
        pictures.add(tab.evaluate("document.getElementById('map').toDataURL()"))
        rates.add(tab.locator("#rate").text_content())
        running.add(tab.locator("#running").text_content())
    assert len(pictures) > 5
    assert len(rates) > 3
    assert "1 of 4" in running
    assert tab.locator(".legend [data-state=used] dd").text_content() == "16"  # 8 layers, 2 each
    assert tab.locator(".legend [data-state=resident] dd").text_content() != "0"
    tab.keyboard.press("Escape")
    tab.wait_for_timeout(1300)
    assert tab.locator("#map-rows tr").count() == 8
    used = tab.locator("#map-rows tr td:nth-child(4)").all_text_contents()
    assert sum(map(int, used)) == 16
    words = tab.locator("#map").get_attribute("aria-label")
    assert "8 layers of 8 experts" in words
    assert "16 used by this token" in words
    for part in ("expert", "kv", "dense", "scratch"):
        assert "MiB" in tab.locator(f".parts [data-part={part}] dd").text_content()
    box = tab.locator("#map").bounding_box()
    tab.mouse.move(box["x"] + 3, box["y"] + 3)
    assert tab.locator("#map-cell").text_content().startswith("Layer 0, expert 0: ")


def test_a_wrong_key_is_told_and_a_right_one_is_kept_in_this_tab_only(watch, pack, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("laptop:0123456789abcdef0\n")
    keys.chmod(0o600)
    with Server(pack, "--keys", keys, "--max-sequences", 1) as server:
        page = watch(server).open("key")
        page.allowed = LOST
        page.send("Hello")
        assert "valid API key is needed" in page.alert()
        page.set(key="wrong-key-of-nobody")
        page.wait_for("key")
        page.set(key="0123456789abcdef0", max_tokens=4)
        page.wait_for("live")
        page.ask("Hello")
        stored = page.tab.evaluate(
            "[JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie]"
        )
        assert "0123456789abcdef0" in stored[0]
        assert stored[1:] == ["{}", ""]
        assert not any("0123456789abcdef0" in each.url for each in page.requests)


def test_a_prompt_that_is_too_long_is_told_and_not_lost(page):
    page.allowed = LOST
    prompt = "x " * 6000
    page.send(prompt)
    assert "this server takes at most 2048" in page.alert()
    assert page.tab.locator("#prompt").input_value() == prompt
    assert page.tab.locator(".entry").count() == 0
    page.set(max_tokens=4)
    page.ask("Hello")
    assert page.tab.locator("#alert p").count() == 0


def test_a_full_server_is_told(watch, pack):
    with Server(pack, "--max-sequences", 1, "--max-queue", 0) as server:
        page, other = watch(server).open(), watch(server).open()
        page.allowed = other.allowed = LOST
        other.let_answers_be_long()
        other.send(QUESTION)
        other.tab.wait_for_selector(".entry.model.busy")
        server.wait_for(lambda: server.metric("choices_running") == 1)
        page.send("Hello")
        assert "You can try again" in page.alert()
        other.tab.keyboard.press("Escape")
        server.wait_for(lambda: server.metric("choices_running") == 0)
        page.set(max_tokens=4)
        page.tab.press("#prompt", "Enter")
        page.tab.wait_for_selector(".entry-foot")


def test_a_lost_server_is_told_and_found_again(watch, pack):
    first = Server(pack)
    page = watch(first).open()
    page.allowed = LOST
    page.let_answers_be_long()
    page.send(QUESTION)
    page.until_answer_begins()
    assert first.stop(signal.SIGKILL)[0] == -signal.SIGKILL
    page.wait_for("lost")
    assert page.tab.locator("#connection").text_content() == "Connection lost, trying again"
    assert "lost" in page.alert()
    assert page.foot().startswith("cut off")
    page.send("Hello?")
    page.until("document.querySelector('#alert').textContent.includes('reached')")
    assert page.tab.locator("#prompt").input_value() == "Hello?"
    with Server(pack, port=first.port):
        page.wait_for("live")
        page.set(max_tokens=4)
        assert page.tab.locator("#prompt").input_value() == "Hello?"
        page.tab.press("#prompt", "Enter")
        page.tab.locator(".entry-foot").nth(1).wait_for()
        assert page.tab.locator("#alert p").count() == 0


def test_an_open_page_does_not_hold_up_the_end_of_the_server(watch, pack):
    server = Server(pack)
    page = watch(server).open()
    page.allowed = LOST
    began = time.monotonic()
    code, _, complaints = server.stop()
    assert (code, complaints.count("cut off")) == (0, 0)
    assert time.monotonic() - began < 5
    page.wait_for("lost")


def test_a_page_that_nobody_sees_asks_for_nothing(page):
    def show(hidden):
        page.tab.evaluate(
            "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: "
            "true}); document.dispatchEvent(new Event('visibilitychange')); }",
            hidden,
        )

    def asked():
        return sum("activity" in each.url for each in page.requests)

    show(True)
    page.tab.wait_for_timeout(500)
    assert asked() == 1
    show(False)
    page.tab.wait_for_timeout(500)
    assert asked() == 2
    page.wait_for("live")


def test_what_anybody_writes_is_text(watch, server):
    page = watch(server)
    chunk = {"choices": [{"index": 0, "delta": {"content": HOSTILE, "reasoning_content": HOSTILE}}]}
    data = json.dumps(chunk, allow_nan=False)
    page.tab.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            body=f"data: {data}\n\ndata: [DONE]\n\n", content_type="text/event-stream"
        ),
    )
    models = json.dumps({"data": [{"id": HOSTILE}]}, allow_nan=False)
    page.tab.route("**/v1/models", lambda route: route.fulfill(body=models))
    page.open()
    page.until("document.getElementById('model').textContent !== ''")
    assert page.ask(HOSTILE) == HOSTILE
    page.tab.click(".thoughts summary")
    assert page.tab.locator(".thoughts .entry-text").text_content() == HOSTILE
    assert page.tab.locator(".entry.user .entry-text").text_content() == HOSTILE
    assert page.tab.locator("#model").text_content() == HOSTILE
    refusal = json.dumps({"error": {"message": HOSTILE}}, allow_nan=False)
    page.tab.unroute("**/v1/chat/completions")
    page.tab.route("**/v1/chat/completions", lambda route: route.fulfill(status=400, body=refusal))
    page.allowed = LOST
    page.send("again")
    assert page.alert() == HOSTILE
    assert page.tab.locator("main img, main script, #alert img").count() == 0
    assert page.tab.title() != "taken"


def test_scripts_from_elsewhere_and_inline_are_blocked(page):
    page.allowed = ("Content Security Policy", "TrustedHTML", "TrustedScript")
    page.tab.evaluate(
        "() => { const made = document.createElement('script'); made.append('window.ran = 1'); "
        "document.body.append(made); }"
    )
    with pytest.raises(Exception, match="TrustedHTML"):
        page.tab.evaluate("document.body.insertAdjacentHTML('beforeend', '<b>x</b>')")
    with pytest.raises(Exception, match="Failed to fetch"):
        page.tab.evaluate("fetch('http://127.0.0.1:9/')")
    assert page.tab.evaluate("window.ran") is None
    assert len(page.complaints) >= 2
    page.requests = [each for each in page.requests if ":9/" not in each.url]


def focused(tab):
    return tab.evaluate("document.activeElement.id || document.activeElement.value")


def test_everything_can_be_done_with_the_keyboard(page):
    tab, keys = page.tab, page.tab.keyboard
    page.let_answers_be_long()
    keys.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the prompt"
    assert tab.evaluate("document.activeElement.getBoundingClientRect().top >= 0")
    order = []
    for _ in range(12):
        keys.press("Tab")
        order.append(focused(tab))
        outline = tab.evaluate(
            "() => { const it = document.activeElement; const style = getComputedStyle(it.type === "
            "'radio' ? it.nextSibling : it); return style.outlineStyle !== 'none'; }"
        )
        assert outline, f"{order[-1]} has the focus, and nobody sees it"
        if order[-1] == "open-settings":
            keys.press("Enter")
            assert tab.locator("#settings").is_visible()
            keys.press("Escape")
            assert not tab.locator("#settings").is_visible()
            assert focused(tab) == "open-settings"
        if order[-1] == "prompt":
            break
    assert order[-1] == "prompt"
    assert "open-settings" in order
    assert "log" in order
    keys.type("One line")
    keys.press("Shift+Enter")
    keys.type("and another")
    keys.press("Enter")
    page.until_answer_begins()
    keys.press("Escape")
    tab.wait_for_selector(".entry-foot")
    assert page.posted()[0]["messages"][0]["content"] == "One line\nand another"
    assert focused(tab) == "prompt"
    keys.press("Tab")
    assert focused(tab) == "chat"
    keys.press("ArrowRight")
    assert tab.locator("input[value=text]").is_checked()
    keys.press("Tab")
    assert focused(tab) == "send"
    keys.press("Tab")
    keys.press("Enter")
    assert tab.locator("#map-details").get_attribute("open") is not None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_needs_no_sideways_scrolling(watch, server, scheme):
    page = watch(server, viewport={"width": 360, "height": 740}, color_scheme=scheme).open()
    page.set(max_tokens=30, seed=1)
    page.ask("a" * 400)
    tab = page.tab

    def overflow():
        return tab.evaluate(
            "Math.max(...[document.documentElement, ...document.querySelectorAll('*')]"
            ".filter(it => getComputedStyle(it).overflowX !== 'hidden')"
            ".map(it => it.scrollWidth - Math.max(it.clientWidth, it.offsetWidth || 0)))"
        )

    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    box = tab.locator("#send").bounding_box()
    assert box["y"] + box["height"] < 740  # seen without scrolling
    tab.click("#map-details summary")
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    tab.click("#open-settings")
    box = tab.locator("#settings").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    assert overflow() <= 1


def luminance(color):
    """Of "rgb(r, g, b)", as the guidelines for accessibility define it."""
    parts = [int(part) / 255 for part in color[4:-1].split(",")[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_are_readable(watch, server, scheme):
    page = watch(server, color_scheme=scheme, viewport={"width": 1280, "height": 900}).open()
    page.let_answers_be_long()
    page.set(temperature=0.8, seed=0)
    page.send(QUESTION)
    page.until("document.querySelector('.entry.model')?.textContent.length > 700")
    folder = os.environ.get("PAGE_SCREENSHOTS")
    if folder:
        page.tab.screenshot(path=Path(folder) / f"page-{scheme}.png")
    colors = page.tab.evaluate(
        "['body', '.hint', '.figures dt', '.entry-name', '.connection'].map(name => {"
        " const it = document.querySelector(name); return getComputedStyle(it).color; })"
    )
    card = page.tab.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor")
    for color in colors:
        light, dark = sorted((luminance(color), luminance(card)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5
    assert (luminance(card) > 0.5) == (scheme == "light")


def test_less_motion_is_less_motion(watch, server):
    page = watch(server, reduced_motion="reduce").open()
    page.let_answers_be_long()
    page.send(QUESTION)
    page.tab.wait_for_selector(".entry.model.busy")
    pictures = set()
    for _ in range(10):
        page.tab.wait_for_timeout(100)
        pictures.add(page.tab.evaluate("document.getElementById('map').toDataURL()"))
    assert len(pictures) <= 3
    animation = (
        "getComputedStyle(document.querySelector('.busy > .entry-text'), '::after').animationName"
    )
    assert page.tab.evaluate(animation) == "none"
    page.tab.keyboard.press("Escape")
