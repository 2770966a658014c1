"""Channels of a waveform in their units, and how they lie on paper."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from app.dicom.pages.ecg_paper import draw_recording
from app.dicom.pages.waveform import Channel, Recording, read_recording
from app.dicom.render.preview import picture as draw_picture
from app.model.errors import Unrenderable
from app.model.options import PreviewOptions
from tests.data import apply, identity, parse, part10
from tests.dicom.pictures import with_items

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def channel(label: str, unit: str = "uV", **elements: object) -> dict[str, object]:
    said = {
        "ChannelSensitivity": 2,
        "ChannelSensitivityCorrectionFactor": 1.5,
        "ChannelBaseline": 100,
        **with_items("ChannelSourceSequence", {"CodeMeaning": label}),
        **with_items("ChannelSensitivityUnitsSequence", {"CodeValue": unit}),
    }
    return {**said, **elements}


def ecg(samples: np.ndarray, *channels: dict[str, object], syntax=ExplicitVRLittleEndian, **elements: object):
    """Return a data set of (samples, channels) 16-bit values, as the project reads it."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    group = {
        "NumberOfWaveformChannels": samples.shape[1],
        "NumberOfWaveformSamples": samples.shape[0],
        "SamplingFrequency": 100,
        "WaveformBitsAllocated": 16,
        "WaveformSampleInterpretation": "SS",
        "WaveformData": samples.astype(f"{order}i2").tobytes(),
        **with_items("ChannelDefinitionSequence", *channels),
        **elements,
    }
    dataset = apply(identity(Modality="ECG"), **with_items("WaveformSequence", group))
    dataset.WaveformSequence[0]["WaveformData"].VR = "OW"
    return parse(part10(dataset, syntax))


def recording(dataset: Dataset) -> Recording:
    return read_recording(dataset, 10, 500, 16)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_samples_are_interleaved_and_scaled_to_millivolts(syntax):
    samples = np.array([[0, 100], [1000, -1000]])
    lead, pressure = channel("Lead V1"), channel("Aorta", "mm[Hg]", ChannelBaseline=0)
    first, second = recording(ecg(samples, lead, pressure, syntax=syntax)).channels
    assert (first.label, first.unit, first.values.tolist()) == ("V1", "mV", [0.1, 3.1])
    assert (second.label, second.unit, second.values.tolist()) == ("Aorta", "mm[Hg]", [300, -3000])


def test_channel_label_is_preferred_and_notes_are_left_out():
    dataset = ecg(np.zeros((1, 3)), channel("Lead I (Einthoven)"), channel("x", ChannelLabel="Ch 2"))
    assert [found.label for found in recording(dataset).channels] == ["I", "Ch 2", "3"]


def test_channel_that_says_nothing_holds_plain_numbers():
    (found,) = recording(ecg(np.array([[7], [8]]))).channels
    assert (found.unit, found.values.tolist()) == ("", [7, 8])


def test_padding_is_no_value():
    (found,) = recording(ecg(np.array([[7], [-9]]), WaveformPaddingValue=b"\xf7\xff")).channels
    assert np.isnan(found.values).tolist() == [False, True]


def test_only_the_beginning_is_read():
    found = recording(ecg(np.zeros((5000, 1))))
    assert (len(found.channels[0].values), found.seconds) == (1000, 50)
    slow = recording(ecg(np.zeros((5000, 1)), SamplingFrequency=1))
    assert len(slow.channels[0].values) == 500


@pytest.mark.parametrize(
    "elements",
    [
        {"WaveformSampleInterpretation": "MB"},
        {"NumberOfWaveformSamples": 3},
        {"NumberOfWaveformChannels": 0},
        {"SamplingFrequency": 0},
        {"WaveformData": b""},
    ],
)
def test_waveform_that_cannot_be_read_has_its_code(elements):
    with pytest.raises(Unrenderable) as caught:
        draw_picture(ecg(np.zeros((2, 1)), **elements), PreviewOptions())
    assert caught.value.code == "bad_waveform"


def test_waveform_of_too_many_samples_is_not_drawn():
    """Ten seconds of a channel are drawn; 16 million samples are the limit."""
    samples = np.zeros((16_000_001, 1), np.int16)
    with pytest.raises(Unrenderable) as caught:
        draw_picture(ecg(samples, SamplingFrequency=1_600_001), PreviewOptions())
    assert caught.value.code == "limit_exceeded"
    assert len(recording(ecg(samples[1:], SamplingFrequency=1_600_000)).channels[0].values) == 16_000_000


def ink(image: np.ndarray) -> np.ndarray:
    return image.max(axis=-1) < 140  # darker than any line of the paper


def steps(label: str = "1", unit: str = "mV") -> Recording:
    """Return a line of 10 s: five at 0, five at 2."""
    return Recording("", 100.0, 10.0, (Channel(label, unit, np.repeat([0.0, 2.0], 500)),))


def test_ten_millimetres_are_a_millivolt_and_25_a_second():
    line = ink(draw_recording(steps()))
    # 6 pixels a mm, 8 mm of margin: 2 s and 7 s lie at 348 and 1098, below the heading.
    heights = [np.flatnonzero(line[60:, x]).mean() for x in (348, 1098)]
    assert heights[0] - heights[1] == pytest.approx(2 * 60, abs=1)
    jump = 48 + 5 * 150
    assert line[100:200, jump - 4 : jump + 5].any(axis=1).all()
    assert not line[160, jump + 6 : jump + 200].any()


def test_other_units_fill_their_strip():
    line = ink(draw_recording(steps(unit="mm[Hg]")))
    heights = [np.flatnonzero(line[72:, x]).mean() for x in (348 + 200, 1098)]
    assert heights[0] - heights[1] == pytest.approx(0.7 * 150, abs=1)


def twelve(seconds: float) -> Recording:
    values = np.zeros(round(100 * seconds))
    return Recording("", 100.0, seconds, tuple(Channel(label, "mV", values) for label in LEADS))


def test_twelve_leads_are_laid_out_as_on_paper():
    assert draw_recording(twelve(10)).shape == (72 + 4 * 150 + 24, 48 + 1500 + 48, 3)
    assert draw_recording(twelve(5)).shape == (72 + 12 * 150 + 24, 48 + 750 + 48, 3)


def test_peak_of_one_sample_is_not_lost_among_many():
    values = np.zeros(100_000)
    values[50_000] = 1.0
    line = ink(draw_recording(Recording("", 10_000.0, 10.0, (Channel("1", "mV", values),))))
    assert line[72 + 75 - 55, 790:806].any()


def test_gap_is_left_empty():
    values = np.zeros(1000)
    values[400:600] = np.nan
    line = ink(draw_recording(Recording("", 100.0, 10.0, (Channel("1", "mV", values),))))
    assert not line[140:155, 48 + 610 : 48 + 890].any()
    assert line[140:155, 48 + 300].any()
    assert line[140:155, 48 + 1000].any()


def test_channel_of_nothing_but_gaps_is_an_empty_strip():
    nothing = Channel("1", "mV", np.full(1000, np.nan))
    assert draw_recording(Recording("", 100.0, 10.0, (nothing,))).shape == (72 + 150 + 24, 1596, 3)
