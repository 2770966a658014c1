# Lists of studies for cents: the table `study_current` has a row for each study, and a scheduled query merges what
# changed. It needs removals: where they are not announced, a list reads all rows.

locals {
  # Who browses makes lists; nobody else needs the table to be filled.
  merges = local.removals && var.browse != null
}

resource "google_bigquery_table" "study_current" {
  #checkov:skip=CKV_GCP_121: it is made again from `instances` by the next merge
  count = local.removals ? 1 : 0

  project             = var.project_id
  dataset_id          = local.dataset
  table_id            = "study_current"
  schema              = file("${path.module}/schemas/study_current.json")
  clustering          = ["study_instance_uid"]
  labels              = var.labels
  deletion_protection = false

  dynamic "encryption_configuration" {
    for_each = local.kms_key[*]
    content {
      kms_key_name = encryption_configuration.value
    }
  }

  depends_on = [google_project_service.api, google_kms_crypto_key_iam_member.agent]
}

# `@run_time` in the script is the time for which a run is scheduled. A run that fails is made up for by the next.
resource "google_bigquery_data_transfer_config" "lists" {
  count = local.merges ? 1 : 0

  project              = var.project_id
  location             = coalesce(var.dataset.location, var.region)
  display_name         = "${var.name} study_current"
  data_source_id       = "scheduled_query"
  schedule             = "every 1 hours"
  service_account_name = local.emails.lists
  params               = { query = local.sql.scripts["merge_study_current"] }

  dynamic "encryption_configuration" {
    for_each = local.kms_key[*]
    content {
      kms_key_name = encryption_configuration.value
    }
  }

  depends_on = [
    google_bigquery_table.view,
    google_bigquery_table_iam_member.lists_merges,
    google_bigquery_table_iam_member.lists_reads,
    google_project_iam_member.jobs,
    google_service_account_iam_member.lists_token,
  ]
}

resource "google_bigquery_table_iam_member" "lists_reads" {
  for_each = toset(local.merges ? ["instances", "instances_current", "removed"] : [])

  project    = var.project_id
  dataset_id = local.dataset
  table_id   = each.key
  role       = "roles/bigquery.dataViewer"
  member     = local.members.lists

  depends_on = [google_bigquery_table.table, google_bigquery_table.materialized, google_bigquery_table.view]
}

resource "google_bigquery_table_iam_member" "lists_merges" {
  count = local.merges ? 1 : 0

  project    = var.project_id
  dataset_id = local.dataset
  table_id   = google_bigquery_table.study_current[0].table_id
  role       = "roles/bigquery.dataEditor"
  member     = local.members.lists
}

# The service of scheduled queries acts as the account.
resource "google_service_account_iam_member" "lists_token" {
  count = local.merges ? 1 : 0

  service_account_id = try(
    google_service_account.job["lists"].name, "projects/-/serviceAccounts/${var.service_accounts.lists}"
  )
  role   = "roles/iam.serviceAccountTokenCreator"
  member = local.agents.transfer

  depends_on = [google_project_service_identity.agent]
}
