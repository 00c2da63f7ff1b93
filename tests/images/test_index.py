"""What a build is told of how pip is set up on this machine."""

from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from images import index


@pytest.fixture
def set_up(tmp_path, monkeypatch):
    """Have pip on this machine know only what a test says."""

    def set_up(text):
        file = tmp_path / "pip.conf"
        file.write_text(text)
        monkeypatch.setenv("PIP_CONFIG_FILE", str(file))

    for name in ("PIP_CERT", "PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return set_up


def told(options):
    """pip's configuration in the build, as lines."""
    (secret,) = [word for word in options if word.startswith("id=pip,src=")]
    with open(secret.removeprefix("id=pip,src=")) as file:
        return file.read().splitlines()


def test_a_folder_of_packages_is_served_to_the_build_and_nothing_beside_it(tmp_path, set_up):
    for place in ("wheels", "mirror/simple", "mirror/files"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "wheels" / "a.whl").write_text("a wheel")
    (tmp_path / "mirror" / "files" / "b.whl").write_text("another")
    (tmp_path / "private").write_text("private")
    (tmp_path / "wheels" / "link").symlink_to(tmp_path / "private")
    set_up(f"[install]\nfind-links = {tmp_path}/wheels\n[global]\nextra-index-url = file://{tmp_path}/mirror/simple\n")
    with index.options() as options:
        lines = dict(line.split(" = ") for line in told(options) if " = " in line)
        assert options[-2:] == ["--network", "host"]
        assert "a.whl" in urlopen(lines["find-links"]).read().decode()
        assert urlopen(lines["find-links"] + "a.whl").read() == b"a wheel"
        # The links of an index lead beside it.
        assert urlopen(lines["extra-index-url"] + "../files/b.whl").read() == b"another"
        for hidden in (lines["find-links"] + "link", lines["find-links"] + "../private", lines["find-links"] + "../"):
            with pytest.raises(HTTPError, match="404"):
                urlopen(hidden)


def test_a_certificate_goes_along_and_addresses_stay_as_they_are(set_up):
    set_up("[global]\ncert = /etc/own.pem\nindex-url = https://pip.example.com/simple\nconstraint = /etc/own.txt\n")
    with index.options() as options:
        assert options[2:] == ["--secret", "id=ca,src=/etc/own.pem"]
        assert {"index-url = https://pip.example.com/simple", "cert = /run/secrets/ca"} < set(told(options))
        assert not any("constraint" in line for line in told(options))
