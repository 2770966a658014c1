"""The commands of docs/deploy.md and of the runbook run, in one shell, as far as they do without an account.

Terraform is real, on stand-ins for its providers. gcloud, bq and docker are real too: they must come to the
missing account or daemon, past every check of their arguments. So must the steps of Cloud Build.
"""

import gzip
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.checkout import copy_checkout
from tests.parts import ROOT, need, shared

pytestmark = pytest.mark.xdist_group("terraform")

BLOCKS, RUNBOOK = (
    re.findall(r"^```sh\n(.*?)^```$", (ROOT / f"docs/{page}.md").read_text(), re.M | re.S)
    for page in ("deploy", "runbook")
)
DIGEST = f"sha256:{'0' * 64}"

# Each tool is called through a function that notes how it failed, if it is not for what this machine lacks.
SHELL = r"""
set -uo pipefail
trap 'echo "$BASH_COMMAND" >>"$FAULTS"' ERR

try() {
    local tool=$1 lacking=$2; shift 2
    command "$tool" "$@" </dev/null 2>"$HOME/errors" || grep -qE "$lacking" "$HOME/errors" ||
        { echo "$tool $*"; cat "$HOME/errors"; } >>"$FAULTS"
}
gcloud() {
    try gcloud 'not currently have an active account|EOF when reading a line' "$@"
    [ "$*" != "config get-value account" ] || echo me@example.com
}
bq() { # its launcher asks for an account before it looks at the arguments; it prints errors on stdout
    local said
    said=$(python3 "$SDK/platform/bq/bq.py" "$@" </dev/null 2>&1)
    [[ "$said" = *"Error retrieving auth credentials"* ]] || echo "bq $*: $said" >>"$FAULTS"
}
docker() {
    case "$1 $2" in
        "buildx imagetools")
            [[ $# = 6 && "$3 $5" = "inspect --format" ]] || echo "docker $*" >>"$FAULTS"
            echo DIGEST ;;
        "image inspect") # its client prints an empty line before the error
            try docker 'Cannot connect to the Docker daemon' "$@" >"$HOME/printed"
            echo "$REPOSITORY@DIGEST" ;;
        *) try docker 'Cannot connect to the Docker daemon' "$@" ;;
    esac
}
terraform() {
    if [ "$2" = init ]; then
        try terraform 'could not find default credentials' "$@"
        printf 'terraform {\n  backend "local" {}\n}\n' >tf/backend_override.tf
        set -- -chdir=tf init -reconfigure
    elif [ "$2" != output ]; then
        set -- "$1" "$2" -auto-approve "${@:3}"
    fi
    try terraform 'nothing is lacking' "$@"
}
function .venv/bin/dicomlake { try .venv/bin/dicomlake DefaultCredentialsError "$@"; }
sleep() { :; }
""".replace("DIGEST", DIGEST)


@pytest.fixture(scope="module")
def providers(tmp_path_factory) -> Path:
    """Return a configuration of Terraform that takes the stand-ins for the providers of Google."""
    tool = shared("tools", "terraform")
    for program in ("terraform", "gcloud", "docker"):
        need(program, shutil.which(program) is not None, f"install {program}")
    folder = tmp_path_factory.mktemp("providers")
    empty = folder / "empty"
    empty.mkdir()
    (empty / "main.tf").write_text("terraform {}\n")
    subprocess.run([tool / "offline", empty], check=True, capture_output=True)  # makes its environment
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    python = cache / "terraform-offline-3/venv/bin/python"
    machine = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine()]
    with gzip.open(tool / "schemas.json.gz") as schemas:
        versions = {name: entry["version"] for name, entry in json.load(schemas).items()}
    for name, version in versions.items():
        place = folder / f"registry.terraform.io/hashicorp/{name}/{version}"
        place /= f"{platform.system().lower()}_{machine}"
        place.mkdir(parents=True)
        shutil.copy(tool / "schemas.json.gz", place)
        binary = place / f"terraform-provider-{name}_v{version}"
        binary.write_text(f"#!{python}\n{(tool / 'provider.py').read_text()}")
        binary.chmod(0o755)
    config = folder / "terraform.rc"
    mirror = f'provider_installation {{\n  filesystem_mirror {{ path = "{folder}" }}\n}}\n'
    config.write_text(f"{mirror}disable_checkpoint = true\n")
    return config


@pytest.fixture
def run(providers, tmp_path):
    """A function that runs a script in a copy of the checkout, where nothing may fail for another reason."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    copy_checkout(checkout)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run(["git", "init", "-q"], cwd=checkout, check=True)
    commit = ["commit", "-q", "--allow-empty", "-m", "a"]
    subprocess.run(["git", *who, *commit], cwd=checkout, check=True)
    faults = tmp_path / "faults"
    faults.touch()
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("TF_", "DICOMLAKE_", "GOOGLE_", "CLOUDSDK_", "DOCKER_"))
    }
    alone = {
        "HOME": str(tmp_path),
        "FAULTS": str(faults),
        "SDK": str(Path(str(shutil.which("gcloud"))).resolve().parent.parent),
        "TF_CLI_CONFIG_FILE": str(providers),
        "TF_CLI_ARGS": "-no-color",
        "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"),
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
        "NO_GCE_CHECK": "true",
        "DOCKER_HOST": f"unix://{tmp_path}/none",
    }

    def run(script: str, **more: str) -> str:
        words = ["bash", "-c", SHELL + script]
        env = clean | alone | more
        ran = subprocess.run(words, cwd=checkout, env=env, capture_output=True, text=True, check=False)
        print(ran.stdout, ran.stderr, faults.read_text())
        assert faults.read_text() == ""
        return ran.stdout

    return run


def test_every_command_of_the_page_runs_up_to_the_account_that_is_missing(run):
    assert len(BLOCKS) > 9
    (destroy,) = [number for number, block in enumerate(BLOCKS) if "destroy" in block]
    next_steps = 'eval "$(terraform -chdir=tf output -raw next_steps)"\n'
    output = run("\n".join([*BLOCKS[:destroy], next_steps, *RUNBOOK, *BLOCKS[destroy:]]))
    assert output.count("Apply complete!") == 9
    assert output.count("Destroy complete!") == 1


def test_cloud_build_deploys(run, tmp_path):
    """Run the scripts of its steps as Cloud Build does: it replaces $NAME and ${NAME}, and $$ by $."""
    steps = yaml.safe_load((ROOT / ".cloudbuild/cloudbuild.yaml").read_text())["steps"]
    scripts = {
        step["id"]: "\n".join([*(f"export {shlex.quote(one)}" for one in step["env"]), step["args"][-1]])
        for step in steps
        if step["args"][0] == "-euc"
    }
    assert list(scripts) == ["push", "settings", "deploy", "tag"]
    tfvars = 'project_id = "demo"\nregistry = true\n'
    named = {"PROJECT_ID": "demo", "SHORT_SHA": "abc", "BUILD_ID": "1"}
    named |= {"_STATE_BUCKET": "demo-state", "_NAME": "dicomlake", "_REGION": "us-central1"}
    known = "|".join(named)
    script = re.sub(
        rf"(?<!\$)\$(?:({known})\b|{{({known})}})", lambda m: named[m[1] or m[2]], "\n".join(scripts.values())
    )
    script = script.replace("$$", "$").replace("/workspace/", f"{tmp_path}/")
    begin = "REPOSITORY=us-central1-docker.pkg.dev/demo/dicomlake/dicomlake"
    output = run(f"{begin}\ncat >tf/terraform.tfvars <<'END'\n{tfvars}END\n{script}")
    assert output.count("Apply complete!") == 1
