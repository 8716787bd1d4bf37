"""The CA and the files that make it trusted, judged by OpenSSL and by update-ca-certificates; and the start command.

Must not change the machine's own trust: everything happens in temporary directories.
"""

from __future__ import annotations

import ssl
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from proxy import launch
from proxy.trust import BUNDLE, Link, ca_certificate, certificates, make_ca, subject_hash, trust_env, trust_files

CA, IMAGES, HOSTS, BOTH = make_ca(), ca_certificate(make_ca()), ca_certificate(make_ca()), ca_certificate(make_ca())
HOST_BUNDLE = (
    b"# Corporate CA, ask Bj\xc3\xb6rn\n" + HOSTS.replace(b"\n", b"\r\n") + b"garbage\n" + BOTH + b"\n\n" + BOTH
)
IMAGE_BUNDLE = IMAGES.rstrip() + b"\n" + BOTH


def openssl(*arguments: str, data: bytes) -> str:
    done = subprocess.run(["openssl", *arguments], input=data, capture_output=True, timeout=20, check=True)
    return done.stdout.decode().strip()


def test_openssl_accepts_the_ca_strictly(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(ca_certificate(CA))
    assert b"PRIVATE" in CA
    assert b"PRIVATE" not in path.read_bytes()
    assert openssl("verify", "-x509_strict", "-check_ss_sig", "-CAfile", str(path), str(path), data=b"").endswith("OK")
    certificate = x509.load_pem_x509_certificate(CA)
    assert certificate.subject.rfc4514_string().startswith("CN=Hutch filter CA ")
    assert certificate.not_valid_after_utc.year - certificate.not_valid_before_utc.year in (9, 10)


def test_two_installations_have_different_authorities() -> None:
    assert x509.load_pem_x509_certificate(make_ca()).subject != x509.load_pem_x509_certificate(CA).subject


@pytest.mark.parametrize("pem", [ca_certificate(CA), IMAGES, HOSTS])
def test_the_subject_hash_is_openssls(pem: bytes) -> None:
    assert subject_hash(pem) == openssl("x509", "-hash", "-noout", data=pem)


def test_a_merged_bundle_holds_everything_once(tmp_path: Path) -> None:
    files = trust_files(IMAGE_BUNDLE, HOST_BUNDLE, CA)
    merged = files[BUNDLE]
    assert isinstance(merged, bytes)
    assert len(certificates(merged)) == merged.count(b"BEGIN") == 4
    assert b"PRIVATE" not in b"".join(each for each in files.values() if isinstance(each, bytes))
    (tmp_path / "merged.pem").write_bytes(merged)
    context = ssl.create_default_context(cafile=str(tmp_path / "merged.pem"))
    assert context.cert_store_stats()["x509_ca"] == 4
    assert all(files[path] == merged for path in ("etc/pki/tls/certs/ca-bundle.crt", "etc/ssl/cert.pem"))


def test_broken_blocks_are_left_out() -> None:
    broken = b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n"
    cut = HOSTS[:100]
    assert certificates(broken + HOSTS + cut + IMAGES)[0] == certificates(HOSTS)[0]
    assert certificates(b"") == certificates(b"no certificate") == []


def test_the_hash_link_finds_the_ca(tmp_path: Path) -> None:
    files = trust_files(b"", b"", CA)
    directory = tmp_path / "etc/ssl/certs"
    directory.mkdir(parents=True)
    lay(files, tmp_path)
    (tmp_path / "usr/local/share/ca-certificates/hutch.crt").rename(directory / "ca")  # the link is an absolute one
    (directory / "hutch.pem").unlink()
    (directory / "hutch.pem").symlink_to("ca")
    leaf = tmp_path / "leaf.pem"
    leaf.write_bytes(ca_certificate(CA))
    assert openssl("verify", "-no-CAfile", "-CApath", str(directory), str(leaf), data=b"").endswith("OK")


def lay(files: dict[str, bytes | Link], root: Path) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            (root / name).symlink_to(content.target)
        else:
            (root / name).write_bytes(content)


def test_added_certificates_lie_as_update_ca_certificates_leaves_them() -> None:
    """One in each file, and linked from where Java's packages look for links."""
    files = trust_files(IMAGE_BUNDLE, HOST_BUNDLE, CA)
    local = {path: content for path, content in files.items() if path.startswith("usr/local/share/ca-certificates/")}
    assert sorted(local.values(), key=str) == sorted([ca_certificate(CA), *certificates(HOSTS)], key=str)
    for path in local:
        assert files[f"etc/ssl/certs/{Path(path).stem}.pem"] == Link(f"/{path}")


def test_update_ca_certificates_keeps_it(tmp_path: Path) -> None:
    tool = Path("/usr/sbin/update-ca-certificates")
    if not tool.exists():
        pytest.skip("update-ca-certificates isn't installed (Debian's ca-certificates)")
    local, certs = tmp_path / "local", tmp_path / "certs"
    local.mkdir()
    certs.mkdir()
    for path, content in trust_files(IMAGE_BUNDLE, HOST_BUNDLE, CA).items():
        if path.startswith("usr/local/share/ca-certificates/") and isinstance(content, bytes):
            (local / Path(path).name).write_bytes(content)
    (tmp_path / "hooks").mkdir()
    command = [
        str(tool),
        "--localcertsdir",
        str(local),
        "--etccertsdir",
        str(certs),
        "--hooksdir",
        str(tmp_path / "hooks"),
    ]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    bundle = (certs / "ca-certificates.crt").read_bytes()
    assert set(certificates(ca_certificate(CA)) + certificates(HOSTS)) <= set(certificates(bundle))


def test_all_variables_lead_to_the_bundle() -> None:
    assert set(trust_env().values()) == {"/etc/ssl/certs/ca-certificates.crt"}
    assert {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "PIP_CERT"} <= set(
        trust_env()
    )


def test_the_start_command_drops_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr(launch, "needed_directories", lambda: [Path("/usr")])
    command = launch.filter_command(uid=7, gid=8, control=3, tcp=4, dns=5, hosts=tmp_path / "hosts", python="py")
    assert command[:3] == ["setpriv", "--reuid=7", "--regid=8"]
    assert {"--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--pdeathsig=KILL"} <= {
        *command
    }
    after = command[command.index("py") :]
    assert after == [
        "py", "-I", "-m", "proxy", "--control", "3", "--tcp", "4", "--dns", "5", "--hosts", str(tmp_path / "hosts"),
    ]  # fmt: skip


def test_a_closed_directory_is_covered_for_the_filter_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python, package = tmp_path / "home/py thon", tmp_path / "home/x/proxy"
    for directory in (python, package):
        directory.mkdir(parents=True)
    tmp_path.chmod(0o700)
    monkeypatch.setattr(launch, "needed_directories", lambda: [python, package])
    command = launch.filter_command(uid=7, gid=8, control=3, tcp=4, dns=5)
    assert command[:3] == ["unshare", "--mount", "--propagation=slave"]
    script = command[6]
    assert f"'{python}'" in script
    assert script.endswith('exec env -i "$@"')
    assert "setpriv" in command


def test_files_that_are_closed_themselves_cannot_be_helped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRWXU)
    monkeypatch.setattr(launch, "needed_directories", lambda: [tmp_path])
    with pytest.raises(launch.LaunchError, match="chmod"):
        launch.filter_command(uid=7, gid=8, control=3, tcp=4, dns=5)
