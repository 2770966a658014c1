"""The documents are true: what they name exists, links resolve, SQL runs, sums are right."""

import re
import shlex
import subprocess
from dataclasses import astuple

import click
import pytest

from app.cli.commands import cli
from app.config.sources import defaults
from app.model import errors
from app.services import open_services
from app.warehouse.tables import TABLES
from benchmarks.cost import (
    CONDITIONS,
    MILLION,
    PRICES,
    Counted,
    cost,
    count_all,
    elsewhere,
    operations_cost,
    standing,
)
from benchmarks.query_cost import costs, list_costs, size
from benchmarks.query_cost import usd as query_usd
from tests.conftest import lake_settings
from tests.parts import ROOT

DOCS = sorted((ROOT / "docs").glob("*.md"))
FRONT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "tf/README.md")]
PAGES = [*FRONT, *DOCS, *sorted((ROOT / "docs/adr").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in DOCS)
TF = "\n".join(file.read_text() for file in sorted((ROOT / "tf").glob("*.tf")))
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
COST = (ROOT / "docs/cost.md").read_text()
OTHER_NAMES = {"run", "pubsub", "bigquery", "storage", "terraform"}  # begin roles, and files of Terraform
OTHER_NAMES |= {"lake", "queue", "app", "info"}  # begin files of a lake, and names of other systems
NOT_GIVEN_UP = {"permanent", "unrenderable", "bad_query", "cannot_deidentify"}  # no message ends with these

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
WRITTEN = [page for page in DOCS if page.name != "tables.md"]  # that one is made from the code
each_doc = pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```$", text, re.M | re.S)


def spans(text: str) -> list[str]:
    """Return what stands in backticks in the running text."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def variables() -> dict[str, set[str]]:
    """Return Terraform's variables, each with the attributes of its type."""
    found = re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', TF, re.M | re.S)
    return {name: set(re.findall(r"^\s+(\w+)\s+= (?:optional\(|\w+$)", body, re.M)) for name, body in found}


def outputs() -> set[str]:
    return set(re.findall(r'^output "(\w+)"', TF, re.M))


@each_page
def test_every_link_resolves(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, fragment = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if fragment:
            assert fragment in map(anchor, re.findall(r"^#+ (.*)$", linked.read_text(), re.M)), target


@each_page
def test_every_command_exists(page):
    text = page.read_text()
    lines = [*"\n".join(blocks(text, "sh")).splitlines(), *spans(text)]
    for line in lines:
        for call in re.findall(r"(?:^|bin/|\s)dicomlake ([a-z-].*)", line):
            check_call(shlex.split(call.split("|")[0].split(";")[0].replace("`", ""), comments=True))


def check_call(words: list[str]) -> None:
    """Follow the words from group to command; options must be those of what they come to."""
    command: click.Command = cli
    for word in words:
        if word.startswith("--"):
            options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
            assert word in options | {"--help"}, words
        elif isinstance(command, click.Group) and re.fullmatch(r"[a-z]+", word):
            assert word in command.commands, words
            command = command.commands[word]


@each_doc
def test_every_setting_variable_and_column_exists(page):
    known = {section: set(keys) for section, keys in defaults().items()}
    for name, attributes in variables().items():
        known.setdefault(name, set()).update(attributes)
    for span in spans(page.read_text()):
        if (found := re.fullmatch(r"([a-z_]+)\.([a-z_]+)", span)) and found[1] not in OTHER_NAMES:
            assert found[1] in known, span
            assert found[2] in known[found[1]], span


def test_every_variable_of_the_environment_exists():
    known = {f"{section}__{key}".upper() for section, keys in defaults().items() for key in keys}
    named = set(re.findall(r"\b(?:DICOMLAKE__)?([A-Z]+__[A-Z_]+)\b", TEXT))
    assert "PREVIEW__MAX_SIDE" in named
    assert named - known == set()


def test_what_terraform_is_asked_for_exists():
    commands = "\n".join(blocks(TEXT, "sh") + spans(TEXT))
    assert {"image", "deletion_protection"} <= set(re.findall(r'-var "?(\w+)=', commands)) <= set(variables())
    asked = set(re.findall(r"output (?:-raw |-json )?([a-z]\w+)", commands))
    assert {"settings", "image_repository"} <= asked <= outputs()
    for kind, name in re.findall(r"-target=(\w+)\.(\w+)", commands):
        assert f'resource "{kind}" "{name}"' in TF
    written = re.search(r"cat > tf/terraform.tfvars <<END\n(.*?)^END", commands, re.M | re.S)[1]
    assert set(re.findall(r"^(\w+) +=", written, re.M)) <= set(variables())


def test_subscriptions_have_the_names_that_terraform_gives():
    named = set(re.findall(r"subscriptions (?:describe|modify-push-config) (\S+?)[`\s]", TEXT))
    assert named == {"dicomlake-push", "dicomlake-dead-letter"}
    assert all(f'"${{var.name}}{name.removeprefix("dicomlake")}"' in TF for name in named)


def test_the_runbook_has_every_alert_and_no_other():
    alerts = re.search(r"^  alerts = \{\n(.*?)^  \}", TF, re.M | re.S)[1]
    titles = re.findall(r'^    ([\w-]+) = \{\n\s+title\s+= "([^"]+)"', alerts, re.M)
    assert len(titles) == 3
    assert re.findall(r"^## ([\w-]+): (.*)$", RUNBOOK, re.M) == titles


def codes(kind: type[errors.DicomlakeError]) -> set[str]:
    own = {kind.code} if kind.__module__ == "app.model.errors" else set()
    return own.union(*map(codes, kind.__subclasses__()))


def test_the_runbook_has_every_code_that_a_message_can_be_given_up_for():
    given_up, failing = re.split(r"^## server-errors", RUNBOOK, flags=re.M)
    of_letters = set(re.findall(r"`([a-z_0-9]+)`", "".join(re.findall(r"^\| (`.*?) \|", given_up, re.M))))
    of_requests = set(re.findall(r"^\| `([a-z_]+)` \|", failing, re.M))
    assert codes(errors.PermanentError) - NOT_GIVEN_UP <= of_letters
    assert codes(errors.TransientError) - {"transient"} <= of_letters
    source = "".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
    narrower = set(re.findall(r'(?:code|fault) ?= ?"([a-z_]+)"', source))  # than those of app.model.errors
    assert of_letters | of_requests <= codes(errors.DicomlakeError) | narrower


def test_every_statement_runs(tmp_path):
    asked = re.findall(r'dicomlake query "([^".]+)"', TEXT)
    statements = [*re.findall(r"^```sql\n(.*?)^```$", TEXT, re.M | re.S), *asked]  # on SQLite too
    assert len(asked) > 3
    assert len(statements) > 10
    services = open_services(lake_settings(tmp_path))
    try:
        for statement in statements:
            services.warehouse.query(statement)
    finally:
        services.close()


def test_every_make_target_exists():
    targets = set(re.findall(r"^([\w.$()/-]+):", (ROOT / "Makefile").read_text(), re.M))
    text = TEXT + (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"(?:^ *|`)make ([\w./-]+)", text, re.M))
    assert {"image-test", "lint", "wheel"} <= named
    assert {name.replace(".venv", "$(VENV)") for name in named} - targets == set()


