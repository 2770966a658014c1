# Pictures forwarded to other systems: deliveries have a topic and a push subscription of their own, so that a
# receiver that is down holds up no event, and its retries are its own.

locals {
  forwards = length(var.forward.urls) > 0

  # For the ingest service alone, which sends. It gives up itself at the last attempt, with the reason.
  forward_settings = local.forwards ? {
    FORWARD__URLS          = jsonencode(var.forward.urls)
    FORWARD__FORMAT        = var.forward.format
    FORWARD__TIMEOUT_S     = tostring(var.forward.timeout_s)
    FORWARD__TOPIC         = google_pubsub_topic.topic["forward"].id
    DELIVERY__MAX_ATTEMPTS = tostring(var.forward.max_attempts)
  } : {}
  forward_secrets = {
    for setting, secret in { FORWARD__BEARER_SECRET = var.forward.bearer_secret, FORWARD__HEADERS = var.forward.headers } :
    setting => secret if secret != null && local.forwards
  }
}

resource "google_pubsub_subscription" "forward_push" {
  count = local.forwards ? 1 : 0

  project                    = var.project_id
  name                       = "${var.name}-forward-push"
  topic                      = google_pubsub_topic.topic["forward"].id
  labels                     = var.labels
  ack_deadline_seconds       = var.delivery.ack_deadline_s
  message_retention_duration = "${var.delivery.retention_days * 86400}s"

  push_config {
    push_endpoint = "${google_cloud_run_v2_service.service["ingest"].uri}/"
    oidc_token {
      service_account_email = local.emails.push
      audience              = local.audience
    }
  }

  retry_policy {
    minimum_backoff = "${var.forward.min_backoff_s}s"
    maximum_backoff = "${var.forward.max_backoff_s}s"
  }

  dead_letter_policy {
    dead_letter_topic     = local.dead_letter_topic
    max_delivery_attempts = var.forward.max_attempts
  }

  expiration_policy {
    ttl = ""
  }

  depends_on = [
    google_cloud_run_v2_service_iam_member.push_invokes,
    google_pubsub_topic_iam_member.dead_letters,
    google_service_account_iam_member.push_token,
  ]
}

resource "google_pubsub_topic_iam_member" "forwards" {
  count = local.forwards ? 1 : 0

  project = var.project_id
  topic   = google_pubsub_topic.topic["forward"].id
  role    = "roles/pubsub.publisher"
  member  = local.members.ingest
}

# To take a delivery off the subscription once it is in the dead-letter topic.
resource "google_pubsub_subscription_iam_member" "forward_dead_lettered" {
  count = local.forwards ? 1 : 0

  project      = var.project_id
  subscription = google_pubsub_subscription.forward_push[0].name
  role         = "roles/pubsub.subscriber"
  member       = local.agents.pubsub

  depends_on = [google_project_service_identity.agent]
}

resource "google_secret_manager_secret_iam_member" "forwards" {
  for_each = local.forward_secrets

  project   = split("/", each.value)[1]
  secret_id = each.value
  role      = "roles/secretmanager.secretAccessor"
  member    = local.members.ingest
}
