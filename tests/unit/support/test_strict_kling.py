import hashlib
import hmac
import io
import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from PIL import Image

from kling_async.sandbox.rules.kling_legacy import LEGACY
from kling_async.sandbox.rules.kling_video import NEW_MODELS
from support.strict_kling import ERRORS, KlingOutcome, StrictKling, signature

pytestmark = pytest.mark.asyncio
BASE = "https://api-singapore.klingai.com"
IMAGE_URL = "https://x.example/a.png"
VIDEO_URL = "https://x.example/a.mp4"
OMNI = "/omni-video/kling-3.0-omni"
OMNI_IMAGE = "/v1/images/omni-image"
T2V = "/text-to-video/kling-3.0"


def picture(width: int = 300, height: int = 400, kind: str = "PNG") -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, kind)
    return b64encode(file.getvalue()).decode()


def settings(path: str, **changes: Any) -> dict[str, Any]:
    model = NEW_MODELS[path.strip("/")]
    made: dict[str, Any] = {"resolution": "1080p"}
    if model.durations:
        made["duration"] = 5
    if model.audio:
        made["audio"] = "off"
    if model.multi_shot:
        made["multi_shot"] = False
    if path.startswith("/motion"):
        made["character_orientation"] = "video"
    if path.startswith(("/text", "/omni")):
        made["aspect_ratio"] = "16:9"
    return made | changes


PROMPT = {"type": "prompt", "text": "a lamp"}
FRAME = {"type": "first_frame", "url": IMAGE_URL}
LAST = {"type": "last_frame", "url": IMAGE_URL}


def refer(name: str = "lamp", url: str = IMAGE_URL) -> dict[str, Any]:
    return {"type": "refer_image", "url": url, "id": name}


def element(name: str, element_id: str = "12") -> dict[str, Any]:
    return {"type": "element", "element_id": element_id, "id": name}


def new_body(path: str) -> dict[str, Any]:
    body: dict[str, Any] = {"settings": settings(path)}
    match path.split("/")[1]:
        case "text-to-video":
            return body | {"prompt": "a lamp"}
        case "image-to-video":
            return body | {"contents": [PROMPT, FRAME]}
        case "omni-video":
            return body | {"contents": [{"type": "prompt", "text": "@lamp glows"}, refer()]}
        case _:
            person = {"type": "image", "url": IMAGE_URL}
            return body | {"contents": [person, {"type": "video", "url": VIDEO_URL}]}


OMNI_IMAGE_BODY: dict[str, Any] = {
    "model_name": "kling-v3-omni",
    "prompt": "a lamp",
    "image_list": [{"image": IMAGE_URL}],
    "resolution": "1k",
    "result_type": "single",
    "n": 1,
    "aspect_ratio": "16:9",
}
T2V_BODY: dict[str, Any] = {
    "model_name": "kling-v3",
    "prompt": "a lamp",
    "mode": "std",
    "duration": "5",
    "sound": "off",
    "aspect_ratio": "16:9",
}
FACE = {"face_id": "0", "audio_id": "1", "sound_start_time": 0, "sound_end_time": 3000, "sound_insert_time": 0}
LEGACY_BODIES: dict[str, dict[str, Any]] = {
    OMNI_IMAGE: OMNI_IMAGE_BODY,
    "/v1/images/generations": {"model_name": "kling-v3", "prompt": "a lamp", "resolution": "1k", "n": 1},
    "/v1/images/multi-image2image": {
        "model_name": "kling-v2-1",
        "subject_image_list": [{"subject_image": IMAGE_URL}],
        "n": 1,
    },
    "/v1/images/editing/expand": {"image": IMAGE_URL, "up_expansion_ratio": 0.5, "n": 1},
    "/v1/images/kolors-virtual-try-on": {
        "model_name": "kolors-virtual-try-on-v1-5",
        "human_image": IMAGE_URL,
        "cloth_image": IMAGE_URL,
    },
    "/v1/videos/text2video": T2V_BODY,
    "/v1/videos/image2video": T2V_BODY | {"image": IMAGE_URL},
    "/v1/videos/omni-video": T2V_BODY | {"model_name": "kling-v3-omni"},
    "/v1/videos/motion-control": {
        "model_name": "kling-v2-6",
        "image_url": IMAGE_URL,
        "video_url": VIDEO_URL,
        "character_orientation": "video",
        "keep_original_sound": "no",
        "mode": "std",
    },
    "/v1/videos/effects": {"effect_scene": "hug", "input": {"images": [IMAGE_URL, IMAGE_URL]}},
    "/v1/videos/avatar/image2video": {"image": IMAGE_URL, "audio_id": "1", "mode": "std"},
    "/v1/videos/advanced-lip-sync": {"session_id": "1", "face_choose": [FACE]},
    "/v1/audio/tts": {"text": "good day", "voice_id": "one", "voice_language": "en"},
}


