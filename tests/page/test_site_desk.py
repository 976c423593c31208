"""The page on a site's own files: lock-out, forged forms, enumeration, access log, JSON, hostile callers."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from client.page.access_log import read_access_log
from client.page.accounts import Accounts
from client.page.app import make_app
from client.page.site_desk import SiteDesk
from client.settings import load_settings
from tests.page.browser import served
from tests.page.site_kit import ACCOUNT, PASSWORD, ready_site, write_small_tables


@pytest.fixture
def site(tmp_path: Path) -> tuple[Path, str]:
    home, key = ready_site(tmp_path)
    write_small_tables(home)
    return home, key


@pytest.fixture
def client(site: tuple[Path, str]) -> Iterator[httpx.Client]:
    with client_of(site[0]) as one:
        yield one


@contextlib.contextmanager
def client_of(home: Path) -> Iterator[httpx.Client]:
    app = make_app(SiteDesk(home, load_settings(home)), hosts=frozenset({"127.0.0.1"}), over_tls=False)
    with served(app) as address, httpx.Client(base_url=address, follow_redirects=True) as client:
        yield client


def token_of(page: httpx.Response) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found is not None
    return found.group(1)


def sign_in(client: httpx.Client, password: str = PASSWORD, account: str = ACCOUNT) -> httpx.Response:
    token = token_of(client.get("/sign-in"))
    return client.post("/sign-in", data={"csrf": token, "account": account, "password": password})


def find(client: httpx.Client, key: str, patient: str) -> httpx.Response:
    return client.post("/patient", data={"csrf": token_of(client.get("/")), "model": key, "patient": patient})


def said(home: Path) -> list[str]:
    return [
        f"{line.view.kind} {line.view.shown}".strip() for line in read_access_log(home / "state" / "access.jsonl")
    ]


def test_a_patient_is_found_by_the_exact_identifier_alone(client: httpx.Client, site: tuple[Path, str]) -> None:
    home, key = site
    sign_in(client)
    assert find(client, key, "P-1").status_code == 200
    for other in ("P", "p-1", "P-", "P-1%", "*", "P-1\x00", "' OR 1=1 --", "../P-1", ""):
        assert find(client, key, other).status_code == 404, other
    assert said(home)[:2] == ["sign-in", "view prognosis"]
    assert "P-1" not in (home / "state" / "access.jsonl").read_text()


def test_out_of_range_and_missing_layer_on_real_rows(client: httpx.Client, site: tuple[Path, str]) -> None:
    sign_in(client)
    refused = find(client, site[1], "P-2").text
    assert "a value that the data dictionary does not allow" in refused
    assert 'id="lead"' not in refused
    missing = find(client, site[1], "P-3").text
    assert "Nothing of the layer “rna” is known" in missing
    assert "Under each treatment" in missing


def test_five_wrong_passwords_lock_the_account_and_tell_no_more(client: httpx.Client, site: tuple[Path, str]) -> None:
    wrong = [sign_in(client, "not the password") for _ in range(5)]
    assert [one.status_code for one in wrong] == [403] * 5
    assert sign_in(client).status_code == 429
    strangers = [sign_in(client, "x" * 20, account="nobody") for _ in range(6)]
    assert [one.status_code for one in strangers] == [403] * 5 + [429]
    assert re.sub(r"value=\"[^\"]+\"", "", wrong[0].text) == re.sub(r"value=\"[^\"]+\"", "", strangers[0].text)
    assert said(site[0]).count("sign-in-refused") == 12


def test_a_form_without_the_session_s_token_is_refused(client: httpx.Client, site: tuple[Path, str]) -> None:
    sign_in(client)
    token = token_of(client.get("/"))
    fields = {"model": site[1], "patient": "P-1"}
    assert client.post("/patient", data=fields).status_code == 403
    assert client.post("/patient", data={**fields, "csrf": "x" * 43}).status_code == 403
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        assert client.post("/patient", data={**fields, "csrf": token}, headers=headers).status_code == 403, headers
    assert client.post("/patient", data={**fields, "csrf": token}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/models", "/patient/abc", f"/form/{'a' * 64}", f"/model/{'a' * 64}/card"])
def test_nothing_is_read_without_signing_in(client: httpx.Client, path: str) -> None:
    answer = client.get(path, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")


def test_a_locked_account_s_session_ends_at_the_next_click(client: httpx.Client, site: tuple[Path, str]) -> None:
    sign_in(client)
    assert client.get("/", follow_redirects=False).status_code == 200
    Accounts(site[0]).set_locked(ACCOUNT, is_locked=True)
    assert client.get("/", follow_redirects=False).status_code == 303


def test_an_account_cannot_list_patients_by_trying(tmp_path: Path) -> None:
    home, key = ready_site(tmp_path, rate=5)
    write_small_tables(home)
    with client_of(home) as client:
        sign_in(client)
        tried = [find(client, key, f"P-{i}").status_code for i in range(100, 108)]
    assert tried[:5] == [404] * 5
    assert set(tried[6:]) == {429}
    assert "search too-many" in said(home)


def test_another_name_or_too_large_a_body_reaches_nothing(client: httpx.Client) -> None:
    assert client.get("/sign-in", headers={"Host": "evil.example"}).status_code == 421
    assert client.post("/sign-in", content=b"x" * (5 << 20)).status_code == 413
    for back in ("//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)"):
        token = token_of(client.get("/sign-in"))
        fields = {"csrf": token, "to": "fr", "back": back}
        assert client.post("/language", data=fields, follow_redirects=False).headers["location"] == "/", back


def test_the_card_is_shown(client: httpx.Client, site: tuple[Path, str]) -> None:
    sign_in(client)
    assert "Who lives how long?" in client.get(f"/model/{site[1]}/card").text


def test_typed_values_and_free_until_are_stored_nowhere(
    client: httpx.Client, site: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """In no file of the site, in no temporary file, and in nothing that the page prints; multipart forms too."""
    key = site[1]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    sign_in(client)
    fields = {"csrf": token_of(client.get(f"/form/{key}")), "v.age": "47.123", "v.stage": "II"}
    shown = client.post(f"/form/{key}", data=fields)
    assert "Typed in; not stored" in shown.text
    later = client.post(f"{shown.url.path}/since", data={"csrf": fields["csrf"], "since": "417.29"})
    assert "417.3 days after that start" in later.text
    parts = {name: (None, value) for name, value in fields.items()}
    assert "Typed in; not stored" in client.post(f"/form/{key}", files=parts).text
    wrong = client.post(f"/form/{key}", data={**fields, "v.age": "147.123"})
    assert wrong.status_code == 422
    assert "147.123" in wrong.text  # typed again is not needed
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and _holds_values(path.read_bytes())]
    assert kept == []
    assert list(temporary.rglob("*")) == []
    assert not _holds_values("".join(capfd.readouterr()).encode())


def _holds_values(content: bytes) -> bool:
    return any(value in content for value in (b"47.123", b"417.29"))


def test_what_was_typed_goes_with_the_session(client: httpx.Client, site: tuple[Path, str]) -> None:
    sign_in(client)
    token = token_of(client.get(f"/form/{site[1]}"))
    shown = client.post(f"/form/{site[1]}", data={"csrf": token, "v.age": "47.123", "v.stage": "II"})
    client.post("/sign-out", data={"csrf": token})
    sign_in(client)
    assert client.get(shown.url.path).status_code == 404
    token = token_of(client.get("/"))
    assert client.post(f"{shown.url.path}/since", data={"csrf": token, "since": "30"}).status_code == 404


# ---------------------------------------------------------------- JSON
def test_json_gives_the_page_s_numbers_to_a_system_with_a_token(client: httpx.Client, site: tuple[Path, str]) -> None:
    home, key = site
    token = Accounts(home).add_token("records")
    headers = {"Authorization": f"Bearer {token}"}
    answer = client.post("/api/v1/prognosis", json={"model": key, "patient_id": "P-1"}, headers=headers)
    assert answer.json()["status"] == "prognosis"
    sign_in(client)
    shares = [f"{100 * one['survival']:.1f}" for one in answer.json()["horizons"]]
    assert all(f'<td class="n">{share}</td>' in find(client, key, "P-1").text for share in shares)
    old = {"model": key, "values": {"age": "130"}}
    refused = client.post("/api/v1/prognosis", json=old, headers=headers).json()
    assert (refused["status"], refused["reasons"][0]["code"], refused["horizons"]) == ("refused", "beyond-range", [])
    typed = {"model": key, "values": {"age": "50"}, "language": "fr"}
    french = client.post("/api/v1/prognosis", json=typed, headers=headers).json()
    assert any("moyenne" in one["text"] for one in french["warnings"])
    assert said(home)[0] == "api prognosis"


def test_json_is_for_nobody_without_a_token(client: httpx.Client, site: tuple[Path, str]) -> None:
    home, key = site
    sign_in(client)
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic eDp5"}):
        question = {"model": key, "patient_id": "P-1"}
        assert client.post("/api/v1/prognosis", json=question, headers=headers).status_code == 401
        assert client.get("/api/v1/models", headers=headers).status_code == 401
    assert "view" not in " ".join(said(home))


def test_a_wrong_question_is_answered_without_what_was_sent(client: httpx.Client, site: tuple[Path, str]) -> None:
    headers = {"Authorization": f"Bearer {Accounts(site[0]).add_token('records')}"}
    question = {"model": site[1], "values": {"age": 4711.25, "secret": ["x"]}}
    answer = client.post("/api/v1/prognosis", json=question, headers=headers)
    assert answer.status_code == 422
    assert "4711" not in answer.text


# ---------------------------------------------------------------- against its own description
_MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
_BOUNDED = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[schemathesis.BaseSchema, str]]:
    home, _ = ready_site(tmp_path_factory.mktemp("described"))
    write_small_tables(home)
    app = make_app(SiteDesk(home, load_settings(home)), hosts=frozenset({"127.0.0.1"}), over_tls=False)
    with served(app) as address:
        yield schemathesis.openapi.from_url(f"{address}/api/v1/openapi.json"), Accounts(home).add_token("fuzzer")


@pytest.mark.parametrize("mode", _MODES, ids=["fits", "does not fit"])
@pytest.mark.parametrize(("method", "path"), [("GET", "/api/v1/models"), ("POST", "/api/v1/prognosis")])
def test_whatever_is_sent_nothing_fails_and_nobody_reads_without_a_token(
    described: tuple[schemathesis.BaseSchema, str], method: str, path: str, mode: GenerationMode
) -> None:
    schema, token = described
    if (method, mode) == ("GET", GenerationMode.NEGATIVE):
        assert not schema[path][method].body  # nothing there that could be wrong
        return

    @_BOUNDED
    @given(case=schema[path][method].as_strategy(generation_mode=mode), is_known=st.booleans())
    def law(case: schemathesis.Case, is_known: bool) -> None:
        headers = {"Authorization": f"Bearer {token}"} if is_known else {"Authorization": "Bearer nobody"}
        answer = case.call(headers=headers)
        assert answer.status_code < 500
        assert is_known or answer.status_code in {400, 401, 415, 422}
        if answer.status_code == 200:
            case.validate_response(answer, checks=[response_schema_conformance, status_code_conformance])

    law()
