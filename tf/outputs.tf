locals {
  bq = "bq query --project_id=${var.project_id} --use_legacy_sql=false"
}

output "backfill" {
  description = "Command that lists the landing buckets into the lane of backfill, in the cloud; null without backfill."
  value = one([
    for job in google_cloud_run_v2_job.backfill :
    "gcloud run jobs execute ${job.name} --project=${job.project} --region=${job.location}"
  ])

  depends_on = [google_pubsub_subscription.push, google_pubsub_subscription_iam_member.dead_lettered]
}

output "buckets" {
  description = "Where objects land and where artifacts go."
  value       = { landing = local.landing_buckets, artifacts = local.artifacts_bucket }

  depends_on = [google_storage_notification.landing, google_storage_bucket_iam_member.names]
}

output "dataset" {
  description = "Dataset of the tables and views."
  value       = local.dataset_path

  depends_on = [
    google_bigquery_routine.function,
    google_bigquery_table.table,
    google_bigquery_table.view,
    google_bigquery_table.view_on_views,
  ]
}

output "eventarc_gaps" {
  description = "Commands that give Eventarc's own subscriptions what the push subscription has; null without Eventarc."
  value = var.trigger != "eventarc" ? null : join("\n", [
    for name, trigger in google_eventarc_trigger.landing : <<-EOT
      SUBSCRIPTION=$(gcloud eventarc triggers describe ${name} --project=${var.project_id} \
        --location=${trigger.location} --format='value(transport.pubsub.subscription)')
      gcloud pubsub subscriptions add-iam-policy-binding "$SUBSCRIPTION" \
        --member=${local.agents.pubsub} --role=roles/pubsub.subscriber
      gcloud pubsub subscriptions update "$SUBSCRIPTION" --ack-deadline=${var.delivery.ack_deadline_s} \
        --message-retention-duration=${var.delivery.retention_days}d \
        --dead-letter-topic=${local.dead_letter_topic} --max-delivery-attempts=${var.delivery.max_attempts}
    EOT
  ])
}

output "image_repository" {
  description = "Push images here; null without registry = true."
  value = one([
    for one in google_artifact_registry_repository.image :
    "${one.location}-docker.pkg.dev/${one.project}/${one.repository_id}/dicomlake"
  ])
}

output "next_steps" {
  description = "Commands for what comes now."
  value       = <<-EOT
    # store a first object
    gcloud storage cp FILE.dcm gs://${local.landing_buckets[0]}/${try(var.landing.prefixes[0], "")}

    # its row, some seconds later
    ${local.bq} \
      'SELECT object_uri, modality, study_date, preview_uri, preview_error
       FROM `${local.dataset_path}.instances_current` ORDER BY ingested_at DESC LIMIT 10'

    # what was given up, and why
    ${local.bq} \
      'SELECT publish_time, object_uri, code, reason
       FROM `${local.dataset_path}.dead_letters` ORDER BY publish_time DESC LIMIT 10'

    # is it up, what does it say
    gcloud run services describe ${local.ingest_name} --project=${var.project_id} --region=${var.region}
    gcloud run services logs read ${local.ingest_name} --project=${var.project_id} --region=${var.region}
  EOT

  # Who is told to upload must be heard.
  depends_on = [
    google_eventarc_trigger.landing,
    google_pubsub_subscription.push,
    google_pubsub_subscription_iam_member.dead_lettered,
    google_storage_notification.landing,
  ]
}

output "service_accounts" {
  description = "E-mail address of the account of each job."
  value       = local.emails
}

output "service_urls" {
  description = "Addresses of the services."
  value       = { for key, service in google_cloud_run_v2_service.service : key => service.uri }
}

output "settings" {
  description = "The same lake for the command line on your machine: lines of shell that set its environment."
  value       = join("\n", [for key, value in local.wired : "export DICOMLAKE__${key}='${value}'" if key != "API__HOST"])
}

output "topics" {
  description = "Topics of notifications, of what `dicomlake backfill` publishes, of dead letters, and of pictures to forward, null without these."
  value = {
    events      = local.topic
    backfill    = local.lanes.backfill.topic
    dead_letter = local.dead_letter_topic
    forward     = one([for key, topic in google_pubsub_topic.topic : topic.id if key == "forward"])
  }
}
