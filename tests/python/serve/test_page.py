# SPDX-License-Identifier: Apache-2.0
"""The files of the page: which there are, how they are sent, and what they may not hold."""

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

import adapmoe.serve.page as page
from adapmoe.serve.app import open_app
from adapmoe.serve.config import Config
from adapmoe.serve.protection import protect
from adapmoe.serve.settings import ServeSettings
from adapmoe.settings import Settings

FOLDER = Path(page.__file__).with_name("page")


def client(**settings):
    """The page behind all checks, with a key that nobody presents."""
    app = FastAPI()
    app.include_router(page.router())
    guarded = protect(app, ServeSettings(**settings), {"secret": "alice"}.get)
    return TestClient(guarded, base_url="http://127.0.0.1:8000")


@pytest.fixture(scope="module")
def http():
    return client()


def test_the_page_and_its_files_are_there_without_a_key(http):
    kinds = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
    for path in page.PATHS:
        reply = http.get(path)
        assert reply.status_code == 200
        file = FOLDER / (path.removeprefix("/page/") if path != "/" else "index.html")
        assert reply.content == file.read_bytes()
        expected = kinds.get(file.suffix, "image/svg+xml")
        assert reply.headers["content-type"].startswith(expected)


def test_every_file_of_the_folder_is_sent_and_no_other():
    assert {f"/page/{file.name}" for file in FOLDER.iterdir()} - {"/page/index.html"} == (
        page.PATHS - {"/"}
    )


@pytest.mark.parametrize("path", sorted(page.PATHS))
def test_headers_let_nothing_come_from_elsewhere(http, path):
    headers = http.head(path).headers
    policy = headers["content-security-policy"].split("; ")
    assert "default-src 'self'" in policy
    assert {"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} <= set(policy)
    assert not any("unsafe" in rule or "*" in rule or ":" in rule for rule in policy)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page",
        "/page/index.html",
        "/page/../page.py",
        "/page/%2e%2e/page.py",
        "/page/..%2fpage.py",
        "/page//etc/passwd",
        "/page/main.js/",
        "/page/main.js%00.html",
        "/page/style.css.map",
    ],
)
def test_no_path_reaches_the_file_system(http, path):
    reply = http.get(path, headers={"x-api-key": "secret"}, follow_redirects=False)
    assert reply.status_code in (307, 404)  # 307: to the same without the last slash
    assert "import" not in reply.text


def test_only_reading_is_allowed(http):
    for method in ("POST", "PUT", "DELETE"):
        assert http.request(method, "/").status_code == 405


def test_the_host_and_the_origin_are_checked_as_always(http):
    assert http.get("/", headers={"host": "evil.example"}).status_code == 403
    assert http.get("/", headers={"origin": "https://evil.example"}).status_code == 403
    assert http.get("/", headers={"origin": "http://127.0.0.1:8000"}).status_code == 200


def test_a_server_that_shuts_down_still_has_the_page_but_shows_no_machine(
    fake_core, tiny_checkpoint
):
    config = Config(tiny_checkpoint, Settings(), ServeSettings())
    with open_app(config) as opened, TestClient(opened.app) as http:
        opened.begin_drain()
        assert http.get("/").status_code == 200
        reply = http.get("/activity")
        assert reply.status_code == 503
        assert "shutting down" in reply.json()["error"]["message"]
        assert not {"/", "/activity"} & http.get("/openapi.json").json()["paths"].keys()


def test_the_files_ask_for_nothing_elsewhere_and_make_no_markup_of_text():
    for file in FOLDER.iterdir():
        text = file.read_text()
        found = set(re.findall(r"(?:https?:)?//[a-z0-9][a-z0-9.-]*\.[a-z]+", text))
        assert found <= {"http://www.w3.org"}, file.name  # the name of SVG
        if file.suffix == ".js":
            markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|Function\("
            assert not re.search(markup, text), file.name
    html = (FOLDER / "index.html").read_text()
    assert not re.search(r"\sstyle=|\son[a-z]+=|<style|<script(?! type=\"module\" src=)", html)
