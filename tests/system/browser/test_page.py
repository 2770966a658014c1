"""The page as a person uses it, in a real browser: look, window, play, upload, mend, log in."""

import time

import numpy as np
import pytest

from app.services import open_services
from tests import data
from tests.conftest import lake_settings
from tests.system.browser.chromium import chromium, drop, lake, page_of, wait_for

pytestmark = pytest.mark.xdist_group("browser")

UIDS = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
RAMP = np.arange(64 * 64, dtype="<i2").reshape(64, 64) - 1024
INSTANCE = "/studies/1.2.3/series/1.2.3.4/instances/1.2.3.4."


def ramp(number: int) -> bytes:
    """Return a CT of 64 x 64 whose values rise from -1024 to 3071."""
    return data.ct(
        **UIDS,
        SOPInstanceUID=f"1.2.3.4.{number}",
        InstanceNumber=number,
        SpecificCharacterSet="ISO_IR 192",
        PatientName="Müller^Änne",
        Rows=64,
        Columns=64,
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=1,
        RescaleSlope=1,
        RescaleIntercept=0,
        WindowCenter=0,
        WindowWidth=2000,
        PixelData=RAMP.tobytes(),
    )


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Serve a lake of two CT slices, a cine and a broken file."""
    folder = tmp_path_factory.mktemp("lake")
    services = open_services(lake_settings(folder, delivery__max_attempts=1))
    with lake(services) as base:
        cine = data.enhanced(frames=3, StudyInstanceUID="1.2.9", SeriesInstanceUID="1.2.9.1")
        drop(folder / "landing/trial", one=ramp(1), two=ramp(2), cine=cine, broken=b"no DICOM at all")
        wait_for(services, "SELECT COUNT(*) AS n FROM instances_current", 3, lambda: time.sleep(0.05))
        wait_for(services, "SELECT COUNT(*) AS n FROM dead_letters", 1, lambda: time.sleep(0.05))
        yield services, base, folder


def pixels(page) -> list[int]:
    """Return the first row of the canvas' red values."""
    return page.evaluate(
        "() => { const c = document.querySelector('.viewer canvas');"
        " const row = c.getContext('2d').getImageData(0, 32, c.width, 1).data;"
        " return [...row].filter((_, i) => i % 4 === 0); }"
    )


def drawn(page, frame=1):
    page.locator(f".viewer[data-drawn='{frame}']").wait_for()


def test_from_the_list_of_studies_to_the_picture(place, browser):
    _, base, _ = place
    with page_of(browser, base) as page:
        page.goto("/")
        page.get_by_role("link", name="Müller, Änne").click()
        page.locator(".card").first.click()
        assert page.locator(".card").count() == 2
        page.locator(".card").first.click()
        drawn(page)
        # -1024 + 64 * 32 and the 63 above it are beyond centre 0 + width 2000 / 2: white (PS3.3 C.11.2.1.2.1)
        assert set(pixels(page)) == {255}
        with page.expect_download() as download:
            page.get_by_role("link", name="DICOM", exact=True).click()
        assert download.value.path().read_bytes()[128:132] == b"DICM"


def test_the_window_follows_the_mouse_and_the_presets(place, browser):
    _, base, _ = place
    with page_of(browser, base) as page:
        page.goto(f"{INSTANCE}1")
        drawn(page)
        page.locator("[name=preset]").select_option("full")
        # Of 4096 values in 256 steps, the 64 of this row have 4 or 5 greys, past the middle.
        assert 3 <= len(set(pixels(page))) <= 5
        assert 120 <= pixels(page)[0] <= 136
        before = page.locator("[name=center]").input_value()
        box = page.locator(".stage").bounding_box()
        page.mouse.move(box["x"] + 300, box["y"] + 200)
        page.mouse.down()
        page.mouse.move(box["x"] + 400, box["y"] + 260, steps=4)
        page.mouse.up()
        assert page.locator("[name=center]").input_value() != before
        # The window is no preset any more, so each of them can be chosen again.
        assert page.locator("[name=preset]").input_value() == "custom"
        page.locator("[name=preset]").select_option("full")
        assert page.locator("[name=center]").input_value() == before
        page.locator("[name=invert]").check()
        page.locator("[name=reset]").click()
        assert page.locator("[name=center]").input_value() == "0"
        assert page.locator("[name=width]").input_value() == "2000"