@asynccontextmanager
async def client_of(server: StrictKling, token: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {server.key if token is None else token}"}
    transport = httpx.ASGITransport(server)
    async with httpx.AsyncClient(transport=transport, headers=headers, base_url=BASE) as client:
        yield client


def jwt(server: StrictKling, header: dict[str, Any] | None = None, **changes: Any) -> str:
    now = int(server.now)
    claims = {"iss": server.access_key, "exp": now + 1800, "nbf": now - 5} | changes
    parts = [header or {"alg": "HS256", "typ": "JWT"}, {name: one for name, one in claims.items() if one is not None}]
    signed = ".".join(urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    mac = hmac.new(server.secret_key.encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{urlsafe_b64encode(mac).decode().rstrip('=')}"


@pytest.mark.parametrize("path", [f"/{name}" for name in NEW_MODELS])
async def test_each_path_of_the_new_generation_accepts_a_valid_body(path: str) -> None:
    server = StrictKling()
    async with client_of(server) as client:
        answer = (await client.post(path, json=new_body(path))).json()
    assert (answer["code"], answer["data"]["status"]) == (0, "submitted")
    assert (server.bought, server.violations, server.left_to_default) == (1, [], [])


@pytest.mark.parametrize("path", LEGACY)
async def test_each_legacy_path_accepts_a_valid_body(path: str) -> None:
    server = StrictKling()
    async with client_of(server) as client:
        answer = await client.post(path, json=LEGACY_BODIES.get(path, {"name": "x"}))
    assert answer.json()["code"] == 0
    assert (server.bought, server.violations, server.left_to_default) == (int(LEGACY[path].paid), [], [])
    assert server.unchecked == ([] if path in LEGACY_BODIES else [path.strip("/")])


def omni(*items: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"contents": list(items), "settings": settings(OMNI, **changes)}


def t2v(prompt: str = "a lamp", **changes: Any) -> dict[str, Any]:
    return {"prompt": prompt, "settings": settings(T2V, **changes)}


def i2v(path: str, *items: dict[str, Any], **changes: Any) -> tuple[str, dict[str, Any]]:
    return path, {"contents": list(items), "settings": settings(path, **changes)}


FEATURE = {"type": "feature_video", "url": VIDEO_URL}
BASE_VIDEO = {"type": "base_video", "url": VIDEO_URL}
O1 = "/omni-video/kling-o1"
I26 = "/image-to-video/kling-2.6"
VOICE = {"type": "voice", "voice_id": "1", "id": "v"}


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        (T2V, t2v(duration="5"), "duration must be an integer"),
        (T2V, t2v(duration=True), "duration must be an integer"),
        (T2V, t2v(duration=16), "not one of"),
        (T2V, t2v(seed=1), "settings.seed is not a field"),
        (T2V, t2v() | {"negative_prompt": "x"}, "negative_prompt is not a field"),
        (T2V, t2v() | {"options": {"external_task_id": ""}}, "external_task_id must be a text"),
        (T2V, t2v() | {"options": {"callback_url": "x"}}, "not an http or https URL"),
        (T2V, t2v() | {"options": {"watermark_info": {}}}, "watermark_info.enabled is required"),
        (T2V, t2v("x" * 3073), "more than 3072"),
        (T2V, t2v("<<<image_1>>>"), "legacy form"),
        (T2V, t2v("shot 1, 2, a; shot 2, 2, b;", multi_shot=True), "last 4 seconds together"),
        (T2V, t2v("@nobody waves"), "no item of contents has this id"),
        ("/text-to-video/kling-3.0-turbo", t2v(), "audio is not a field"),
        ("/text-to-video/kling-2.6", {"prompt": "a", "settings": {"audio": "native"}}, "needs resolution 1080p"),
        ("/text-to-video/kling-2.6", {"prompt": "a", "settings": {"duration": 6}}, "not one of"),
        (*i2v("/image-to-video/kling-3.0", PROMPT), "no first_frame"),
        (*i2v("/image-to-video/kling-3.0", LAST), "no first_frame"),
        (*i2v("/image-to-video/kling-3.0", FRAME, aspect_ratio="16:9"), "aspect_ratio is not a field"),
        (*i2v("/image-to-video/kling-3.0", FRAME, VOICE), "contents[1].type is 'voice'"),
        (*i2v(I26, FRAME, VOICE), "a voice needs audio"),
        (*i2v(I26, FRAME, LAST, resolution="720p"), "need resolution 1080p"),
        (*i2v("/motion-control/kling-2.6", {"type": "image", "url": IMAGE_URL}), "an image and a video"),
        ("/motion-control/kling-2.6", {"contents": []}, "settings is required"),
        (OMNI, omni(refer(url="data:image/png;base64," + picture())), "data: prefix"),
        (OMNI, omni(refer(url=picture(299))), "at least 300 pixels"),
        (OMNI, omni(refer(url=picture(300, 800))), "ratio"),
        (OMNI, omni(refer(url=picture(kind="GIF"))), "is a GIF"),
        (OMNI, omni(refer(url=b64encode(b"text").decode())), "not an image"),
        (OMNI, omni(refer(url="not base64!")), "neither a URL nor raw base64"),
        (OMNI, omni({**FEATURE, "url": picture()}), "not an http or https URL"),
        (OMNI, omni(refer(), refer()), "stands 2 times"),
        (OMNI, omni(element("cat"), element("cats")), "a part of the element name"),
        (OMNI, omni({"type": "element", "element_id": 12, "id": "a"}), "element_id must be a text"),
        (OMNI, omni(*(refer(f"i{n}") for n in range(8))), "more than 7"),
        (OMNI, omni(FEATURE, *(refer(f"i{n}") for n in range(5)), multi_shot=True), "more than 4"),
        (OMNI, omni(FRAME, *(element(f"e{n}") for n in range(4))), "a frame and 4 elements"),
        (OMNI, omni(FEATURE, BASE_VIDEO), "2 videos"),
        (OMNI, omni(FEATURE, multi_shot=False), "multi_shot true only"),
        (OMNI, omni(FEATURE, audio="native", multi_shot=True), "audio off only"),
        (OMNI, omni(BASE_VIDEO, multi_shot=True), "no multi-shot"),
        (OMNI, omni(BASE_VIDEO, FRAME), "no frames"),
        (OMNI, {"contents": [PROMPT], "settings": {}}, "aspect_ratio is required"),
        (OMNI, omni(element("a", "char"), element("b"), FEATURE), "not both kinds"),
        (*i2v(O1, FRAME, duration=7), "duration 5 or 10"),
        (*i2v(O1, FRAME, LAST, refer()), "both frames takes no reference images"),
        (*i2v(O1, FEATURE, element("a", "char")), "no video-character elements"),
        (*i2v(O1, FRAME, multi_shot=False), "multi_shot is not a field"),
    ],
)
async def test_a_new_body_that_the_facts_do_not_allow_is_refused(path: str, body: Any, sentence: str) -> None:
    await refused(path, body, sentence)


def legacy(path: str, **changes: Any) -> tuple[str, dict[str, Any]]:
    return path, {name: one for name, one in (LEGACY_BODIES[path] | changes).items() if one is not None}


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        (*legacy(OMNI_IMAGE, n="1"), "n must be an integer"),
        (*legacy(OMNI_IMAGE, n=10), "more than 9"),
        (*legacy(OMNI_IMAGE, resolution="1K"), "not one of"),
        (*legacy(OMNI_IMAGE, model_name="kling-image-o1", resolution="4k"), "4k is not one of"),
        (*legacy(OMNI_IMAGE, image_list=None, aspect_ratio=None), "auto (the default)"),
        (*legacy(OMNI_IMAGE, image_list=[{"image": IMAGE_URL}] * 11), "more than 10"),
        (*legacy(OMNI_IMAGE, element_list=[{"element_id": "1"}]), "element_id must be an integer"),
        (*legacy(OMNI_IMAGE, series_amount=10), "neither 2 to 9 nor auto"),
        (*legacy(OMNI_IMAGE, prompt="x" * 2501), "more than 2500"),
        (*legacy("/v1/images/generations", model="kling-v3"), "model is not a field"),
        (*legacy("/v1/images/generations", image=IMAGE_URL, negative_prompt="x"), "text to image only"),
        (*legacy("/v1/images/generations", image=IMAGE_URL, image_reference="face"), "of kling-v2-1 only"),
        (*legacy("/v1/images/multi-image2image", subject_image_list=[]), "has no subject image"),
        (*legacy("/v1/images/editing/expand", up_expansion_ratio=1.9, left_expansion_ratio=1), "more than 3"),
        (*legacy("/v1/videos/text2video", duration=5), "duration must be a string"),
        (*legacy("/v1/videos/text2video", model_name="kling-v2-6", sound="on"), "needs mode pro"),
        (*legacy("/v1/videos/text2video", model_name="kling-v2-1"), "sound is not a field"),
        (*legacy("/v1/videos/text2video", image=IMAGE_URL), "image is not a field"),
        (*legacy("/v1/videos/image2video", image=None), "one of image, image_tail"),
        (*legacy("/v1/videos/omni-video", video_list=[{"video_url": VIDEO_URL}], sound="on"), "with a video"),
        (*legacy("/v1/videos/omni-video", aspect_ratio=None), "aspect_ratio is required"),
        (*legacy("/v1/videos/motion-control", mode="4k"), "not one of"),
        (*legacy("/v1/videos/effects", input={"images": [IMAGE_URL]}), "not 2 images"),
        (*legacy("/v1/videos/avatar/image2video", sound_file=IMAGE_URL), "ends in .png"),
        (*legacy("/v1/videos/avatar/image2video", audio_id=None), "exactly one of"),
        (*legacy("/v1/videos/advanced-lip-sync", face_choose=[FACE, FACE]), "more than 1"),
        (*legacy("/v1/audio/tts", external_task_id="a"), "external_task_id is not a field"),
        (*legacy("/v1/audio/tts", text="x" * 1001), "more than 1000"),
        ("/v1/audio/video-to-audio", {"callback_url": 1}, "callback_url must be"),
    ],
)
async def test_a_legacy_body_that_the_facts_do_not_allow_is_refused(path: str, body: Any, sentence: str) -> None:
    await refused(path, body, sentence)


