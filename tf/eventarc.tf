# The other way to hear of changes. Eventarc matches one type of event a trigger, and makes topic and subscription
# of its own: acknowledged within 10 s, kept 24 h, without dead letters. Output `eventarc_gaps` has the commands
# that mend this.

locals {
  cloud_events = {
    OBJECT_FINALIZE        = "finalized"
    OBJECT_DELETE          = "deleted"
    OBJECT_ARCHIVE         = "archived"
    OBJECT_METADATA_UPDATE = "metadataUpdated"
  }
  eventarc_triggers = {
    for pair in setproduct(range(length(local.landing_buckets)), var.event_types) :
    "${var.name}-${pair[0]}-${lower(local.cloud_events[pair[1]])}" => {
      bucket = local.landing_buckets[pair[0]]
      type   = "google.cloud.storage.object.v1.${local.cloud_events[pair[1]]}"
    } if var.trigger == "eventarc"
  }
}

resource "google_eventarc_trigger" "landing" {
  for_each = local.eventarc_triggers

  project         = var.project_id
  location        = lower(local.bucket_location) # a trigger is where its bucket is
  name            = each.key
  labels          = var.labels
  service_account = local.emails.push

  matching_criteria {
    attribute = "type"
    value     = each.value.type
  }

  matching_criteria {
    attribute = "bucket"
    value     = each.value.bucket
  }

  destination {
    cloud_run_service {
      service = google_cloud_run_v2_service.service["ingest"].name
      region  = var.region
      path    = "/"
    }
  }

  depends_on = [
    google_cloud_run_v2_service_iam_member.push_invokes,
    google_project_iam_member.eventarc,
    google_project_service_identity.agent,
    google_service_account_iam_member.push_token,
    google_storage_bucket.bucket,
  ]
}

# Eventarc publishes to a topic that it names itself, and receives for the project: neither role can be given on less.
resource "google_project_iam_member" "eventarc" {
  for_each = { for role, member in {
    "roles/pubsub.publisher"       = local.agents.storage
    "roles/eventarc.eventReceiver" = local.members.push
    "roles/eventarc.serviceAgent"  = local.agents.eventarc # enabling the API grants it too, but minutes later
  } : role => member if var.trigger == "eventarc" }

  project = var.project_id
  role    = each.key
  member  = each.value

  depends_on = [google_project_service_identity.agent]
}
