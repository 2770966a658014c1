"""What Terraform deploys is what the code expects: settings, filter, tables; and real terraform takes it."""

import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from app.config import SECTIONS
from app.warehouse.queries import last_of_job, made_by, open_letter_versions, to_reprocess, versions_below
from app.warehouse.tables import TABLES
from tests.parts import ROOT, need, shared

# One group, so that xdist begins with it: the last of these tests takes more than a minute.
pytestmark = pytest.mark.xdist_group("terraform")

TF = ROOT / "tf"
RUN, PUBSUB, BIGQUERY, FLOW = (
    (TF / f"{name}.tf").read_text() for name in ("run", "pubsub", "bigquery", "variables_flow")
)
LISTER = [
    open_letter_versions(), versions_below("gs://b/"), to_reprocess(["1"]), made_by(), last_of_job("1")
]  # fmt: skip
SETTING = r"\b([A-Z]+)__([A-Z0-9_]+)\b"


def test_every_setting_of_the_service_is_one():
    named = re.findall(rf"^\s+{SETTING}\s+=", RUN, re.M) + re.findall(rf"\{{ {SETTING} =", RUN)
    assert len(named) > 15
    for section, key in named:
        assert key.lower() in SECTIONS[section.lower()], f"{section}__{key}"


def test_what_follows_from_other_variables_cannot_be_set_by_hand():
    (pattern,) = re.findall(r'!can\(regex\("(\^\(API__.*?)", key\)\)', (TF / "variables.tf").read_text())
    wired = re.search(r"^  wired = \{\n(.*?)^  \}", RUN, re.M | re.S)[1]
    auth = re.search(r"^  auth = \{\n(.*?)^  \}", RUN, re.M | re.S)[1]
    secrets = re.search(r"^  secrets = (.*?)^  \}", RUN, re.M | re.S)[1]
    names = re.findall(r"^\s+([A-Z]+__[A-Z0-9_]+)\s+=", wired + auth + secrets, re.M)
    forward = (TF / "forward.tf").read_text()
    names += re.findall(r"\b(FORWARD__[A-Z0-9_]+)\s+=", forward)
    assert len(names) == 33
    assert [name for name in [*names, "API__SERVE"] if not re.fullmatch(pattern, name)] == []


def test_the_default_filter_is_within_256_bytes():
    listed = re.search(r"ignored_prefixes = optional\(list\(string\), \[(.*?)\]\)", FLOW, re.S)[1]
    prefixes = re.findall(r'"([^"]+)"', listed)
    (form,) = re.findall(r'"(NOT hasPrefix\(.*?)"\n', PUBSUB)
    assert form == r"NOT hasPrefix(attributes.objectId, \"${prefix}\")"
    parts = [f'NOT hasPrefix(attributes.objectId, "{prefix}")' for prefix in prefixes]
    assert len(parts) == 2
    assert len(" AND ".join(parts).encode()) <= 256


def test_tables_are_laid_out_as_in_the_code():
    body = re.search(r"^  tables = \{\n(.*?)^  \}", BIGQUERY, re.M | re.S)[1]
    found = {}
    for name, layout in re.findall(r"^    (\w+)\s+= \{(.*?)\}", body, re.M | re.S):
        by = re.search(r'partition_by\s+= (?:null|"(\w+)")', layout)[1]
        unit = re.search(r'partition_unit\s+= (?:null|"(\w+)"|(var\.[\w.]+))', layout)
        if unit[2]:
            default = re.search(rf'{unit[2].rpartition(".")[2]}\s+= optional\(string, "(\w+)"\)', FLOW)[1]
        keys = re.search(r"cluster_by\s+= (?:null|\[(.*?)\])", layout)[1]
        layout = by, default if unit[2] else unit[1], tuple(re.findall(r'"(\w+)"', keys or ""))
        found[name] = layout
    assert found == {
        name: (table.partition_by, table.partition_unit if table.partition_by else None, table.cluster_by)
        for name, table in TABLES.items()
    }


def test_the_push_and_the_service_name_the_same_audience():
    assert re.findall(r"^\s+audience\s+= (.*)$", PUBSUB, re.M) == ["local.audience"]
    assert re.findall(r"API__AUDIENCE\s+= (.*)$", RUN, re.M) == ["local.audience"]
    assert "[local.audience] : null" in RUN


def test_the_lister_may_read_what_its_statements_name():
    """A view is read with the rights of the reader, who needs what is below it too."""
    used = {table for sql, _ in LISTER for table in re.findall(r"\b(?:FROM|JOIN) (\w+)", sql)}
    assert used == {"instances_current", "dead_letters", "jobs"}
    sql = {
        file.stem: file.read_text()
        for kind in ("views", "materialized")
        for file in (TF / "schemas" / kind).glob("*.sql")
    }
    left = list(used)
    while left:
        below = set(re.findall(r"\$\{dataset\}\.(\w+)", sql.get(left.pop(), ""))) - used
        used |= below
        left += below
    text = (TF / "backfill.tf").read_text()
    (listed,) = re.findall(r"backfill_reads = concat\(\s*\[(.*?)\], keys\(local.materialized\)", text)
    written = re.findall(r'google_bigquery_table.table\["(\w+)"\]', text)
    materialized = {file.stem for file in (TF / "schemas/materialized").glob("*.sql")}
    assert {*re.findall(r'"(\w+)"', listed), *materialized, *written} == used
    assert written == ["jobs"]


