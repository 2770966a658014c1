"""Pictures in which text is looked for: nothing out of sight, and all frames in two."""

import numpy as np

from app.dicom.deidentify.pixels.views import views
from tests.dicom.pictures import bundled, picture


def shown(values: list[int], **elements: object) -> tuple[list[int], list[int]]:
    """Return the greys of the window, and those of what lies beyond it."""
    frames = np.array([[values]], np.uint16)
    dataset = picture(frames.tobytes(), 1, len(values), BitsAllocated=16, **elements)
    (view,) = views(frames, "MONOCHROME2", dataset)
    assert view.shape == (1, len(values), 3)
    assert (view[..., 0] == view[..., 1]).all()
    return view[0, :, 0].tolist(), view[0, :, 2].tolist()


def test_values_beyond_the_window_keep_greys_and_have_a_colour_of_their_own():
    # A window from 1000 to 2000: greys 40 to 215; what lies beyond shares 0 to 40 and 215 to 255.
    window, beyond = shown([0, 500, 1000, 2000, 3000, 4000], WindowCenter="1500", WindowWidth="1000")
    assert window == [0, 20, 40, 215, 235, 255]
    assert beyond == [0, 127, 255, 0, 127, 255]


def test_a_window_wider_than_the_values_takes_all_greys():
    assert shown([100, 200, 300], WindowCenter="200", WindowWidth="4000") == ([0, 127, 255], [0, 127, 255])


def test_a_plain_frame_is_plain():
    assert len(set(shown([7, 7, 7])[0])) == 1


def test_of_many_frames_the_brightest_and_the_darkest_values_are_shown():
    frames = np.zeros((3, 1, 4), np.uint8)
    frames[:, 0, 1] = (10, 255, 30)  # text in one frame
    frames[:, 0, 2] = (255, 255, 255)  # text in all frames
    frames[:, 0, 3] = (90, 0, 200)  # what moves
    dataset = picture(frames.tobytes(), 1, 4, NumberOfFrames="3", WindowCenter="128", WindowWidth="256")
    brightest, darkest = (view[0, :, 0].tolist() for view in views(frames, "MONOCHROME2", dataset))
    assert brightest[1] == brightest[2] == 255
    assert brightest[0] == 0
    assert darkest[2] == 255
    assert darkest[1] < 20
    assert darkest[3] == 0


def test_colours_of_many_frames_are_taken_by_channel():
    frames = np.zeros((2, 1, 1, 3), np.uint8)
    frames[0, 0, 0], frames[1, 0, 0] = (200, 10, 5), (100, 20, 5)
    elements = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "NumberOfFrames": "2"}
    dataset = picture(frames.tobytes(), 1, 1, PlanarConfiguration=0, **elements)
    assert [view.tolist() for view in views(frames, "RGB", dataset)] == [[[[200, 20, 5]]], [[[100, 10, 5]]]]


def test_a_palette_is_shown_in_its_colours():
    dataset = bundled("examples_palette.dcm")
    (view,) = views(dataset.pixel_array[None], "PALETTE COLOR", dataset)
    assert view.shape == (350, 800, 3)
    assert len(np.unique(view.reshape(-1, 3), axis=0)) > 2