async def refused(path: str, body: Any, sentence: str) -> None:
    server = StrictKling(characters=frozenset({"char"}))
    async with client_of(server) as client:
        answer = await client.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, 1201), server.violations
    assert any(sentence in violation for violation in server.violations), server.violations
    assert server.bought == 0


async def test_raw_base64_is_decoded_and_accepted() -> None:
    server = StrictKling()
    async with client_of(server) as client:
        for kind in ("PNG", "JPEG"):
            answer = await client.post(OMNI, json=omni(refer(url=picture(kind=kind))))
            assert answer.json()["code"] == 0
    assert server.violations == []


async def test_price_inputs_left_to_the_seller_are_recorded() -> None:
    server = StrictKling()
    async with client_of(server) as client:
        await client.post(T2V, json={"prompt": "a lamp"})
        await client.post("/v1/images/generations", json={"prompt": "a lamp"})
    assert server.left_to_default == [
        *(f"text-to-video/kling-3.0: {name}" for name in ("resolution", "duration", "audio", "multi_shot")),
        *(f"v1/images/generations: {name}" for name in ("model_name", "resolution", "n")),
    ]


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", OMNI, 1202),
        ("DELETE", f"{OMNI_IMAGE}/1", 1202),
        ("POST", "/omni-video/kling-9", 1203),
        ("POST", "/v1/images/image-expansion", 1203),
        ("PUT", "/tasks", 1202),
    ],
)
async def test_a_wrong_method_or_path_is_refused(method: str, path: str, code: int) -> None:
    server = StrictKling()
    async with client_of(server) as client:
        answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["code"], len(server.violations)) == (404, code, 1)


