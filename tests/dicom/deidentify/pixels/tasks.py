"""What a test lets a confined worker do; here, because a worker finds its tasks by import."""

from app.dicom.deidentify.pixels import clean_frames, read_frames
from app.dicom.read.dataset import read_dataset
from tests.data import content


def masked(data: bytes) -> list[tuple[int, int, int, int]]:
    """Return the boxes that are masked in a file, if no text is left."""
    dataset = read_dataset(content(data))
    frames = read_frames(dataset)
    cleaned = clean_frames(frames.pixels, dataset, photometric=frames.photometric)
    assert cleaned.residual == ()
    return [(box.left, box.top, box.right, box.bottom) for box in cleaned.boxes]