@each_page
def test_every_block_for_a_shell_can_be_parsed(page):
    for block in blocks(page.read_text(), "sh"):
        subprocess.run(["bash", "-n", "-c", block], check=True)


def marked(name: str) -> list[list[str]]:
    """Return the cells of a table between marks in docs/cost.md, without its heads."""
    body = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", COST, re.S)[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()[2:]]


def documented() -> dict[str, tuple[Counted, float]]:
    """Return what docs/cost.md says was counted of each kind, and its seconds of CPU."""
    return {
        kind: (Counted(kind, *map(int, numbers)), float(cpu_ms) / 1000)
        for kind, cpu_ms, *numbers in marked("measured")
    }


def sums(name: str) -> dict[str, list[float]]:
    return {what: [float(usd) for usd in row] for what, *row in marked(name)}


def test_the_prices_are_those_of_the_formula():
    assert {name: float(usd) for name, usd in marked("prices")} == pytest.approx(PRICES)


def test_the_costs_follow_from_what_was_measured():
    for kind, (counted, cpu_s) in documented().items():
        assert sums("cost")[kind] == pytest.approx(list(cost(counted, cpu_s).values()), abs=0.011)
        assert sums("elsewhere")[kind] == pytest.approx(list(elsewhere(counted).values()), abs=0.011)
    assert {what: usd for what, (usd,) in sums("standing").items()} == pytest.approx(standing(), abs=0.011)


