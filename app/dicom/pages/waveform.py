"""Read waveforms: the channels of an ECG or another recording, in their units (PS3.3 C.10.9)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from app.dicom.pixels.attributes import integer, items, number, octets, readable, text
from app.dicom.pixels.image_header import transfer_syntax
from app.dicom.pixels.preview_error import PreviewError, unrenderable

TYPES = {"SB": "i1", "UB": "u1", "SS": "i2", "US": "u2", "SL": "i4", "UL": "u4", "SV": "i8", "UV": "u8"}
"""Waveform Sample Interpretation -> NumPy type. Companded sound (MB, AB) is not drawn."""
BIG_ENDIAN = "1.2.840.10008.1.2.2"
MAX_SAMPLES = 16_000_000
"""Maximum total samples to draw: 16 channels of 10 s at 100 kHz."""
TO_MILLIVOLT = {"V": 1e3, "mV": 1.0, "uV": 1e-3, "nV": 1e-6}
"""UCUM codes of voltages."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel: `values` (n,) float64 in `unit`, NaN where nothing was recorded; voltages are in mV."""

    label: str
    unit: str
    values: np.ndarray


@dataclass(frozen=True, slots=True)
class Recording:
    """Channels sampled together. frequency: in Hz. seconds: duration of the whole multiplex group."""

    label: str
    frequency: float
    seconds: float
    channels: tuple[Channel, ...]


def read_recording(dataset: Dataset, seconds: float, samples: int, channels: int) -> Recording:
    """Read the beginning of the first multiplex group.

    Parameters
    ----------
    dataset : holds the Waveform Sequence
    seconds, samples : how much to read, whichever is longer
    channels : maximum number of channels

    Returns
    -------
    Recording of at least one channel of at least one sample

    Raises
    ------
    Unrenderable : bad_waveform, limit_exceeded

    References
    ----------
    PS3.3 C.10.9.1.4 (samples are interleaved), C.10.9.1.4.3 (sensitivity, correction, baseline)
    """
    group = next(iter(items(dataset, "WaveformSequence")), Dataset())
    count, width = integer(group, "NumberOfWaveformSamples", 0), integer(group, "NumberOfWaveformChannels", 0)
    frequency = number(group, "SamplingFrequency", 0.0)
    kind = TYPES.get(text(group, "WaveformSampleInterpretation"))
    if kind is None or count < 1 or width < 1 or frequency <= 0:
        raise unrenderable(PreviewError.BAD_WAVEFORM, "the waveform does not define its samples")
    order = np.dtype(kind).newbyteorder(">" if transfer_syntax(dataset) == BIG_ENDIAN else "<")
    data = octets(group, "WaveformData")
    if len(data) < count * width * order.itemsize:
        raise unrenderable(PreviewError.BAD_WAVEFORM, "the waveform data end before the last sample")
    shown = min(count, max(samples, math.ceil(seconds * frequency)))
    if shown * min(width, channels) > MAX_SAMPLES:
        raise unrenderable(PreviewError.LIMIT_EXCEEDED, "the waveform has too many samples to be drawn")
    stored = np.frombuffer(data, order, shown * width).reshape(shown, width)[:, :channels]
    return Recording(
        readable(group, "MultiplexGroupLabel"), frequency, count / frequency, tuple(_channels(group, stored))
    )


def _channels(group: Dataset, stored: np.ndarray) -> Iterator[Channel]:
    padding = octets(group, "WaveformPaddingValue")[: stored.itemsize]
    definitions = items(group, "ChannelDefinitionSequence")
    for index in range(stored.shape[1]):
        definition = definitions[index] if index < len(definitions) else Dataset()
        scale = number(definition, "ChannelSensitivity", 1.0)
        scale *= number(definition, "ChannelSensitivityCorrectionFactor", 1.0)
        values = stored[:, index].astype(np.float64)
        if len(padding) == stored.itemsize:
            values[values == np.frombuffer(padding, stored.dtype)[0]] = np.nan
        values = values * scale + number(definition, "ChannelBaseline", 0.0)
        unit = ""
        for code in items(definition, "ChannelSensitivityUnitsSequence")[:1]:
            unit = readable(code, "CodeValue")
            if unit in TO_MILLIVOLT:
                unit, values = "mV", values * TO_MILLIVOLT[unit]
        yield Channel(_label(definition) or str(index + 1), unit, values)


def _label(definition: Dataset) -> str:
    """Return the short name of a channel: `V1` of `Lead V1`, `I` of `Lead I (Einthoven)`."""
    named = [readable(code, "CodeMeaning") for code in items(definition, "ChannelSourceSequence")[:1]]
    label = readable(definition, "ChannelLabel") or "".join(named)
    return label.removeprefix("Lead ").partition(" (")[0].strip()