def test_frames_by_keys_wheel_slider_and_play(place, browser):
    services, base, _ = place
    (row,) = services.warehouse.query(
        "SELECT sop_instance_uid AS uid FROM instances_current WHERE study_instance_uid = '1.2.9'"
    )
    with page_of(browser, base) as page:
        page.goto(f"/studies/1.2.9/series/1.2.9.1/instances/{row['uid']}")
        drawn(page)
        page.locator(".stage").focus()
        page.keyboard.press("ArrowRight")
        drawn(page, 2)
        page.mouse.move(600, 400)
        page.mouse.wheel(0, 100)
        drawn(page, 3)
        page.locator("[name=frame]").fill("1")
        drawn(page, 1)
        page.get_by_role("button", name="Play").click()
        drawn(page, 3)
        page.get_by_role("button", name="Stop").click()


def test_tags_are_found_by_any_word(place, browser):
    _, base, _ = place
    with page_of(browser, base) as page:
        page.goto(f"{INSTANCE}1")
        page.get_by_label("Find").fill("windowcenter")
        assert page.locator(".tags tbody tr:visible").count() == 1
        assert "(0028,1050)" in page.locator(".tags tbody tr:visible").inner_text()


def test_a_search_by_a_part_of_a_name_without_its_accents(place, browser):
    _, base, _ = place
    with page_of(browser, base) as page:
        page.goto("/studies")
        page.get_by_label("Patient name").fill("muller")
        page.get_by_role("button", name="Search").click()
        assert page.locator("tbody tr").count() == 1
        page.get_by_label("Patient name").fill("nobody")
        page.get_by_role("button", name="Search").click()
        assert page.get_by_text("No study matches").is_visible()


def test_uploads_show_what_became_of_each_file(place, browser):
    _, base, _ = place
    new = data.ct(StudyInstanceUID="1.2.7", SeriesInstanceUID="1.2.7.1", SOPInstanceUID="1.2.7.1.1")
    with page_of(browser, base) as page:
        page.goto("/upload")
        page.locator("[name=files]").set_input_files(
            [
                {"name": "new.dcm", "mimeType": "application/dicom", "buffer": new},
                {"name": "cut.dcm", "mimeType": "application/dicom", "buffer": new[:-20]},
            ]
        )
        page.locator("[name=study]").fill("later")
        page.get_by_role("button", name="Upload").click()
        page.locator(".progress tr", has_text="new.dcm").get_by_text("stored").wait_for()
        page.locator(".progress tr", has_text="cut.dcm").get_by_text("dead-lettered").wait_for()
        page.get_by_role("link", name="look").click()
        drawn(page)


def test_without_javascript_all_but_the_viewer_works(place, browser):
    _, base, _ = place
    text = {"name": "x.dcm", "mimeType": "application/dicom", "buffer": b"no DICOM"}
    with page_of(browser, base, javascript=False) as page:
        page.goto("/")
        page.get_by_role("link", name="Müller, Änne").click()
        page.locator(".card").first.click()
        page.locator(".card").first.click()
        assert page.locator(".still").evaluate("image => image.naturalWidth") >= 64
        page.goto("/upload")
        page.locator("[name=files]").set_input_files([text])
        with page.expect_response("**/upload") as answer:
            page.get_by_role("button", name="Upload").click()
        assert answer.value.status == 400
        assert page.get_by_text("not a DICOM file").is_visible()


def test_dead_letters_are_sent_again_and_dropped(place, browser):
    services, base, _ = place
    with page_of(browser, base) as page:
        page.goto("/dead-letters")
        line = page.locator("tbody tr", has_text="trial/broken.dcm")
        assert "not_dicom" in line.inner_text()
        line.get_by_role("checkbox").check()
        page.get_by_role("button", name="Send chosen again").click()
        assert page.get_by_text("sent 1 again").is_visible()
        sql = "SELECT COUNT(*) AS n FROM dead_letters WHERE object = 'trial/broken.dcm'"
        wait_for(services, sql, 1, lambda: page.wait_for_timeout(50))
        page.goto("/dead-letters")
        page.locator("tbody tr", has_text="trial/broken.dcm").get_by_role("checkbox").check()
        page.get_by_role("button", name="Drop chosen for good").click()
        assert page.get_by_text("dropped 1 for good").is_visible()


def test_the_overview_counts(place, browser):
    _, base, _ = place
    with page_of(browser, base) as page:
        page.goto("/overview")
        assert page.locator("svg.plot").count() >= 2
        assert page.get_by_text("Instances by modality").is_visible()


def test_people_log_in_and_their_role_decides(tmp_path, browser):
    from app.api.users import Tokens

    key = "k" * 32
    services = open_services(lake_settings(tmp_path, api__users="token", api__users_key=key))
    with lake(services) as base, page_of(browser, base) as page:
        page.goto("/studies")
        assert page.url == f"{base}/login?next=%2Fstudies"
        token = Tokens(key).issue("ann", "read-only", time.time(), 60)
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url("**/studies")
        assert page.get_by_text("ann · read-only").is_visible()
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url("**/login")