# Authentication ---------------------------------------------------------------------------------------------------


async def test_a_jwt_works_on_legacy_paths_only() -> None:
    server = StrictKling()
    async with client_of(server, jwt(server)) as client:
        assert (await client.post(OMNI_IMAGE, json=OMNI_IMAGE_BODY)).status_code == 200
        assert server.violations == []
        answer = await client.get("/tasks", params={"task_ids": "1"})
    assert (answer.status_code, answer.json()["code"]) == (401, 1002)
    assert "AK/SK" in answer.json()["message"]
    assert len(server.violations) == 1


@pytest.mark.parametrize(
    ("changes", "code", "violations"),
    [
        ({"exp": 1}, 1004, 0),
        ({"nbf": 4_000_000_000}, 1003, 0),
        ({"exp": 4_000_000_000}, 1002, 1),
        ({"exp": None}, 1002, 1),
        ({"nbf": 1.5}, 1002, 1),
        ({"aud": "x"}, 1002, 1),
        ({"iss": "another"}, 1002, 0),
        ({"header": {"alg": "HS256"}}, 1002, 1),
    ],
)
async def test_every_claim_of_a_jwt_is_checked(changes: dict[str, Any], code: int, violations: int) -> None:
    server = StrictKling()
    async with client_of(server, jwt(server, **changes)) as client:
        answer = await client.post(OMNI_IMAGE, json=OMNI_IMAGE_BODY)
    assert (answer.status_code, answer.json()["code"], len(server.violations)) == (401, code, violations)


