"""What the images hold, layer by layer: the program, and no key, no wheel, no name of where they were built."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from collections.abc import Iterator

import pytest

from tests.containers.conftest import Say
from tests.containers.kit import HUB_IMAGE, SITE_IMAGE
from tests.containers.podman import podman
from tests.test_names import ROOT

IMAGES = (HUB_IMAGE, SITE_IMAGE)
MOST_BYTES = 700e6
# A key with its content: the armour alone stands in every library that reads keys.
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+(?:[A-Za-z0-9+/=]{40,}\s+)+")
_SECRET_WORD = re.compile(r"secret|token|passw|credential|api_?key", re.IGNORECASE)


@pytest.mark.parametrize("image", IMAGES)
def test_images_are_small_and_without_torch(engine: None, say: Say, image: str) -> None:
    size = int(podman("image", "inspect", image, "--format", "{{.Size}}"))
    say(f"{image}: {size / 1e6:.0f} MB")
    assert size <= MOST_BYTES
    words = ("run", "--rm", "--network=none", "--entrypoint", "python", image)
    looked = "from importlib.util import find_spec; print(find_spec('torch'), find_spec('archipel') is None)"
    assert podman(*words, "-c", looked).split() == ["None", "False"]


@pytest.mark.parametrize("image", IMAGES)
def test_settings_and_history_of_an_image_hold_no_secret_and_say_what_it_is(engine: None, image: str) -> None:
    known = json.loads(podman("image", "inspect", image))[0]
    config = known["Config"]
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert known["Healthcheck"]["Test"][:2] == ["CMD", "archipel"]
    assert set(config["Volumes"]) == {"/var/lib/archipel"}
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert version is not None
    assert config["Labels"]["org.opencontainers.image.version"] == version[1]
    assert re.match(r"[0-9a-f]{40}", config["Labels"]["org.opencontainers.image.revision"])
    said = json.dumps([config["Env"], known["History"], config["Labels"], config["Cmd"], config["Entrypoint"]])
    assert not _SECRET_WORD.search(said)
    assert str(ROOT) not in said
    assert not re.search(r"https?://[^/]*@", said)


@pytest.mark.parametrize("image", IMAGES)
def test_no_layer_of_an_image_holds_a_key_or_a_wheel(engine: None, image: str) -> None:
    n_files, found = 0, []
    for name, content in _files(image):
        n_files += 1
        if re.search(r"/libgnutls\.so[.0-9]*$", name):
            continue  # Debian's; the published vectors of its self-test are in it
        is_key_file = re.search(r"(^|/)(keys/.+|.*\.(key|whl)|id_[a-z0-9]+|control\.token|superexec\.secret)$", name)
        if is_key_file or _PRIVATE_KEY.search(content):
            found.append(name)
    assert n_files > 1000
    assert found == []


def _files(image: str) -> Iterator[tuple[str, bytes]]:
    """Yield every file of every layer."""
    with subprocess.Popen(["podman", "save", "--format", "docker-archive", image], stdout=subprocess.PIPE) as saved:
        assert saved.stdout is not None
        with tarfile.open(fileobj=saved.stdout, mode="r|") as archive:
            for member in archive:
                if not member.isfile() or not member.name.endswith(".tar"):
                    continue
                with tarfile.open(fileobj=archive.extractfile(member), mode="r|") as layer:
                    for file in layer:
                        if file.isfile():
                            yield file.name, (layer.extractfile(file) or pytest.fail(file.name)).read()
    assert saved.returncode == 0
