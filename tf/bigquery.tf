locals {
  dataset_id   = coalesce(var.dataset.id, replace(var.name, "-", "_"))
  dataset_path = "${var.project_id}.${local.dataset_id}"
  dataset      = var.dataset.create ? google_bigquery_dataset.lake[0].dataset_id : local.dataset_id

  # Columns are in schemas/, made by `make schemas`; layout as in app/warehouse/tables.py.
  tables = {
    announced   = { partition_by = "arrived_at", partition_unit = "MONTH", cluster_by = null }
    dead_letter = { partition_by = null, partition_unit = null, cluster_by = null }
    deliveries  = { partition_by = null, partition_unit = null, cluster_by = ["row_id"] }
    jobs        = { partition_by = "recorded_at", partition_unit = "MONTH", cluster_by = null }
    failures    = { partition_by = "failed_at", partition_unit = "DAY", cluster_by = null }
    instances = {
      partition_by   = "ingested_at"
      partition_unit = var.dataset.instances_partition
      cluster_by     = ["study_instance_uid", "series_instance_uid", "sop_instance_uid", "modality"]
    }
  }

  sql = {
    for folder in ["functions", "materialized", "scripts", "views", "without_removals"] : folder => {
      for file in fileset("${path.module}/schemas/${folder}", "*.sql") : trimsuffix(file, ".sql") =>
      trimspace(templatefile("${path.module}/schemas/${folder}/${file}", { dataset = local.dataset_path }))
    }
  }
  # Where removals are not announced, only the next version of an object shows that it has left a study: there the
  # views look at all rows of an object.
  removals     = length(setsubtract(["OBJECT_DELETE", "OBJECT_ARCHIVE"], var.event_types)) == 0
  instead      = local.removals ? {} : local.sql.without_removals
  materialized = local.removals ? local.sql.materialized : {}
  views        = { for name, sql in local.sql.views : name => lookup(local.instead, name, sql) }
  functions    = { for name, sql in local.sql.functions : name => lookup(local.instead, name, sql) }
  # BigQuery refuses a view over a view that is not there yet.
  views_on_views = [
    for name, sql in local.views : name
    if anytrue([for other in keys(local.views) : strcontains(sql, "`${local.dataset_path}.${other}`")])
  ]

  appends = merge(
    {
      announced   = local.members.ingest
      instances   = local.members.ingest
      failures    = local.members.ingest
      dead_letter = local.agents.pubsub
    },
    local.forwards ? { deliveries = local.members.ingest } : {},
  )
}

resource "google_bigquery_dataset" "lake" {
  count = var.dataset.create ? 1 : 0

  project                    = var.project_id
  dataset_id                 = local.dataset_id
  location                   = coalesce(var.dataset.location, var.region)
  description                = "DICOM objects as rows; see docs/tables.md"
  labels                     = var.labels
  delete_contents_on_destroy = !var.deletion_protection

  # Without these blocks Google admits every viewer and editor of the project. Terraform then owns the list:
  # whom the console adds, the next apply removes.
  dynamic "access" {
    for_each = var.restrict_basic_roles ? ["projectOwners"] : []
    content {
      role          = "OWNER"
      special_group = access.value
    }
  }

  dynamic "access" {
    for_each = { for member in var.dataset.readers : member => split(":", member) }
    content {
      role           = "READER"
      user_by_email  = contains(["user", "serviceAccount"], access.value[0]) ? access.value[1] : null
      group_by_email = access.value[0] == "group" ? access.value[1] : null
      domain         = access.value[0] == "domain" ? access.value[1] : null
    }
  }

  dynamic "default_encryption_configuration" {
    for_each = local.kms_key[*]
    content {
      kms_key_name = default_encryption_configuration.value
    }
  }

  depends_on = [google_project_service.api, google_kms_crypto_key_iam_member.agent]
}

