# SPDX-License-Identifier: Apache-2.0
"""HTTPS: certificates that do and do not do, and clients that begin no handshake."""

import shutil
import ssl
import subprocess
import time

import httpx
import pytest

from adapmoe.serve.config import ConfigError
from adapmoe.serve.server import load_tls
from adapmoe.serve.settings import ServeSettings
from support.core.server_process import GET, read_to_end


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """(certificate, key), self-signed for localhost."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("making a certificate needs the program openssl")
    folder = tmp_path_factory.mktemp("tls")
    request = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    )
    paths = folder / "cert.pem", folder / "key.pem"
    files = ["-out", paths[0], "-keyout", paths[1]]
    subprocess.run([openssl, *request.split(), *files], check=True, capture_output=True)
    return tuple(map(str, paths))


def test_tls(running, certificate):
    cert, key = certificate
    server = running(tls_cert=cert, tls_key=key, header_timeout=0.5)
    assert server.url.startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=cert)
    assert httpx.get(server.url, verify=trusting).status_code == 200
    began = time.monotonic()
    with server.connect() as silent:  # no handshake
        assert read_to_end(silent) == b""
    assert 0.4 < time.monotonic() - began < 5
    with server.connect(GET) as plain:
        assert b"200" not in read_to_end(plain)
    code, out, _ = server.stop()
    assert (code, out) == (0, ["drain", "app ends", "closed"])


@pytest.mark.slow
def test_a_handshake_has_five_seconds_at_most(running, certificate):
    cert, key = certificate
    server = running(tls_cert=cert, tls_key=key, header_timeout=60)
    began = time.monotonic()
    with server.connect() as silent:
        assert read_to_end(silent) == b""
    assert 4 < time.monotonic() - began < 10


def test_files_for_tls_that_do_not_do_are_named(certificate, tmp_path):
    cert, key = certificate
    other = tmp_path / "other.pem"
    other.write_text("no key")
    for settings, message in [
        ({"tls_cert": cert}, "tls_key and tls_cert need each other"),
        ({"tls_cert": cert, "tls_key": "/none"}, "/none: cannot be read for TLS: No such file"),
        ({"tls_cert": cert, "tls_key": str(other)}, f"{other}: not a certificate and its key"),
        ({"tls_cert": key, "tls_key": key}, "not a certificate and its key"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_tls(ServeSettings(**settings))
    assert load_tls(ServeSettings()) is None


def test_an_encrypted_key_is_refused_instead_of_asked_for(certificate, tmp_path):
    cert, key = certificate
    locked = str(tmp_path / "locked.pem")
    command = ["openssl", "ec", "-aes128", "-passout", "pass:abcd", "-in", key, "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(ConfigError, match="its key, not encrypted"):
        load_tls(ServeSettings(tls_cert=cert, tls_key=locked))