async def test_a_wrong_and_an_absent_key_are_refused() -> None:
    server = StrictKling()
    async with client_of(server, "another") as client:
        assert (await client.post(T2V, json=t2v())).json()["code"] == 1002
    async with httpx.AsyncClient(transport=httpx.ASGITransport(server), base_url=BASE) as client:
        assert (await client.post(T2V, json=t2v())).json()["code"] == 1001


# Life of a task ---------------------------------------------------------------------------------------------------


async def test_a_new_task_goes_through_its_states_and_its_url_ends_after_30_days() -> None:
    server = StrictKling(queued_seconds=10, running_seconds=10)
    async with client_of(server) as client:
        task_id = (await client.post(T2V, json=t2v())).json()["data"]["id"]
        states = []
        for _ in range(3):
            read = (await client.get("/tasks", params={"task_ids": task_id})).json()["data"][0]
            states.append(read["status"])
            server.advance(11)
        assert states == ["submitted", "processing", "succeeded"]
        assert read["billing"][0]["charge_type"] == "unit"
        async with httpx.AsyncClient(transport=httpx.ASGITransport(server)) as plain:
            url = read["outputs"][0]["url"]
            assert (await plain.get(url)).status_code == 200
            server.advance(30 * 86400)
            assert (await plain.get(url)).status_code == 403
    assert server.violations == []


async def test_a_legacy_task_is_read_by_both_generations_and_spelled_succeed() -> None:
    server = StrictKling(reads_to_finish=2)
    body = OMNI_IMAGE_BODY | {"n": 3, "external_task_id": "k-1"}
    async with client_of(server) as client:
        await client.post(OMNI_IMAGE, json=body)
        assert (await client.get(f"{OMNI_IMAGE}/k-1")).json()["data"]["task_status"] == "submitted"
        done = (await client.get(f"{OMNI_IMAGE}/k-1")).json()["data"]
        assert (done["task_status"], len(done["task_result"]["images"])) == ("succeed", 3)
        read = (await client.get("/tasks", params={"external_task_ids": "k-1"})).json()["data"]
        assert (read[0]["status"], len(read[0]["outputs"])) == ("succeeded", 3)
        assert len((await client.get(OMNI_IMAGE, params={"pageNum": 1, "pageSize": 30})).json()["data"]) == 1
    assert server.violations == []


