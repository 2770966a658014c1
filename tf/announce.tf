# Announcements to other systems: what the service is told, and who calls it for what no event brings.

locals {
  announces         = length(var.announce_urls) > 0
  announces_letters = length(var.announce_dead_letter_urls) > 0
  announces_settled = local.announces && var.announce_settle_s > 0

  # For the ingest service alone: the other announces nothing.
  announce_settings = merge(
    local.announces ? { ANNOUNCE__URLS = jsonencode(var.announce_urls), ANNOUNCE__SETTLE_S = tostring(var.announce_settle_s) } : {},
    local.announces_letters ? { ANNOUNCE__DEAD_LETTER_URLS = jsonencode(var.announce_dead_letter_urls) } : {},
  )
  announce_secrets = {
    for setting, secret in { ANNOUNCE__KAFKA = var.announce_secrets.kafka, ANNOUNCE__HEADERS = var.announce_secrets.headers } :
    setting => secret if secret != null
  }
  announce_topics = toset([
    for url in concat(var.announce_urls, var.announce_dead_letter_urls) : trimprefix(url, "pubsub:")
    if startswith(url, "pubsub:")
  ])
}

resource "google_pubsub_topic_iam_member" "announces" {
  for_each = local.announce_topics

  project = split("/", each.value)[1]
  topic   = each.value
  role    = "roles/pubsub.publisher"
  member  = local.members.ingest
}

resource "google_secret_manager_secret_iam_member" "announces" {
  for_each = local.announce_secrets

  project   = split("/", each.value)[1]
  secret_id = each.value
  role      = "roles/secretmanager.secretAccessor"
  member    = local.members.ingest
}

# What the service gives up it announces and records itself; this brings it what Pub/Sub gave up.
resource "google_pubsub_subscription" "dead_letter_push" {
  count = local.announces_letters || local.forwards ? 1 : 0

  project                    = var.project_id
  name                       = "${var.name}-dead-letter-push"
  topic                      = local.dead_letter_topic
  labels                     = var.labels
  ack_deadline_seconds       = 120
  message_retention_duration = "${var.delivery.dead_letter_retention_days * 86400}s"

  push_config {
    push_endpoint = "${google_cloud_run_v2_service.service["ingest"].uri}/dead-letters"
    oidc_token {
      service_account_email = local.emails.push
      audience              = local.audience
    }
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  expiration_policy {
    ttl = ""
  }

  depends_on = [
    google_cloud_run_v2_service_iam_member.push_invokes,
    google_service_account_iam_member.push_token,
  ]
}

# Each run reads the rows since the last one, so one partition of `instances`.
resource "google_cloud_scheduler_job" "settled" {
  count = local.announces_settled ? 1 : 0

  project          = var.project_id
  region           = var.region
  name             = "${var.name}-settled"
  description      = "Announces studies of which no instance has arrived for a while"
  schedule         = "*/15 * * * *"
  attempt_deadline = "${min(var.ingest.timeout_s, 1800)}s"

  http_target {
    http_method = "POST"
    uri         = "${google_cloud_run_v2_service.service["ingest"].uri}/settled"
    headers     = { "Content-Type" = "application/json" }
    body        = base64encode("{}")
    oidc_token {
      service_account_email = local.emails.push
      audience              = local.audience
    }
  }

  depends_on = [google_cloud_run_v2_service_iam_member.push_invokes, google_project_service.api]
}