def test_what_was_counted_is_what_is_counted_again(tmp_path):
    counted, changes = count_all(tmp_path)
    assert [one.kind for one in counted] == list(documented())
    for again in counted:
        _, *operations_and_bytes = astuple(documented()[again.kind][0])
        _, *now = astuple(again)
        assert now[:2] == operations_and_bytes[:2], again.kind
        # Ids, times and numbers differ in length from run to run.
        assert now[2:] == pytest.approx(operations_and_bytes[2:], rel=0.05), again.kind
    usd = {change: [*both, MILLION * operations_cost(*both)] for change, both in changes.items()}
    assert sums("changes") == {change: pytest.approx(row) for change, row in usd.items()}


def test_the_costs_of_queries_follow_from_what_they_read():
    found = [[float(cell) for cell in cells] for _, *cells in marked("queries")]
    assert len(found) == 6
    for gb, usd, gb_pruned, usd_pruned in found:
        assert (usd, usd_pruned) == pytest.approx(
            (query_usd(gb * 1e9), query_usd(gb_pruned * 1e9)), abs=0.001
        )
    assert query_usd(2**40) == 6.25
    for _, gb, usd in marked("lists"):
        assert float(usd) == pytest.approx(query_usd(float(gb) * 1e9), abs=0.001)


def test_what_lists_read_worked_out_by_hand():
    sizes = {column.name: 0 for column in TABLES["instances"].columns}
    sizes |= {"study_instance_uid": 50, "object_uri": 90, "ingested_at": 8, "generation": 8, "metadata": 7844}
    read = list_costs(sizes)
    # Of each row UID, address, generation and time, 156 bytes; and 10^7 removals of 98 bytes.
    assert read["a list from all rows"] == pytest.approx(156e9 + 0.98e9)
    # 5 million studies: UID, three counts and two times; UID, time and 200 fingerprints
    shown, table = 5e6 * (50 + 40), 5e6 * (50 + 8 + 200 * 8)
    # The rows of a month: UID, time and address. 285 new studies in 1.5 hours: 156 of 8000 bytes of a block.
    month, blocks = 1e9 / 36 * 148, 1e9 / 36 / 730 * 1.5 / 200 * 256e6 * 156 / 8000
    assert read["a list from `study_current`"] == pytest.approx(shown + table + month + blocks + 0.98e9)


def test_what_a_query_reads_worked_out_by_hand():
    sizes = {column.name: 0 for column in TABLES["instances"].columns}
    sizes |= {"object_uri": 92, "generation": 8, "event_type": 17, "metadata": 7883, "study_instance_uid": 50}
    of_study, *_ = costs(sizes).values()
    # 10^9 rows of 8050 bytes; or a block of 256 MB in each of 36 months, and 10^7 removals of 100 bytes.
    assert of_study == pytest.approx((8050e9, 9.216e9 + 1e9))
    # A string has two bytes more than its text, a null none.
    columns = {column.name: column for column in TABLES["instances"].columns}
    values = {
        "modality": "CT",
        "rows": 512,
        "metadata": '{"a":"ä"}',
        "pixel_spacing": "[0.5,0.5]",
        "member": None,
    }
    assert [size(columns[name], value) for name, value in values.items()] == [4, 8, 10, 16, 0]


def test_a_cost_worked_out_by_hand():
    counted = Counted("a", 2, 1, 2**30 // 1000, 1024, 2**30 // 1000, 2**30 // 1000, 0)
    # 10 ms at half load are 20,000 s a million: 0.48 + 0.025 USD; a million requests 0.40.
    usd = cost(counted, 0.010)
    assert usd["Cloud Run"] == pytest.approx(0.905)
    assert usd["Cloud Storage"] == pytest.approx(10.40)
    assert usd["Pub/Sub"] == pytest.approx(2 * 1_024_000_000 / 2**40 * 40)
    assert usd["BigQuery"] == pytest.approx(25, abs=0.001)
    assert usd["a month"] == pytest.approx(40, abs=0.001)
    further = elsewhere(counted)
    assert further["kept by the topic"] == pytest.approx(1024e6 / 2**30 * 7 / 30 * 0.27)
    assert further["multi-region"] == pytest.approx(10 + 20 + 20, abs=0.001)  # operations, reading, replicas
    assert further["another region"] == pytest.approx(20 + 20, abs=0.001)
    # 5 conditions of 0.10, and 5 x 86,400 time series
    assert list(standing().values()) == pytest.approx([0.5 + 0.1512, 0.1118], abs=0.0001)


def test_the_alerts_have_the_conditions_that_are_counted():
    rules = re.search(r"^  alerts = \{\n(.*?)^  \}", TF, re.M | re.S)[1]
    # One each, for there is one source by default; a rule for the sources and one more place has two.
    assert len(re.findall(r"\bmetric = ", rules)) + rules.count("concat(local.sources, [") == CONDITIONS