async def test_a_failed_legacy_task_has_its_reason_inside_and_costs_nothing() -> None:
    server = StrictKling(reads_to_finish=1)
    server.outcomes.append(KlingOutcome("content refused"))
    async with client_of(server) as client:
        task_id = (await client.post(OMNI_IMAGE, json=OMNI_IMAGE_BODY)).json()["data"]["task_id"]
        answer = (await client.get(f"{OMNI_IMAGE}/{task_id}")).json()
        assert (answer["message"], answer["data"]["task_status_msg"]) == ("SUCCEED", "content refused")
        read = (await client.get("/tasks", params={"task_ids": task_id})).json()["data"][0]
    assert (read["status"], read["message"], read["billing"]) == ("failed", "content refused", [])


async def test_unknown_ids_are_empty_or_not_found() -> None:
    server = StrictKling()
    async with client_of(server) as client:
        assert (await client.get("/tasks", params={"task_ids": "1,2"})).json()["data"] == []
        answer = await client.get(f"{OMNI_IMAGE}/1")
    assert (answer.status_code, answer.json()["code"]) == (400, 1201)
    assert "Task not found" in answer.json()["message"]
    assert server.violations == []


@pytest.mark.parametrize(
    "params",
    [
        {"task_ids": ",".join(map(str, range(21)))},
        {"task_ids": "1", "external_task_ids": "2"},
        {"task_ids": ""},
        {},
    ],
)
async def test_a_batch_read_that_the_facts_do_not_allow_is_refused(params: dict[str, str]) -> None:
    server = StrictKling()
    async with client_of(server) as client:
        answer = await client.get("/tasks", params=params)
    assert (answer.status_code, answer.json()["code"], len(server.violations)) == (400, 1201, 1)


async def test_the_cursor_list_pages_and_filters() -> None:
    server = StrictKling()
    async with client_of(server) as client:
        for _ in range(3):
            await client.post(T2V, json=t2v())
        await client.post(OMNI_IMAGE, json=OMNI_IMAGE_BODY)
        filters = [{"key": "product_type", "values": ["video"]}]
        first = (await client.post("/tasks", json={"limit": 2, "filters": filters})).json()["data"]
        rest = {"limit": 2, "filters": filters, "cursor": first["next_cursor"]}
        second = (await client.post("/tasks", json=rest)).json()["data"]
        assert (first["has_more"], second["has_more"]) == (True, False)
        assert len({one["id"] for one in first["result"] + second["result"]}) == 3
        assert server.violations == []
        for wrong in ({"limit": 501}, {"page": 1}, {"filters": [{"key": "model", "values": []}]}, {"limit": "2"}):
            assert (await client.post("/tasks", json=wrong)).json()["code"] == 1201
    assert len(server.violations) == 4


# Lost answers, duplicates, limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [True, False])
@pytest.mark.parametrize("how", ["drop", "500", "504"])
async def test_a_lost_answer_is_accepted_or_not_and_can_be_found(accept: bool, how: Any) -> None:
    server = StrictKling()
    server.lose_next_answer(accept, how)
    body = t2v() | {"options": {"external_task_id": "k-1"}}
    async with client_of(server) as client:
        if how == "drop":
            with pytest.raises(ConnectionResetError):
                await client.post(T2V, json=body)
        else:
            assert (await client.post(T2V, json=body)).status_code == int(how)
        assert server.bought == int(accept)
        read = (await client.get("/tasks", params={"external_task_ids": "k-1"})).json()["data"]
        assert len(read) == int(accept)
        again = await client.post(T2V, json=body)
    assert again.status_code == (400 if accept else 200)
    assert (server.bought, server.violations) == (1, [])


async def test_an_external_id_is_taken_across_both_generations() -> None:
    server = StrictKling()
    async with client_of(server) as client:
        await client.post(OMNI_IMAGE, json=OMNI_IMAGE_BODY | {"external_task_id": "k-1"})
        answer = await client.post(T2V, json=t2v() | {"options": {"external_task_id": "k-1"}})
    assert (answer.status_code, answer.json()["code"]) == (400, 1201)
    assert "already exists" in answer.json()["message"]
    assert (server.already_exists, server.bought, server.violations) == (["k-1"], 1, [])


