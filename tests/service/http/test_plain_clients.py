"""Clients that cannot set what programs set: browsers, other origins, forms without files; and typing errors."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from convscope.settings import Settings
from service.http.negotiation import accepted
from tests.service.support import Service, Worker, png_bytes, problem_of

MAPS = "/v1/feature-maps"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
PNG = b"\x89PNG\r\n"


@pytest.fixture
def image(client: httpx2.Client) -> str:
    """The id of an uploaded image."""
    made = client.post("/v1/images", files={"image": ("a.png", png_bytes(value=41), "image/png")})
    identity: str = made.json()["id"]
    return identity


def test_a_browser_is_shown_the_picture(client: httpx2.Client, image: str) -> None:
    answer = client.post(MAPS, json={"image": {"id": image}}, headers={"Accept": BROWSER})
    assert answer.headers["content-type"] == "image/png" and answer.content.startswith(PNG)
    result = f"{answer.headers['location']}/result"
    assert client.get(result, headers={"Accept": BROWSER}).headers["content-type"] == "image/png"
    # Whoever takes everything and is no browser gets what it always got, and a browser what has no picture.
    assert client.get(result, headers={"Accept": "*/*"}).headers["content-type"] == "application/json"
    assert accepted(BROWSER, ["application/json", "application/vnd.safetensors"]) == "application/json"
    assert accepted("text/html;q=0, */*", ["application/json", "image/png"]) == "application/json"


@pytest.mark.parametrize(
    ("name", "media"),
    [("png", "image/png"), ("json", "application/json"), ("safetensors", "application/vnd.safetensors")],
)
def test_format_goes_before_accept(client: httpx2.Client, image: str, name: str, media: str) -> None:
    asked = {"image": {"id": image}}
    answer = client.post(f"{MAPS}?format={name}", json=asked, headers={"Accept": "text/csv"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, media), answer.text
    again = client.get(f"{answer.headers['location']}/result?format={name}")
    assert again.headers["content-type"] == media and again.headers["etag"] == answer.headers["etag"]


def test_format_of_arrays(client: httpx2.Client, image: str) -> None:
    job = client.post(MAPS, json={"image": {"id": image}}).headers["location"]
    array = f"{job}/arrays/maps/conv"
    assert client.get(f"{array}?format=npy", headers={"Accept": "application/json"}).content.startswith(b"\x93NUMPY")
    assert client.get(f"{array}?format=json").json()["name"] == "maps/conv"


def test_formats_that_are_not_possible(client: httpx2.Client, image: str) -> None:
    asked = {"image": {"id": image}}
    problem = problem_of(client.post("/v1/classify?format=png", json=asked), 406, "not-acceptable")
    assert problem["possible"] == ["application/json", "application/vnd.safetensors"]
    problem = problem_of(client.post(f"{MAPS}?format=gif", json=asked), 422, "invalid-request")
    assert problem["errors"][0]["pointer"] == "/query/format" and "png" in problem["errors"][0]["detail"]


def test_an_urlencoded_form_is_read_as_a_form_with_files(client: httpx2.Client, image: str) -> None:
    asked = f"image={image}&layer=conv&channels=1%2C3&seed=7&labels=%7B%22who%22%3A%22M%C3%BCller%22%7D"
    answer = client.post(MAPS, content=asked, headers=FORM)
    assert answer.status_code == 200, answer.text
    request = answer.json()["request"]
    assert (request["layers"], request["channels"], request["seed"]) == (["conv"], [1, 3], 7)
    assert answer.json()["labels"] == {"who": "Müller"}
    nothing = client.post("/v1/kernels", content="", headers={**FORM, "Prefer": "respond-async"})
    assert nothing.status_code == 202 and nothing.json()["request"]["layer"] == "conv"


@pytest.mark.parametrize("body", [b"layer", b"layer=%FF%FE&x", b"layer=\xff", b"&".join([b"a=1"] * 300)])
def test_a_malformed_urlencoded_form(client: httpx2.Client, body: bytes) -> None:
    problem_of(client.post("/v1/kernels", content=body, headers=FORM), 400, "malformed-body")


def test_a_mistyped_address_is_told_what_is_near(client: httpx2.Client) -> None:
    for asked, near in (
        ("/v1/feature-map", "/v1/feature-maps"),
        ("/feature-maps", "/v1/feature-maps"),
        ("/v1/job/abc/results", "/v1/jobs/abc/result"),
        ("/v1/model/toy/layer", "/v1/models/toy/layers"),
        ("/doc", "/docs"),
    ):
        problem = problem_of(client.get(asked), 404, "not-found")
        assert problem["near"][0] == near and near in problem["detail"], asked
    assert "near" not in problem_of(client.get("/wp-admin"), 404, "not-found")


@pytest.mark.parametrize(("name", "option"), [("view", "view"), ("colourmap", "colormap"), ("normalise", "normalize")])
def test_options_of_drawing_in_the_form_are_sent_to_the_query(
    client: httpx2.Client, image: str, name: str, option: str
) -> None:
    for answer in (
        client.post(MAPS, content=f"image={image}&{name}=x", headers=FORM),
        client.post(MAPS, json={"image": {"id": image}, name: "x"}),
    ):
        problem = problem_of(answer, 422, "invalid-request")
        assert f"?{option}=" in problem["errors"][0]["detail"]


def test_what_is_no_option_of_drawing_is_not_sent_there(client: httpx2.Client, image: str) -> None:
    answer = client.post(MAPS, json={"image": {"id": image}, "leyer": "conv"})
    assert "query" not in problem_of(answer, 422, "invalid-request")["errors"][0]["detail"]


class TestOtherOrigins:
    """Pages of other origins, by CORS."""

    ASKED: dict[str, str] = {  # noqa: RUF012
        "Origin": "https://lab.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,prefer",
    }

    def test_are_not_let_in_by_default(self, client: httpx2.Client) -> None:
        for answer in (
            client.options(MAPS, headers=self.ASKED),
            client.get("/v1/jobs", headers={"Origin": "https://lab.example"}),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control-")]

    @pytest.fixture
    def open_service(self, service_settings: Settings, worker: Worker) -> Any:
        settings = service_settings.model_copy(update={"cors_origins": "https://lab.example, https://b.example:81"})
        with Service(settings) as running, running.client() as client:
            yield client

    def test_those_that_the_setting_names_are(self, open_service: httpx2.Client) -> None:
        before = open_service.options(MAPS, headers=self.ASKED)
        assert before.status_code == 200 and before.headers["access-control-allow-origin"] == "https://lab.example"
        assert "authorization" in before.headers["access-control-allow-headers"].lower()
        assert "POST" in before.headers["access-control-allow-methods"]
        for answer in (
            open_service.get("/v1/jobs", headers={"Origin": "https://b.example:81"}),
            open_service.get("/v1/jobs/none", headers={"Origin": "https://b.example:81"}),
        ):
            assert answer.headers["access-control-allow-origin"] == "https://b.example:81"
            assert "Location" in answer.headers["access-control-expose-headers"]
            assert "access-control-allow-credentials" not in answer.headers
        other = open_service.get("/v1/jobs", headers={"Origin": "https://evil.example"})
        assert other.status_code == 200 and "access-control-allow-origin" not in other.headers
        assert open_service.options(MAPS).headers["allow"] == "OPTIONS, POST"

    def test_a_setting_that_is_no_origin_is_refused(self) -> None:
        for wrong in ("lab.example", "https://lab.example/page", "https://a.example https://b.example"):
            with pytest.raises(ValueError, match="an origin is a scheme and a host"):
                Settings(cors_origins=wrong)


def test_the_page_of_the_interface_tells_what_fields_take(client: httpx2.Client) -> None:
    page = client.get("/docs").text
    section = page[page.index('id="cam"') : page.index('id="cka"')]
    document = client.get("/openapi.json").json()
    methods = document["components"]["schemas"]["CamRequest"]["properties"]["methods"]["items"]["enum"]
    assert len(methods) == 13
    for method in methods:
        assert f"<code>{method}</code>" in section
    assert "<code>top:K</code>" in section, "markdown is rendered"
    for media in ("image/png", "application/json", "application/vnd.safetensors"):
        assert f"Accept: {media}" in section
    seed = section[section.index("<code>seed</code>") :].partition("</tr>")[0]
    assert "whole number (0 to 9,007,199,254,740,991)" in seed and "<code>0</code>" in seed
