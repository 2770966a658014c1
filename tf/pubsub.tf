locals {
  topic             = coalesce(var.topic, try(google_pubsub_topic.topic["events"].id, null))
  dead_letter_topic = google_pubsub_topic.topic["dead-letter"].id

  # Days that a topic keeps messages for. What was listed can be listed again, so the lane of `backfill` keeps none.
  topics = {
    for key, days in {
      events      = var.delivery.retention_days
      backfill    = 0
      dead-letter = var.delivery.dead_letter_retention_days
      forward     = var.delivery.retention_days
    } : key => days if(key != "events" || var.topic == null) && (key != "forward" || local.forwards)
  }

  # Live events never wait behind what `backfill`, `reprocess` and `reconcile --fix` publish: a subscription each.
  lanes = {
    events   = { name = "${var.name}-push", topic = local.topic }
    backfill = { name = "${var.name}-backfill-push", topic = google_pubsub_topic.topic["backfill"].id }
  }

  push_filter = join(" AND ", [
    for prefix in var.delivery.ignored_prefixes : "NOT hasPrefix(attributes.objectId, \"${prefix}\")"
  ])
}

# Topics keep what was published, so that a subscription made anew can be rewound and loses nothing.
resource "google_pubsub_topic" "topic" {
  for_each = local.topics

  project                    = var.project_id
  name                       = "${var.name}-${each.key}"
  labels                     = var.labels
  kms_key_name               = local.kms_key
  message_retention_duration = each.value == 0 ? null : "${each.value * 86400}s"

  dynamic "message_storage_policy" {
    for_each = length(var.delivery.regions) > 0 ? [var.delivery.regions] : []
    content {
      allowed_persistence_regions = message_storage_policy.value
    }
  }

  depends_on = [google_project_service.api, google_kms_crypto_key_iam_member.agent]
}

# With trigger = "eventarc" it still brings the messages that `dicomlake dlq requeue` publishes.
resource "google_pubsub_subscription" "push" {
  for_each = local.lanes

  project                    = var.project_id
  name                       = each.value.name
  topic                      = each.value.topic
  labels                     = var.labels
  ack_deadline_seconds       = var.delivery.ack_deadline_s
  message_retention_duration = "${var.delivery.retention_days * 86400}s"
  filter                     = local.push_filter == "" ? null : local.push_filter

  push_config {
    push_endpoint = "${google_cloud_run_v2_service.service["ingest"].uri}/"
    oidc_token {
      service_account_email = local.emails.push
      audience              = local.audience
    }
  }

  retry_policy {
    minimum_backoff = "${var.delivery.min_backoff_s}s"
    maximum_backoff = "${var.delivery.max_backoff_s}s"
  }

  dead_letter_policy {
    dead_letter_topic     = local.dead_letter_topic
    max_delivery_attempts = var.delivery.max_attempts
  }

  expiration_policy {
    ttl = "" # never, however idle
  }

  lifecycle {
    precondition {
      condition     = length(local.push_filter) <= 256
      error_message = "delivery.ignored_prefixes make a filter of ${length(local.push_filter)} bytes; 256 are allowed."
    }
  }

  depends_on = [
    google_cloud_run_v2_service_iam_member.push_invokes,
    google_pubsub_topic_iam_member.dead_letters,
    google_service_account_iam_member.push_token,
  ]
}

moved {
  from = google_pubsub_subscription.push
  to   = google_pubsub_subscription.push["events"]
}

# A topic without a subscription would lose dead letters. This one writes them to the table `dead_letter`.
resource "google_pubsub_subscription" "dead_letter" {
  project                    = var.project_id
  name                       = "${var.name}-dead-letter"
  topic                      = local.dead_letter_topic
  labels                     = var.labels
  ack_deadline_seconds       = 60
  message_retention_duration = "${var.delivery.dead_letter_retention_days * 86400}s"

  bigquery_config {
    table          = "${var.project_id}.${local.dataset}.${google_bigquery_table.table["dead_letter"].table_id}"
    write_metadata = true
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  expiration_policy {
    ttl = ""
  }

  depends_on = [google_bigquery_table_iam_member.appends]
}

# Notifications of a bucket are published by the Cloud Storage agent of the project that owns the bucket.
resource "google_pubsub_topic_iam_member" "storage_publishes" {
  for_each = var.trigger == "pubsub" ? data.google_storage_project_service_account.owner : {}

  project = var.project_id
  topic   = local.topic
  role    = "roles/pubsub.publisher"
  member  = "serviceAccount:${each.value.email_address}"
}

moved {
  from = google_pubsub_topic_iam_member.storage_publishes[0]
  to   = google_pubsub_topic_iam_member.storage_publishes["own"]
}

# The service gives up permanent failures itself, with their reason; Pub/Sub all that fails too often.
resource "google_pubsub_topic_iam_member" "dead_letters" {
  for_each = { ingest = local.members.ingest, pubsub = local.agents.pubsub }

  project = var.project_id
  topic   = local.dead_letter_topic
  role    = "roles/pubsub.publisher"
  member  = each.value

  depends_on = [google_project_service_identity.agent]
}

# To take a message off the subscription once it is in the dead-letter topic.
resource "google_pubsub_subscription_iam_member" "dead_lettered" {
  for_each = google_pubsub_subscription.push

  project      = var.project_id
  subscription = each.value.name
  role         = "roles/pubsub.subscriber"
  member       = local.agents.pubsub
}

moved {
  from = google_pubsub_subscription_iam_member.dead_lettered
  to   = google_pubsub_subscription_iam_member.dead_lettered["events"]
}

# An admin sends dead letters again, as events.
resource "google_pubsub_topic_iam_member" "browse_requeues" {
  count = try(var.browse.admin, false) ? 1 : 0

  project = var.project_id
  topic   = local.topic
  role    = "roles/pubsub.publisher"
  member  = local.members.browse
}