WRAPPED = """#!/bin/sh
# Terraform itself, and after `validate` the graph of what waits for what.
"{terraform}" "$@" || exit
case " $* " in *" validate "*) "{terraform}" "$1" graph >"{graph}" ;; esac
"""


@pytest.fixture(scope="module")
def offline_run(tmp_path_factory):
    """Run terraform on tf/ and return the steps that passed, and which resource waits for which."""
    terraform = shutil.which("terraform")
    need("Terraform", terraform is not None, "install terraform 1.9 or later")
    folder = tmp_path_factory.mktemp("terraform")
    wrapper, graph = folder / "terraform", folder / "graph"
    wrapper.write_text(WRAPPED.format(terraform=terraform, graph=graph))
    wrapper.chmod(0o755)
    done = offline(TF, first=folder)
    waits: dict[str, set[str]] = {}
    for later, earlier in re.findall(r'^\s*"([^"]+)" -> "([^"]+)"', graph.read_text(), re.M):
        waits.setdefault(later, set()).add(earlier)
    return done, waits


def test_terraform_plans_tests_applies_and_destroys_it(offline_run):
    done, _ = offline_run
    assert done == ["fmt", "init", "validate", "test", "apply", "plan again is empty", "destroy"]


def test_nothing_is_announced_before_it_would_be_received_and_dead_lettered(offline_run):
    _, waits = offline_run
    before, left = set(), ["google_storage_notification.landing"]
    while left:
        before |= (new := waits.get(left.pop(), set()) - before)
        left += new
    assert before >= {
        "google_pubsub_topic_iam_member.storage_publishes",
        "google_cloud_run_v2_service.service",
        "google_cloud_run_v2_service_iam_member.push_invokes",
        "google_pubsub_subscription.push",
        "google_pubsub_subscription.dead_letter",
        "google_pubsub_subscription_iam_member.dead_lettered",
        "google_pubsub_topic_iam_member.dead_letters",
        "google_bigquery_table_iam_member.appends",
    }


def test_the_storage_api_is_enabled_before_anything_is_asked_of_it(offline_run):
    _, waits = offline_run
    for asked in ("google_storage_project_service_account.owner", "google_storage_bucket.existing"):
        assert "google_project_service.api" in waits[f"data.{asked}"]


def test_tables_made_by_day_are_left_alone(tmp_path):
    copy = shutil.copytree(TF, tmp_path / "tf", ignore=shutil.ignore_patterns("tests", ".terraform*"))
    done = offline(copy, "-var", 'dataset={instances_partition="DAY"}')
    assert done == ["fmt", "init", "validate", "apply", "plan again is empty", "destroy"]


def offline(folder, *more, first=None):
    """Run Terraform on a folder without registry and account; return the steps that passed.

    first: a folder of programs to use before all others.
    """
    tool = shared("tools", "terraform") / "offline"
    need("Terraform", shutil.which("terraform") is not None, "install terraform 1.9 or later")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TF_")}
    if first:
        clean["PATH"] = f"{first}{os.pathsep}{clean['PATH']}"
    command = [str(tool), str(folder), "-var", "project_id=demo", "-var", "image=x", *more]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=clean, timeout=900)
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    return re.findall(r"^ok +(.+) \(\d+ s\)$", ran.stdout, re.M)


def steps(name: str) -> list[dict[str, Any]]:
    return yaml.safe_load((ROOT / ".cloudbuild" / name).read_text())["steps"]


def test_only_the_build_of_main_holds_more_than_logs():
    text = (ROOT / ".cloudbuild/cloudbuild.yaml").read_text()
    assert re.findall(r"--branch-pattern='(.*?)' (--invert-regex )?--build-config=(\S+)", text) == [
        ("^main$", "", ".cloudbuild/cloudbuild.yaml"),
        ("^main$", "--invert-regex ", ".cloudbuild/branch.yaml"),
    ]
    assert [step["id"] for step in steps("branch.yaml")] == ["test"]


@pytest.mark.parametrize("name", ["cloudbuild.yaml", "branch.yaml"])
def test_no_name_from_outside_becomes_text_of_a_script(name):
    scripts = [step["args"][1] for step in steps(name) if step.get("entrypoint") in ("bash", "sh")]
    assert len(scripts) == (4 if name == "cloudbuild.yaml" else 0)
    pasted = [found for script in scripts for found in re.findall(r"(?<!\$)\$(?!\$)\{?\w+", script)]
    assert pasted == []
