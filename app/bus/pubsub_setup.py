"""How Pub/Sub delivers, to which service, and what that service may do: facts for `doctor`.

Subscriptions and topics are read with Google's client. Cloud Run, Cloud Monitoring and the policy of the
project have no client here: a few requests of a command that people run by hand do not need any.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit

from app.model.errors import BusUnavailable

TIMEOUT_S = 5.0
RUN = "https://run.googleapis.com/v1"
MONITORING = "https://monitoring.googleapis.com/v3"
PROJECTS = "https://cloudresourcemanager.googleapis.com/v1/projects"
OLDEST = "pubsub.googleapis.com/subscription/oldest_unacked_message_age"
LATE = timedelta(minutes=10)
"""Cloud Monitoring shows a value up to four minutes late."""

Ask = Callable[..., Any]
"""Answers a GET of a URL, or a POST if it gets a body, with parsed JSON; raises BusUnavailable."""


def asking() -> Ask:
    """Return what asks Google's REST APIs with default credentials; raises BusUnavailable without any."""
    from google.auth import default
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import AuthorizedSession
    from requests.exceptions import RequestException

    try:
        credentials, _ = default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    except GoogleAuthError as error:
        raise BusUnavailable(f"no credentials ({type(error).__name__})") from error
    session: Any = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]

    def ask(url: str, body: Mapping[str, object] | None = None) -> Any:
        try:
            answer = session.request("GET" if body is None else "POST", url, json=body, timeout=TIMEOUT_S)
            answer.raise_for_status()
            return answer.json()
        except (RequestException, GoogleAuthError) as error:
            refused = getattr(error, "response", None)
            why = type(error).__name__ if refused is None else f"status {refused.status_code}"
            raise BusUnavailable(f"{urlsplit(url).hostname}: {why}") from error

    return ask


def subscription_facts(made: Any) -> dict[str, Any]:
    """Return what decides how a subscription delivers."""
    push, letters = made.push_config, made.dead_letter_policy
    return {
        "name": made.name,
        "active": made.state.name in ("ACTIVE", "STATE_UNSPECIFIED"),
        "endpoint": push.push_endpoint,
        "account": push.oidc_token.service_account_email,
        "audience": push.oidc_token.audience,
        "ack_deadline_s": made.ack_deadline_seconds,
        "retries": "retry_policy" in made,
        "expires": "expiration_policy" not in made or bool(made.expiration_policy.ttl),
        "dead_letter_topic": letters.dead_letter_topic,
        "max_attempts": letters.max_delivery_attempts,
        "table": made.bigquery_config.table,
        "table_active": made.bigquery_config.state.name == "ACTIVE",
    }


def members(client: Any, resource: str, role: str) -> list[str]:
    """Return who has a role on a topic or subscription itself; nobody where policies are not known."""
    from google.api_core.exceptions import MethodNotImplemented

    try:
        policy = client.get_iam_policy({"resource": resource}, timeout=TIMEOUT_S)
    except MethodNotImplemented:  # the emulator
        return []
    return [str(member) for binding in policy.bindings if binding.role == role for member in binding.members]


def around(pushes: Iterable[Mapping[str, Any]], project: str, ask: Ask, now: datetime) -> dict[str, Any]:
    """Return what is around push subscriptions: facts for `doctor`.

    services: name of a subscription -> the Cloud Run service that it pushes to. ages: name -> seconds that
    its oldest message has waited. policy: pairs of role and member of the project. unseen: what of these
    cannot be seen -> why.
    """
    found: dict[str, Any] = {"services": {}, "ages": {}, "policy": [], "unseen": {}}
    pushes = list(pushes)

    def see(what: str, look: Callable[[], None]) -> None:
        try:
            look()
        except BusUnavailable as error:
            found["unseen"][what] = error.text

    def see_services() -> None:
        listed = run_services(project, ask)
        for one in pushes:
            host = urlsplit(one["endpoint"]).hostname
            for service in listed:
                if host in service["hosts"]:
                    found["services"][one["name"]] = service | {"invokers": invokers(service, ask)}

    def see_ages() -> None:
        for one in pushes:
            age = oldest_age_s(one["name"], ask, now)
            if age is not None:
                found["ages"][one["name"]] = age

    def see_policy() -> None:
        body = {"options": {"requestedPolicyVersion": 3}}
        found["policy"] = pairs(ask(f"{PROJECTS}/{project}:getIamPolicy", body))

    see("Cloud Run", see_services)
    see("Cloud Monitoring", see_ages)
    see("policy of the project", see_policy)
    return found


def run_services(project: str, ask: Ask) -> list[dict[str, Any]]:
    """Return the Cloud Run services of a project: path, name, region, account, and hosts they answer at."""
    listed = ask(f"{RUN}/projects/{project}/locations/-/services").get("items", [])
    services = []
    for one in listed:
        meta, status = one["metadata"], one.get("status", {})
        region = meta.get("labels", {}).get("cloud.googleapis.com/location", "")
        urls = json.loads(meta.get("annotations", {}).get("run.googleapis.com/urls", "[]"))
        services.append(
            {
                "path": f"projects/{project}/locations/{region}/services/{meta['name']}",
                "name": meta["name"],
                "region": region,
                "account": one["spec"]["template"]["spec"].get("serviceAccountName", ""),
                "hosts": [urlsplit(url).hostname for url in (*urls, status.get("url", ""))],
            }
        )
    return services


def invokers(service: Mapping[str, Any], ask: Ask) -> list[str]:
    """Return who may invoke a service by a grant on the service itself."""
    policy = ask(f"{RUN}/{service['path']}:getIamPolicy?options.requestedPolicyVersion=3")
    return [member for role, member in pairs(policy) if role == "roles/run.invoker"]


def oldest_age_s(subscription: str, ask: Ask, now: datetime) -> float | None:
    """Return for how long the oldest message of a subscription has waited; None if nothing was measured."""
    project, name = subscription.split("/")[1::2]
    query = {
        "filter": f'metric.type="{OLDEST}" AND resource.labels.subscription_id="{name}"',
        "interval.startTime": f"{now - LATE:%Y-%m-%dT%H:%M:%SZ}",
        "interval.endTime": f"{now:%Y-%m-%dT%H:%M:%SZ}",
    }
    answer = ask(f"{MONITORING}/projects/{project}/timeSeries?{urlencode(query)}")
    points = [point for series in answer.get("timeSeries", []) for point in series["points"][:1]]
    return float(points[0]["value"]["int64Value"]) if points else None


def pairs(policy: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return role and member of each grant of a policy in JSON."""
    return [
        (binding["role"], member)
        for binding in policy.get("bindings", [])
        for member in binding.get("members", [])
    ]