resource "google_bigquery_table" "table" {
  for_each = local.tables

  project             = var.project_id
  dataset_id          = local.dataset
  table_id            = each.key
  schema              = file("${path.module}/schemas/${each.key}.json")
  clustering          = each.value.cluster_by
  labels              = var.labels
  deletion_protection = var.deletion_protection

  dynamic "time_partitioning" {
    for_each = each.value.partition_by[*]
    content {
      type  = each.value.partition_unit
      field = time_partitioning.value
    }
  }

  dynamic "encryption_configuration" {
    for_each = local.kms_key[*]
    content {
      kms_key_name = encryption_configuration.value
    }
  }

  depends_on = [google_project_service.api, google_kms_crypto_key_iam_member.agent]
}

resource "google_bigquery_table" "materialized" {
  #checkov:skip=CKV_GCP_121: a materialized view holds nothing of its own; it is made again from the code
  for_each = local.materialized

  project             = var.project_id
  dataset_id          = local.dataset
  table_id            = each.key
  labels              = var.labels
  deletion_protection = false

  materialized_view {
    query = each.value
  }

  dynamic "encryption_configuration" {
    for_each = local.kms_key[*]
    content {
      kms_key_name = encryption_configuration.value
    }
  }

  depends_on = [google_bigquery_table.table]
}

resource "google_bigquery_table" "view" {
  #checkov:skip=CKV_GCP_80: a view holds no data to encrypt
  #checkov:skip=CKV_GCP_121: a view holds no data to protect; it is made again from the code
  for_each = { for name, sql in local.views : name => sql if !contains(local.views_on_views, name) }

  project             = var.project_id
  dataset_id          = local.dataset
  table_id            = each.key
  labels              = var.labels
  deletion_protection = false

  view {
    query          = each.value
    use_legacy_sql = false
  }

  depends_on = [google_bigquery_table.table, google_bigquery_table.materialized]
}

resource "google_bigquery_table" "view_on_views" {
  #checkov:skip=CKV_GCP_80: a view holds no data to encrypt
  #checkov:skip=CKV_GCP_121: a view holds no data to protect; it is made again from the code
  for_each = { for name in local.views_on_views : name => local.views[name] }

  project             = var.project_id
  dataset_id          = local.dataset
  table_id            = each.key
  labels              = var.labels
  deletion_protection = false

  view {
    query          = each.value
    use_legacy_sql = false
  }

  depends_on = [google_bigquery_table.view]
}

resource "google_bigquery_routine" "function" {
  for_each = local.functions

  project         = var.project_id
  dataset_id      = local.dataset
  routine_id      = each.key
  routine_type    = "TABLE_VALUED_FUNCTION"
  language        = "SQL"
  definition_body = each.value

  arguments {
    name      = "uid"
    data_type = jsonencode({ typeKind = "STRING" })
  }

  depends_on = [google_bigquery_table.view]
}

resource "google_bigquery_table_iam_member" "appends" {
  for_each = local.appends

  project    = var.project_id
  dataset_id = local.dataset
  table_id   = google_bigquery_table.table[each.key].table_id
  role       = "roles/bigquery.dataEditor"
  member     = each.value

  depends_on = [google_project_service_identity.agent]
}

# A view or function is read with the rights of the reader, who needs the tables below too.
resource "google_bigquery_table_iam_member" "browses" {
  for_each = toset(var.browse == null ? [] : concat(
    keys(local.tables), keys(local.materialized), keys(local.views), local.removals ? ["study_current"] : []
  ))

  project    = var.project_id
  dataset_id = local.dataset
  table_id   = each.key
  role       = "roles/bigquery.dataViewer"
  member     = local.members.browse

  depends_on = [
    google_bigquery_table.table,
    google_bigquery_table.materialized,
    google_bigquery_table.study_current,
    google_bigquery_table.view,
    google_bigquery_table.view_on_views,
  ]
}

resource "google_bigquery_routine_iam_member" "browses" {
  for_each = var.browse == null ? {} : google_bigquery_routine.function

  project    = var.project_id
  dataset_id = local.dataset
  routine_id = each.value.routine_id
  role       = "roles/bigquery.dataViewer"
  member     = local.members.browse
}

# An admin drops dead letters.
resource "google_bigquery_table_iam_member" "browse_mends" {
  count = try(var.browse.admin, false) ? 1 : 0

  project    = var.project_id
  dataset_id = local.dataset
  table_id   = google_bigquery_table.table["dead_letter"].table_id
  role       = "roles/bigquery.dataEditor"
  member     = local.members.browse
}
