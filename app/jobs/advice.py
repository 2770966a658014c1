"""What each failure code means and what to do about it; the runbook's table is generated from this."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advice:
    """Codes with the same advice, worded for files and for objects in a bucket."""

    codes: tuple[str, ...]
    means: str
    do: str


DAMAGED = "archive_damaged", "archive_truncated", "bad_checksum", "bad_data", "bad_directory", "bad_header"
TABLE = (
    Advice(
        ("not_dicom",),
        "the name matches `source.expect`, but the bytes are not DICOM; the reason says if they are empty or "
        "plain text",
        "put the right file in its place and ingest it, or drop the letter (`dicomlake dlq purge ID`); if "
        "many unwanted names match, narrow `source.expect`",
    ),
    Advice(
        ("bad_dataset", "truncated"),
        "DICOM, but malformed or truncated",
        "compare size and checksum with the sender's, put a whole copy in its place and ingest that, which "
        "closes the letter; `dicomlake dump FILE` shows what can be read",
    ),
    Advice(
        ("invalid_value",),
        "`metadata.strict` is on and a value is not valid",
        "ask the sender to correct the value, or turn `metadata.strict` off and try again",
    ),
    Advice(
        ("cannot_deidentify",),
        "no clean copy can be made of it, or the copy failed its check; nothing of it is written",
        "see docs/deidentification.md for what each option releases; if it must stay out, leave it out",
    ),
    Advice(
        ("bad_archive",),
        "an archive, or members of it, cannot be read; the good members are stored",
        "send the members that the reason names again, alone or in a new archive",
    ),
    Advice(
        (*DAMAGED, "header_mismatch", "overlapping_members", "size_mismatch"),
        "an archive, or a member of it, is damaged or truncated; the good members are stored",
        "put a whole copy of the archive in its place and ingest that",
    ),
    Advice(
        ("encrypted", "nested_archive", "sparse_file", "unsupported_archive", "unsupported_compression"),
        "an archive or a member of an unsupported kind: only zip, tar and gzip are read, without a "
        "password and not nested",
        "unpack it yourself, or pack its files as a plain zip or tar, and ingest that",
    ),
    Advice(
        ("archive_too_large", "compression_ratio", "member_too_large", "too_many_members"),
        "an archive over a limit in `archive`, which the reason names",
        "if it is genuine, raise that setting and try again; else drop it (`dicomlake dlq purge ID`)",
    ),
    Advice(
        ("object_too_large",),
        "over `source.max_object_bytes`",
        "raise that setting and try again",
    ),
    Advice(
        ("limit_exceeded",),
        "over the limit on memory or time, or over a setting in `limits`, which the reason names",
        "if it is genuine, raise that setting, `workers.memory_bytes` or `workers.timeout_s` and try again; "
        "else drop it (`dicomlake dlq purge ID`)",
    ),
    Advice(
        ("worker_crashed",),
        "the bytes killed their worker, twice",
        "keep the file and report it to the developers; then drop the letter (`dicomlake dlq purge ID`)",
    ),
    Advice(
        ("row_rejected",),
        "the warehouse refuses the row",
        "restore the table if somebody changed it by hand, and try again",
    ),
    Advice(
        ("bad_event",),
        "not an event, or for a bucket that is not served",
        "check `source.url` and `source.buckets`; if they are right, someone else publishes to the topic",
    ),
    Advice(
        ("bad_name",),
        "the name cannot be an object's: it is not UTF-8, has a line break, or its path is over 1024 bytes",
        "rename the file and ingest it again",
    ),
    Advice(
        ("not_a_file",),
        "a pipe, a device or a socket, which is not read; in an archive also a link",
        "copy its contents into a regular file and ingest that",
    ),
    Advice(
        ("object_gone",),
        "the file was removed or replaced before it was read",
        "ingest it again if it is still there",
    ),
    Advice(
        ("removals_held",),
        "the missing files may be on an unmounted disk",
        "mount the disk again; if they were removed: `dicomlake ingest --prune FOLDER --yes`, or start the"
        " service once with `serve --accept-removals`",
    ),
    Advice(
        ("storage_unavailable",),
        "a file or folder cannot be read, or the storage does not answer; the reason says why",
        "give this user the right to read it, or wait until its disk or service is there, and try again",
    ),
    Advice(
        ("short_read",),
        "the bytes differ from the announced size or checksum",
        "try again; if it persists, the object was stored with a wrong checksum or size",
    ),
    Advice(
        ("orthanc_unavailable",),
        "Orthanc does not answer, refuses the user, or is another server",
        "check `orthanc.url`, `orthanc.user` and `orthanc.password`; polling goes on by itself",
    ),
    Advice(
        ("orthanc_damaged",),
        "Orthanc cannot give an instance, or gives other bytes than it has stored",
        "look for the instance in Orthanc and send it there again; it is tried again every day",
    ),
    Advice(
        ("bus_unavailable", "warehouse_unavailable"),
        "the queue or the warehouse refuses or does not answer",
        "check its disk, grants and quotas, and try again once it answers",
    ),
    Advice(
        ("announce_unavailable",),
        "the row is stored, but a target of announcements does not accept its message; the reason names it",
        "check that target, `announce.kafka` and `announce.headers`, and try again once it answers",
    ),
    Advice(
        ("forward_refused",),
        "the row is stored, but a receiver in `forward.urls` refuses its picture for good; see the reason",
        "mend the receiver, `forward.headers` or `forward.bearer_secret`, then try again; if it shall not"
        " have the picture, drop the letter (`dicomlake dlq purge ID`)",
    ),
    Advice(
        ("forward_unavailable",),
        "a receiver in `forward.urls` does not accept pictures now; the reason names it",
        "wait: it is tried again, and after `delivery.max_attempts` a dead letter `forward_refused`",
    ),
    Advice(
        ("object_released",),
        "retention has deleted the original, so it cannot be described again; row and artifacts stay",
        "put the file back from the archive if it is needed: it is a new version then",
    ),
    Advice(
        ("overloaded",),
        "no memory left in `workers.inflight_bytes`",
        "try again when there is less load, or raise that setting",
    ),
    Advice(
        ("deadline_exceeded",),
        "longer than `delivery.deadline_s`",
        "raise that setting and try again",
    ),
    Advice(
        ("out_of_space",),
        "a disk that is written to has less than `delivery.min_free_bytes` free",
        "free some space and try again",
    ),
    Advice(
        ("internal_error",),
        "a bug in dicomlake",
        "report it with its reason, which has the class and the place, and try again after an upgrade",
    ),
)
_OF_CODE = {code: advice.do for advice in TABLE for code in advice.codes}


def what_to_do(code: str) -> str:
    """Return what to do about a failure with this code, in one sentence."""
    return _OF_CODE.get(code, "report the code and its reason to the developers")


def markdown_table() -> str:
    """Return the runbook's table of codes."""
    lines = ["| code | means | do |", "|---|---|---|"]
    for advice in TABLE:
        codes = ", ".join(f"`{code}`" for code in advice.codes)
        lines.append(f"| {codes} | {advice.means} | {advice.do} |")
    return "\n".join(lines) + "\n"
