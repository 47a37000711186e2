"""`colonnade serve` as a process: TLS, keys, logs, and SIGTERM under load."""

from __future__ import annotations

import datetime as dt
import inspect
import ipaddress
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from colonnade.client import Client, Refused
from colonnade.serve import serve
from colonnade.server import Place
from encoding.encoder import load_encoder, load_encoder_of
from index_format.errors import InputError
from index_format.index import Index
from serving.http.parts import NewDocument
from serving.keys import make_key, write_keys
from tests.colonnade.command import runner
from tests.serving.vectors import add_texts

COLONNADE = str(Path(sys.executable).with_name("colonnade"))
CANARY = "canary in a coal mine"


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "colonnade")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = builder.add_extension(here, critical=False).sign(key, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return folder / "cert.pem", folder / "key.pem"


def test_a_gpu_is_left_alone_where_the_processor_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also by the encoder: serve and search say so to it. This torch would fail on a GPU that it is told is there."""
    index = Index.at(tmp_path / "index")
    add_texts(index, load_encoder("embedded"), {"bees": "Bees make honey."})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    record = index.current().encoder
    assert load_encoder_of(record, None, "cpu").device.type == "cpu"
    run = runner(monkeypatch, capfd)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    assert run("search", index.address, "honey", "--device", "cpu").code == 0
    try:
        with socket.create_server(
            ("127.0.0.1", 0)
        ) as taken:  # it ends once it wants to listen, with its encoder loaded
            port = taken.getsockname()[1]
            told = run("serve", index.address, "--device", "cpu", "--port", port)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert "cannot listen" in told.err


def test_every_option_of_serve_is_described() -> None:
    """In the document for those who run a server."""
    described = (Path(__file__).parents[2] / "docs" / "server.md").read_text()
    options = [f"--{name.replace('_', '-')}" for name in inspect.signature(serve).parameters if name != "index"]
    assert [option for option in options if f"`{option}" not in described] == []


def test_what_is_added_over_http_is_encoded_where_the_server_was_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """On the processor, and no GPU is claimed. This torch would fail on a GPU that it is told is there."""
    index, started = Index.at(tmp_path / "index"), {}
    add_texts(index, load_encoder("embedded", "cpu"), {"bees": "Bees make honey."})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("colonnade.server.run_server", lambda *_, **given: started.update(given))
    assert runner(monkeypatch, capfd)("serve", index.address, "--device", "cpu", "--writable").code == 0
    document = NewDocument(id="cats", text="Cats sleep all day.", title=None, metadata={})
    written = started["writer"].add([document])
    assert (written.version, written.added) == (2, 1)


@pytest.mark.slow
def test_a_server_of_a_bucket_follows_it(fresh_s3_address: str, tmp_path: Path) -> None:
    """A new version of an index in S3 is fetched, and answers; keys on an open network are warned of once."""
    encoder, index = load_encoder("embedded"), Index.at(fresh_s3_address)
    add_texts(index, encoder, {"bees": "Bees make honey."})
    key, secret = make_key("us", ["search"])
    write_keys(tmp_path / "keys.json", [key])
    command = [
        COLONNADE,
        "serve",
        fresh_s3_address,
        "--host",
        "0.0.0.0",
        "--port",
        "0",
        "--keys",
        tmp_path / "keys.json",
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([str(one) for one in command], stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        told = re.search(r"http://0\.0\.0\.0:(\d+)", process.stdout.readline())
        assert told is not None
        with Client(f"http://127.0.0.1:{told.group(1)}", key=secret, attempts=20) as client:
            assert client.search("honey", k=1).version == 1
            published = add_texts(index, encoder, {"ice": "Ice floats on the water."})
            assert published is not None
            found = client.search("What floats?", k=1, min_version=published.version)
            assert (found.version, found.hits[0].document_id) == (2, "ice")
            assert client.fetch(["ice"], min_version=2).documents[0].text == "Ice floats on the water."
    finally:
        process.terminate()
        code = process.wait(120)
    assert code == 0
    warned = [line for line in (tmp_path / "log").read_text().splitlines() if "unencrypted" in line]
    assert len(warned) == 1


@pytest.mark.slow
def test_a_certificate_that_is_not_of_its_key_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    """Swapped, of another key, or none at all."""
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    certificate, private = make_certificate(tmp_path / "ours")
    _, other = make_certificate(tmp_path / "theirs")
    Place("127.0.0.1", 0, tls_certificate=certificate, tls_key=private).refuse_unsafe()
    for pair in ((private, certificate), (certificate, other), (Path(__file__), private)):
        with pytest.raises(InputError, match="cannot be used together"):
            Place("127.0.0.1", 0, tls_certificate=pair[0], tls_key=pair[1]).refuse_unsafe()


def test_a_server_for_others_has_keys_tls_quiet_logs_and_ends_in_order(tmp_path: Path) -> None:
    """On all addresses; told to stop while four clients ask, it answers what it took and ends with code 0."""
    add_texts(Index.at(tmp_path / "index"), load_encoder("embedded"), {"bees": "Bees make honey."})
    key, secret = make_key("us", ["search", "admin"])
    write_keys(tmp_path / "keys.json", [key])
    certificate, private = make_certificate(tmp_path)
    # One that writes loads Prefect, which sets up logs of its own.
    command = [COLONNADE, "serve", tmp_path / "index", "--host", "0.0.0.0", "--port", "0", "--writable"]
    command += ["--keys", tmp_path / "keys.json", "--tls-certificate", certificate, "--tls-key", private]
    pipes = {"stdout": subprocess.PIPE, "stderr": (tmp_path / "log").open("w"), "text": True}
    process = subprocess.Popen([str(one) for one in command], **pipes)  # type: ignore[call-overload]
    try:
        assert process.stdout is not None
        told = re.search(r"https://0\.0\.0\.0:(\d+)", process.stdout.readline())
        assert told is not None
        address, trusted = f"https://127.0.0.1:{told.group(1)}", ssl.create_default_context(cafile=certificate)
        with Client(address, key=secret, verify=trusted, attempts=20) as client:
            assert client.search(CANARY).hits[0].document_id == "bees"
        with Client(address, verify=trusted, attempts=1) as nobody, pytest.raises(Refused, match="unauthorized"):
            nobody.search(CANARY)

        def load() -> int:
            answered = 0
            header = {"Authorization": f"Bearer {secret}"}
            with httpx.Client(base_url=address, headers=header, verify=trusted, timeout=30) as asking:
                while True:
                    try:
                        asking.post("/v1/search", json={"query": f"{CANARY} {answered}"}).raise_for_status()
                    except httpx.TransportError:  # it listens no more, or closed an idle connection as we wrote to it
                        return answered
                    answered += 1
                    if answered == 3:
                        process.send_signal(signal.SIGTERM)

        with ThreadPoolExecutor(4) as pool:
            answered = sum(pool.map(lambda _: load(), range(4)))
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    statuses = [line["status"] for line in lines if line["event"] == "request"]
    assert set(statuses) == {200, 401}
    assert statuses.count(200) == answered + 1  # what the server took arrived
    assert CANARY not in (tmp_path / "log").read_text()
    assert secret not in (tmp_path / "log").read_text()
