# The lister: a job that publishes an event for every object without a row, into a lane of its own (pubsub.tf).

locals {
  # What the lister reads; a view is read with the rights of the reader, who needs the tables below too.
  backfill_reads = concat(
    ["dead_letter", "dead_letters", "failures", "instances", "instances_current"], keys(local.materialized)
  )
}

resource "google_cloud_run_v2_job" "backfill" {
  count = var.backfill == null ? 0 : 1

  project             = var.project_id
  location            = var.region
  name                = "${var.name}-backfill"
  labels              = var.labels
  deletion_protection = false # it holds no data: where it stands is a row of `jobs`

  template {
    labels = var.labels

    template {
      service_account       = local.emails.backfill
      timeout               = "${var.backfill.timeout_s}s"
      max_retries           = 0 # a second try would begin anew; `--resume JOB` goes on
      execution_environment = "EXECUTION_ENVIRONMENT_GEN2"
      encryption_key        = local.kms_key

      dynamic "vpc_access" {
        for_each = var.network[*]
        content {
          connector = vpc_access.value.connector
          egress    = vpc_access.value.egress
          dynamic "network_interfaces" {
            for_each = vpc_access.value.connector == null ? [vpc_access.value] : []
            content {
              network    = network_interfaces.value.network
              subnetwork = network_interfaces.value.subnetwork
              tags       = network_interfaces.value.tags
            }
          }
        }
      }

      containers {
        image = var.image
        args  = coalesce(var.backfill.args, ["backfill", "${local.wired.SOURCE__URL}/"])

        resources {
          limits = { cpu = tostring(var.backfill.cpu), memory = var.backfill.memory }
        }

        dynamic "env" {
          for_each = merge(
            var.settings,
            { for key, value in local.wired : key => value if key != "API__HOST" },
            local.deidentify_settings,
          )
          content {
            name  = "DICOMLAKE__${env.key}"
            value = env.value
          }
        }

        dynamic "env" {
          for_each = local.deidentify_secrets
          content {
            name = "DICOMLAKE__${env.key}"
            value_source {
              secret_key_ref {
                secret  = env.value
                version = "latest"
              }
            }
          }
        }
      }
    }
  }

  # What it publishes must be received, and given up with a trace.
  depends_on = [
    google_bigquery_table_iam_member.backfill_reads,
    google_bigquery_table_iam_member.backfill_records,
    google_kms_crypto_key_iam_member.agent,
    google_project_service.api,
    google_pubsub_subscription.dead_letter,
    google_pubsub_subscription.push,
    google_pubsub_subscription_iam_member.dead_lettered,
    google_pubsub_topic_iam_member.backfill_publishes,
    google_secret_manager_secret_iam_member.deidentifies,
    google_storage_bucket_iam_binding.basic_roles,
    google_storage_bucket_iam_member.listed,
  ]
}

resource "google_pubsub_topic_iam_member" "backfill_publishes" {
  count = var.backfill == null ? 0 : 1

  project = var.project_id
  topic   = local.lanes.backfill.topic
  role    = "roles/pubsub.publisher"
  member  = local.members.backfill
}

resource "google_bigquery_table_iam_member" "backfill_reads" {
  for_each = toset(var.backfill == null ? [] : local.backfill_reads)

  project    = var.project_id
  dataset_id = local.dataset
  table_id   = each.key
  role       = "roles/bigquery.dataViewer"
  member     = local.members.backfill

  depends_on = [
    google_bigquery_table.table,
    google_bigquery_table.materialized,
    google_bigquery_table.view,
    google_bigquery_table.view_on_views,
  ]
}

resource "google_bigquery_table_iam_member" "backfill_records" {
  count = var.backfill == null ? 0 : 1

  project    = var.project_id
  dataset_id = local.dataset
  table_id   = google_bigquery_table.table["jobs"].table_id
  role       = "roles/bigquery.dataEditor"
  member     = local.members.backfill
}