async def test_images_take_n_slots_of_the_concurrency_limit() -> None:
    server = StrictKling(concurrency=3, queued_seconds=10)
    async with client_of(server) as client:
        assert (await client.post(OMNI_IMAGE, json=OMNI_IMAGE_BODY | {"n": 2})).status_code == 200
        answer = await client.post(OMNI_IMAGE, json=OMNI_IMAGE_BODY | {"n": 2})
        assert (answer.status_code, answer.json()["code"], "data" in answer.json()) == (429, 1303, False)
        assert (await client.post(T2V, json=t2v())).status_code == 200
        server.advance(11)
        assert (await client.post(OMNI_IMAGE, json=OMNI_IMAGE_BODY | {"n": 2})).status_code == 200
    assert (server.bought, server.violations) == (3, [])


@pytest.mark.parametrize("code", ERRORS)
async def test_every_code_of_the_error_table_can_be_answered(code: int) -> None:
    server = StrictKling()
    server.refuse_next(code, "create")
    async with client_of(server) as client:
        assert (await client.get("/tasks", params={"task_ids": "1"})).status_code == 200
        answer = await client.post(T2V, json=t2v())
    assert (answer.status_code, answer.json()["code"]) == (ERRORS[code][0], code)


async def test_the_account_calls_answer_and_costs_take_one_call_a_second() -> None:
    server = StrictKling()
    times = {"start_time": 1, "end_time": 2}
    async with client_of(server) as client:
        assert (await client.get("/account/costs", params=times)).status_code == 200
        assert (await client.get("/account/costs", params=times)).json()["code"] == 1302
        assert (await client.post("/account/billing/balance", json={})).status_code == 200
        assert (await client.get("/v1/general/presets-voices")).status_code == 200
    assert server.violations == []


async def test_the_key_sent_to_the_media_host_is_a_violation() -> None:
    server = StrictKling()
    async with client_of(server) as client:
        await client.get(f"{server.media}/a.mp4")
    assert len(server.violations) == 1


# Callbacks ----------------------------------------------------------------------------------------------------------


async def test_the_signature_equals_the_vendors_vector() -> None:
    body = (
        b'{"id":"1234567890","status":"succeeded","message":"","create_time":1781080778802,"update_time":1781080794151}'
    )
    made = signature("whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI=", "9876543210", "1781080794", body)
    assert made == "v1,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4="


async def test_a_callback_is_made_for_every_status_change() -> None:
    server = StrictKling(queued_seconds=10, running_seconds=10)
    async with client_of(server) as client:
        await client.post(T2V, json=t2v() | {"options": {"callback_url": "https://x.example/hook"}})
        first = server.deliveries()
        server.advance(21)
        rest = server.deliveries()
    assert [json.loads(one.body)["status"] for one in first + rest] == ["submitted", "processing", "succeeded"]
    assert server.deliveries() == []
    assert (first[0].url, "webhook-signature" in first[0].headers) == ("https://x.example/hook", False)


@pytest.mark.parametrize(
    ("shape", "name"), [("by path", "task_id"), ("new", "id"), ("legacy", "task_id"), ("enveloped", "code")]
)
async def test_a_callback_has_the_chosen_shape_and_a_signature_for_each_secret(shape: Any, name: str) -> None:
    secrets = [f"whsec_{b64encode(text).decode()}" for text in (b"old", b"new")]
    server = StrictKling(callback_shape=shape, webhook_secrets=secrets)
    async with client_of(server) as client:
        body = OMNI_IMAGE_BODY | {"callback_url": "https://x.example/hook"}
        task_id = (await client.post(OMNI_IMAGE, json=body)).json()["data"]["task_id"]
    made = server.delivery(task_id)
    assert next(iter(json.loads(made.body))) == name
    number, stamp = made.headers["webhook-id"], made.headers["webhook-timestamp"]
    assert made.headers["webhook-signature"].split(" ") == [signature(one, number, stamp, made.body) for one in secrets]
